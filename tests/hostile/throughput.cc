// SPDX-License-Identifier: Apache-2.0
//
// How fast a good client reads beside attackers. Neighbours burn processor time in memory of their own (phase A), or
// attack another arena of the same daemon with it (phase B), by turns. The good client reads and verifies its pages
// in steps, and publishes a page now and then; it has a processor of its own where there are two. Prints JSON; exits
// with 1 when a word was wrong or something failed.
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/hostile/raw_client.h"
#include "tests/hostile/witness.h"
#include "tests/support/child.h"
#include "tests/support/client.h"
#include "tests/support/random.h"

namespace kvt::test {
namespace {

struct Options {
  int rounds = 5;
  double seconds = 2;  ///< of each phase of a round
  int neighbours = 3;
  std::string attack = "all";
  bool pin = true;
};

constexpr uint64_t kPages = 64;
constexpr int kStepsAPage = 8;  // a page is published in every so many steps
constexpr const char* kAttacks[] = {"scribble", "rings", "connects"};

/// This thread on the first processor, or on all others.
void pin(const Options& options, bool first) {
  const auto count = static_cast<int>(std::thread::hardware_concurrency());
  if (!options.pin || count < 2) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = first ? 0 : 1; i < (first ? 1 : count); ++i) CPU_SET(i, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

// ---- neighbours ----

void burn(const Lines& lines) {
  std::vector<uint64_t> memory(uint64_t{1} << 16, 1);  // half a MiB, as much as a session region has
  for (uint64_t at = 1; !lines.has_line();)
    for (int i = 0; i < 100'000; ++i) {
      at = at * 6364136223846793005ull + 1442695040888963407ull;
      memory[(at >> 33) % memory.size()] += at;
    }
  [[maybe_unused]] const volatile uint64_t kept = memory[memory[0] % memory.size()];
}

std::string attack_memory(const Daemon& daemon, const Lines& lines, bool everywhere, Random& random) {
  while (!lines.has_line()) {
    RawClient client(daemon);
    RawSession session = RawSession::attach(client, attach_message(kAttacked));
    if (!session.valid()) return "no session";
    kvt_abi_member& member = session.member();
    for (int burst = 0; burst < 200 && !lines.has_line(); ++burst) {
      for (int i = 0; everywhere && i < 20'000; ++i)
        store_relaxed(session.words()[random.below(session.word_count())], random.next());
      kvt_abi_submission command{};
      for (uint32_t i = 0; i < KVT_RING_ENTRIES / 2; ++i) {
        command.op = random.below32(10);
        command.tag = random.below(3);
        command.page = session.handle(random.below32(session.table().pages())).value;
        command.flags = random.below32(3);
        command.key = {random.next(), random.next()};
        session.push(command);
      }
      session.ring();
      store_release(member.cq_head.value, load_acquire(member.cq_tail.value));
    }
    client.detach();
  }
  return {};
}

std::string attack_socket(const Daemon& daemon, const Lines& lines) {
  while (!lines.has_line()) {
    std::vector<RawClient> clients;
    for (int i = 0; i < 64 && !lines.has_line(); ++i) {
      const RawClient& client = clients.emplace_back(daemon);
      if (i % 4 == 0) client.send(hello_message());
      if (i % 4 == 1) client.send(attach_message(kAttacked));
    }
  }
  return {};
}

std::string neighbour(const Daemon& daemon, const Options& options, int index, Lines& lines) {
  Random random(static_cast<uint64_t>(index) + 1);
  for (;;) {
    const std::string order = lines.hear();
    if (order != "burn" && order != "attack") return {};
    lines.say("begun");
    if (order == "burn") {
      burn(lines);
      continue;
    }
    const std::string kind =
        options.attack == "all" ? kAttacks[static_cast<size_t>(index) % std::size(kAttacks)] : options.attack;
    const std::string wrong = kind == "connects" ? attack_socket(daemon, lines)
                                                 : attack_memory(daemon, lines, kind == "scribble", random);
    if (!wrong.empty()) return wrong;
  }
}

// ---- the good client ----

struct Sample {
  double words_per_second = 0;          ///< of all its time
  double words_per_reading_second = 0;  ///< of the time in steps, which wait for nobody
  double publishes_per_second = 0;
  double words_per_processor_second = 0;  ///< of its own, however busy the machine is
  double mean_publish_ms = 0;
  double slowest_publish_ms = 0;
  double daemon_cpu = 0;  ///< processors
};

double own_cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

struct Good {
  Client client;
  std::vector<kvt_page> pages;
  std::vector<kvt_key> keys;
  uint64_t fresh = 1'000'000;
  uint64_t wrong = 0;
  uint64_t failed = 0;

  explicit Good(const Daemon& daemon) {
    kvt_attach_args args = attach_args(daemon.folder());
    args.arena = kOwn;
    client = Client(args);
    for (uint64_t i = 0; i < kPages; ++i) {
      keys.push_back(key_of(i));
      pages.push_back(publish_page(client, keys.back(), kHostilePageBytes));
      failed += pages.back() == KVT_NO_PAGE ? 1 : 0;
    }
  }

  void publish() {
    const kvt_page page = publish_page(client, key_of(fresh++), kHostilePageBytes);
    if (page == KVT_NO_PAGE || kvt_release(client, &page, 1, nullptr) != KVT_OK) ++failed;
  }

  Sample run(const Daemon& daemon, double seconds) {
    Sample sample;
    uint64_t words = 0;
    uint64_t published = 0;
    double publishing = 0;
    const double cpu = daemon.number("status", "/cpu_seconds");
    const double own_cpu = own_cpu_seconds();
    const auto begin = Clock::now();
    double took = 0;
    for (uint64_t step_number = 0; took < seconds; ++step_number) {
      kvt_step step{};
      const void* addresses[kPages] = {};
      failed += kvt_step_begin(client, &step) != KVT_OK ? 1 : 0;
      failed +=
          kvt_resolve_addresses(client, &step, pages.data(), kPages, addresses) != static_cast<int>(kPages)
              ? 1
              : 0;
      for (uint64_t i = 0; i < kPages; ++i)
        if (addresses[i] != nullptr) wrong += wrong_words(addresses[i], kHostilePageBytes, keys[i]);
      kvt_touch(client, pages.data(), kPages);
      failed += kvt_step_end(client, &step) != KVT_OK ? 1 : 0;
      words += kPages * kHostilePageBytes / 8;
      if (step_number % kStepsAPage == 0) {
        const auto before = Clock::now();
        publish();
        ++published;
        const double ms = std::chrono::duration<double, std::milli>(Clock::now() - before).count();
        sample.slowest_publish_ms = std::max(sample.slowest_publish_ms, ms);
        publishing += ms / 1000;
      }
      took = std::chrono::duration<double>(Clock::now() - begin).count();
    }
    sample.words_per_second = static_cast<double>(words) / took;
    sample.words_per_reading_second = static_cast<double>(words) / (took - publishing);
    sample.words_per_processor_second = static_cast<double>(words) / (own_cpu_seconds() - own_cpu);
    sample.mean_publish_ms = publishing * 1000 / static_cast<double>(published);
    sample.publishes_per_second = static_cast<double>(published) / took;
    sample.daemon_cpu = (daemon.number("status", "/cpu_seconds") - cpu) / took;
    return sample;
  }
};

struct Spread {
  double least, median, most;
};
Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {values.front(), values[values.size() / 2], values.back()};
}

void print(const char* name, const std::vector<double>& values, const char* end) {
  const Spread spread = spread_of(values);
  std::printf("  \"%s\": {\"min\": %.6g, \"median\": %.6g, \"max\": %.6g}%s\n", name, spread.least,
              spread.median, spread.most, end);
}

int run(const Options& options) {
  pin(options, false);  // the daemon and the neighbours, which begin here
  Daemon daemon(hostile_world());
  if (!daemon.ok()) return 1;
  std::vector<std::unique_ptr<Child>> neighbours;
  for (int i = 0; i < options.neighbours; ++i)
    neighbours.push_back(
        std::make_unique<Child>([&, i](Lines& lines) { return neighbour(daemon, options, i, lines); }));
  pin(options, true);
  Good good(daemon);
  std::vector<double> ratios, reading_ratios, processor_ratios;
  std::vector<Sample> samples[2];
  bool alive = good.failed == 0;
  for (int round = 0; round < options.rounds && alive; ++round) {
    for (int turn = 0; turn < 2; ++turn) {
      const int phase = (turn + round) % 2;  // each comes first in every second round
      for (const auto& each : neighbours) each->say(phase == 0 ? "burn" : "attack");
      for (const auto& each : neighbours) alive = alive && each->hear() == "begun";
      samples[phase].push_back(good.run(daemon, options.seconds));
    }
    const Sample& quiet = samples[0].back();
    const Sample& attacked = samples[1].back();
    ratios.push_back(attacked.words_per_second / quiet.words_per_second);
    processor_ratios.push_back(attacked.words_per_processor_second / quiet.words_per_processor_second);
    reading_ratios.push_back(attacked.words_per_reading_second / quiet.words_per_reading_second);
  }
  for (const auto& each : neighbours) {
    each->say("end");
    if (const std::string wrong = each->finish(); !wrong.empty()) {
      std::fprintf(stderr, "a neighbour: %s\n", wrong.c_str());
      alive = false;
    }
  }
  if (ratios.empty()) return 1;
  std::printf(
      "{\n  \"rounds\": %d, \"seconds\": %g, \"neighbours\": %d, \"attack\": \"%s\", \"pinned\": %s,\n",
      options.rounds, options.seconds, options.neighbours, options.attack.c_str(),
      options.pin ? "true" : "false");
  print("ratio", ratios, ",");
  print("reading_ratio", reading_ratios, ",");
  print("ratio_per_processor_second", processor_ratios, ",");
  for (int phase = 0; phase < 2; ++phase) {
    const auto figure = [&](const char* name, double Sample::*member) {
      std::vector<double> values;
      for (const Sample& sample : samples[phase]) values.push_back(sample.*member);
      print((std::string(phase == 0 ? "beside_burners_" : "beside_attackers_") + name).c_str(), values, ",");
    };
    figure("words_per_second", &Sample::words_per_second);
    figure("words_per_reading_second", &Sample::words_per_reading_second);
    figure("words_per_processor_second", &Sample::words_per_processor_second);
    figure("publishes_per_second", &Sample::publishes_per_second);
    figure("mean_publish_ms", &Sample::mean_publish_ms);
    figure("slowest_publish_ms", &Sample::slowest_publish_ms);
    figure("daemon_processors", &Sample::daemon_cpu);
  }
  std::printf("  \"wrong_words\": %llu, \"failed_calls\": %llu\n}\n",
              static_cast<unsigned long long>(good.wrong), static_cast<unsigned long long>(good.failed));
  return alive && good.wrong == 0 && good.failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace kvt::test

int main(int argc, char** argv) {
  kvt::test::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--no-pin") {
      options.pin = false;
      continue;
    }
    const char* const value = i + 1 < argc ? argv[++i] : "";
    if (name == "--rounds")
      options.rounds = std::atoi(value);
    else if (name == "--seconds")
      options.seconds = std::atof(value);
    else if (name == "--neighbours")
      options.neighbours = std::atoi(value);
    else if (name == "--attack")
      options.attack = value;
    else {
      std::fprintf(
          stderr,
          "usage: %s [--rounds N] [--seconds S] [--neighbours N] [--attack all|scribble|rings|connects] "
          "[--no-pin]\n",
          argv[0]);
      return 2;
    }
  }
  return kvt::test::run(options);
}
