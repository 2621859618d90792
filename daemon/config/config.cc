// SPDX-License-Identifier: Apache-2.0
#include "daemon/config/config.h"

#define TOML_EXCEPTIONS 0
#include <fmt/format.h>
// toml++ 3.3 asserts on some texts that are not TOML, such as "[~a": a mistake in a file ends nothing here.
#undef NDEBUG  // which would turn its assertions into assumptions
namespace kvt {
namespace {
struct NotToml {};
[[noreturn]] void not_toml() { throw NotToml{}; }
}  // namespace
}  // namespace kvt
#define TOML_ASSERT(holds) ((holds) ? void() : ::kvt::not_toml())
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "daemon/config/listen_address.h"
#include "shm/abi/limits.h"

namespace kvt {
namespace {

/// Whether a whole text is one number.
template <typename T>
std::optional<T> number_in(const std::string& text) {
  T number{};
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, number);
  return error == std::errc() && end == last ? std::optional<T>(number) : std::nullopt;
}

/// Reads one table; every read names the key, so that the end can tell which keys nobody knew. Without a file all values
/// are texts, as on a command line.
class Reader {
 public:
  Reader(const toml::table& table, std::string where, const std::string& file)
      : table_(table), where_(std::move(where)), file_(file) {}

  template <typename T>
  Result<void> integer(const char* key, T& value, int64_t low, int64_t high) {
    const toml::node* const node = take(key);
    if (node == nullptr) return {};
    const auto number =
        file_.empty() ? number_in<int64_t>(node->value_or(std::string())) : node->value_exact<int64_t>();
    if (!number || *number < low || *number > high)
      return bad(*node, key, fmt::format("an integer from {} to {}", low, high));
    value = static_cast<T>(*number);
    return {};
  }
  Result<void> number(const char* key, double& value, double low, double high) {
    const toml::node* const node = take(key);
    if (node == nullptr) return {};
    const auto given = file_.empty()       ? number_in<double>(node->value_or(std::string()))
                       : node->is_number() ? node->value<double>()
                                           : std::nullopt;
    if (!given || !(*given >= low && *given <= high))
      return bad(*node, key, fmt::format("a number from {} to {}", low, high));
    value = *given;
    return {};
  }
  Result<void> boolean(const char* key, bool& value) {
    const toml::node* const node = take(key);
    if (node == nullptr) return {};
    const auto given = node->value_exact<bool>();
    if (!given) return bad(*node, key, "true or false");
    value = *given;
    return {};
  }
  Result<void> text(const char* key, std::string& value, std::initializer_list<const char*> choices = {}) {
    const toml::node* const node = take(key);
    if (node == nullptr) return {};
    const auto given = node->value_exact<std::string>();
    if (!given) return bad(*node, key, "a string");
    if (choices.size() != 0 &&
        std::none_of(choices.begin(), choices.end(), [&](const char* choice) { return *given == choice; })) {
      std::string all;
      for (const char* choice : choices) all += fmt::format("{}\"{}\"", all.empty() ? "" : ", ", choice);
      return bad(*node, key, "one of " + all);
    }
    value = *given;
    return {};
  }
  Result<void> bytes(const char* key, uint64_t& value, uint64_t low, uint64_t high) {
    const toml::node* const node = take(key);
    if (node == nullptr) return {};
    return bytes_of(*node, key, value, low, high);
  }
  Result<void> bytes_of(const toml::node& node, const std::string& key, uint64_t& value, uint64_t low,
                        uint64_t high) const {
    std::optional<uint64_t> given;
    if (const auto whole = node.value_exact<int64_t>(); whole && *whole >= 0)
      given = static_cast<uint64_t>(*whole);
    if (const auto words = node.value_exact<std::string>())
      if (auto parsed = parse_bytes(*words)) given = *parsed;
    if (!given || *given < low || *given > high)
      return bad(node, key,
                 fmt::format("a size such as \"64KiB\" or \"2GiB\", from {} to {} bytes", low, high));
    value = *given;
    return {};
  }
  const toml::node* take(const char* key) {
    known_.insert(key);
    return table_.get(key);
  }
  tl::unexpected<Error> bad(const toml::node& node, const std::string& key,
                            const std::string& expected) const {
    std::ostringstream given;
    node.visit([&](const auto& value) { given << value; });
    std::string shown = given.str().substr(0, 80);
    std::replace(shown.begin(), shown.end(), '\n', ' ');
    return fail(Code::kInvalid,
                fmt::format("{}{}{} = {}: expected {}", at(node), where_, key, shown, expected));
  }
  [[nodiscard]] std::string at(const toml::node& node) const {
    return file_.empty() ? "" : fmt::format("{}:{}: ", file_, node.source().begin.line);
  }
  /// After all reads: an error for the first key that was not asked for.
  Result<void> finish() const {
    for (const auto& [key, node] : table_) {
      if (known_.contains(std::string(key.str()))) continue;
      std::string all;
      for (const std::string& name : known_) all += (all.empty() ? "" : ", ") + name;
      return fail(Code::kInvalid, fmt::format("{}unknown key {}{}; expected one of: {}", at(node), where_,
                                              std::string(key.str()), all));
    }
    return {};
  }

