// SPDX-License-Identifier: Apache-2.0
//
// Attaches an arena as any client does and asks the kernel on which NUMA node each OS page of each frame is.
//   frames_on_nodes TIER=NODE[,NODE...]...   every tier of the arena, and the nodes that its frames may be on
// The daemon is that of KVTIER_SOCKET_DIR.
// Exit codes: 0, 1 a page is elsewhere or the arena has other tiers, 2 wrong use.
#include <fmt/format.h>
#include <kvtier/kvtier.h>
#include <numaif.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Nodes = std::set<int>;

constexpr int kExitElsewhere = 1;
constexpr int kExitUsage = 2;

/// "far=1" or "both=0,2". Throws std::invalid_argument.
std::pair<std::string, Nodes> parse_tier(const std::string& text) {
  const std::invalid_argument wrong(fmt::format("\"{}\": expected TIER=NODE[,NODE...]", text));
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) throw wrong;
  Nodes nodes;
  const char* at = text.data() + equals + 1;
  const char* const end = text.data() + text.size();
  for (;;) {
    int node = -1;
    const auto [rest, error] = std::from_chars(at, end, node);
    if (error != std::errc() || node < 0) throw wrong;
    nodes.insert(node);
    if (rest == end) return {text.substr(0, equals), nodes};
    if (*rest != ',') throw wrong;
    at = rest + 1;
  }
}

/// How many OS pages of a range are on which node; below 0: the kernel's word for a page that it knows
/// nothing of.
std::map<int, uint64_t> count_by_node(std::byte* data, uint64_t bytes) {
  // The kernel speaks of pages that are in this process's page table only. Reading them brings them there; it
  // does not move them, and a frame that has no memory yet would get it on the node that the daemon bound it
  // to.
  if (::madvise(data, bytes, MADV_POPULATE_READ) != 0)
    throw std::runtime_error(fmt::format("madvise of {} bytes: {}", bytes, std::strerror(errno)));
  constexpr uint64_t kBatch = 4096;
  const auto os_page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  std::map<int, uint64_t> counts;
  std::vector<void*> addresses;
  std::vector<int> nodes;
  for (uint64_t at = 0; at < bytes;) {
    addresses.clear();
    for (; at < bytes && addresses.size() < kBatch; at += os_page) addresses.push_back(data + at);
    nodes.assign(addresses.size(), -1);
    // Without target nodes it moves nothing: it answers where each page is.
    if (::move_pages(0, addresses.size(), addresses.data(), nullptr, nodes.data(), 0) != 0)
      throw std::runtime_error(fmt::format("move_pages: {}", std::strerror(errno)));
    for (const int node : nodes) ++counts[node];
  }
  return counts;
}

/// False when a page of the window is not on one of `allowed`.
bool check_window(const kvt_geometry& arena, const kvt_window& window, const Nodes& allowed) {
  const auto os_page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  auto* const base = static_cast<std::byte*>(arena.base);
  // A frame need not begin at an OS page; the scratch frame is memory of the first window, too.
  const uint64_t begin = window.first_frame * arena.stride / os_page * os_page;
  const uint64_t end =
      ((uint64_t{window.first_frame} + window.frames) * arena.stride + os_page - 1) / os_page * os_page;
  bool good = window.frames != 0;
  std::string line;
  for (const auto& [node, pages] : count_by_node(base + begin, end - begin)) {
    line += node >= 0 ? fmt::format(", {} on node {}", pages, node)
                      : fmt::format(", {} unknown ({})", pages, std::strerror(-node));
    if (!allowed.contains(node)) {
      line += " WRONG";
      good = false;
    }
  }
  fmt::print("tier {}: {} frames, {} OS pages{}\n", window.name, window.frames, (end - begin) / os_page,
             line);
  return good;
}

int run(const std::map<std::string, Nodes>& tiers) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.arena = "default";
  args.timeout_ms = 30'000;  // emulated CPUs are slow
  kvt_session* session = nullptr;
  if (kvt_attach(&args, &session) != KVT_OK)
    throw std::runtime_error(fmt::format("attach: {}", kvt_last_error()));
  kvt_geometry arena{};
  arena.size = sizeof arena;
  if (kvt_get_geometry(session, &arena) != KVT_OK)
    throw std::runtime_error(fmt::format("geometry: {}", kvt_last_error()));
  bool good = arena.tiers == tiers.size();
  if (!good) fmt::print("the arena has {} tiers; expected {} WRONG\n", arena.tiers, tiers.size());
  for (uint32_t i = 0; i < arena.tiers; ++i) {
    const auto found = tiers.find(arena.windows[i].name);
    if (found == tiers.end()) {
      fmt::print("tier {} was not expected WRONG\n", arena.windows[i].name);
      good = false;
    } else {
      good = check_window(arena, arena.windows[i], found->second) && good;
    }
  }
  kvt_detach(session);
  return good ? 0 : kExitElsewhere;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::map<std::string, Nodes> tiers;
    for (int i = 1; i < argc; ++i) tiers.insert(parse_tier(argv[i]));
    if (tiers.empty()) throw std::invalid_argument("expected TIER=NODE[,NODE...]...");
    return run(tiers);
  } catch (const std::invalid_argument& error) {
    fmt::print(stderr, "frames_on_nodes: {}\n", error.what());
    return kExitUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "frames_on_nodes: {}\n", error.what());
    return kExitElsewhere;
  }
}
