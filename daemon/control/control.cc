// SPDX-License-Identifier: Apache-2.0
#include "daemon/control/control.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "shm/base/socket.h"

namespace kvt::control {
namespace {

using nlohmann::json;
using keeper::Arena;
using keeper::ArenaReport;

constexpr size_t kRequestBytesMax = 4096;

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

uint64_t rss_bytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  statm >> size >> resident;
  return resident * os_page_bytes();
}

const char* state_name(PageState state) {
  switch (state) {
    case PageState::kFree: return "free";
    case PageState::kFilling: return "filling";
    case PageState::kSealed: return "sealed";
    case PageState::kEvicting: return "evicting";
  }
  return "?";
}

json gbps_json(const Figure& figure) { return figure.known() ? json(figure.value * 1e9) : json(nullptr); }

json tiers_json(const keeper::Keeper& keeper) {
  json tiers = json::array();
  for (size_t i = 0; i < keeper.machine().tiers.size(); ++i) {
    const TierConfig& tier = keeper.config().tiers[i];
    const keeper::TierOnMachine& plan = keeper.machine().tiers[i];
    tiers.push_back({{"name", tier.name},
                     {"kind", kind_name(plan.kind)},
                     {"emulated", plan.emulated},
                     {"bytes", tier.bytes},
                     {"nodes", tier.nodes},
                     {"os_pages", plan.pages_note},
                     {"column", tier.column},
                     {"read_bytes_per_second", gbps_json(plan.read_gbs)},
                     {"write_bytes_per_second", gbps_json(plan.write_gbs)},
                     {"bandwidth_from", plan.figures_from},
                     {"profile_read_bytes_per_second", plan.profile.read_gbps * 1e9},
                     {"measured_read_bytes_per_second", gbps_json(plan.measured.read_gbs)}});
  }
  return tiers;
}

json arena_json(const keeper::Keeper& keeper, const Arena& arena) {
  const ArenaReport report = arena.report();
  const kvt_abi_arena_header& header = arena.table().header();
  const kvt_abi_arena_counters& counters = header.counters;
  json tiers = json::array();
  for (uint32_t i = 0; i < report.tiers.size(); ++i) {
    const auto& tier = report.tiers[i];
    tiers.push_back({{"name", header.tier[i].name},
                     {"frames", tier.frames},
                     {"free", tier.counts.free},
                     {"named", tier.counts.named},
                     {"limbo", tier.counts.limbo},
                     {"reserved", tier.counts.reserved},
                     {"emulated", (header.tier[i].flags & KVT_TIER_EMULATED) != 0},
                     {"bytes_read_per_second", tier.bytes_read_per_second}});
  }
  const ArenaConfig& config = keeper.arena_config(arena);
  const policy::Plan& plan = report.last_plan;
  return {{"name", config.name},
          {"page_bytes", header.page_bytes},
          {"block_tokens", header.block_tokens},
          {"planes", header.planes},
          {"columns", header.columns},
          {"pages", header.pages},
          {"mode", fmt::format("{:04o}", config.mode)},
          {"epoch", arena.table().epoch()},
          {"sessions", arena.session_count()},
          {"pages_by_state", {{"free", report.free}, {"filling", report.filling}, {"sealed", report.sealed}, {"evicting", report.evicting}, {"retired", report.retired}}},
          {"keyed", report.keyed},
          {"shadows", report.shadows},
          {"tiers", tiers},
          {"moves", {{"promoted", counters.promoted}, {"demoted_copy", counters.demoted_copy}, {"demoted_free", counters.demoted_free}, {"aborted", counters.aborted}}},
          {"evicted", counters.evicted},
          {"published", counters.published},
          {"limbo_frames", report.limbo},
          {"balance", {{"bytes_read", plan.bytes_read}, {"bytes_fast", plan.bytes_fast}, {"bytes_fast_best", plan.bytes_fast_best}}},
          {"audit", {{"frames", report.frames}, {"accounted", report.accounted}, {"leaked", static_cast<int64_t>(report.frames) - static_cast<int64_t>(report.accounted)}}}};
}

json sessions_json(const keeper::Keeper& keeper, const server::Server& server) {
  json sessions = json::array();
  for (const auto& info : server.sessions()) {
    json session{{"id", info.id}, {"arena", info.arena}, {"pid", info.pid}, {"uid", info.uid}, {"members", info.members}, {"connected", info.connected}};
    for (const auto& arena : keeper.arenas()) {
      const keeper::SessionState* const state = arena->find_session(info.id);
      if (state == nullptr) continue;
      uint32_t open = 0;
      uint64_t oldest = UINT64_MAX;
      for (uint32_t i = 0; i < state->geometry.members_max; ++i) {
        if (!state->members[i].joined) continue;
        for (const kvt_abi_step_slot& slot : state->region.member(i).slot) {
          const uint64_t epoch = load_acquire(slot.epoch);
          if (epoch == 0) continue;
          ++open;
          oldest = std::min(oldest, epoch);
        }
      }
      uint64_t held_pages = 0;
      for (uint64_t page = 0; page < arena->table().pages(); ++page) held_pages += held(state->region, static_cast<PageIndex>(page)) ? 1 : 0;
      session["access"] = state->read_write ? "read-write" : "read";
      session["column"] = state->geometry.column;
      session["guarantee_pages"] = state->guarantee;
      session["unkeyed_pages"] = state->owned.size();
      session["held_pages"] = held_pages;
      session["magazine_pages"] = state->magazine.waiting();
      session["open_steps"] = open;
      session["oldest_step_epochs"] = open == 0 ? json(nullptr) : json(arena->table().epoch() - oldest);
    }
    sessions.push_back(std::move(session));
  }
  return sessions;
}

json page_json(const keeper::Keeper& keeper, const Arena& arena, PageIndex page) {
  const ArenaTable& table = arena.table();
  json columns = json::array();
  for (uint32_t column = 0; column < table.columns(); ++column) {
    const Placement placement = table.placement(column, page);
    const Shadow shadow = table.shadow(column, page);
    json entry{{"state", state_name(placement.state())}, {"keyed", placement.keyed()}, {"generation", placement.generation()}};
    if (placement.state() != PageState::kFree) {
      entry["tier"] = table.tier(placement.tier()).name;
      entry["frame"] = placement.frame();
    }
    entry["shadow_frame"] = shadow.valid() ? json(shadow.frame()) : json(nullptr);
    entry["shadow_tier"] = shadow.valid() ? json(table.tier(shadow.tier()).name) : json(nullptr);
    entry["reads_per_period"] = policy::heat_now(arena.heat(column, page), arena.period());
    columns.push_back(std::move(entry));
  }
  const Key key = table.key(page);
  const Handle parent = table.parent(page);
  return {{"arena", keeper.arena_config(arena).name},
          {"page", page},
          {"columns", columns},
          {"key", fmt::format("{:016x}{:016x}", key.hi, key.lo)},
          {"owner_session", table.owner(page)},
          {"parent", parent.none() ? json(nullptr) : json(parent.index())},
          {"group", table.group(page)},
          {"held", arena.is_held(page)}};
}

json status_json(const keeper::Keeper& keeper, const server::Server& server, double uptime_seconds) {
  json arenas = json::array();
  for (const auto& arena : keeper.arenas()) arenas.push_back(arena_json(keeper, *arena));
  return {{"version", KVT_VERSION},
          {"pid", ::getpid()},
          {"emulated", keeper.emulated()},
          {"profile", keeper.config().policy.profile},
          {"policy", keeper.config().policy.name},
          {"cuda_headers", KVT_HAVE_CUDA_HEADERS != 0},
          {"socket_dir", keeper.config().socket_dir},
          {"uptime_seconds", uptime_seconds},
          {"cpu_seconds", cpu_seconds()},
          {"rss_bytes", rss_bytes()},
          {"attach_refused", server.refused()},
          {"connections_dropped", server.dropped()},
          {"tiers", tiers_json(keeper)},
          {"arenas", arenas},
          {"sessions", sessions_json(keeper, server)}};
}

json failed(const std::string& text) { return {{"ok", false}, {"error", text}}; }

}  // namespace