 private:
  const toml::table& table_;
  std::string where_;
  const std::string& file_;
  std::set<std::string> known_;
};

constexpr uint64_t kMaxTierBytes = 1ull << 46;

Result<void> read_daemon(const toml::table& table, const std::string& file, Config& config) {
  Reader reader(table, "daemon.", file);
  KVT_TRY(reader.text("socket_dir", config.socket_dir));
  KVT_TRY(reader.text("socket_group", config.socket_group));
  KVT_TRY(reader.integer("period_ms", config.period_ms, 1, 1000));
  KVT_TRY(reader.integer("copy_workers", config.copy_workers, 1, 64));
  KVT_TRY(reader.integer("descriptors_max", config.descriptors_max, 16, 1 << 20));
  KVT_TRY(reader.bytes("session_bytes_max", config.session_bytes_max, 1 << 20, 1ull << 42));
  KVT_TRY(reader.boolean("prefault", config.prefault));
  KVT_TRY(reader.text("lock_memory", config.lock_memory, {"auto", "always", "never"}));
  KVT_TRY(reader.text("state_dir", config.state_dir));
  std::string tiers = "listed";
  KVT_TRY(reader.text("tiers", tiers, {"listed", "discovered"}));
  config.discover_tiers = tiers == "discovered";
  KVT_TRY(reader.text("log_level", config.log_level, {"debug", "info", "warn", "error"}));
  return reader.finish();
}

Result<void> read_policy(const toml::table& table, const std::string& file, PolicyConfig& policy) {
  Reader reader(table, "policy.", file);
  KVT_TRY(reader.text("name", policy.name, {"balance", "off", "churn"}));
  KVT_TRY(reader.text("profile", policy.profile));
  if (!find_profile(policy.profile))
    return reader.bad(*table.get("profile"), "profile", "one of " + profile_names());
  KVT_TRY(reader.text("promote", policy.promote, {"offers", "copies"}));
  KVT_TRY(reader.bytes("move_bytes_per_second", policy.move_bytes_per_second, 1 << 20, 1ull << 42));
  KVT_TRY(reader.number("idle_credit", policy.idle_credit, 0, 16));
  KVT_TRY(reader.integer("cooldown_ms", policy.cooldown_ms, 0, 60'000));
  return reader.finish();
}

Result<void> read_cuda(const toml::table& table, const std::string& file, CudaConfig& cuda) {
  Reader reader(table, "cuda.", file);
  KVT_TRY(reader.text("driver", cuda.driver));
  KVT_TRY(reader.bytes("reserve_bytes", cuda.reserve_bytes, 0, 1ull << 40));
  KVT_TRY(reader.boolean("measure", cuda.measure));
  KVT_TRY(reader.boolean("peers", cuda.peers));
  KVT_TRY(reader.integer("quarantine_ms", cuda.quarantine_ms, 1, 600'000));
  return reader.finish();
}

constexpr size_t kListenMax = 8;

Result<void> read_metrics(const toml::table& table, const std::string& file, MetricsConfig& metrics) {
  Reader reader(table, "metrics.", file);
  KVT_TRY(reader.text("socket_group", metrics.socket_group));
  KVT_TRY(reader.boolean("allow_remote", metrics.allow_remote));
  if (const toml::node* const node = reader.take("listen")) {
    const std::string expected = fmt::format(
        "a list of up to {} places such as \"unix:metrics.sock\" and \"127.0.0.1:9713\"", kListenMax);
    const toml::array* const list = node->as_array();
    if (list == nullptr || list->size() > kListenMax) return reader.bad(*node, "listen", expected);
    metrics.listen.clear();
    for (const toml::node& entry : *list) {
      const auto text = entry.value_exact<std::string>();
      if (!text) return reader.bad(entry, "listen", expected);
      const auto address = parse_listen_address(*text);
      if (!address) return fail(Code::kInvalid, reader.at(entry) + "metrics.listen: " + address.error().text);
      if (!address->is_loopback && !metrics.allow_remote)
        return fail(Code::kInvalid,
                    reader.at(entry) + "metrics.listen: \"" + *text +
                        "\" is reached by other hosts, and metrics are for whoever asks: expected an "
                        "address of 127.0.0.0/8 or [::1], or allow_remote = true");
      metrics.listen.push_back(*text);
    }
  }
  return reader.finish();
}

/// "2GiB", a number, or "75%".
Result<void> read_tier_bytes(Reader& reader, const toml::table& table, TierConfig& tier) {
  const toml::node* const node = table.get("bytes");
  if (node == nullptr)
    return fail(Code::kInvalid,
                reader.at(table) + "tier \"" + tier.name + "\" needs bytes, such as \"2GiB\" or \"75%\"");
  const auto words = node->value_exact<std::string>();
  if (!words || !words->ends_with('%')) return reader.bytes("bytes", tier.bytes, 1 << 20, kMaxTierBytes);
  reader.take("bytes");
  const char* const last = words->data() + words->size() - 1;
  const auto [end, error] = std::from_chars(words->data(), last, tier.percent);
  if (error != std::errc() || end != last || !(tier.percent > 0 && tier.percent <= 100))
    return reader.bad(*node, "bytes", "a share of what can be had on its nodes, above 0% and up to 100%");
  return {};
}

constexpr int64_t kNodeMax = 1023;

/// `node = 2`, `nodes = [0, 2]`; neither, or `node = -1`: any.
Result<void> read_nodes(Reader& reader, const toml::table& table, std::vector<uint32_t>& nodes) {
  int32_t one = -1;
  KVT_TRY(reader.integer("node", one, -1, kNodeMax));
  const toml::node* const several = reader.take("nodes");
  if (several == nullptr) {
    if (one >= 0) nodes = {static_cast<uint32_t>(one)};
    return {};
  }
  const std::string expected =
      fmt::format("a list of NUMA nodes such as [0, 2], each from 0 to {} and named once", kNodeMax);
  if (table.get("node") != nullptr) return reader.bad(*several, "nodes", "either node or nodes");
  const toml::array* const list = several->as_array();
  if (list == nullptr || list->empty()) return reader.bad(*several, "nodes", expected);
  for (const toml::node& entry : *list) {
    const auto index = entry.value_exact<int64_t>();
    if (!index || *index < 0 || *index > kNodeMax ||
        std::find(nodes.begin(), nodes.end(), static_cast<uint32_t>(*index)) != nodes.end())
      return reader.bad(*several, "nodes", expected);
    nodes.push_back(static_cast<uint32_t>(*index));
  }
  return {};
}

Result<MemoryOverride> read_memory(const toml::table& table, const std::string& file) {
  MemoryOverride override_;
  Reader reader(table, "memory.", file);
  KVT_TRY(reader.integer("node", override_.node, 0, kNodeMax));
  const std::initializer_list<const char*> kinds = {"dram", "hbm", "cxl", "lpddr", "gpu", "nvm", "unknown"};
  std::string of_kind;
  KVT_TRY(reader.text("of_kind", of_kind, kinds));
  if ((override_.node >= 0) == !of_kind.empty())
    return fail(Code::kInvalid,
                reader.at(table) + "[[memory]] says of what it speaks: either node = N or of_kind = \"cxl\"");
  if (!of_kind.empty()) override_.of_kind = *find_kind(of_kind);
  std::string kind;
  KVT_TRY(reader.text("kind", kind, kinds));
  if (!kind.empty()) override_.kind = find_kind(kind);
  KVT_TRY(reader.number("read_gbps", override_.read_gbps, 0, 1e6));
  KVT_TRY(reader.number("write_gbps", override_.write_gbps, 0, 1e6));
  KVT_TRY(reader.number("latency_ns", override_.latency_ns, 0, 1e9));
  KVT_TRY(reader.boolean("use", override_.use));
  KVT_TRY(reader.finish());
  return override_;
}

Result<TierConfig> read_tier(const toml::table& table, const std::string& file) {
  TierConfig tier;
  Reader reader(table, "tier.", file);
  KVT_TRY(reader.text("name", tier.name));
  if (tier.name.empty() || tier.name.size() >= KVT_TIER_NAME_BYTES)
    return fail(Code::kInvalid, reader.at(table) + fmt::format("a tier needs a name of 1 to {} bytes",
                                                               KVT_TIER_NAME_BYTES - 1));
  KVT_TRY(reader.text(
      "kind", tier.kind,
      {"numa", "emulated-hbm", "cuda", "cuda-host", "dram", "hbm", "cxl", "lpddr", "gpu", "nvm", "unknown"}));
  KVT_TRY(read_tier_bytes(reader, table, tier));
  KVT_TRY(read_nodes(reader, table, tier.nodes));
  if (tier.is_cuda()) {
    if (tier.kind == "cuda-host" && tier.nodes.size() > 1)
      return fail(Code::kInvalid, reader.at(table) + "tier \"" + tier.name +
                                      "\" of kind cuda-host has several nodes: expected one, or none for the "
                                      "GPU's own");
    if (tier.kind == "cuda" && !tier.nodes.empty())
      return fail(Code::kInvalid, reader.at(table) + "tier \"" + tier.name +
                                      "\" of kind cuda has nodes: expected device = \"0\", or a GPU's UUID");
    if (const toml::node* const device = table.get("device"); device != nullptr && device->is_integer()) {
      int32_t ordinal = 0;
      KVT_TRY(reader.integer("device", ordinal, 0, 1023));
      tier.device = std::to_string(ordinal);
    } else {
      KVT_TRY(reader.text("device", tier.device));
    }
    if (tier.device.empty()) return reader.bad(*table.get("device"), "device", "an ordinal, or a GPU's UUID");
    KVT_TRY(reader.text("without_device", tier.without_device, {"leave-out", "fail"}));
  }
  KVT_TRY(reader.text("huge_pages", tier.huge_pages, {"auto", "hugetlb", "thp", "off"}));
  KVT_TRY(reader.integer("column", tier.column, -1, KVT_MAX_COLUMNS - 1));
  KVT_TRY(reader.number("read_gbps", tier.read_gbps, 0, 1e6));
  KVT_TRY(reader.number("write_gbps", tier.write_gbps, 0, 1e6));
  KVT_TRY(reader.finish());
  return tier;
}

Result<ArenaConfig> read_arena(const toml::table& table, const std::string& file, const Config& config) {
  ArenaConfig arena;
  Reader reader(table, "arena.", file);
  KVT_TRY(reader.text("name", arena.name));
  if (arena.name.empty() || arena.name.size() >= KVT_ARENA_NAME_BYTES)
    return fail(Code::kInvalid, reader.at(table) + fmt::format("an arena needs a name of 1 to {} bytes",
                                                               KVT_ARENA_NAME_BYTES - 1));
  KVT_TRY(reader.bytes("page_bytes", arena.page_bytes, KVT_MIN_PAGE_BYTES, KVT_MAX_PAGE_BYTES));
  if (arena.page_bytes % KVT_PAGE_BYTES_STEP != 0)
    return reader.bad(*table.get("page_bytes"), "page_bytes",
                      fmt::format("a multiple of {} bytes", KVT_PAGE_BYTES_STEP));
  KVT_TRY(reader.integer("block_tokens", arena.block_tokens, 1, 1 << 20));
  KVT_TRY(reader.integer("planes", arena.planes, 1, 4096));
  if (arena.page_bytes % arena.planes != 0)
    return reader.bad(*table.get("planes"), "planes",
                      fmt::format("a divisor of page_bytes ({})", arena.page_bytes));
  KVT_TRY(reader.integer("columns", arena.columns, 1, KVT_MAX_COLUMNS));
  KVT_TRY(reader.integer("pages", arena.pages, 1, KVT_MAX_PAGES));
  std::string mode;
  KVT_TRY(reader.text("mode", mode));
  if (!mode.empty()) {
    if (mode.size() > 4 || mode.find_first_not_of("01234567") != std::string::npos)
      return reader.bad(*table.get("mode"), "mode", "an octal mode such as \"0660\"");
    arena.mode = static_cast<uint32_t>(std::stoul(mode, nullptr, 8));
  }
  KVT_TRY(reader.number("fixed_read_gbps", arena.fixed_read_gbps, 0, 1e6));
  KVT_TRY(reader.integer("weight", arena.weight, 1, 1000));
  KVT_TRY(reader.number("least_percent", arena.least_percent, 0, 100));
  KVT_TRY(reader.text("integrity", arena.integrity, {"off", "moves", "all"}));
  KVT_TRY(reader.integer("scrub_pages_per_second", arena.scrub_pages_per_second, 0, 1'000'000));
  KVT_TRY(reader.text("owner", arena.owner));
  KVT_TRY(reader.text("group", arena.group));
  KVT_TRY(reader.integer("sessions_per_user", arena.sessions_per_user, 1, KVT_MAX_SESSIONS));
  if (const toml::node* const node = reader.take("bytes")) {
    const toml::table* const quotas = node->as_table();
    if (quotas == nullptr) return reader.bad(*node, "bytes", "a table { tier = \"size\", ... }");
    for (const auto& [key, value] : *quotas) {
      const std::string name(key.str());
      // Discovered tiers get their names on the machine; the daemon looks then.
      if (!config.discover_tiers && std::none_of(config.tiers.begin(), config.tiers.end(),
                                                 [&](const TierConfig& tier) { return tier.name == name; }))
        return fail(Code::kInvalid, reader.at(value) + "arena \"" + arena.name + "\" wants bytes of tier \"" +
                                        name + "\", which is not there");
      uint64_t bytes = 0;
      KVT_TRY(reader.bytes_of(value, "bytes." + name, bytes, 0, kMaxTierBytes));
      arena.bytes.emplace_back(name, bytes);
    }
  }
  std::string fingerprint;
  KVT_TRY(reader.text("fingerprint", fingerprint));
  if (!fingerprint.empty()) {
    if (fingerprint.size() != 64 ||
        fingerprint.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      return reader.bad(*table.get("fingerprint"), "fingerprint", "64 hexadecimal digits");
    arena.fingerprint.emplace();
    for (size_t i = 0; i < 32; ++i)
      (*arena.fingerprint)[i] = static_cast<uint8_t>(std::stoul(fingerprint.substr(2 * i, 2), nullptr, 16));
  }
  KVT_TRY(reader.finish());
  return arena;
}

std::string size_text(uint64_t bytes) {
  for (const auto& [unit, name] : {std::pair{1ull << 30, "GiB"}, {1ull << 20, "MiB"}, {1ull << 10, "KiB"}})
    if (bytes >= unit && bytes % unit == 0) return fmt::format("{}{}", bytes / unit, name);
  return fmt::format("{}", bytes);
}

}  // namespace

Result<uint64_t> parse_bytes(const std::string& text) {
  size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits])) != 0) ++digits;
  if (digits == 0 || digits > 18) return fail(Code::kInvalid, "\"" + text + "\" is no size");
  const uint64_t number = std::stoull(text.substr(0, digits));
  const std::string unit = text.substr(digits);
  uint64_t factor = 0;
  if (unit.empty() || unit == "B")
    factor = 1;
  else if (unit == "KiB" || unit == "K")
    factor = 1ull << 10;
  else if (unit == "MiB" || unit == "M")
    factor = 1ull << 20;
  else if (unit == "GiB" || unit == "G")
    factor = 1ull << 30;
  else if (unit == "TiB" || unit == "T")
    factor = 1ull << 40;
  if (factor == 0 || number > UINT64_MAX / factor) return fail(Code::kInvalid, "\"" + text + "\" is no size");
  return number * factor;
}

Config Config::defaults() {
  Config config;
  TierConfig hbm;
  hbm.name = "hbm";
  hbm.kind = "emulated-hbm";
  hbm.bytes = 256ull << 20;
  hbm.column = 0;
  TierConfig dram;
  dram.name = "dram";
  dram.bytes = 2ull << 30;
  config.tiers = {hbm, dram};
  ArenaConfig arena;
  arena.name = "default";
  config.arenas = {arena};
  return config;
}

namespace {

/// toml++ 3.3 has undefined behaviour for some letters outside quotes (U+FEFB is one). Comments may have any,
/// strings have \u escapes.
Result<void> check_ascii(const std::string& text, const std::string& file_name) {
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (const size_t begin = line.find_first_not_of(" \t"); begin != std::string::npos && line[begin] == '#')
      continue;
    for (const char each : line)
      if (static_cast<unsigned char>(each) >= 0x80)
        return fail(Code::kInvalid, fmt::format("{}:{}: byte 0x{:02x}: expected ASCII outside lines of "
                                                "comment; \"\\u00e9\" is a letter in a string",
                                                file_name, number, static_cast<unsigned char>(each)));
  }
  return {};
}

Result<toml::parse_result> parse_toml(const std::string& text, const std::string& file_name) {
  try {
    return toml::parse(text, file_name);
  } catch (NotToml) {
    // It does not say where: at the end of the first lines that it does not take.
    int number = 1;
    for (size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', end + 1), ++number)
      try {
        (void)toml::parse(text.substr(0, end), file_name);
      } catch (NotToml) {
        break;
      }
    return fail(Code::kInvalid,
                fmt::format("{}:{}: this is not TOML; expected a section such as [daemon], or key = value",
                            file_name, number));
  }
}

}  // namespace

namespace {

/// Calls visit(section, name, key, node) for each value of a configuration.
template <typename Visit>
void for_each_value(const toml::table& root, Visit&& visit) {
  for (const auto& [section, node] : root) {
    const std::string of(section.str());
    if (const toml::table* const table = node.as_table()) {
      for (const auto& [key, value] : *table) visit(of, std::string(), std::string(key.str()), value);
      continue;
    }
    const toml::array* const list = node.as_array();
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      const toml::table* const table = list->get(i)->as_table();
      if (table == nullptr) continue;
      const std::string name = (*table)["name"].value_or(std::to_string(i));
      for (const auto& [key, value] : *table) visit(of, name, std::string(key.str()), value);
    }
  }
}

std::string path_of(const std::string& section, const std::string& name, const std::string& key) {
  return name.empty() ? section + "." + key : section + "." + name + "." + key;
}

std::string json_of(const toml::node& node) {
  std::ostringstream out;
  out << toml::json_formatter(node);
  return out.str();
}

/// REQUIRES: it could not be parsed.
tl::unexpected<Error> no_toml(const toml::parse_result& parsed, const std::string& file_name) {
  return fail(Code::kInvalid, fmt::format("{}:{}: {}", file_name, parsed.error().source().begin.line,
                                          std::string(parsed.error().description())));
}
}  // namespace

