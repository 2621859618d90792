// SPDX-License-Identifier: Apache-2.0
//
// Random operations of several sessions and an operator on one arena, beside a naive model: which pages each
// holds, what is in them, what each open step may still read, which pages are pinned. Sessions take offers,
// late or never. Copies run in worker threads; everything else in this one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "tests/support/arena_fixture.h"
#include "tests/support/random.h"

namespace kvt::keeper {
namespace {

using test::ArenaOptions;
using test::key_of;
using test::TestArena;
using test::TestSession;

#ifdef KVT_TSAN
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
#endif

struct Held {
  Handle page;
  uint64_t content = 0;
  std::optional<uint64_t> key;
};
struct Seen {
  Frame frame;
  uint64_t content;
};
/// An offer that a step has loaded.
struct Taken {
  Handle page;
  TestSession::SeenOffer seen;
  Frame from;
  uint64_t content;
};
struct Client {
  std::unique_ptr<TestSession> session;
  uint32_t column = 0;
  std::vector<Handle> filling;
  std::vector<Held> held;
  std::map<uint32_t, std::vector<Seen>> steps;   ///< by slot
  std::map<uint32_t, std::vector<Taken>> taken;  ///< by slot; not copied yet
  std::vector<Taken> staged;  ///< copied; may be reported when its step is over, and at any time later
};

class World {
 public:
  World(const ArenaOptions& options, test::Random& random)
      : options_(options), test_(options), random_(random) {
    for (int i = 0; i < 3; ++i) attach();
  }