Control::Control(keeper::EventLoop& loop, keeper::Keeper& keeper, const server::Server& server)
    : loop_(loop), keeper_(keeper), server_(server), started_(keeper::Keeper::Clock::now()) {}

Result<std::unique_ptr<Control>> Control::start(keeper::EventLoop& loop, keeper::Keeper& keeper, const server::Server& server) {
  std::unique_ptr<Control> control(new Control(loop, keeper, server));
  control->path_ = keeper.config().socket_dir + "/control.sock";
  KVT_TRY_ASSIGN(control->listener_, listen_unix(control->path_, SOCK_STREAM, 0600));
  KVT_TRY(loop.add(control->listener_.get(), keeper::EventLoop::Trigger::kLevel, [raw = control.get()] { raw->on_accept(); }));
  return control;
}

Control::~Control() { ::unlink(path_.c_str()); }

void Control::on_accept() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid() && (errno == EMFILE || errno == ENFILE)) {  // or the loop would be woken for it for ever
    spare_.reset();
    Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).reset();
    spare_ = Fd(::eventfd(0, EFD_CLOEXEC));
  }
  if (!socket.valid() || connections_.size() >= KVT_MAX_CONTROL_CONNECTIONS) return;
  const int buffer = 4 << 20;  // an answer goes out in one piece or not at all
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  auto connection = std::make_unique<Connection>();
  connection->socket = std::move(socket);
  const int fd = connection->socket.get();
  Connection* const raw = connection.get();
  if (loop_.add(fd, keeper::EventLoop::Trigger::kLevel, [this, raw] { on_data(*raw); })) connections_[fd] = std::move(connection);
}