Result<Config> parse_config(const std::string& text, const std::string& file_name) {
  KVT_TRY(check_ascii(text, file_name));
  KVT_TRY_ASSIGN(const toml::parse_result parsed, parse_toml(text, file_name));
  if (!parsed) return no_toml(parsed, file_name);
  const toml::table& root = parsed.table();
  Config config = Config::defaults();
  Reader reader(root, "", file_name);
  const auto section = [&](const char* name) -> Result<const toml::table*> {
    const toml::node* const node = reader.take(name);
    if (node == nullptr) return nullptr;
    if (!node->is_table()) return reader.bad(*node, name, fmt::format("a section [{}]", name));
    return node->as_table();
  };
  const auto sections = [&](const char* name) -> Result<const toml::array*> {
    const toml::node* const node = reader.take(name);
    if (node == nullptr) return nullptr;
    if (!node->is_array_of_tables()) return reader.bad(*node, name, fmt::format("sections [[{}]]", name));
    return node->as_array();
  };
  KVT_TRY_ASSIGN(const toml::table* const daemon, section("daemon"));
  if (daemon != nullptr) KVT_TRY(read_daemon(*daemon, file_name, config));
  KVT_TRY_ASSIGN(const toml::table* const policy, section("policy"));
  if (policy != nullptr) KVT_TRY(read_policy(*policy, file_name, config.policy));
  KVT_TRY_ASSIGN(const toml::table* const cuda, section("cuda"));
  if (cuda != nullptr) KVT_TRY(read_cuda(*cuda, file_name, config.cuda));
  KVT_TRY_ASSIGN(const toml::table* const metrics, section("metrics"));
  if (metrics != nullptr) KVT_TRY(read_metrics(*metrics, file_name, config.metrics));
  KVT_TRY_ASSIGN(const toml::array* const memory, sections("memory"));
  if (memory != nullptr) {
    for (const toml::node& node : *memory) {
      KVT_TRY_ASSIGN(const MemoryOverride override_, read_memory(*node.as_table(), file_name));
      config.memory.push_back(override_);
    }
  }
  KVT_TRY_ASSIGN(const toml::array* const tiers, sections("tier"));
  if (config.discover_tiers) config.tiers.clear();
  if (tiers != nullptr) {
    if (config.discover_tiers)
      return fail(Code::kInvalid,
                  reader.at(tiers->front()) +
                      "[[tier]] beside daemon.tiers = \"discovered\": expected one of the two");
    config.tiers.clear();
    for (const toml::node& node : *tiers) {
      KVT_TRY_ASSIGN(TierConfig tier, read_tier(*node.as_table(), file_name));
      if (std::any_of(config.tiers.begin(), config.tiers.end(),
                      [&](const TierConfig& other) { return other.name == tier.name; }))
        return fail(Code::kInvalid, reader.at(node) + "a second tier \"" + tier.name + "\"");
      if (config.tiers.size() >= KVT_MAX_TIERS)
        return fail(Code::kLimit, reader.at(node) + fmt::format("more than {} tiers", KVT_MAX_TIERS));
      config.tiers.push_back(std::move(tier));
    }
  }
  KVT_TRY_ASSIGN(const toml::array* const arenas, sections("arena"));
  if (arenas != nullptr) {
    config.arenas.clear();
    for (const toml::node& node : *arenas) {
      KVT_TRY_ASSIGN(ArenaConfig arena, read_arena(*node.as_table(), file_name, config));
      if (std::any_of(config.arenas.begin(), config.arenas.end(),
                      [&](const ArenaConfig& other) { return other.name == arena.name; }))
        return fail(Code::kInvalid, reader.at(node) + "a second arena \"" + arena.name + "\"");
      if (config.arenas.size() >= KVT_MAX_ARENAS)
        return fail(Code::kLimit, reader.at(node) + fmt::format("more than {} arenas", KVT_MAX_ARENAS));
      config.arenas.push_back(std::move(arena));
    }
  }
  KVT_TRY(reader.finish());
  for_each_value(root, [&](const std::string& of, const std::string& name, const std::string& key,
                           const toml::node& node) {
    config.given[path_of(of, name, key)] = fmt::format("{}:{}", file_name, node.source().begin.line);
  });
  return config;
}