  void operate() {
    Client& client = clients_[random_.below(clients_.size())];
    TestSession& session = *client.session;
    if (random_.one_in(2000)) return restart();
    switch (random_.below(22)) {
      case 0:
      case 1: {
        const Handle page = session.allocate(test_);
        if (page.none()) break;
        ASSERT_EQ(test_.placement(page).state(), PageState::kFilling);
        for (uint32_t column = 0; column < options_.columns; ++column)
          ASSERT_EQ(test_.placement(page, column).frame(), test_.placement(page).frame());
        client.filling.push_back(page);
        break;
      }
      case 2:
      case 3: {  // write and publish
        if (client.filling.empty()) break;
        const Handle page = take(client.filling);
        const uint64_t content = random_.next();
        fill(test_.placement(page).frame(), content);
        const uint64_t key = random_.below(300);
        const kvt_abi_completion answer =
            session.ask(test_, KVT_OP_PUBLISH, page, key_of(key), some_parent(client));
        if (answer.result == KVT_RESULT_PRESENT) {
          // Nobody need hold it: the same pass may have evicted it.
          const Handle present{answer.page};
          if (test_.placement(present).generation() == present.generation()) {
            ASSERT_EQ(test_.table().key(present.index()), key_of(key));
          }
          client.held.push_back({page, content, std::nullopt});
        } else if (answer.result ==
                   KVT_RESULT_FULL) {  // all that could be evicted is held, and others have a guarantee
          client.held.push_back({page, content, std::nullopt});
        } else {
          ASSERT_EQ(answer.result, uint32_t{KVT_RESULT_OK});
          content_of_key_[key] = content;
          client.held.push_back({page, content, key});
        }
        break;
      }
      case 4: {  // seal without a key
        if (client.filling.empty()) break;
        const Handle page = take(client.filling);
        const uint64_t content = random_.next();
        fill(test_.placement(page).frame(), content);
        ASSERT_EQ(session.ask(test_, KVT_OP_SEAL, page).result, uint32_t{KVT_RESULT_OK});
        client.held.push_back({page, content, std::nullopt});
        break;
      }
      case 5:
      case 6: {  // lookup
        const uint64_t key = random_.below(300);
        const Handle page = session.lookup(test_.table(), key_of(key));
        if (page.none()) break;
        ASSERT_TRUE(content_of_key_.contains(key)) << "a key that nobody published";
        client.held.push_back({page, content_of_key_[key], key});
        break;
      }
      case 7:
      case 8:  // let go
        if (client.held.empty()) break;
        session.let_go(test_, take(client.held).page);
        break;
      case 9:
        if (client.filling.empty()) break;
        {
          const Handle page = take(client.filling);
          session.release(page);
          ASSERT_EQ(session.ask(test_, KVT_OP_FREE, page).result, uint32_t{KVT_RESULT_OK});
        }
        break;
      case 10: begin_step(client); break;
      case 11: end_step(client); break;
      case 12:
        for (const Held& held : client.held)
          if (random_.one_in(2)) session.read(held.page, random_.below32(50));
        test_.period();
        break;
      case 13:
        test_.commit_done();
        test_.pass();
        break;
      case 14: {
        if (!random_.one_in(10)) break;
        std::vector<size_t> own;
        for (size_t i = 0; i < client.held.size(); ++i)
          if (client.held[i].key && test_.table().owner(client.held[i].page.index()) == session.id())
            own.push_back(i);
        if (own.empty()) break;
        const Handle page = client.held[own[random_.below(own.size())]].page;
        pinned_.erase(page.index());  // its content goes when nobody holds it
        ASSERT_EQ(session.ask(test_, KVT_OP_UNPUBLISH, page).result, uint32_t{KVT_RESULT_OK});
        break;
      }
      case 15: {  // an operator pins a page, or takes a pin off
        const auto page = random_.below32(static_cast<uint32_t>(test_.table().pages()));
        if (test_.arena().is_pinned(page) || pinned_.size() > 6) {
          const PageIndex off = pinned_.empty() || random_.one_in(2) ? page : pinned_.begin()->first;
          test_.arena().unpin(off);
          pinned_.erase(off);
          break;
        }
        if (test_.arena().pin(page) != PinRequest::kPinned) break;
        const Placement now = test_.table().placement(0, page);
        ASSERT_EQ(now.state(), PageState::kSealed);
        if (!now.keyed()) {  // it may go at any time: the counts are what is looked at
          test_.arena().unpin(page);
          break;
        }
        for (uint32_t column = 0; column < options_.columns; ++column)
          pinned_[page].push_back(test_.table().placement(column, page).word);
        break;
      }
      case 16: {  // an operator moves a page
        const uint32_t column = random_.below32(options_.columns);
        const auto page = random_.below32(static_cast<uint32_t>(test_.table().pages()));
        const MoveRequest answer =
            test_.arena().move(test_.mover(), column, page, random_.below32(test_.table().tiers()));
        ASSERT_TRUE(answer != MoveRequest::kMoved || !pinned_.contains(page));
        ASSERT_TRUE(answer != MoveRequest::kQueued || !pinned_.contains(page));
        ++asked_moves_[answer];
        break;
      }
      case 17:
      case 18: {  // the keeper offers a page to somebody who holds it, and may read it at once
        if (client.held.empty()) break;
        const Held& held = client.held[random_.below(client.held.size())];
        test_.arena().offer(client.column, held.page.index(), random_.below32(test_.table().tiers()),
                            session.state().geometry.slot);
        if (random_.one_in(4)) break;
        begin_step(client);
        end_step(client);
        if (!random_.one_in(4)) report(client);
        break;
      }
      case 19: report(client); break;
      case 20: {  // an operator closes a part of a tier, or opens it again
        if (!random_.one_in(20)) break;
        const uint32_t tier = random_.below32(test_.table().tiers());
        const uint64_t frames = test_.table().tier(tier).frames;
        // Half of the slow tier stays: sessions that attach later are guaranteed pages, too.
        const uint64_t least = tier == test_.slow_tier() ? frames / 2 : 0;
        const uint64_t wanted = random_.one_in(3) ? frames : least + random_.below(frames + 1 - least);
        if (test_.arena().resize(tier, wanted))
          ASSERT_EQ(test_.arena().resize_state(tier).wanted, wanted);
        else
          ASSERT_LT(wanted, test_.arena().resize_state(tier).usable);
        break;
      }
      default:
        if (!random_.one_in(40)) break;
        // It dies, with open steps, holds, and commands in its ring.
        session.submit(KVT_OP_SEAL, client.filling.empty() ? Handle{0} : client.filling.back());
        test_.end(session);
        clients_.erase(clients_.begin() + (&client - clients_.data()));
        attach();
    }
  }

