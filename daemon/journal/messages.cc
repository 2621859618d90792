// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal/messages.h"

#include <algorithm>

namespace kvt::journal {
namespace {

// An id is for ever: a kind that changes its meaning gets another one.
constexpr Message kMessages[] = {
    {"541f159428b34ef8b77dff4a967bfe97", "kvtierd * is ready: *"},
    {"25f02d60760a4a388aabcc4c8d798255", "kvtierd stops"},
    {"6426dc127570417790623a9ce3069296", "took over *"},
    {"e8feda33e42b4a608736e05c59f92747", "* rows were damaged: their pages are lost"},
    {"0e5b36f684814d71a8e50aee456bb6e1", "the regions of * sessions are lost: *"},
    {"433d5300f11e41ac9394d84189cbcf45",
     "session {KVTIER_SESSION}: process * attached arena \"{KVTIER_ARENA}\""},
    {"3b45aeb5c4a04b1196034ea98c72f18e", "session {KVTIER_SESSION}: process * joined as member *"},
    {"da403337dd004fa0819e4a69fec2fed3",
     "session {KVTIER_SESSION}: process * has gone; its pages are kept until *"},
    {"4cae4639eb414dbc9ff3a140b877ef9b", "session {KVTIER_SESSION}: member *, has gone"},
    {"50caff7ee2c440e5846e01c451538474", "session {KVTIER_SESSION} ends: *"},
    {"9defdf30874c43f4a6a1869c73a2f4f8", "session {KVTIER_SESSION} ended: an operator has evicted it; *"},
    {"a89b3c8090184966a93f1fbfdf1a4000", "session {KVTIER_SESSION} ended: *"},
    {"894cf1dadd93472db3b1e0beb7916d51", "refused process *"},
    {"fa7da0777da64cc7a4767a9897d26a1f", "dropped the connection of process *"},
    {"5be7064052bb4b98b7ca15afd827dea5", "* lines about clients were left out"},
    {"c2a3dcff7cc4442cb66d8c0c5b8f9a6d", "the system gives kvtierd no memory*"},
    {"f91995b7edea4d51847912659c2ac8f8", "the system gives kvtierd memory again"},
    {"28a321c8ed404103baee3f8f08f86990", "metrics are not served: *"},
    {"b3881e7d12fc44dc87ecb5b797c78270",
     "arena \"{KVTIER_ARENA}\": the GPU of tier {KVTIER_TIER} does nothing any more *"},
    {"6a7e1f0f5c0d4b1f9d0e2a9d54c2b7e3", "GPU * does nothing any more *"},
    {"4883392058f447588843cf4c3b5386b4",
     "arena \"{KVTIER_ARENA}\": page *: frame * of tier {KVTIER_TIER} cannot be read, *"},
    {"f65530363e2c496fa61feacb7a59da9b",
     "arena \"{KVTIER_ARENA}\": page *: frame * of tier {KVTIER_TIER} has not the page's checksum; *"},
    {"0c8c418e0ea348638d604a0682da210f",
     "arena \"{KVTIER_ARENA}\": page *: frame * of tier {KVTIER_TIER} had not its checksum when *"},
    {"2381336292094d11b3f28117f826be89",
     "arena \"{KVTIER_ARENA}\": frame * of tier {KVTIER_TIER} does not keep what is copied there: *"},
    {"552b34be2daf40ab94ab064410fb0e6a",
     "arena \"{KVTIER_ARENA}\": frame * of tier {KVTIER_TIER} cannot be written, *"},
    {"4958898d23004f0d8550ba8ba041c283", "arena \"{KVTIER_ARENA}\": * frames wait for a step of process *"},
    {"0cabaa6f7ad24a71996c32c0fac806f1",
     "arena \"{KVTIER_ARENA}\": uses * of * frames of tier {KVTIER_TIER}; *"},
    {"6396c933c7a6494a9f2ca25174faaa71", "arena \"{KVTIER_ARENA}\", tier {KVTIER_TIER}: stays at *"},
    {"7c99338880cb40948734dbb4784fc821", "arena \"{KVTIER_ARENA}\" is there: *"},
    {"07f1239c56f0401f903f3a214f89efa3", "arena \"{KVTIER_ARENA}\" is deleted: *"},
    {"3d7a1ad3374e4b53953ae8be17f84466", "tier \"{KVTIER_TIER}\" is there: *"},
    {"90bc1c4ddeed459a9acab0f503537b40", "tier \"{KVTIER_TIER}\" is removed*"},
    {"983e78b13d1c44898ef274f3afaa8bf4", "arena \"{KVTIER_ARENA}\", tier {KVTIER_TIER}: not locked, *"},
    {"95ba98fe5bc74c25bae24c07d58deb39", "tier \"{KVTIER_TIER}\": not measured, *"},
    {"15063e1eeb5f4dfa80a7cbb7371187bf", "tier \"{KVTIER_TIER}\": *; the tier is left out, *"},
};

constexpr std::string_view kField = "{KVTIER_";

/// Up to the next wildcard or field.
std::string_view words_of(std::string_view pattern) {
  return pattern.substr(0, std::min(pattern.find('*'), pattern.find(kField)));
}

}  // namespace

std::span<const Message> messages() { return kMessages; }

bool match(std::string_view pattern, std::string_view line,
           std::vector<std::pair<std::string, std::string>>& fields) {
  fields.clear();
  if (!line.starts_with(words_of(pattern))) return false;
  line.remove_prefix(words_of(pattern).size());
  pattern.remove_prefix(words_of(pattern).size());
  while (!pattern.empty()) {
    std::string name;
    if (pattern.front() == '*') {
      pattern.remove_prefix(1);
    } else {
      const size_t end = pattern.find('}');
      name = pattern.substr(1, end - 1);
      pattern.remove_prefix(end + 1);
    }
    // Up to where the words behind it come first; the last words are the line's end.
    const std::string_view words = words_of(pattern);
    const bool is_last = words.size() == pattern.size();
    size_t end = words.empty() ? line.size() : line.find(words);
    if (is_last && !words.empty() && line.ends_with(words)) end = line.size() - words.size();
    if (end == std::string_view::npos || (is_last && end + words.size() != line.size())) return false;
    if (!name.empty()) fields.emplace_back(std::move(name), line.substr(0, end));
    line.remove_prefix(end + words.size());
    pattern.remove_prefix(words.size());
  }
  return line.empty();
}

Classified classify(std::string_view line) {
  Classified classified;
  for (const Message& message : kMessages)
    if (match(message.pattern, line, classified.fields)) {
      classified.id = message.id;
      return classified;
    }
  classified.fields.clear();
  return classified;
}

}  // namespace kvt::journal