Result<Config> load_config(const std::string& path) {
  std::ifstream file(path);
  if (!file) return fail_errno("open " + path);
  std::stringstream text;
  text << file.rdbuf();
  return parse_config(text.str(), path);
}

namespace {

/// As a TOML string.
std::string quoted(const std::string& text) {
  std::ostringstream out;
  // In one line of ASCII, with escapes: literal strings cannot have all of the quotes that a text may have.
  constexpr auto kFlags =
      toml::toml_formatter::default_flags &
      ~(toml::format_flags::allow_literal_strings | toml::format_flags::allow_multi_line_strings |
        toml::format_flags::allow_unicode_strings);
  const toml::value<std::string> value(text);
  out << toml::toml_formatter{value, kFlags};
  return out.str();
}

}  // namespace

std::string print_config(const Config& config) {
  std::string out;
  const auto line = [&out](const std::string& text) { out += text + "\n"; };
  line("# kvtierd's configuration. Sizes: bytes, or \"64KiB\", \"256MiB\", \"2GiB\", \"1TiB\".");
  line("");
  line("[daemon]");
  line("# folder of attach.sock (clients) and control.sock (operators)");
  line(fmt::format("socket_dir = {}", quoted(config.socket_dir)));
  line("# group that may use attach.sock; empty: the daemon's own");
  line(fmt::format("socket_group = {}", quoted(config.socket_group)));
  line("# while clients read, counters are collected and placement is decided this often");
  line(fmt::format("period_ms = {}", config.period_ms));
  line("# threads that copy pages");
  line(fmt::format("copy_workers = {}", config.copy_workers));
  line(
      "# descriptors that the service manager keeps for the next start (FileDescriptorStoreMax): 3 a session "
      "and 1 for "
      "each");
  line("# further process of it, 1 a window and chunk of device memory, 4 more");
  line(fmt::format("descriptors_max = {}", config.descriptors_max));
  line("# memory of all sessions together: 6 bytes a page of the arena and 412 KiB a process each");
  line(fmt::format("session_bytes_max = \"{}\"", size_text(config.session_bytes_max)));
  line("# allocate all memory at start, so that no client ever meets its lack; false: for tests");
  line(fmt::format("prefault = {}", config.prefault));
  line("# keep windows from being swapped out. auto: where the machine has swap. always, never");
  line(fmt::format("lock_memory = {}", quoted(config.lock_memory)));
  line("# folder of what outlives the daemon: calibration.json, which kvtierctl calibrate writes");
  line(fmt::format("state_dir = {}", quoted(config.state_dir)));
  line(
      "# listed: the [[tier]] sections. discovered: what kvtierctl topology says of this machine, 80 % of "
      "it");
  line(fmt::format("tiers = {}", quoted(config.discover_tiers ? "discovered" : "listed")));
  line("# debug, info, warn, error");
  line(fmt::format("log_level = {}", quoted(config.log_level)));
  line("");
  line("[policy]");
  line(
      "# balance: what is read often goes to faster tiers, where that makes a step shorter. off: nothing "
      "moves. churn: random moves, for tests");
  line(fmt::format("name = {}", quoted(config.policy.name)));
  line("# bandwidths of tiers of which nothing else is known, and of all beside an emulated one: " +
       profile_names());
  line(fmt::format("profile = {}", quoted(config.policy.profile)));
  line(
      "# offers: who reads a page copies it into the faster tier meanwhile, where that can be. copies: the "
      "daemon does");
  line(fmt::format("promote = {}", quoted(config.policy.promote)));
  line(fmt::format("move_bytes_per_second = \"{}\"", size_text(config.policy.move_bytes_per_second)));
  line(
      "# how much more may be moved while readers leave the slow tiers idle: 1 is twice as much when nobody "
      "reads them");
  line(fmt::format("idle_credit = {}", config.policy.idle_credit));
  line("# a page that has moved stays for this long");
  line(fmt::format("cooldown_ms = {}", config.policy.cooldown_ms));
  line("");
  line("[cuda]");
  line("# the driver of GPUs; empty: libcuda.so.1, where the linker finds it");
  line(fmt::format("driver = {}", quoted(config.cuda.driver)));
  line("# of each GPU's memory: what a tier in percent leaves to the contexts of processes");
  line(fmt::format("reserve_bytes = \"{}\"", size_text(config.cuda.reserve_bytes)));
  line("# measure GPU and link at start, a tenth of a second; false: the profile says how fast they are");
  line(fmt::format("measure = {}", config.cuda.measure));
  line("# copy pages from one GPU's memory to another's where the driver says that it reaches it");
  line(fmt::format("peers = {}", config.cuda.peers));
  line("# pages of a dead process are kept so long where nobody can tell whether its GPU work has ended");
  line(fmt::format("quarantine_ms = {}", config.cuda.quarantine_ms));
  line("");
  line("[metrics]");
  line(
      "# for Prometheus: Unix sockets of the socket folder, and addresses of this host such as "
      "\"127.0.0.1:9713\"");
  std::string places;
  for (const std::string& place : config.metrics.listen)
    places += (places.empty() ? "" : ", ") + quoted(place);
  line(fmt::format("listen = [{}]", places));
  line("# group that may use the Unix sockets; empty: the daemon's user alone");
  line(fmt::format("socket_group = {}", quoted(config.metrics.socket_group)));
  line("# addresses that other hosts reach, too: whoever asks is answered");
  line(fmt::format("allow_remote = {}", config.metrics.allow_remote));
  for (const MemoryOverride& override_ : config.memory) {
    line("");
    line("# corrects what discovery says of a node, or of all nodes that it takes for a kind");
    line("[[memory]]");
    if (override_.node >= 0)
      line(fmt::format("node = {}", override_.node));
    else
      line(fmt::format("of_kind = {}", quoted(kind_name(override_.of_kind))));
    if (override_.kind) line(fmt::format("kind = {}", quoted(kind_name(*override_.kind))));
    line(fmt::format("read_gbps = {}", override_.read_gbps));
    line(fmt::format("write_gbps = {}", override_.write_gbps));
    line(fmt::format("latency_ns = {}", override_.latency_ns));
    line(fmt::format("use = {}", override_.use));
  }
  for (const TierConfig& tier : config.tiers) {
    line("");
    line("# tiers, fastest first");
    line("[[tier]]");
    line(fmt::format("name = {}", quoted(tier.name)));
    line(
        "# numa: memory of the nodes. emulated-hbm: ordinary memory that stands for HBM, and is called so "
        "everywhere.");
    line("# dram, hbm, cxl, lpddr, gpu, nvm: memory of all nodes of that kind (kvtierctl topology)");
    line(
        "# cuda: a GPU's memory, through its driver. cuda-host: a node's memory, which that driver "
        "allocates");
    line(fmt::format("kind = {}", quoted(tier.kind)));
    line("# a size, or a share of what can be had there at start: \"75%\"");
    line(tier.percent > 0 ? fmt::format("bytes = \"{}%\"", tier.percent)
                          : fmt::format("bytes = \"{}\"", size_text(tier.bytes)));
    if (tier.is_cuda()) {
      line("# which GPU: the driver's number, or a UUID, or the beginning of one");
      line(fmt::format("device = {}", quoted(tier.device)));
      line("# where there is no such GPU, or no driver: leave-out the tier, or fail");
      line(fmt::format("without_device = {}", quoted(tier.without_device)));
    }
    line("# OS indices of the NUMA nodes; left out: any, or all of the kind");
    if (!tier.nodes.empty()) line(fmt::format("nodes = [{}]", fmt::join(tier.nodes, ", ")));
    line(
        "# auto: reserved huge pages (hugetlb) where enough are free, else transparent ones, else none. "
        "hugetlb, thp, off");
    line(fmt::format("huge_pages = {}", quoted(tier.huge_pages)));
    line("# the only column (consumer, such as a GPU) that reads from it; -1: all");
    line(fmt::format("column = {}", tier.column));
    line(
        "# as its consumer sees it, 10^9 bytes a second; 0: what is known of its memory, else the profile's");
    line(fmt::format("read_gbps = {}", tier.read_gbps));
    line(fmt::format("write_gbps = {}", tier.write_gbps));
  }
  for (const ArenaConfig& arena : config.arenas) {
    line("");
    line("# arenas: sets of pages of one geometry, the unit of sharing and of protection");
    line("[[arena]]");
    line(fmt::format("name = {}", quoted(arena.name)));
    line(fmt::format("page_bytes = \"{}\"", size_text(arena.page_bytes)));
    line(fmt::format("block_tokens = {}", arena.block_tokens));
    line("# layers in a page");
    line(fmt::format("planes = {}", arena.planes));
    line("# consumers with a placement of their own");
    line(fmt::format("columns = {}", arena.columns));
    line("# pages: left out = as many as there are frames, less a reserve of 1/32 of each tier");
    if (arena.pages != 0) line(fmt::format("pages = {}", arena.pages));
    line(
        "# 10^9 bytes a second that its consumer reads from its fastest tier beside the pages, such as "
        "weights");
    line(fmt::format("fixed_read_gbps = {}", arena.fixed_read_gbps));
    line(
        "# its share of move_bytes_per_second beside the other arenas, and what it gets of it before anybody "
        "gets more");
    line(fmt::format("weight = {}", arena.weight));
    line(fmt::format("least_percent = {}", arena.least_percent));
    line(
        "# checksums of pages. off; moves: every copy is checked, source and target; all: pages are also "
        "checked when");
    line(
        "# they are sealed and when their reader has promoted them, and so many a second all the time (0: "
        "none)");
    line(fmt::format("integrity = {}", quoted(arena.integrity)));
    line(fmt::format("scrub_pages_per_second = {}", arena.scrub_pages_per_second));
    line("# who may attach: user, group and mode as of a file");
    line(fmt::format("mode = \"{:04o}\"", arena.mode));
    line(fmt::format("owner = {}", quoted(arena.owner)));
    line(fmt::format("group = {}", quoted(arena.group)));
    line("# sessions that the processes of one user may have at once");
    line(fmt::format("sessions_per_user = {}", arena.sessions_per_user));
    if (!arena.bytes.empty()) {
      std::string quotas;
      for (const auto& [name, bytes] : arena.bytes)
        quotas += fmt::format("{}{} = \"{}\"", quotas.empty() ? "" : ", ", quoted(name), size_text(bytes));
      line("bytes = { " + quotas + " }");
    }
    if (arena.fingerprint) {
      std::string digits;
      for (const uint8_t byte : *arena.fingerprint) digits += fmt::format("{:02x}", byte);
      line(fmt::format("fingerprint = \"{}\"", digits));
    }
  }
  return out;
}

