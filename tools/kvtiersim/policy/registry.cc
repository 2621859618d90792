// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/registry.h"

#include <stdexcept>
#include <string_view>

#include "tools/kvtiersim/policy/bayes.h"
#include "tools/kvtiersim/policy/belady.h"
#include "tools/kvtiersim/policy/kvtier.h"
#include "tools/kvtiersim/policy/ranked.h"
#include "tools/kvtiersim/policy/reference.h"
#include "tools/kvtiersim/policy/tiering.h"

namespace kvt::sim {

namespace {

struct Entry {
  const char* name;
  std::unique_ptr<Policy> (*make)(const PolicyContext&);
  bool oracle;
  bool needs_beliefs;
};

template <class Score, class... Arguments>
std::unique_ptr<Policy> ranked(Arguments... arguments) {
  return std::make_unique<Ranked<Score>>(Score(arguments...));
}

using C = const PolicyContext&;

template <class Change>
std::unique_ptr<Policy> kvtier_without(C c, Change change) {
  KvtierSettings settings;
  change(settings);
  return std::make_unique<Kvtier>(settings, c.workload.trace.fixed_read_bytes, c.seed);
}
const Entry kEntries[] = {
    {"static", [](C) -> std::unique_ptr<Policy> { return std::make_unique<Static>(); }, false, false},
    {"random", [](C c) -> std::unique_ptr<Policy> { return std::make_unique<RandomReplacement>(c.seed); },
     false, false},
    {"lru", [](C) { return ranked<Recency>(); }, false, false},
    {"lfu", [](C) { return ranked<Frequency>(); }, false, false},
    {"ewma_fast", [](C) { return ranked<MovingAverage>(.3); }, false, false},
    {"ewma_slow", [](C) { return ranked<MovingAverage>(.05); }, false, false},
    {"sink_recent", [](C) { return ranked<SinkAndRecent>(); }, false, false},
    {"hemem", [](C) { return ranked<MovingAverage>(kTieringRate); }, false, false},
    {"memtis", [](C) -> std::unique_ptr<Policy> { return std::make_unique<Memtis>(); }, false, false},
    {"colloid", [](C) -> std::unique_ptr<Policy> { return std::make_unique<Colloid>(); }, false, false},
    {"batman", [](C) -> std::unique_ptr<Policy> { return std::make_unique<Batman>(); }, false, false},
    {"reference", [](C c) -> std::unique_ptr<Policy> { return std::make_unique<Reference>(c.seed); }, false,
     false},
    {"kvtier",
     [](C c) -> std::unique_ptr<Policy> {
       return std::make_unique<Kvtier>(KvtierSettings{}, c.workload.trace.fixed_read_bytes, c.seed);
     },
     false, false},
    {"kvtier-no-shift",
     [](C c) { return kvtier_without(c, [](KvtierSettings& s) { s.predictor.detect_shifts = false; }); },
     false, false},
    {"kvtier-no-lasting", [](C c) { return kvtier_without(c, [](KvtierSettings& s) { s.lasting = false; }); },
     false, false},
    {"kvtier-no-cold",
     [](C c) { return kvtier_without(c, [](KvtierSettings& s) { s.see_cold_again = false; }); }, false,
     false},
    {"kvtier-no-often",
     [](C c) { return kvtier_without(c, [](KvtierSettings& s) { s.predictor.use_last_and_often = false; }); },
     false, false},
    {"kvtier-no-reuse",
     [](C c) { return kvtier_without(c, [](KvtierSettings& s) { s.predictor.use_reuse_times = false; }); },
     false, false},
    {"bayes", [](C c) -> std::unique_ptr<Policy> { return std::make_unique<Bayes>(c.workload.beliefs()); },
     false, true},
    {"belady", [](C c) -> std::unique_ptr<Policy> { return std::make_unique<Belady>(c.workload.trace); },
     true, false},
};

const Entry& find(const std::string& name) {
  std::string names;
  for (const Entry& entry : kEntries) {
    if (name == entry.name) return entry;
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw std::invalid_argument("no policy \"" + name + "\"; expected " + names);
}

}  // namespace

std::unique_ptr<Policy> make_policy(const std::string& name, const PolicyContext& context) {
  const Entry& entry = find(name);
  if (entry.needs_beliefs && !context.workload.beliefs)
    throw std::invalid_argument("policy \"" + name +
                                "\" needs a generated trace: nobody knows the law of \"" +
                                context.workload.trace.name + "\"");
  return entry.make(context);
}

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

std::vector<std::string> policy_names(const Workload& workload) {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries)
    if ((!entry.needs_beliefs || workload.beliefs) && !std::string_view(entry.name).starts_with("kvtier-"))
      names.emplace_back(entry.name);
  return names;
}

bool is_oracle(const std::string& name) { return find(name).oracle; }

}  // namespace kvt::sim
