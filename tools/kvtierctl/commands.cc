// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>
#include <utility>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/daemon_program.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/table.h"
#include "tools/kvtierctl/top_view.h"

namespace kvt::ctl {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

/// An audit of a large arena walks all of its rows; quiesce waits.
constexpr int kTimeoutMs = 10'000;
/// The memory of a large arena takes minutes.
constexpr int kArenaTimeoutMs = 3'600'000;
/// Nobody waits for a completion that takes longer.
constexpr int kNamesTimeoutMs = 200;

std::string ask_daemon(const Options& options, const json& request, int timeout_ms = kTimeoutMs) {
  return ask(options.socket_dir, request.dump(-1, ' ', false, json::error_handler_t::replace), timeout_ms);
}

/// The answer as it is.
Output json_output(const std::string& answer) {
  Output output{pretty_json(answer), "", 0};
  try {
    check_answer(answer);
  } catch (const BadAnswer& no) {
    output.error = no.what();
  }
  return output;
}

/// A view: what the daemon answers to `command`, as JSON or by `render`.
template <typename Render>
Output view(const Options& options, const char* command, Render&& render) {
  const std::string answer = ask_daemon(options, {{"command", command}});
  return options.json ? json_output(answer) : Output{render(answer), "", 0};
}

json parse(const std::string& answer) {
  json parsed = json::parse(answer, nullptr, false);
  if (!parsed.is_object()) throw BadAnswer("kvtierd's answer is cut off or no JSON");
  return parsed;
}

bool is_ok(const json& answer) { return answer.value("ok", false); }

json refused(const std::string& text, const char* reason) {
  return {{"ok", false}, {"schema", "kvtier.refusal/1"}, {"error", text}, {"reason", reason}};
}

/// The answer to a request that changes something. `say` makes the sentence for people.
template <typename Say>
Output outcome(const Options& options, const json& answer, Say&& say) {
  Output output;
  if (!is_ok(answer)) output.error = answer.value("error", std::string("kvtierd refused and gave no reason"));
  if (options.json)
    output.text = answer.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  else if (is_ok(answer))
    output.text = say() + "\n";
  return output;
}

json page_request(const Options& options, const char* command) {
  json request{{"command", command}, {"page", options.page}};
  if (!options.arena.empty()) request["arena"] = options.arena;
  return request;
}

/// A refusal that may be gone in a moment.
bool passes(const json& answer) {
  const std::string reason = answer.value("reason", std::string());
  return reason == "busy" || reason == "copies" || reason == "no_frame" || reason == "elsewhere";
}

/// Waits between questions: short at first, since most copies take less than a millisecond.
class Pause {
 public:
  explicit Pause(uint32_t timeout_ms) : end_(Clock::now() + std::chrono::milliseconds(timeout_ms)) {}
  /// false: there is no time left.
  bool wait() {
    if (Clock::now() >= end_) return false;
    std::this_thread::sleep_for(step_);
    step_ = std::min(step_ * 2, std::chrono::microseconds(20'000));
    return true;
  }

 private:
  Clock::time_point end_;
  std::chrono::microseconds step_{500};
};

/// Asks for the move until it is taken, and then for the page until it is there. The daemon's answer, with
/// "moved" in place of "queued"; or the last refusal.
json move_and_wait(const Options& options, Pause& pause) {
  json request = page_request(options, "move");
  request["tier"] = options.tier;
  request["column"] = options.column;
  json answer;
  for (;;) {
    answer = parse(ask_daemon(options, request));
    if (is_ok(answer)) break;
    if (!passes(answer) || !pause.wait()) return answer;
  }
  if (answer.at("result") != "queued") return answer;
  for (;;) {
    const json now = parse(ask_daemon(options, page_request(options, "page")));
    const json& column = now.at("columns").at(options.column);
    const bool same_page = column.at("generation") == answer.at("generation");
    if (same_page && column.value("tier", std::string()) == options.tier) {
      answer["result"] = "moved";
      return answer;
    }
    if (!same_page) return refused(fmt::format("page {} has been given up meanwhile", options.page), "gone");
    if (!now.at("moving").get<bool>())
      return refused(fmt::format("page {} is in tier {}: it was moved elsewhere, or its copy was dropped",
                                 options.page, column.value("tier", std::string("?"))),
                     "elsewhere");
    if (!pause.wait())
      return refused(fmt::format("page {} is not in tier {} after {} ms; its copy is still under way",
                                 options.page, options.tier, options.timeout_ms),
                     "timeout");
  }
}

/// "KEY=VALUE" in two. Throws WrongUse.
std::pair<std::string, std::string> key_and_value(const std::string& word, const std::string& such_as) {
  const size_t equals = word.find('=');
  if (equals == std::string::npos || equals == 0)
    throw WrongUse("\"" + word + "\": expected KEY=VALUE, such as " + such_as);
  return {word.substr(0, equals), word.substr(equals + 1)};
}

/// KEY=VALUE... as an object.
json object_of(const std::vector<std::string>& words, const std::string& such_as) {
  json object = json::object();
  for (const std::string& word : words) {
    const auto [key, value] = key_and_value(word, such_as);
    object[key] = value;
  }
  return object;
}

/// Asks on the terminal; anything but yes is no.
bool confirmed(const std::string& question) {
  fmt::print(stderr, "{}", question);
  std::fflush(stderr);
  std::string answer;
  for (int byte = std::getchar(); byte != EOF && byte != '\n'; byte = std::getchar())
    answer += static_cast<char>(byte);
  return answer == "y" || answer == "yes";
}

}  // namespace

Output status(const Options& options) {
  const std::string answer = ask_daemon(options, {{"command", "status"}});
  Output output = options.json ? json_output(answer) : Output{status_text(answer), "", 0};
  if (!options.check || !output.error.empty()) return output;
  const std::string worst = worst_severity(answer);
  output.exit_code = worst == "bad" ? kExitBad : worst == "warn" ? kExitWarn : 0;
  return output;
}
Output tiers(const Options& options) { return view(options, "tiers", tiers_text); }
Output arenas(const Options& options) {
  return view(options, options.audit ? "audit" : "arenas", arenas_text);
}
Output sessions(const Options& options) { return view(options, "sessions", sessions_text); }

Output page(const Options& options) {
  const std::string answer = ask_daemon(options, page_request(options, "page"));
  if (options.json) return json_output(answer);
  check_answer(answer);
  return {page_text(answer, ask_daemon(options, {{"command", "tiers"}})), "", 0};
}

Output plan(const Options& options) {
  json request{{"command", "plan"}, {"column", options.column}};
  if (!options.arena.empty()) request["arena"] = options.arena;
  const std::string answer = ask_daemon(options, request);
  return options.json ? json_output(answer) : Output{plan_text(answer), "", 0};
}

Output explain(const Options& options) {
  json request = page_request(options, "explain");
  request["column"] = options.column;
  const std::string answer = ask_daemon(options, request);
  return options.json ? json_output(answer) : Output{explain_text(answer), "", 0};
}

namespace {

/// Throws WrongUse where the daemon has no such kind of events.
void check_kind(const std::string& kind, const json& answer) {
  if (kind.empty() || !is_ok(answer)) return;
  std::string kinds;
  for (const json& each : answer.at("kinds")) {
    if (each == kind) return;
    kinds += (kinds.empty() ? "" : ", ") + each.get<std::string>();
  }
  throw WrongUse(fmt::format("no events are of kind \"{}\"; there are: {}", kind, kinds));
}

}  // namespace

Output events(const Options& options) {
  json request{{"command", "events"}, {"since", options.events.since}};
  if (!options.events.follow) {
    const std::string answer = ask_daemon(options, request);
    check_kind(options.events.kind, parse(answer));
    if (!options.json) return {events_text(answer, options.events.kind), "", 0};
    json shown = parse(answer);
    if (is_ok(shown) && !options.events.kind.empty()) {
      json kept = json::array();
      for (json& event : shown.at("events"))
        if (event.at("kind") == options.events.kind) kept.push_back(std::move(event));
      shown["events"] = std::move(kept);
    }
    return json_output(shown.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  std::string daemon;  // the process, to notice another one
  bool is_away = false;
  for (;;) {
    std::string answer;
    try {
      answer = ask_daemon(options, request);
      is_away = false;
    } catch (const NoAnswer& error) {
      if (daemon.empty()) throw;
      if (!std::exchange(is_away, true)) fmt::print(stderr, "kvtierctl: {}; waiting\n", error.what());
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
      continue;
    }
    check_answer(answer);
    json parsed = parse(answer);
    check_kind(options.events.kind, parsed);
    const std::string pid = parsed.at("pid").dump();
    if (!daemon.empty() && pid != daemon && request.at("since") != 0) {  // it has begun to count anew
      request["since"] = 0;
      daemon = pid;
      continue;
    }
    daemon = pid;
    request["since"] = parsed.at("last");
    std::string text;
    if (options.json) {
      for (const json& event : parsed.at("events"))
        if (options.events.kind.empty() || event.at("kind") == options.events.kind)
          text += event.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
    } else {
      text = events_text(answer, options.events.kind);
    }
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
      return {};  // its reader has gone
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
}

Output config(const Options& options) {
  const auto said = [&](const Ran& ran, json answer) -> Output {
    const bool well = ran.exit_code == 0;
    answer["ok"] = well;
    answer["schema"] = "kvtier.config-check/1";
    answer["words"] = ran.words;
    return {options.json ? answer.dump(2, ' ', false, json::error_handler_t::replace) + "\n"
            : well       ? ran.words + "\n"
                         : "",
            well ? "" : ran.words, 0};
  };
  if (options.action == "check") {
    if (options.file.empty()) throw WrongUse("config check: the FILE is expected");
    return said(run_kvtierd({"--config", options.file, "--check-config"}), {{"file", options.file}});
  }
  if (!options.file.empty()) throw WrongUse("config show takes no file");
  if (options.defaults) {
    if (options.json) throw WrongUse("config show --defaults is TOML: without --json");
    const Ran ran = run_kvtierd({"--print-default-config"});
    return ran.exit_code == 0 ? Output{ran.words + "\n", "", 0} : Output{"", ran.words, 0};
  }
  const std::string answer = ask_daemon(options, {{"command", "config"}});
  return options.json ? json_output(answer) : Output{config_text(answer), "", 0};
}

Output heat(const Options& options) {
  json request{{"command", "heat"}, {"column", options.column}};
  if (!options.arena.empty()) request["arena"] = options.arena;
  const std::string answer = ask_daemon(options, request);
  return options.json ? json_output(answer) : Output{heat_text(answer), "", 0};
}

Output topology(const Options& options) {
  TopologyOptions wanted = options.topology;
  wanted.json = options.json;
  return {topology_report(wanted), "", 0};
}

Output calibrate(const Options& options) {
  CalibrateOptions wanted = options.calibrate;
  wanted.json = options.json;
  return {
      calibrate_report(wanted, [](const std::string& line) { fmt::print(stderr, "kvtierctl: {}\n", line); }),
      "", 0};
}

Output evict_session(const Options& options) {
  if (!options.yes) {
    if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0)
      throw WrongUse("evict-session asks on a terminal; without one it needs --yes");
    const std::string who = session_question(ask_daemon(options, {{"command", "sessions"}}), options.session);
    if (!confirmed(who + "Evict it? [y/N] ")) return {"", "nothing was done", 0};
  }
  const json answer =
      parse(ask_daemon(options, {{"command", "evict-session"}, {"session", options.session}}));
  return outcome(options, answer, [&] { return fmt::format("session {} has ended", options.session); });
}

Output move(const Options& options) {
  Pause pause(options.timeout_ms);
  const json answer = move_and_wait(options, pause);
  return outcome(options, answer, [&] {
    return fmt::format("page {} of arena {} is in tier {}{}", options.page,
                       answer.at("arena").get<std::string>(), options.tier,
                       answer.at("result") == "there" ? " already" : "");
  });
}

Output pin(const Options& options) {
  Pause pause(options.timeout_ms);
  const auto try_once = [&] {
    json request = page_request(options, "pin");
    if (!options.tier.empty()) {
      json moved = move_and_wait(options, pause);
      if (!is_ok(moved)) return moved;
      request["tier"] = options.tier;
      request["column"] = options.column;
      request["generation"] = moved.at("generation");
    }
    return parse(ask_daemon(options, request));
  };
  json answer = try_once();
  while (!is_ok(answer) && passes(answer) && pause.wait())
    answer = try_once();  // the policy may have moved it on
  return outcome(options, answer, [&] {
    return fmt::format("page {} of arena {} is pinned{}; pinned in this arena: {}", options.page,
                       answer.at("arena").get<std::string>(),
                       options.tier.empty() ? "" : " in tier " + options.tier,
                       answer.at("pinned_pages").get<uint64_t>());
  });
}

Output unpin(const Options& options) {
  const json answer = parse(ask_daemon(options, page_request(options, "unpin")));
  return outcome(options, answer, [&] {
    return fmt::format("page {} of arena {} {}; pinned in this arena: {}", options.page,
                       answer.at("arena").get<std::string>(),
                       answer.at("result") == "unpinned" ? "is not pinned any more" : "was not pinned",
                       answer.at("pinned_pages").get<uint64_t>());
  });
}

namespace {

std::string size_of(const json& frames, const json& tier) {
  return bytes_text(static_cast<double>(frames.get<uint64_t>() * tier.at("page_bytes").get<uint64_t>()));
}

/// Asks the daemon how far it is until it is done, or stands still. `answer`: to what was asked.
Output wait_for_resize(const Options& options, json answer) {
  uint64_t left_before = UINT64_MAX;
  int idle = 0;
  const bool shows = ::isatty(STDERR_FILENO) != 0;
  while (options.wait) {
    std::string still;
    uint64_t left = 0;
    bool done = true;
    bool waits_for_others = false;
    for (json& tier : answer.at("tiers")) {
      const json now = parse(ask_daemon(
          options, {{"command", "resize-state"}, {"arena", tier.at("arena")}, {"tier", tier.at("tier")}}));
      if (!is_ok(now)) return outcome(options, now, [] { return std::string(); });
      tier = now.at("tiers").at(0);
      const auto wanted = tier.at("wanted").get<uint64_t>();
      const auto usable = tier.at("usable").get<uint64_t>();
      const auto leaving = tier.at("leaving").get<uint64_t>();
      left += leaving + (wanted > usable ? wanted - usable : 0);
      done = done && tier.at("done").get<bool>();
      if (leaving != 0)
        still += fmt::format(
            "arena {}, tier {}: {} of its closed frames are not empty yet; {} cannot be now, since their "
            "pages are being written, or pinned, or have no room elsewhere\n",
            tier.at("arena").get<std::string>(), tier.at("tier").get<std::string>(), leaving,
            tier.at("stuck").get<uint64_t>());
      else if (const json waits = tier.value("waits_for", json::array()); !waits.empty()) {
        waits_for_others = true;
        still += fmt::format(
            "arena {}, tier {}: processes of sessions {} have not unmapped the GPU's memory yet, or not "
            "mapped "
            "it again: they do when they call kvt_cuda_poll; kvtierctl evict-session does not wait for "
            "them\n",
            tier.at("arena").get<std::string>(), tier.at("tier").get<std::string>(), waits.dump());
      }
    }
    if (shows) fmt::print(stderr, "\r{} frames to go \033[K", left);
    if (done) break;
    // With no frames to go it is memory that goes, piece by piece; others may keep that waiting.
    idle = left < left_before || (left == 0 && !waits_for_others) ? 0 : idle + 1;
    left_before = std::min(left, left_before);
    if (idle > 100) {
      if (shows) fmt::print(stderr, "\n");
      return {"", still + "it goes on as soon as they can; kvtierctl arenas shows how far it is"};
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (shows && options.wait) fmt::print(stderr, "\r\033[K");
  return outcome(options, answer, [&] {
    std::string text;
    for (const json& tier : answer.at("tiers"))
      text += fmt::format("{}arena {} uses {} of {} of tier {}{}", text.empty() ? "" : "\n",
                          tier.at("arena").get<std::string>(), size_of(tier.at("usable"), tier),
                          size_of(tier.at("frames"), tier), tier.at("tier").get<std::string>(),
                          options.wait ? "" : "; pages are leaving, or memory is being taken");
    return text;
  });
}

void ask_first(const Options& options, const char* verb, const std::string& what) {
  if (options.yes) return;
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0)
    throw WrongUse(fmt::format("{} asks on a terminal; without one it needs --yes", verb));
  if (!confirmed(what + "Pages that find no room elsewhere are evicted, if nobody holds them. Go on? [y/N] "))
    throw std::runtime_error("nothing was done");
}

}  // namespace

Output drain(const Options& options) {
  if (!options.undo)
    ask_first(options, "drain", fmt::format("No arena uses tier {} any more. ", options.tier));
  const json answer =
      parse(ask_daemon(options, {{"command", "drain"}, {"tier", options.tier}, {"undo", options.undo}}));
  if (!is_ok(answer)) return outcome(options, answer, [] { return std::string(); });
  return wait_for_resize(options, answer);
}

Output resize(const Options& options) {
  json request = {{"command", "resize"}, {"arena", options.arena}, {"tier", options.tier}, {"bytes", "all"}};
  if (options.bytes != "all") {
    const uint64_t bytes = std::stoull(options.bytes);
    request["bytes"] = bytes;
    ask_first(options, "resize",
              fmt::format("Arena {} uses {} MiB of tier {} from now on. ", options.arena, bytes >> 20,
                          options.tier));
  }
  const json answer = parse(ask_daemon(options, request));
  if (!is_ok(answer)) return outcome(options, answer, [] { return std::string(); });
  return wait_for_resize(options, answer);
}

Output policy(const Options& options) {
  const std::vector<std::string>& words = options.words;
  const bool sets = !words.empty() && words.front() == "set";
  if (!sets && !(words.empty() || (words.size() == 1 && words.front() == "show")))
    throw WrongUse("policy: expected show, or set KEY=VALUE...");
  json request = {{"command", "policy"}};
  if (sets) {
    if (words.size() < 2) throw WrongUse("policy set: expected KEY=VALUE, such as cooldown_ms=100");
    for (size_t i = 1; i < words.size(); ++i) {
      const auto [key, text] = key_and_value(words[i], "cooldown_ms=100");
      const json value = json::parse(text, nullptr, false);
      request["set"][key] = value.is_number() ? value : json(text);
    }
  }
  const json answer = parse(ask_daemon(options, request));
  return outcome(options, answer, [&] {
    std::string text;
    for (const auto& [key, value] : answer.at("policy").items())
      text += fmt::format("{}{:<22}  {}", text.empty() ? "" : "\n", key,
                          value.is_string() ? value.get<std::string>() : value.dump());
    return text;
  });
}

namespace {

/// "62.0 MiB of hbm, 1.0 GiB of dram"
std::string windows_text(const json& tiers) {
  std::string text;
  for (const json& tier : tiers)
    text +=
        fmt::format("{}{} of {}{}", text.empty() ? "" : ", ", bytes_text(tier.at("bytes").get<double>()),
                    tier.at("emulated").get<bool>() ? "emulated " : "", tier.at("name").get<std::string>());
  return text;
}

Output create_arena(const Options& options) {
  const json request = {{"command", "arena-create"},
                        {"arena", options.arena},
                        {"set", object_of(options.words, "page_bytes=64KiB or bytes.dram=8GiB")}};
  const json answer = parse(ask_daemon(options, request, kArenaTimeoutMs));
  return outcome(options, answer, [&] {
    return fmt::format("arena {} is there: {} pages of {}; {}", options.arena,
                       answer.at("pages").get<uint64_t>(), bytes_text(answer.at("page_bytes").get<double>()),
                       windows_text(answer.at("tiers")));
  });
}

/// What is lost with it. Throws when it has sessions and they are not to be evicted, or there is no such arena.
std::string delete_question(const Options& options) {
  const json answer = parse(ask_daemon(options, {{"command", "arenas"}}));
  for (const json& arena : answer.at("arenas")) {
    if (arena.at("name") != options.arena) continue;
    const auto sessions = arena.at("sessions").get<uint64_t>();
    if (sessions != 0 && !options.force)
      throw std::runtime_error(
          fmt::format("arena {} has sessions: {}. They have to end first, or be evicted with it: --force",
                      options.arena, sessions));
    return fmt::format("Arena {} is given up. Published pages: {}. Sessions that are evicted: {}. ",
                       options.arena, arena.at("keyed").get<uint64_t>(), sessions);
  }
  throw std::runtime_error("no arena \"" + options.arena + "\"");
}

Output delete_arena(const Options& options) {
  if (!options.words.empty()) throw WrongUse("arena delete takes a NAME and nothing else");
  if (!options.yes) {
    if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0)
      throw WrongUse("arena delete asks on a terminal; without one it needs --yes");
    if (!confirmed(delete_question(options) + "Delete it? [y/N] ")) return {"", "nothing was done", 0};
  }
  const json answer = parse(
      ask_daemon(options, {{"command", "arena-delete"}, {"arena", options.arena}, {"force", options.force}},
                 kArenaTimeoutMs));
  return outcome(options, answer, [&] {
    return fmt::format("arena {} is deleted; free again: {}{}", options.arena,
                       windows_text(answer.at("tiers")),
                       answer.at("configured").get<bool>()
                           ? "\nthe configuration names it: a reload or the next start makes it anew, empty"
                           : "");
  });
}

Output add_tier(const Options& options) {
  const json request = {{"command", "tier-add"},
                        {"tier", options.tier},
                        {"set", object_of(options.words, "kind=cxl or bytes=64GiB")}};
  const json answer = parse(ask_daemon(options, request, kArenaTimeoutMs));
  return outcome(options, answer, [&] {
    const json& tier = answer.at("tiers").at(0);
    return fmt::format("tier {} is there: {} of {}{}; new arenas can have memory of it", options.tier,
                       bytes_text(tier.at("bytes").get<double>()),
                       tier.at("emulated").get<bool>() ? "emulated " : "",
                       tier.at("kind").get<std::string>());
  });
}

Output remove_tier(const Options& options) {
  if (!options.words.empty()) throw WrongUse("tier remove takes a NAME and nothing else");
  const json answer = parse(ask_daemon(options, {{"command", "tier-remove"}, {"tier", options.tier}}));
  return outcome(options, answer, [&] {
    return fmt::format("tier {} is removed{}", options.tier,
                       answer.at("configured").get<bool>()
                           ? "\nthe configuration names it: a reload or the next start adds it again"
                           : "");
  });
}

}  // namespace

Output arena(const Options& options) {
  return options.action == "create" ? create_arena(options) : delete_arena(options);
}

Output tier(const Options& options) {
  return options.action == "add" ? add_tier(options) : remove_tier(options);
}

Output record(const Options& options) {
  RecordOptions wanted = options.record;
  wanted.socket_dir = options.socket_dir;
  wanted.arena = options.arena;
  wanted.json = options.json;
  try {
    return {record(wanted), "", 0};
  } catch (const BadAnswer& no) {
    if (!options.json) throw;
    return {json{{"ok", false}, {"schema", "kvtier.refusal/1"}, {"error", no.what()}}.dump(
                2, ' ', false, json::error_handler_t::replace) +
                "\n",
            no.what(), 0};
  }
}

Output event_kinds(const Options& options) {
  const json answer = parse(ask(options.socket_dir, command_request("events"), kNamesTimeoutMs));
  std::set<std::string> kinds;
  for (const json& event : answer.at("events")) kinds.insert(event.at("kind").get<std::string>());
  std::string lines;
  for (const std::string& kind : kinds) lines += kind + "\n";
  return {lines, "", 0};
}

Output names(const Options& options) {
  return {names_text(ask(options.socket_dir, command_request(options.list), kNamesTimeoutMs), options.list),
          "", 0};
}

}  // namespace kvt::ctl
