// SPDX-License-Identifier: Apache-2.0
//
// kvt_bench: each speed item of kvtier beside its baseline. Google Benchmark runs the rows in this process,
// which is the client; kvtierd, the publisher of the keys and redis-server are processes of their own,
// started and stopped here.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tools/bench/daemon_fixture.h"
#include "tools/bench/publisher.h"
#include "tools/bench/rows.h"

namespace {

constexpr const char* kHelp =
    R"(kvt_bench [--small] [--seed N] [--kvtierd PATH] [Google Benchmark's options]

Each speed item of kvtier beside its baseline, as rows NAME/ARG. ARG is the number of pages (1000000 and 10000000; 3000000 for the keeper), of
move_copy, page_check and baseline_memcpy the page bytes, of bands_ rows the bins. Times are for one page (change, step, copy).

  resolve             a page's frame              baseline_load                random load from an array of that size
  resolve_two_places  of pages in two tiers       resolve_first_place          the same without balance
                                                  resolve_unbalanced           resolve without balance
  touch_range, touch_random  count a read         baseline_increment           random increment
  lookup_hold         key -> page, held           baseline_hash_probe          probe of a plain hash table
                                                  peer_lmdb_lookup, peer_redis_exists
  allocate            take and release, refilled  baseline_boost_interprocess  a shared allocator's descriptors
  allocate_local      the same, from local stock
  step                begin and end
  apply_changes       keep a block table up to date while pages move
  promote_offers      until pages are in HBM      promote_copies               the same by the daemon's copies
                      slow_reads_a_promotion: pages read from the slow tier for nothing else than to promote one
  move_copy           the mover's copy            baseline_memcpy              memcpy of the same bytes
  move_copy_checked   with integrity = "moves"    page_check                   what "all" adds: a page's checksum
  prefault               a window of the backend, prefaulted by all cores; beside baseline_memset_fresh (the same memory
                         by memset, faults included) and baseline_memset_resident (memory that is there already)
  keeper_epoch_0pct, keeper_epoch_1pct, keeper_epoch_5pct   the keeper's pass when that share of the pages was touched
  bands_2_tiers, bands_4_tiers, bands_8_tiers   the exact placement of a step over ARG bins of density; `pivots` of each
                         beside baseline_greedy_2_tiers, baseline_greedy_4_tiers, baseline_greedy_8_tiers: one pass,
                         hottest into the fastest; `times_optimum`: how long its step takes
  histogram_touch        a page from one bin of the densities to another; beside baseline_increment

  --small         20000 and 50000 pages, 64 MiB of copies, short: to see that everything works
  --seed N        the order of the rows (default: random, printed)
  --kvtierd PATH  the daemon (default: ../../daemon/kvtierd from the folder of this program)

Google Benchmark's: --benchmark_filter=REGEX --benchmark_list_tests=true --benchmark_repetitions=N
  --benchmark_min_time=SECONDS --benchmark_format=console|json --benchmark_out=FILE ...

Exit: 0; 1 when a row could not run or its checksum was wrong; 2 for a wrong option.
10 million pages need about 6 GiB of memory, and 15 s to 60 s for each daemon.
)";

struct Options {
  bool small = false;
  uint64_t seed = std::random_device{}();
  std::string kvtierd;
};

/// Takes the program's own options out of `arguments`; false when one is wrong (said on stderr).
bool parse(std::vector<char*>& arguments, Options& options) {
  std::vector<char*> rest = {arguments[0]};
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string name = arguments[i];
    if (name == "--small") {
      options.small = true;
    } else if (name == "--seed" || name == "--kvtierd") {
      if (i + 1 == arguments.size()) {
        std::fprintf(stderr, "kvt_bench: %s needs a value\n", name.c_str());
        return false;
      }
      const char* const value = arguments[++i];
      if (name == "--kvtierd") {
        options.kvtierd = value;
        continue;
      }
      char* end = nullptr;
      options.seed = std::strtoull(value, &end, 10);
      if (end == value || *end != '\0') {
        std::fprintf(stderr, "kvt_bench: --seed \"%s\" is not a number\n", value);
        return false;
      }
    } else {
      rest.push_back(arguments[i]);
    }
  }
  arguments = rest;
  return true;
}

std::string default_kvtierd() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "../../daemon/kvtierd").lexically_normal().string();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace kvt::bench;
  if (argc > 1 && std::strcmp(argv[1], kPublisherFlag) == 0) return publisher_main(argc, argv);

  std::vector<char*> arguments(argv, argv + argc);
  for (const char* const argument : arguments) {
    if (std::strcmp(argument, "--help") == 0 || std::strcmp(argument, "-h") == 0) {
      std::fputs(kHelp, stdout);
      return 0;
    }
  }
  Options options;
  if (!parse(arguments, options)) return 2;
  if (options.kvtierd.empty()) options.kvtierd = default_kvtierd();
  // First, so that a given one wins.
  std::string short_time = "--benchmark_min_time=0.01";
  if (options.small) arguments.insert(arguments.begin() + 1, short_time.data());

  int count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  benchmark::AddCustomContext("kvt_seed", std::to_string(options.seed));
  benchmark::AddCustomContext("kvt_sizes", options.small ? "small" : "full");
  std::fprintf(stderr, "kvt_bench: --seed %llu\n", static_cast<unsigned long long>(options.seed));

  const Sizes sizes = options.small ? Sizes::small() : Sizes{};
  DaemonFixture fixture(options.kvtierd);
  bool failed = false;
  {
    RowList rows;
    add_client_rows(rows, sizes, fixture);
    add_place_rows(rows, sizes, fixture);
    add_baseline_rows(rows, sizes);
    add_boost_rows(rows, sizes);
    add_copy_rows(rows, sizes);
    add_keeper_rows(rows, sizes);
    add_policy_rows(rows, sizes);
    add_prefault_rows(rows, sizes);
    add_peer_rows(rows, sizes);
    rows.register_shuffled(options.seed);
    const size_t ran = benchmark::RunSpecifiedBenchmarks();
    if (ran == 0) std::fprintf(stderr, "kvt_bench: no row matches\n");
    failed = ran == 0 || rows.failed();
    // Google Benchmark keeps the rows' functions, which refer to the list, until this.
    benchmark::ClearRegisteredBenchmarks();
  }
  fixture.stop();
  benchmark::Shutdown();
  return failed || fixture.failed() ? 1 : 0;
}