  void check() {
    for (const Client& client : clients_) {
      for (const Held& held : client.held)
        for (uint32_t column = 0; column < options_.columns; ++column) {
          const Placement now = test_.placement(held.page, column);
          ASSERT_EQ(now.generation(), held.page.generation()) << "a held page was taken";
          ASSERT_EQ(now.state(), PageState::kSealed);
          ASSERT_TRUE(filled(now.frame(), held.content));
          if (const Shadow shadow = test_.shadow(held.page, column); shadow.valid()) {
            ASSERT_TRUE(filled(shadow.frame(), held.content));
          }
        }
      for (const Handle page : client.filling) {
        ASSERT_EQ(test_.placement(page).generation(), page.generation());
        ASSERT_EQ(test_.placement(page).state(), PageState::kFilling);
      }
    }
    for (const auto& [page, words] : pinned_) {
      ASSERT_TRUE(test_.arena().is_pinned(page)) << "page " << page;
      for (uint32_t column = 0; column < options_.columns; ++column)
        ASSERT_EQ(test_.table().placement(column, page).word, words[column])
            << "pinned page " << page << " was evicted or moved";
    }
    ASSERT_EQ(test_.inconsistency(), "");
  }

  /// All sessions end; everything but keyed pages must be back.
  void finish() {
    for (Client& client : clients_) test_.end(*client.session);
    clients_.clear();
    test_.settle();
    // Closed frames are still being cleared; a frame that a checksum is being made of waits for that.
    for (int i = 0; i < 300 || (i < 1000 && test_.arena().counts().limbo != 0); ++i)
      test_.period_and_copies();
    ASSERT_EQ(test_.inconsistency(), "");
    const ArenaReport report = test_.arena().report();
    EXPECT_EQ(report.filling, 0u);
    EXPECT_EQ(report.limbo, 0u);
    EXPECT_EQ(report.sealed, report.keyed) << "an unkeyed page that nobody owns is left";
    EXPECT_EQ(report.free + report.sealed, test_.table().pages());
  }

  [[nodiscard]] uint64_t restarts() const { return restarts_; }
  [[nodiscard]] uint64_t moves() {
    const kvt_abi_arena_counters& counters = test_.table().counters();
    return load_relaxed(counters.promoted) + load_relaxed(counters.demoted_copy) +
           load_relaxed(counters.demoted_free);
  }
  [[nodiscard]] uint64_t asked_moves(MoveRequest answer) const {
    const auto found = asked_moves_.find(answer);
    return found == asked_moves_.end() ? 0 : found->second;
  }
  /// Of all keepers so far.
  [[nodiscard]] ArenaCounts::Offers offers() {
    ArenaCounts::Offers sum = test_.arena().counts().offers;
    sum.taken += offers_before_.taken;
    sum.withdrawn += offers_before_.withdrawn;
    sum.lapsed += offers_before_.lapsed;
    sum.refused += offers_before_.refused;
    return sum;
  }
  [[nodiscard]] ArenaCounts counts() {
    ArenaCounts sum = test_.arena().counts();
    sum.checks.pages += counts_before_.checks.pages;
    sum.checks.mismatches += counts_before_.checks.mismatches;
    sum.checks.repaired += counts_before_.checks.repaired;
    sum.lost_pages += counts_before_.lost_pages;
    return sum;
  }
  [[nodiscard]] uint64_t evicted() { return load_relaxed(test_.table().counters().evicted); }

