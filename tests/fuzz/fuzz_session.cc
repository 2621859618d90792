// SPDX-License-Identifier: Apache-2.0
//
// A client that writes anything anywhere into its session region, and sends any command, while another
// session of the same arena goes about its business. The keeper must stay consistent, the other's pages must
// stay as they are, and when the hostile one has gone, nothing may be missing.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "tests/fuzz/input.h"
#include "tests/support/arena_fixture.h"

namespace {

using namespace kvt;
using fuzz::Input;
using fuzz::require;

/// The canary's bug: a page that is published below another one loses its key. Elsewhere, nothing is ever
/// planted.
class Planted {
 public:
#ifdef KVT_FUZZ_CANARY
  void sent(uint64_t tag, const kvt_abi_submission& command) { commands_[tag] = command; }
  void look(test::TestArena& arena, test::TestSession& session) {
    while (const auto answer = session.completion()) {
      const auto found = commands_.find(answer->tag);
      if (found == commands_.end() || found->second.op != KVT_OP_PUBLISH || answer->result != KVT_RESULT_OK)
        continue;
      const PageIndex page = Handle{found->second.page}.index();
      if (arena.table().parent(page).none()) continue;
      arena.table().set_key(page, Key{});
      page_ = page;
    }
  }
  [[nodiscard]] std::string name(const std::string& wrong) const {
    return page_ && wrong.starts_with("page " + std::to_string(*page_) + ":") ? "canary: " + wrong : wrong;
  }

 private:
  std::unordered_map<uint64_t, kvt_abi_submission> commands_;
  std::optional<PageIndex> page_;
#else
  void sent(uint64_t, const kvt_abi_submission&) {}
  void look(test::TestArena&, test::TestSession&) {}
  [[nodiscard]] std::string name(const std::string& wrong) const { return wrong; }
#endif
};

void require_consistent(test::TestArena& arena, const Planted& planted) {
  const std::string wrong = arena.inconsistency();
  if (!wrong.empty()) fuzz::found(planted.name(wrong));
}

/// A word that means something now and then: small, a page's handle, an epoch, or as the input has it.
uint64_t word_of(Input& input, test::TestArena& arena) {
  switch (input.take<uint8_t>() % 4) {
    case 0: return input.take<uint8_t>();
    case 1: {
      const PageIndex page = input.take<uint8_t>() % static_cast<PageIndex>(arena.table().pages());
      return Handle::of(page, arena.table().placement(0, page).generation()).value;
    }
    case 2: return arena.table().epoch() + input.take<uint8_t>() - 128;
    default: return input.take<uint64_t>();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  test::ArenaOptions options;
  options.fast_frames = 6;
  options.slow_frames = 20;
  const auto choice = input.take<uint8_t>();
  options.columns = 1 + choice % 2;
  options.settings.policy = choice & 4 ? keeper::PolicyName::kChurn : keeper::PolicyName::kBalance;
  test::TestArena arena(options);
  const auto good = arena.attach();
  const Key key = test::key_of(7);
  const Handle kept = good->publish_new(arena, key);
  require(!kept.none(), "no page for the good session");
  std::byte* const content = arena.frame_data(arena.placement(kept).frame());
  std::memset(content, 0x5a, options.page_bytes);

  auto bad = arena.attach(options.columns - 1);
  Planted planted;
  const uint64_t words = bad->state().mapping.bytes() / 8;
  for (int operations = 0; !input.empty() && operations < 400; ++operations) {
    switch (input.take<uint8_t>() % 8) {
      case 0:
      case 1: {
        auto* const region = reinterpret_cast<uint64_t*>(bad->state().mapping.data());
        auto* const member = reinterpret_cast<uint64_t*>(&bad->member());
        const uint64_t value = word_of(input, arena);
        switch (input.take<uint8_t>() % 4) {
          case 0: region[input.take<uint8_t>() % (sizeof(kvt_abi_session_header) / 8)] = value; break;
          case 1: member[input.take<uint8_t>()] = value; break;  // step slots, indices of the rings
          case 2:
            (&bad->member().stock_count)[input.take<uint16_t>() % (KVT_STOCK_ENTRIES + 2 * KVT_SEQUENCES)] =
                value;
            break;
          case 3: region[input.take<uint32_t>() % words] = value; break;
        }
        break;
      }
      case 2:
      case 3: {
        kvt_abi_submission command{};
        command.tag = input.take<uint8_t>();
        command.op = input.take<uint8_t>() % 10;
        command.flags = input.take<uint8_t>();
        command.page = word_of(input, arena);
        command.key = {word_of(input, arena), input.take<uint8_t>()};
        command.parent = word_of(input, arena);
        command.extra = word_of(input, arena);
        planted.sent(bad->submit(command), command);
        break;
      }
      case 4: bad->pop(); break;
      case 5: arena.period(); break;
      case 6:
        arena.pass();
        arena.commit_done();
        planted.look(arena, *bad);
        break;
      case 7:
        if (input.take<uint8_t>() % 16 != 0) break;
        arena.end(*bad);
        bad = arena.attach(options.columns - 1);
        break;
    }
    if (operations % 16 == 0) require_consistent(arena, planted);
  }
  require_consistent(arena, planted);
  require(good->lookup(arena.table(), key, false) == kept, "the good session's page is no longer found");
  for (uint32_t column = 0; column < options.columns; ++column) {
    const std::byte* const now = arena.frame_data(arena.placement(kept, column).frame());
    require(
        std::all_of(now, now + options.page_bytes, [](std::byte each) { return each == std::byte{0x5a}; }),
        "the good session's page has changed");
  }
  arena.end(*bad);
  arena.settle();
  require_consistent(arena, planted);
  const keeper::ArenaReport report = arena.arena().report();
  require(report.limbo == 0, "frames stay in limbo for a session that has gone");
  require(report.sealed == report.keyed, "pages of a session that has gone stay");
  return 0;
}
