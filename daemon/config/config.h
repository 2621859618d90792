// SPDX-License-Identifier: Apache-2.0
//
// What the daemon is told to do. This struct has every default; the shipped configuration is printed from it.
// Values; no state.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/topology/profile.h"
#include "daemon/topology/topology.h"
#include "shm/base/result.h"

namespace kvt {

struct TierConfig {
  std::string name;
  /// "numa": memory of `nodes`; "emulated-hbm": the same, standing for HBM; or the name of a MemoryKind:
  /// memory of all nodes that discovery takes for that kind, or of those in `nodes`. "cuda": HBM of a GPU, through the
  /// CUDA driver. "cuda-host": memory of one NUMA node, which that driver allocates.
  std::string kind = "numa";
  std::string device = "0";  ///< with these two: the driver's ordinal, or a UUID, or the beginning of one
  /// With them: what to do where the driver or the GPU is missing: "leave-out" the tier, "fail"
  std::string without_device = "leave-out";
  uint64_t bytes = 0;          ///< 0 with percent
  uint64_t adopted_bytes = 0;  ///< of these, in windows that an earlier daemon has made; not configured
  uint64_t windows_bytes = 0;  ///< of those windows, with what was given up of a GPU's memory
  double percent = 0;  ///< above 0: this much of what can be had on its nodes at start, instead of `bytes`
  std::vector<uint32_t> nodes;      ///< OS indices of NUMA nodes; empty: any, or all of the kind
  std::string huge_pages = "auto";  ///< "auto", "hugetlb" (or fail), "thp", "off"
  int32_t column = -1;              ///< the only column that it serves; -1: all
  /// 10^9 bytes a second as the consumer reads; 0: as known of its memory, else the profile's
  double read_gbps = 0;
  double write_gbps = 0;
  /// Whether the CUDA driver makes it, for one GPU.
  [[nodiscard]] bool is_cuda() const { return kind == "cuda" || kind == "cuda-host"; }
  bool is_configured = true;  ///< false: windows of arenas of an earlier daemon are all that is left of it
};

struct ArenaConfig {
  std::string name;
  uint64_t page_bytes = 64 << 10;
  uint32_t block_tokens = 16;
  uint32_t planes = 1;
  uint32_t columns = 1;
  uint64_t pages = 0;                ///< 0: as many as there are frames
  uint32_t mode = 0600;              ///< who may attach: read and write bits of owner, group, others
  std::string owner;                 ///< user name or number; empty: the daemon's
  std::string group;                 ///< group name or number; empty: the daemon's
  uint32_t sessions_per_user = 128;  ///< that may be attached at once by the processes of one user
  /// 10^9 bytes a second that each column's consumer reads from its fastest tier beside the pages (weights)
  double fixed_read_gbps = 0;
  uint32_t weight = 1;       ///< of its share of policy.move_bytes_per_second, beside the other arenas
  double least_percent = 0;  ///< of that, which it gets before anybody gets more
  /// Checksums of its pages: "off", "moves" (of what is copied), "all" (and of what is sealed and promoted, and a scrub)
  std::string integrity = "off";
  uint32_t scrub_pages_per_second = 100;  ///< with "all": pages that are read to be checked; 0: none
  /// Quota by tier name, 0: no window there; a tier not named: what is left of it
  std::vector<std::pair<std::string, uint64_t>> bytes;
  /// 64 hexadecimal digits; none: the first session sets it
  std::optional<std::array<uint8_t, 32>> fingerprint;
};

struct PolicyConfig {
  std::string name = "balance";   ///< "balance", "off", "churn" (random moves, for tests)
  std::string profile = "gh200";  ///< bandwidths of the tiers where they give none
  /// "offers": readers copy pages up while they read them, where they can; "copies": workers do
  std::string promote = "offers";
  uint64_t move_bytes_per_second = 2ull << 30;
  double idle_credit = 1;    ///< how much more may be moved while readers leave the slow tiers idle
  uint32_t cooldown_ms = 0;  ///< a page that moved stays for this long
};

/// GPUs and their driver.
struct CudaConfig {
  std::string driver;  ///< path of the driver; empty: libcuda.so.1, as the linker finds it
  uint64_t reserve_bytes =
      2ull << 30;       ///< of each GPU's memory, for contexts: never part of a tier in percent
  bool measure = true;  ///< at start, how fast GPU and link are; false: the profile says it
  bool peers = true;    ///< pages are copied from one GPU to another where the driver says that it reaches it
  /// Where the driver cannot tell which processes use a GPU: a dead process's pages are kept so long
  uint32_t quarantine_ms = 10'000;
};

/// Where the metrics are served: docs/metrics.md.
struct MetricsConfig {
  /// Each as parse_listen_address() takes it; a Unix socket's path is of the socket folder. Empty: nowhere
  std::vector<std::string> listen = {"unix:metrics.sock"};
  std::string socket_group;   ///< group that may use the Unix sockets; empty: the daemon's user alone
  bool allow_remote = false;  ///< addresses that other hosts reach, too
};

struct Config {
  std::string socket_dir = "/run/kvtier";
  std::string socket_group;  ///< group of attach.sock; empty: the daemon's
  uint32_t period_ms = 10;  ///< counters are collected and placement is decided this often while clients read
  uint32_t copy_workers = 1;
  /// That the service manager keeps of this daemon (FileDescriptorStoreMax): 3 a session, 1 a further process, 2 a window
  uint32_t descriptors_max = 8192;
  /// Of the regions of all sessions: 6 bytes a page of the arena and 412 KiB a process each
  uint64_t session_bytes_max = 4ull << 30;
  bool prefault = true;  ///< allocate all memory at start; false: when it is first touched (tests)
  /// Keep windows from being swapped out: "auto" (where there is swap), "always", "never"
  std::string lock_memory = "auto";
  std::string state_dir = "/var/lib/kvtier";  ///< folder of what outlives the daemon: calibration.json
  bool discover_tiers = false;  ///< the tiers are those that follow from the machine; `tiers` is empty
  std::string log_level = "info";
  PolicyConfig policy;
  CudaConfig cuda;
  MetricsConfig metrics;
  std::vector<MemoryOverride> memory;  ///< corrections of what discovery says
  std::vector<TierConfig> tiers;       ///< fastest first
  std::vector<ArenaConfig> arenas;
  /// Where values come from that are not left to their defaults: "daemon.period_ms", "tier.hbm.bytes" ->
  /// "kvtierd.toml:12". Not configured itself.
  std::map<std::string, std::string> given;
  /// Sources that are no configuration: what kvtierctl has made, and what is there though none names it.
  static constexpr const char* kArenaCreate = "arena create";
  static constexpr const char* kTierAdd = "tier add";
  static constexpr const char* kKept = "kept";
  /// Whether the configuration, as it was read last, names the tier or arena (`section`), or makes it without a word: then a
  /// reload or the next start makes it anew.
  [[nodiscard]] bool names(const std::string& section, const std::string& name) const;
  /// Of a value that is another one than in `read` the file is not the source: the machine is.
  void drop_sources_of_changed(const Config& read);
  /// The file has been read again, as `read`: its lines, and kKept where it does not say what there is any more.
  void take_sources(const Config& read);