 private:
  /// A step that resolves what the client holds, and loads what it is offered.
  void begin_step(Client& client) {
    const auto slot = random_.below32(4);
    if (client.steps.contains(slot)) return;
    client.session->begin_step(test_.table(), slot);
    auto& seen = client.steps[slot];
    for (const Held& held : client.held) {
      const Frame frame = test_.placement(held.page, client.column).frame();
      seen.push_back({frame, held.content});
      if (const auto offered = client.session->offered(test_.table(), held.page))
        client.taken[slot].push_back({held.page, *offered, frame, held.content});
    }
  }
  /// A step copies what it was offered, looks at all that it resolved, and ends.
  void end_step(Client& client) {
    if (client.steps.empty()) return;
    const auto step = random_.one_in(2) ? client.steps.begin() : std::prev(client.steps.end());
    // Whatever became of the offer meanwhile: in this step its frame is the reader's to fill.
    for (const Taken& taken : client.taken[step->first]) {
      if (random_.one_in(4)) continue;
      // A second taker writes the same bytes, while a worker may be reading them to check the page: allowed (PROTOCOL A3),
      // and a race to tsan.
      const bool again =
          !written_.insert({taken.seen.serial, taken.page.index(), taken.seen.offer.frame()}).second;
      if (!kTsan || !again)
        std::memcpy(test_.frame_data(taken.seen.offer.frame()), test_.frame_data(taken.from),
                    options_.page_bytes);
      step->second.push_back({taken.seen.offer.frame(), taken.content});
      client.staged.push_back(taken);
    }
    client.taken.erase(step->first);
    for (const Seen& seen : step->second)
      ASSERT_TRUE(filled(seen.frame, seen.content))
          << "frame " << seen.frame << " was used again under an open step";
    client.session->end_step(step->first);
    client.steps.erase(step);
  }
  /// In time or late, once or twice.
  void report(Client& client) {
    if (client.staged.empty()) return;
    const Taken staged =
        random_.one_in(4) ? client.staged[random_.below(client.staged.size())] : client.staged.back();
    if (!random_.one_in(4))
      std::erase_if(client.staged, [&](const Taken& one) {
        return one.seen.serial == staged.seen.serial && one.page == staged.page;
      });
    const auto now = client.session->offered(test_.table(), staged.page);
    const bool out =
        now && now->serial == staged.seen.serial && now->offer.frame() == staged.seen.offer.frame();
    bool leaving = false;
    for (uint32_t column = 0; column < options_.columns; ++column)
      leaving = leaving || test_.arena().is_leaving(column, staged.page.index());
    const uint32_t result =
        client.session
            ->ask(test_, TestSession::report_of(staged.page, staged.seen.offer.frame(), staged.seen.serial))
            .result;
    // Of a page on its way out of a closed frame the offer is taken back, before the report is served or behind it; or the
    // page has been evicted for another one's sake.
    if (result == KVT_RESULT_STALE &&
        (leaving || test_.placement(staged.page).generation() != staged.page.generation()))
      return;
    ASSERT_EQ(result, out ? uint32_t{KVT_RESULT_OK} : uint32_t{KVT_RESULT_STALE});
  }
  /// The keeper is killed between two commands. Pins were its own.
  void restart() {
    offers_before_ = offers();
    counts_before_ = counts();
    std::vector<TestSession*> sessions;
    for (const Client& client : clients_) sessions.push_back(client.session.get());
    const Adoption adoption = test_.restart(sessions);
    ASSERT_EQ(adoption.damaged, 0u);
    ASSERT_EQ(adoption.sessions, sessions.size());
    ASSERT_FALSE(adoption.index_rebuilt);
    pinned_.clear();
    ++restarts_;
    check();
  }
  void attach() {
    Client client;
    client.column = random_.below32(options_.columns);
    client.session = test_.attach(client.column, true, random_.below(4));
    if (!random_.one_in(4)) client.session->take_offers();
    clients_.push_back(std::move(client));
  }
  template <typename T>
  T take(std::vector<T>& from) {
    const size_t at = random_.below(from.size());
    T taken = from[at];
    from[at] = from.back();
    from.pop_back();
    return taken;
  }
  Handle some_parent(const Client& client) {
    return client.held.empty() || random_.one_in(2) ? kNoHandle
                                                    : client.held[random_.below(client.held.size())].page;
  }
  // First, middle and last words of each 4 KiB: enough to see another page's bytes or a copy's rest.
  template <typename Word>
  void words(Frame frame, Word&& word) {
    std::byte* const data = test_.frame_data(frame);
    for (uint64_t at = 0; at < options_.page_bytes; at += 2048) word(data + at, at);
    word(data + options_.page_bytes - 8, options_.page_bytes - 8);
  }
  void fill(Frame frame, uint64_t content) {
    words(frame, [&](std::byte* to, uint64_t at) {
      const uint64_t word = content + at;
      std::memcpy(to, &word, 8);
    });
  }
  bool filled(Frame frame, uint64_t content) {
    bool right = true;
    words(frame, [&](const std::byte* from, uint64_t at) {
      uint64_t word = 0;
      std::memcpy(&word, from, 8);
      right = right && word == content + at;
    });
    return right;
  }

