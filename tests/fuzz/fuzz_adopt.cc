// SPDX-License-Identifier: Apache-2.0
//
// An arena's image as no daemon leaves it: words of its table, its index, its change log and of a session's region are
// anything, and then another daemon takes over. It refuses, or what it has is consistent and goes on being so; and when
// the sessions have gone, nothing is missing.
//
// An input: a byte of choices, then operations of a byte and what it takes.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "tests/fuzz/input.h"
#include "tests/support/arena_fixture.h"

namespace {

using namespace kvt;
using fuzz::Input;
using fuzz::require;

void require_consistent(test::TestArena& arena, bool planted) {
  const std::string wrong = arena.inconsistency();
  if (!wrong.empty()) fuzz::found((planted ? "canary: " : "") + wrong);
}

/// The canary's bug: where an adoption has undone an eviction and dropped a shadow, the first page stays EVICTING.
/// Elsewhere, nothing is ever planted.
bool plant([[maybe_unused]] test::TestArena& arena, [[maybe_unused]] const keeper::Adoption& adoption) {
#ifdef KVT_FUZZ_CANARY
  if (adoption.evictions_undone == 0 || adoption.shadows_dropped == 0) return false;
  for (PageIndex page = 0; page < arena.table().pages(); ++page) {
    const Placement now = arena.table().placement(0, page);
    if (now.state() != PageState::kSealed) continue;
    arena.table().set_placement(0, page, now.with_state(PageState::kEvicting));
    return true;
  }
#endif
  return false;
}

/// A word that means something now and then: a placement, a shadow or an offer of this arena, a handle, or anything.
uint64_t word_of(Input& input, test::TestArena& arena, PageIndex page) {
  const Placement now = arena.table().placement(0, page);
  const auto kind = input.take<uint8_t>();
  const auto more = input.take<uint8_t>();
  const uint32_t tier = more % 4;
  const Frame frame = more % 40;
  switch (kind % 8) {
    case 0: return now.with_state(static_cast<PageState>(more % 4)).word;
    case 1: return now.with_place(tier, frame).word;
    case 2: return now.with_keyed(more % 2 != 0).word;
    case 3: return now.word + (uint64_t{more} << KVT_WORD_GENERATION_SHIFT);
    case 4: return Shadow::of(tier, frame, now.generation() + (more >> 7)).word;
    case 5: return Offer::of(more % 4, frame, now.generation()).word;
    case 6: return Handle::of(more % static_cast<PageIndex>(arena.table().pages()), now.generation()).value;
    default: return input.take<uint64_t>();
  }
}

/// `layout`: the header before anything was written into it.
void operate(Input& input, test::TestArena& arena, test::TestSession& session,
             const kvt_abi_arena_header& layout) {
  const auto page = static_cast<PageIndex>(input.take<uint8_t>() % arena.table().pages());
  auto& header = const_cast<kvt_abi_arena_header&>(arena.table().header());
  const uint32_t column = input.take<uint8_t>() % 2 % layout.columns;
  const auto at = [&](uint64_t offset, uint64_t index) -> uint64_t& {
    return *reinterpret_cast<uint64_t*>(arena.table().data() + offset + index * 8);
  };
  const uint64_t row = column * layout.column_stride + page;
  switch (input.take<uint8_t>() % 14) {
    case 0:
    case 1: at(layout.placement_offset, row) = word_of(input, arena, page); break;
    case 2:
    case 3: at(layout.shadow_offset, row) = word_of(input, arena, page); break;
    case 4: at(layout.offer_offset, row) = word_of(input, arena, page); break;
    case 5: at(layout.owner_offset, page) = input.take<uint8_t>(); break;
    case 6: at(layout.parent_offset, page) = word_of(input, arena, page); break;
    case 7: at(layout.key_offset, page * 2 + input.take<uint8_t>() % 2) = input.take<uint8_t>(); break;
    case 8:
      at(layout.index_offset, input.take<uint16_t>() % layout.index_slots) = word_of(input, arena, page);
      break;
    case 9: at(layout.log_offset, input.take<uint16_t>()) = word_of(input, arena, page); break;
    case 10: {
      // Geometry, offsets, windows: all of the header.
      const uint64_t words = sizeof header / 8;
      reinterpret_cast<uint64_t*>(&header)[input.take<uint8_t>() % words] = word_of(input, arena, page);
      break;
    }
    case 11: {
      auto* const region = reinterpret_cast<uint64_t*>(session.state().mapping.data());
      region[input.take<uint32_t>() % (session.state().mapping.bytes() / 8)] = word_of(input, arena, page);
      break;
    }
    case 12: {
      auto* const member = reinterpret_cast<uint64_t*>(&session.member());
      member[input.take<uint8_t>()] = word_of(input, arena, page);
      break;
    }
    case 13: header.changing = word_of(input, arena, page); break;
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
  options.settings.policy = choice & 4 ? keeper::PolicyName::kChurn : keeper::PolicyName::kOff;
  test::TestArena arena(options);
  const auto one = arena.attach();
  const auto two = arena.attach(options.columns - 1);
  Handle parent = kNoHandle;
  for (uint64_t i = 0; i < 4; ++i) parent = one->publish_new(arena, test::key_of(i), parent);
  two->publish_new(arena, test::key_of(4));
  two->allocate(arena);
  arena.period_and_copies();
  arena.settle();

  bool planted = false;
  for (int rounds = 0; rounds < 3; ++rounds) {
    const kvt_abi_arena_header layout = arena.table().header();
    for (int operations = 0; !input.empty() && operations < 60; ++operations) {
      if (input.take<uint8_t>() % 32 == 31) break;
      operate(input, arena, *two, layout);
    }
    const auto adopted = arena.try_restart({one.get(), two.get()});
    if (!adopted) return 0;  // and nothing was touched: that is a test of its own
    planted = plant(arena, *adopted);
    require_consistent(arena, planted);
    for (int i = 0; i < 3; ++i) {
      arena.period();
      arena.commit_done();
      arena.pass();
    }
    require_consistent(arena, planted);
    if (input.empty()) break;
  }
  for (test::TestSession* const session : {one.get(), two.get()})
    if (arena.arena().find_session(session->id()) != nullptr) arena.end(*session);
  arena.settle();
  for (int i = 0; i < 200 && arena.arena().report().sealed != arena.arena().report().keyed; ++i)
    arena.period();
  arena.settle();
  require_consistent(arena, planted);
  const keeper::ArenaReport report = arena.arena().report();
  require(report.filling == 0, "pages of sessions that have gone are still being filled");
  require(report.limbo == 0, "frames stay in limbo for sessions that have gone");
  require(report.sealed == report.keyed, "pages of sessions that have gone stay");
  return 0;
}
