// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/passing.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "tools/kvtier-soak/contents.h"

namespace kvt::soak {
namespace {

using nlohmann::json;

constexpr size_t kPages = 8;
constexpr auto kPause = std::chrono::milliseconds(5);

/// Fills, publishes, finds and reads a few pages. Whatever the daemon's absence cuts short is left.
void use(const std::string& folder, uint64_t number, Counters& counters) {
  kvt_attach_args args{};
  args.size = sizeof args;
  args.socket_dir = folder.c_str();
  args.arena = "passing";
  args.timeout_ms = 1000;
  kvt_session* session = nullptr;
  if (kvt_attach(&args, &session) != KVT_OK) {
    ++counters.away;
    return;
  }
  kvt_geometry geometry{};
  geometry.size = sizeof geometry;
  kvt_get_geometry(session, &geometry);
  for (uint64_t i = 0; i < kPages; ++i) {
    kvt_page page = KVT_NO_PAGE;
    if (kvt_allocate(session, &page, 1) != 1) break;
    void* const data = kvt_page_data(session, page);
    if (data == nullptr) break;
    write_words(data, geometry.page_bytes, number + i);
    kvt_publish_entry entry{};
    entry.page = page;
    entry.key = key_of(number + i);
    entry.parent = KVT_NO_PAGE;
    if (kvt_publish(session, &entry, 1) != 1 || entry.result != KVT_PUBLISHED) break;
    ++counters.published;
    kvt_step step{};
    const void* address = nullptr;
    if (kvt_step_begin(session, &step) != KVT_OK) break;
    if (kvt_resolve_addresses(session, &step, &page, 1, &address) == 1) {
      counters.corrupt += wrong_words(address, geometry.page_bytes, number + i);
      counters.words_verified += geometry.page_bytes / 8;
    }
    if (kvt_step_end(session, &step) == KVT_OK) ++counters.steps;
  }
  kvt_detach(session);
}

bool is_one_of(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* const word : words)
    if (text.find(word) != std::string::npos) return true;
  return false;
}

/// What is refused for another reason than that the one before was cut short.
void look_at(const std::optional<json>& answer, Counters& counters) {
  if (!answer) {
    ++counters.away;
    return;
  }
  if (answer->at("ok").get<bool>()) return;
  const std::string error = answer->at("error");
  if (is_one_of(error,
                {"there is an arena", "is being made, or its memory given back", "no arena \"passing\""}))
    return;
  std::fputs(fmt::format("soak: an arena that comes and goes: {}\n", error).c_str(), stderr);
  ++counters.lost;
}

}  // namespace

int run_passing(const Daemon& daemon, const std::string& page_bytes, uint64_t seed, Board& board) {
  std::mt19937_64 random(seed);
  const json create{{"command", "arena-create"}, {"arena", "passing"}, {"set", {{"page_bytes", page_bytes}}}};
  const json remove{{"command", "arena-delete"}, {"arena", "passing"}, {"force", true}};
  for (uint64_t number = uint64_t{1} << 40; board.stop.load(std::memory_order_relaxed) == 0;
       number += kPages) {
    look_at(daemon.ask(create.dump()), board.passing);
    if (random() % 2 == 0) use(daemon.folder(), number, board.passing);
    look_at(daemon.ask(remove.dump()), board.passing);
    std::this_thread::sleep_for(kPause);
  }
  for (int tries = 0; tries < 100; ++tries) {  // the last daemon may still be coming up
    const auto answer = daemon.ask(remove.dump());
    if (answer && (answer->at("ok").get<bool>() || is_one_of(answer->at("error"), {"no arena \"passing\""})))
      return 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return 1;
}

}  // namespace kvt::soak