void Control::on_data(Connection& connection) {
  char buffer[1024];
  const ssize_t got = ::recv(connection.socket.get(), buffer, sizeof buffer, MSG_DONTWAIT);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got > 0) connection.request.append(buffer, static_cast<size_t>(got));
  const size_t end = connection.request.find('\n');
  if (end == std::string::npos && got > 0 && connection.request.size() < kRequestBytesMax) return;
  if (!connection.request.empty()) {
    const std::string reply = answer(connection.request.substr(0, end)) + "\n";
    [[maybe_unused]] const ssize_t sent = ::send(connection.socket.get(), reply.data(), reply.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  close(connection.socket.get());
}

void Control::close(int fd) {
  loop_.remove(fd);
  connections_.erase(fd);
}

std::string Control::answer(const std::string& text) {
  const json request = json::parse(text, nullptr, false);
  if (!request.is_object() || !request.contains("command") || !request["command"].is_string())
    return failed("a request is a JSON object with a \"command\"").dump();
  const std::string command = request["command"];
  const double uptime = std::chrono::duration<double>(keeper::Keeper::Clock::now() - started_).count();
  json reply;
  if (command == "quiesce") keeper_.quiesce(std::chrono::milliseconds(500));
  if (command == "status" || command == "quiesce") {
    reply = status_json(keeper_, server_, uptime);
  } else if (command == "tiers") {
    reply["tiers"] = tiers_json(keeper_);
    reply["profile"] = keeper_.config().policy.profile;
  } else if (command == "arenas") {
    reply["arenas"] = json::array();
    for (const auto& arena : keeper_.arenas()) reply["arenas"].push_back(arena_json(keeper_, *arena));
  } else if (command == "sessions") {
    reply["sessions"] = sessions_json(keeper_, server_);
  } else if (command == "page") {
    const bool named = request.contains("arena") && request["arena"].is_string();
    if (keeper_.arenas().empty()) return failed("there is no arena").dump();
    const Arena* const arena = named ? keeper_.find_arena(request["arena"]) : keeper_.arenas().front().get();
    if (arena == nullptr) return failed("no arena \"" + request["arena"].get<std::string>() + "\"").dump();
    if (!request.contains("page") || !request["page"].is_number_unsigned() || request["page"].get<uint64_t>() >= arena->table().pages())
      return failed(fmt::format("page is a number from 0 to {}", arena->table().pages() - 1)).dump();
    reply = page_json(keeper_, *arena, request["page"].get<PageIndex>());
  } else {
    return failed("unknown command \"" + command + "\"; expected status, tiers, arenas, sessions, page or quiesce").dump();
  }
  reply["ok"] = true;
  return reply.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace kvt::control