  ArenaOptions options_;
  TestArena test_;
  test::Random& random_;
  std::vector<Client> clients_;
  std::map<uint64_t, uint64_t> content_of_key_;
  /// Keyed pages that an operator has pinned: placement words
  std::map<PageIndex, std::vector<uint64_t>> pinned_;
  std::map<MoveRequest, uint64_t> asked_moves_;
  std::set<std::tuple<uint64_t, PageIndex, Frame>> written_;  ///< offers that some step has filled
  uint64_t restarts_ = 0;
  ArenaCounts::Offers offers_before_;
  ArenaCounts counts_before_;
};

class ArenaRandom : public testing::TestWithParam<std::tuple<uint32_t, PolicyName, uint64_t>> {
 protected:
  static ArenaOptions options() {
    ArenaOptions options;
    options.columns = std::get<0>(GetParam());
    options.settings.policy = std::get<1>(GetParam());
    options.middle_frames = std::get<2>(GetParam());
    options.copy_workers = 2;
    options.pages = 60 + options.middle_frames /
                             2;  // of 80 frames and the middle ones: the open steps keep many in limbo
    return options;
  }
  static ArenaCounts beside_a_naive_model(const ArenaOptions& options, test::Random& random);
  static void run(World& world);
};
INSTANTIATE_TEST_SUITE_P(ColumnsAndPolicies, ArenaRandom,
                         testing::Combine(testing::Values(1u, 2u),
                                          testing::Values(PolicyName::kChurn, PolicyName::kBalance),
                                          testing::Values(0, 24)),
                         [](const auto& tuple) {
                           return std::to_string(std::get<0>(tuple.param)) +
                                  (std::get<1>(tuple.param) == PolicyName::kChurn ? "Churn" : "Balance") +
                                  (std::get<2>(tuple.param) != 0 ? "ThreeTiers" : "");
                         });

TEST_P(ArenaRandom, BesideANaiveModel) {
  test::Random random;
  beside_a_naive_model(options(), random);
}

/// Every copy has a wrong bit at first, and pages are read by workers all the time, whatever becomes of them meanwhile.
TEST_P(ArenaRandom, BesideANaiveModelWithChecksums) {
  test::Random random;
  ArenaOptions checked = options();
  checked.settings.integrity = Integrity::kAll;
  checked.settings.scrub_pages_per_second = 500;
  checked.settings.inject = Inject::kFlip;
  const ArenaCounts counts = beside_a_naive_model(checked, random);
  EXPECT_GT(counts.checks.pages, 1000u);
  EXPECT_GT(counts.checks.mismatches, 10u);
  // A keeper that is killed with a repair under way leaves it to the next, which finds it by itself.
  EXPECT_LE(counts.checks.repaired, counts.checks.mismatches);
  EXPECT_GT(counts.checks.repaired, 10u);
  EXPECT_EQ(counts.lost_pages, 0u);
}

ArenaCounts ArenaRandom::beside_a_naive_model(const ArenaOptions& options, test::Random& random) {
  World world(options, random);
  run(world);
  return world.counts();
}

void ArenaRandom::run(World& world) {
  // Copies run beside it: where they are slow, few frames are free to be offered, and what has to happen
  // takes longer.
  const auto enough = [&] {
    return world.offers().taken > 50 && world.offers().lapsed > 0 &&
           world.asked_moves(MoveRequest::kMoved) > 0;
  };
  int operations = 30'000;
  for (int i = 0; i < operations; ++i) {
    world.operate();
    if (HasFatalFailure()) FAIL() << "operation " << i;
    if (i % 250 == 0) world.check();
    if (HasFatalFailure()) FAIL() << "after operation " << i;
    if (i + 1 == operations && operations < 300'000 && !enough()) operations += 10'000;
  }
  world.finish();
  EXPECT_GT(world.restarts(), 0u);
  EXPECT_GT(world.moves(), 100u);
  EXPECT_GT(world.evicted(), 100u);

  EXPECT_GT(world.offers().taken, 50u);
  EXPECT_GT(world.offers().withdrawn, 0u);
  EXPECT_GT(world.offers().lapsed, 0u);
  EXPECT_GT(world.offers().refused, 0u);
  EXPECT_GT(world.asked_moves(MoveRequest::kQueued), 10u);
  EXPECT_GT(world.asked_moves(MoveRequest::kMoved), 0u);
}

}  // namespace
}  // namespace kvt::keeper