std::vector<ConfigValue> config_values(const Config& config) {
  // What the file would have without a word: the same tiers and arenas, by name, with all else left out.
  Config plain = Config::defaults();
  for (const TierConfig& tier : config.tiers)
    if (std::none_of(plain.tiers.begin(), plain.tiers.end(),
                     [&](const auto& each) { return each.name == tier.name; }))
      plain.tiers.emplace_back().name = tier.name;
  for (const ArenaConfig& arena : config.arenas)
    if (std::none_of(plain.arenas.begin(), plain.arenas.end(),
                     [&](const auto& each) { return each.name == arena.name; }))
      plain.arenas.emplace_back().name = arena.name;
  std::map<std::string, std::string> defaults;
  const auto parsed_defaults = toml::parse(print_config(plain));
  for_each_value(parsed_defaults.table(),
                 [&](const std::string& section, const std::string& name, const std::string& key,
                     const toml::node& node) { defaults[path_of(section, name, key)] = json_of(node); });
  std::vector<std::pair<uint32_t, ConfigValue>> by_line;  // a table of toml++ is in the order of its keys
  const auto parsed = toml::parse(print_config(config));
  for_each_value(parsed.table(), [&](const std::string& section, const std::string& name,
                                     const std::string& key, const toml::node& node) {
    ConfigValue value{section, name, key, json_of(node), {}};
    const std::string path = path_of(section, name, key);
    if (const auto given = config.given.find(path); given != config.given.end())
      value.source = given->second;
    else
      value.source = defaults[path] == value.json ? "default" : "machine";
    by_line.emplace_back(node.source().begin.line, std::move(value));
  });
  std::stable_sort(by_line.begin(), by_line.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ConfigValue> values;
  for (auto& [line, value] : by_line) values.push_back(std::move(value));
  return values;
}

bool Config::names(const std::string& section, const std::string& name) const {
  const auto source = given.find(path_of(section, name, "name"));
  return source == given.end() ||
         (source->second != kArenaCreate && source->second != kTierAdd && source->second != kKept);
}

namespace {

std::map<std::string, std::string> values_by_path(const Config& config) {
  std::map<std::string, std::string> values;
  for (const ConfigValue& value : config_values(config))
    values[path_of(value.section, value.name, value.key)] = value.json;
  return values;
}

}  // namespace

void Config::drop_sources_of_changed(const Config& read) {
  if (given.empty()) return;
  const auto before = values_by_path(read);
  for (const auto& [path, value] : values_by_path(*this))
    if (const auto was = before.find(path); was != before.end() && was->second != value) given.erase(path);
}

void Config::take_sources(const Config& read) {
  const auto says = values_by_path(read);
  for (const auto& [path, value] : values_by_path(*this)) {
    const auto source = given.find(path);
    if (source == given.end()) continue;
    if (const auto now = read.given.find(path); now != read.given.end()) {
      const auto said = says.find(path);
      source->second = said != says.end() && said->second == value ? now->second : kKept;
    } else if (source->second.find(':') != std::string::npos) {  // a line of the file as it was
      source->second = kKept;
    }
  }
}

Result<PolicyConfig> changed_policy(const PolicyConfig& now, const std::string& lines) {
  static const std::string kFile = "policy";
  KVT_TRY(check_ascii(lines, kFile));
  KVT_TRY_ASSIGN(const toml::parse_result parsed, parse_toml(lines, kFile));
  if (!parsed) return no_toml(parsed, kFile);
  PolicyConfig changed = now;
  KVT_TRY(read_policy(parsed.table(), kFile, changed));
  return changed;
}

namespace {

Result<void> check_typed(const char* section, const std::map<std::string, std::string>& values) {
  for (const auto& [key, value] : values)
    for (const char each : key + value)
      if (static_cast<unsigned char>(each) < 0x20 || static_cast<unsigned char>(each) >= 0x7f)
        return fail(Code::kInvalid, fmt::format("{}: expected printable ASCII in keys and values", section));
  return {};
}

}  // namespace

Result<TierConfig> tier_of(const std::map<std::string, std::string>& values) {
  static const std::string kNoFile;
  KVT_TRY(check_typed("tier", values));
  toml::table table;
  for (const auto& [key, value] : values) {
    if (key != "nodes") {
      table.insert_or_assign(key, value);
      continue;
    }
    toml::array nodes;
    std::istringstream in(value);
    for (std::string each; std::getline(in, each, ',');) {
      int64_t node = -1;
      const auto [end, error] = std::from_chars(each.data(), each.data() + each.size(), node);
      nodes.push_back(error == std::errc() && end == each.data() + each.size() ? node : int64_t{-1});
    }
    table.insert_or_assign(key, std::move(nodes));
  }
  return read_tier(table, kNoFile);
}

Result<ArenaConfig> arena_of(const Config& config, const std::map<std::string, std::string>& values) {
  static const std::string kNoFile;
  static const std::string kQuota = "bytes.";
  KVT_TRY(check_typed("arena", values));
  toml::table table;
  toml::table quotas;
  for (const auto& [key, value] : values) {
    if (key == "bytes")
      return fail(Code::kInvalid, "arena.bytes: expected bytes.TIER, such as bytes.dram = 8GiB");
    if (key.starts_with(kQuota))
      quotas.insert_or_assign(key.substr(kQuota.size()), value);
    else
      table.insert_or_assign(key, value);
  }
  if (!quotas.empty()) table.insert_or_assign("bytes", std::move(quotas));
  return read_arena(table, kNoFile, config);
}

namespace {

/// "policy.name" -> "\"off\"", "tier 'hbm': bytes" -> "268435456", and "tier 'hbm'" alone.
std::map<std::string, std::string> values_by_key(const Config& config) {
  std::map<std::string, std::string> values;
  for (const ConfigValue& value : config_values(config)) {
    if (value.name.empty()) {
      values[value.section + "." + value.key] = value.json;
      continue;
    }
    const std::string of = fmt::format("{} '{}'", value.section, value.name);
    if (values.emplace(of, "").second) values[fmt::format("order of {}s", value.section)] += of + " ";
    values[of + ": " + value.key] = value.json;
  }
  return values;
}

}  // namespace

std::vector<std::string> changed_keys(const Config& before, const Config& after) {
  const auto old_values = values_by_key(before);
  const auto new_values = values_by_key(after);
  std::vector<std::string> changed;
  bool sections = false;  // is a tier or an arena in one of them alone
  // Of such a one its name says all.
  const auto note = [&](const std::string& key) {
    const std::string section = key.substr(0, key.find(": "));
    const bool is_whole = old_values.contains(section) != new_values.contains(section);
    sections = sections || is_whole;
    if (!is_whole || section == key) changed.push_back(key);
  };
  for (const auto& [key, value] : new_values)
    if (const auto found = old_values.find(key); found == old_values.end() || found->second != value)
      note(key);
  for (const auto& [key, value] : old_values)
    if (!new_values.contains(key)) note(key);
  if (sections) std::erase_if(changed, [](const std::string& key) { return key.starts_with("order of "); });
  std::sort(changed.begin(), changed.end());
  return changed;
}

bool is_live_key(const std::string& key) {
  const auto ends_with = [&](const char* end) { return key.ends_with(end); };
  if (key.starts_with("policy.")) return key != "policy.profile";
  if (key.starts_with("arena ")) return ends_with(": weight") || ends_with(": least_percent");
  return key == "daemon.log_level";
}

}  // namespace kvt
