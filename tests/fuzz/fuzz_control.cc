// SPDX-License-Identifier: Apache-2.0
//
// Any lines as requests on control.sock, to a daemon with two arenas and pages in one. Each is answered once, by a
// JSON object that says whether it was done and what it looks like; a refusal says what was expected; the arenas stay
// consistent. Who has changed anything leaves a new daemon to the next input.
//
// quiesce is left out: it waits, as it is meant to.
#include <poll.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/control/answers.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"
#include "tests/fuzz/input.h"
#include "tests/support/arena_fixture.h"
#include "tests/support/one_node.h"

namespace {

using namespace kvt;
using fuzz::found;
using fuzz::require;
using nlohmann::json;

constexpr uint64_t kPageBytes = 16384;
constexpr size_t kRequests = 16;     // of an input
constexpr int kPatienceMs = 10'000;  // for what a thread does

template <typename T>
T must(Result<T> result) {
  if (!result) found("the harness: " + result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

Config small_config() {
  Config config;
  config.prefault = false;
  config.tiers.resize(2);
  config.tiers[0] = {.name = "hbm", .kind = "emulated-hbm", .bytes = 32 * kPageBytes, .column = 0};
  config.tiers[1] = {.name = "dram", .bytes = 128 * kPageBytes};
  config.arenas.resize(2);
  config.arenas[0].name = "one";
  config.arenas[0].page_bytes = kPageBytes;
  config.arenas[1].name = "two";
  config.arenas[1].page_bytes = kPageBytes;
  return config;
}

/// Without sockets; its clock stands but for what it is asked.
class World {
 public:
  World() {
    keeper_ = must(keeper::Keeper::create(
        must(keeper::plan_machine(small_config(), test::one_node(), nullptr)), keeper::Inject::kNone,
        [](const std::string&) {}, must(restart::new_kept())));
    loop_ = std::make_unique<keeper::EventLoop>(must(keeper::EventLoop::create()));
    const auto tell = [this](events::Kind kind, const std::string& text) {
      events_.add(kind, text, events::EventLog::Clock::now());
    };
    server_ = must(server::Server::create(*loop_, *keeper_, tell));
    answers_ = std::make_unique<control::Answers>(*keeper_, *server_, events_, tell);
    keeper::Arena& arena = *keeper_->arenas().front();
    keeper::SessionState* const state = must(arena.add_session(1, 0, 2, true, 0, 0));
    const uint32_t member = must(arena.add_member(*state, 1));
    test::TestSession session(*state, member, arena.table().pages());
    turn();
    for (uint32_t i = 0; i < 6; ++i) {
      const Handle page = session.pop();
      if (page == kNoHandle) found("the harness: no page");
      session.submit(KVT_OP_SEAL, page);
      session.submit(KVT_OP_PUBLISH, page, test::key_of(i));
    }
    turn();
    arena.end_session(*state);  // the server knows of none; what was published stays
  }

  /// The answer's first line, after the loop has turned where it comes later.
  std::string ask(const std::string& request) {
    std::optional<std::string> answer;
    answers_->answer(request, "an operator", [&](std::string text) {
      require(!answer.has_value(), "two answers to one request");
      answer = std::move(text);
    });
    if (!answer) turn();
    while (!answer) {  // a thread makes an arena, or gives it back
      pollfd ready{keeper_->background_fd().get(), POLLIN, 0};
      if (::poll(&ready, 1, kPatienceMs) == 0) found("no answer to " + request);
      turn();
    }
    return answer->substr(0, answer->find('\n'));
  }
  void check() {
    for (const auto& arena : keeper_->arenas()) {
      const keeper::ArenaReport report = arena->report();
      require(report.accounted == report.frames, "frames that are not accounted for");
      const keeper::ArenaCounts counts = arena->counts();
      require(counts.free == report.free && counts.filling == report.filling &&
                  counts.sealed == report.sealed && counts.keyed == report.keyed &&
                  counts.pinned == report.pinned,
              "counts that the rows do not have");
    }
  }

 private:
  void turn() {
    now_ += std::chrono::milliseconds(1);
    keeper_->pass(now_);
    answers_->look(now_);
  }

  std::unique_ptr<keeper::Keeper> keeper_;
  std::unique_ptr<keeper::EventLoop> loop_;
  events::EventLog events_;
  std::unique_ptr<server::Server> server_;
  std::unique_ptr<control::Answers> answers_;
  keeper::Keeper::Clock::time_point now_ = keeper::Keeper::Clock::now();
};

std::unique_ptr<World>& world() {
  static std::unique_ptr<World> one = std::make_unique<World>();
  return one;
}

/// Whether the next input has to have another daemon. What only looks leaves this one as it is.
bool is_harmless(const json& answer, const std::string& command) {
  for (const char* const each : {"status", "tiers", "arenas", "audit", "sessions", "page", "resize-state",
                                 "plan", "explain", "config", "events", "heat"})
    if (command == each) return true;
  return !answer.at("ok").get<bool>();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  bool changed = false;
  for (size_t i = 0; i < kRequests && !text.empty(); ++i) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string request(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    const json asked = json::parse(request, nullptr, false);
    const std::string command = asked.is_object() && asked.contains("command") && asked["command"].is_string()
                                    ? asked["command"]
                                    : json("");
    if (command == "quiesce") continue;
    const std::string line = world()->ask(request);
    const json answer = json::parse(line, nullptr, false);
    require(answer.is_object() && answer.contains("ok") && answer["ok"].is_boolean(),
            "an answer that is none");
    require(answer.contains("schema") && answer["schema"].is_string(), "an answer of unknown looks");
    const bool ok = answer["ok"].get<bool>();
    require(ok || (answer.contains("error") && answer["error"].is_string() && answer["error"] != ""),
            "refused without words");
    require(ok == (answer["schema"] != "kvtier.refusal/1"),
            "a refusal that looks like none, or the other way round");
#ifdef KVT_FUZZ_CANARY
    if (ok && command == "drain" && asked.value("undo", json(false)) != json(true))
      found("canary: a tier that can be drained");
#endif
    changed = changed || !is_harmless(answer, command);
  }
  if (changed) {
    world()->check();
    world() = std::make_unique<World>();
  }
  return 0;
}