  /// The configuration of a host that has none: 256 MiB of emulated HBM, 2 GiB of host memory, one arena.
  static Config defaults();
};

/// Parses a TOML file. Errors name file:line and what was expected. The text is checked whole: unknown keys,
/// bad values, impossible sizes, tiers that arenas name but that are not there.
Result<Config> parse_config(const std::string& text, const std::string& file_name);
Result<Config> load_config(const std::string& path);

/// The configuration as TOML with comments; parse_config of it gives the same configuration.
std::string print_config(const Config& config);

/// One value of a configuration, for people and programs.
struct ConfigValue {
  std::string section;  ///< "daemon", "tier" ...
  std::string name;     ///< of a tier or an arena, the number of a [[memory]]; else empty
  std::string key;
  std::string json;  ///< the value as JSON
  std::string
      source;  ///< "default", "kvtierd.toml:12", "--socket-dir"; "machine": as it turned out at the start
};
/// All values that print_config() prints, in that order.
std::vector<ConfigValue> config_values(const Config& config);
/// `now` with the keys of [policy] that `lines` gives, as in a file ("cooldown_ms = 100"), checked in the same way.
/// kInvalid: what was expected.
Result<PolicyConfig> changed_policy(const PolicyConfig& now, const std::string& lines);
/// A tier of these keys of [[tier]] and values as one types them ("bytes" -> "8GiB", "nodes" -> "0,2"), checked as in a
/// file. kInvalid: what was expected.
Result<TierConfig> tier_of(const std::map<std::string, std::string>& values);
/// An arena of these keys of [[arena]] and values as one types them ("page_bytes" -> "64KiB", "bytes.dram" -> "8GiB"),
/// checked as in a file, beside the tiers of `config`. kInvalid: what was expected.
Result<ArenaConfig> arena_of(const Config& config, const std::map<std::string, std::string>& values);

/// The keys whose values differ, as in print_config: "policy.name", "tier 'hbm': bytes", "arena 'default'" (is in one of
/// them alone).
std::vector<std::string> changed_keys(const Config& before, const Config& after);
/// Whether a running daemon takes another value of such a key.
bool is_live_key(const std::string& key);

/// "64KiB", "2GiB", "512" -> bytes.
Result<uint64_t> parse_bytes(const std::string& text);

}  // namespace kvt
