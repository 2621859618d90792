// SPDX-License-Identifier: Apache-2.0
#include "tests/support/arena_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <cstring>

namespace kvt::test {
namespace {

template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "arena fixture: %s\n", result.error().text.c_str());
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

ArenaGeometry geometry_of(const ArenaOptions& options) {
  ArenaGeometry geometry;
  geometry.name = "test";
  geometry.arena_id = 1;
  geometry.page_bytes = options.page_bytes;
  geometry.columns = options.columns;
  for (uint32_t column = 0; column < options.columns; ++column)
    geometry.tiers.push_back({"hbm" + std::to_string(column), options.fast_frames,
                              options.fast_bytes_per_second, options.fast_bytes_per_second,
                              static_cast<int32_t>(column), true});
  if (options.middle_frames != 0)
    geometry.tiers.push_back({"ddr", options.middle_frames, options.middle_bytes_per_second,
                              options.middle_bytes_per_second, -1, false});
  geometry.tiers.push_back(
      {"dram", options.slow_frames, options.slow_bytes_per_second, options.slow_bytes_per_second, -1, false});
  uint64_t most = options.slow_frames - keeper::reserve_of(options.slow_frames);
  if (options.middle_frames != 0) most += options.middle_frames - keeper::reserve_of(options.middle_frames);
  if (options.columns == 1) most += options.fast_frames - keeper::reserve_of(options.fast_frames);
  geometry.pages = options.pages != 0 ? options.pages : most;
  return geometry;
}

/// As the keeper's make_memory, without nodes and without prefault.
keeper::ArenaMemory memory_of(const ArenaGeometry& geometry, keeper::Integrity integrity) {
  must(check_geometry(geometry));
  keeper::ArenaMemory memory;
  const uint64_t table_bytes = arena_table_bytes(geometry);
  memory.table_fd = must(make_memfd("kvt-table-test", table_bytes));
  memory.table_mapping = must(Mapping::map(memory.table_fd, table_bytes, Access::kReadWrite));
  const ArenaWriter table = must(ArenaWriter::create(memory.table_mapping.data(), table_bytes, geometry));
  memory.table_read_only_fd = must(reopen_read_only(memory.table_fd));
  memory.range = must(AddressRange::reserve(table.range_bytes(), kWindowAlignment));
  for (uint32_t i = 0; i < table.tiers(); ++i) {
    Fd fd = must(make_memfd("kvt-window-test", table.tier(i).window_bytes));
    memory.windows.push_back(
        must(memory.range.map(fd, table.tier(i).window_bytes, Access::kReadWrite, table.window_offset(i))));
    memory.window_read_only_fds.push_back(must(reopen_read_only(fd)));
    memory.window_fds.push_back(std::move(fd));
  }
  if (integrity != keeper::Integrity::kOff) {
    const uint64_t bytes = keeper::PageSums::bytes(geometry.pages);
    memory.sums_fd = must(make_memfd("kvt-sums-test", bytes));
    memory.sums = must(Mapping::map(memory.sums_fd, bytes, Access::kReadWrite));
  }
  return memory;
}

kvt_abi_submission command_of(uint32_t op, Handle page, Key key, Handle parent, uint32_t flags) {
  kvt_abi_submission command{};
  command.op = op;
  command.flags = flags;
  command.page = page.value;
  command.key = {key.lo, key.hi};
  command.parent = parent.value;
  if (op == KVT_OP_FREE) {  // one handle of five
    command.key = {UINT64_MAX, UINT64_MAX};
    command.parent = UINT64_MAX;
    command.extra = UINT64_MAX;
  }
  return command;
}

/// The histograms of a column with three tiers and more, beside those of all its pages, made anew.
std::string inconsistent_densities(keeper::Arena& arena, uint32_t column) {
  const std::span<const policy::DensityHistogram> kept = arena.densities(column);
  if (kept.empty()) return {};
  std::vector<policy::DensityHistogram> made(kept.size(),
                                             policy::DensityHistogram(1 - 1.0 / policy::kSlowMemory));
  for (policy::DensityHistogram& densities : made) densities.advance(arena.period());
  for (uint64_t at = 0; at < arena.table().pages(); ++at) {
    const auto page = static_cast<PageIndex>(at);
    const Placement placement = arena.table().placement(column, page);
    if (placement.state() == PageState::kFree) continue;
    const policy::PageHeat& heat = arena.heat(column, page);
    made[placement.tier()].add(made[placement.tier()].stamp(heat.slow, heat.period));
  }
  for (size_t tier = 0; tier < kept.size(); ++tier) {
    const std::string name = "column " + std::to_string(column) + ", tier " + std::to_string(tier) + ": ";
    if (kept[tier].pages() != made[tier].pages())
      return name + std::to_string(kept[tier].pages()) + " pages have a density, " +
             std::to_string(made[tier].pages()) + " are there";
    const auto kept_bins = kept[tier].bins();
    const auto made_bins = made[tier].bins();
    for (size_t bin = 0; bin < kept_bins.size(); ++bin)
      if (kept_bins[bin].pages != made_bins[bin].pages)
        return name + std::to_string(kept_bins[bin].pages) + " pages of density " +
               std::to_string(made_bins[bin].least) + ", expected " + std::to_string(made_bins[bin].pages);
  }
  return {};
}

}  // namespace

keeper::ArenaSettings ArenaOptions::quiet_settings() {
  keeper::ArenaSettings settings;
  settings.policy = keeper::PolicyName::kOff;
  settings.cooldown_ms = 0;
  settings.move_bytes_per_second = 64ull << 30;
  return settings;
}

TestArena::TestArena(const ArenaOptions& options)
    : options_(options),
      arena_(must(keeper::Arena::create(0, memory_of(geometry_of(options), options.settings.integrity),
                                        options.settings))),
      mover_(must(mover::Mover::start(options.copy_workers))) {}

TestArena::~TestArena() = default;

namespace {

uint64_t word_of(Handle page, uint64_t at) {
  return (uint64_t{page.index()} + 1) * 0x9e3779b97f4a7c15ull + at;
}

}  // namespace

void TestArena::fill(Handle page) {
  std::byte* const data = frame_data(placement(page).frame());
  for (uint64_t at = 0; at < options_.page_bytes; at += sizeof(uint64_t)) {
    const uint64_t word = word_of(page, at);
    std::memcpy(data + at, &word, sizeof word);
  }
}

bool TestArena::is_intact(Handle page, Frame frame) {
  const std::byte* const data = frame_data(frame);
  for (uint64_t at = 0; at < options_.page_bytes; at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, data + at, sizeof word);
    if (word != word_of(page, at)) return false;
  }
  return true;
}

std::unique_ptr<TestSession> TestArena::attach(uint32_t column, bool read_write, uint64_t guarantee,
                                               uint32_t members_max) {
  keeper::SessionState* const state =
      must(arena_->add_session(next_session_++, column, members_max, read_write, guarantee));
  const uint32_t member = must(arena_->add_member(*state, 0));
  auto session = std::make_unique<TestSession>(*state, member, table().pages());
  pass();
  return session;
}

keeper::Adoption TestArena::restart(const std::vector<TestSession*>& sessions) {
  return must(try_restart(sessions));
}

Result<keeper::Adoption> TestArena::try_restart(const std::vector<TestSession*>& sessions) {
  const auto duplicate = [](const Fd& fd) { return Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)); };
  const keeper::ArenaMemory& before = arena_->memory();
  keeper::ArenaMemory memory;
  memory.table_fd = duplicate(before.table_fd);
  KVT_TRY_ASSIGN(memory.table_mapping,
                 Mapping::map(memory.table_fd, before.table_mapping.bytes(), Access::kReadWrite));
  KVT_TRY_ASSIGN(const ArenaWriter table,
                 ArenaWriter::adopt(memory.table_mapping.data(), memory.table_mapping.bytes()));
  if (table.tiers() != before.window_fds.size()) return fail(Code::kMismatch, "the table has other tiers");
  for (uint32_t tier = 0; tier < table.tiers(); ++tier) {
    KVT_TRY_ASSIGN(const uint64_t bytes, file_bytes(before.window_fds[tier]));
    if (bytes != table.tier(tier).window_bytes) return fail(Code::kMismatch, "a window has other bytes");
  }
  KVT_TRY_ASSIGN(memory.range, AddressRange::reserve(table.range_bytes(), kWindowAlignment));
  for (uint32_t tier = 0; tier < table.tiers(); ++tier) {
    memory.window_fds.push_back(duplicate(before.window_fds[tier]));
    KVT_TRY_ASSIGN(Mapping window, memory.range.map(memory.window_fds.back(), table.tier(tier).window_bytes,
                                                    Access::kReadWrite, table.window_offset(tier)));
    memory.windows.push_back(std::move(window));
  }
  if (before.sums_fd.valid()) {
    memory.sums_fd = duplicate(before.sums_fd);
    KVT_TRY_ASSIGN(memory.sums, Mapping::map(memory.sums_fd, before.sums.bytes(), Access::kReadWrite));
  }
  std::vector<keeper::SessionRecord> records;
  for (TestSession* const session : sessions) {
    const keeper::SessionState& state = session->state();
    keeper::SessionRecord record;
    record.geometry = state.geometry;
    record.read_write = state.read_write;
    record.guarantee = state.guarantee;
    record.region_fd = duplicate(state.region_fd);
    for (uint32_t i = 0; i < state.geometry.members_max; ++i)
      record.pids[i] = state.members[i].joined ? 1 : 0;
    records.push_back(std::move(record));
  }
  mover_.reset();  // what it was copying is copied, and nobody takes it
  keeper::Adoption adoption;
  KVT_TRY_ASSIGN(auto next, keeper::Arena::adopt(0, std::move(memory), options_.settings, records, adoption));
  arena_ = std::move(next);
  mover_ = must(mover::Mover::start(options_.copy_workers));
  for (TestSession* const session : sessions) {
    keeper::SessionState* const state = arena_->find_session(session->id());
    if (state == nullptr) continue;
    for (auto& member : state->members) member.orphan = member.broken;  // it has resumed
    session->follow(*state);
  }
  return adoption;
}

void TestArena::end(TestSession& session) { arena_->end_session(session.state()); }

void TestArena::pass() { arena_->pass(*mover_, false, 0); }

void TestArena::period() { arena_->pass(*mover_, true, 0.01); }

std::vector<mover::Job> TestArena::finish_copies(size_t count) {
  std::vector<mover::Job> done;
  while (done.size() < count) {
    pollfd ready{mover_->completion_fd().get(), POLLIN, 0};
    if (::poll(&ready, 1, 30'000) == 0) must<int>(fail(Code::kAgain, "a copy has not been done after 30 s"));
    for (const mover::Job& job : mover_->take_completions()) done.push_back(job);
  }
  return done;
}

size_t TestArena::commit_done() {
  const auto jobs = mover_->take_completions();
  for (const mover::Job& job : jobs) arena_->commit(job);
  return jobs.size();
}

void TestArena::period_and_copies() {
  period();
  for (const mover::Job& job : finish_copies(arena_->counts().copies)) arena_->commit(job);
  pass();
}

void TestArena::settle() {
  for (int i = 0; i < 8; ++i) {
    for (const mover::Job& job : finish_copies(arena_->counts().copies)) arena_->commit(job);
    pass();
  }
}

std::string TestArena::inconsistency() {
  const auto page_text = [](uint64_t page) { return "page " + std::to_string(page) + ": "; };
  const keeper::ArenaReport report = arena_->report();
  if (report.accounted != report.frames)
    return std::to_string(report.accounted) + " of " + std::to_string(report.frames) +
           " frames are accounted for";
  const keeper::ArenaCounts counts = arena_->counts();
  const auto same = [&](const char* what, uint64_t counted, uint64_t found) {
    return counted == found ? std::string()
                            : std::to_string(counted) + " pages are counted as " + what + ", the rows say " +
                                  std::to_string(found);
  };
  for (const std::string& wrong :
       {same("free", counts.free, report.free), same("filling", counts.filling, report.filling),
        same("sealed", counts.sealed, report.sealed), same("evicting", counts.evicting, report.evicting),
        same("retired", counts.retired, report.retired), same("keyed", counts.keyed, report.keyed),
        same("having a shadow", counts.shadows, report.shadows),
        same("pinned", counts.pinned, report.pinned)})
    if (!wrong.empty()) return wrong;
  for (const auto& tier : report.tiers)
    if (tier.counts.free + tier.counts.reserved + tier.counts.named + tier.counts.limbo +
            tier.counts.retired + tier.counts.aside !=
        tier.frames)
      return "the counts of a tier do not add up";
  if (report.limbo != load_relaxed(table().counters().limbo_frames)) {
    // Frames that wait for a copy to end are in limbo and no longer in the queue: never fewer than published.
    if (report.limbo < load_relaxed(table().counters().limbo_frames))
      return "more limbo published than there is";
  }
  const PrefixIndex index(table());
  std::vector<uint32_t> user(table().header().frames, UINT32_MAX);
  uint64_t keyed = 0;
  uint64_t offers = 0;
  for (uint64_t at = 0; at < table().pages(); ++at) {
    const auto page = static_cast<PageIndex>(at);
    const Placement first = table().placement(0, page);
    for (uint32_t column = 0; column < table().columns(); ++column) {
      const Placement placement = table().placement(column, page);
      const Shadow shadow = table().shadow(column, page);
      if (placement.state() != first.state() || placement.keyed() != first.keyed() ||
          placement.generation() != first.generation())
        return page_text(at) + "the columns disagree";
      if (placement.state() == PageState::kEvicting) return page_text(at) + "left in EVICTING";
      if (placement.state() == PageState::kFree) {
        if (shadow.valid() || table().offer(column, page).valid() || placement.frame() != 0 ||
            placement.keyed())
          return page_text(at) + "FREE, but its row is not empty";
        continue;
      }
      const auto check_frame = [&](Frame frame, uint32_t tier) -> std::string {
        if (frame == kScratchFrame) return page_text(at) + "lies in the scratch frame";
        if (table().tier_of_frame(frame) != tier)
          return page_text(at) + "frame " + std::to_string(frame) + " is not of tier " + std::to_string(tier);
        if (table().tier(tier).column >= 0 && table().tier(tier).column != static_cast<int32_t>(column))
          return page_text(at) + "lies in another column's tier";
        if (user[frame] != UINT32_MAX && user[frame] != page)
          return page_text(at) + "shares frame " + std::to_string(frame);
        user[frame] = page;
        return {};
      };
      if (auto wrong = check_frame(placement.frame(), placement.tier()); !wrong.empty()) return wrong;
      if (const Offer offer = table().offer(column, page); offer.valid()) {
        ++offers;
        if (auto wrong = check_frame(offer.frame(), *table().tier_of_frame(offer.frame())); !wrong.empty())
          return wrong;
        if (placement.state() != PageState::kSealed || offer.generation() != placement.generation())
          return page_text(at) + "an offer of another generation";
        if (offer.frame() == placement.frame() || (shadow.valid() && offer.frame() == shadow.frame()))
          return page_text(at) + "offered a frame that it has";
        if (table().offer_serial(column, page) == 0) return page_text(at) + "an offer without a serial";
        if (!arena_->is_offered(page)) return page_text(at) + "an offer that the keeper has no record of";
      }
      if (!shadow.valid()) continue;
      if (auto wrong = check_frame(shadow.frame(), shadow.tier()); !wrong.empty()) return wrong;
      if (shadow.generation() != placement.generation())
        return page_text(at) + "a shadow of another generation";
      if (shadow.frame() == placement.frame()) return page_text(at) + "placement and shadow name one frame";
      if (shadow.tier() <= placement.tier())
        return page_text(at) + "the shadow is not slower than the placement";
      if (placement.state() != PageState::kSealed)
        return page_text(at) + "a shadow of a page that is not sealed";
    }
    if (!first.keyed()) continue;
    ++keyed;
    if (first.state() != PageState::kSealed) return page_text(at) + "keyed, but not sealed";
    const Key key = table().key(page);
    if (key.none()) return page_text(at) + "keyed without a key";
    if (options_.settings.inject != keeper::Inject::kLostPublish &&
        !index.find(PrefixIndex::hash(key), [&](PageIndex found, uint32_t generation) {
          return found == page && generation == first.generation();
        }))
      return page_text(at) + "keyed, but not in the index";
  }
  for (uint32_t column = 0; column < table().columns(); ++column) {
    if (auto wrong = inconsistent_densities(*arena_, column); !wrong.empty()) return wrong;
  }
  if (keyed != report.keyed) return "the report counts other keyed pages";
  if (offers != report.offers.out)
    return std::to_string(report.offers.out) + " offers are counted, the rows have " + std::to_string(offers);
  if (report.offers.made !=
      report.offers.out + report.offers.taken + report.offers.lapsed + report.offers.withdrawn)
    return "the counts of offers do not add up";
  return {};
}

void spoil(std::byte* data, uint64_t bytes) {
  const Fd empty(::memfd_create("spoiled", MFD_CLOEXEC));
  KVT_CHECK(::mmap(data, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, empty.get(), 0) !=
            MAP_FAILED);
}

TestSession::TestSession(keeper::SessionState& state, uint32_t member, uint64_t pages)
    : state_(&state),
      id_(state.geometry.session_id),
      pages_(pages),
      region_(state.region),
      member_(&state.region.member(member)),
      submissions_(*member_),
      completions_(*member_) {
  member_index_ = member;
}

void TestSession::follow(keeper::SessionState& state) {
  state_ = &state;
  region_ = state.region;
  member_ = &region_.member(member_index_);
  submissions_ = SubmissionWriter(*member_);
  completions_ = CompletionReader(*member_);
}

uint64_t TestSession::free_count() const {
  const uint64_t allowance = load_acquire(region_.header().allowance.value);
  const uint64_t head = load_acquire(region_.header().magazine_head.value);
  return allowance > head ? allowance - head : 0;
}

uint64_t TestSession::submit(uint32_t op, Handle page, Key key, Handle parent, uint32_t flags) {
  return submit(command_of(op, page, key, parent, flags));
}

uint64_t TestSession::submit(kvt_abi_submission command) {
  command.tag = next_tag_;
  return submissions_.try_push(command) ? next_tag_++ : 0;
}

kvt_abi_submission TestSession::report_of(Handle page, Frame frame, uint64_t serial) {
  kvt_abi_submission command{};
  command.op = KVT_OP_OFFER_DONE;
  command.page = page.value;
  command.parent = frame;
  command.extra = serial;
  return command;
}

bool TestSession::hold(const ArenaTable& table, Handle page) {
  if (hold_add(region_, page.index()) != HoldAdd::kAdded) return false;
  full_fence();
  const Placement now = table.placement(state_->geometry.column, page.index());
  if (now.generation() == page.generation() && now.state() == PageState::kSealed) return true;
  hold_drop(region_, page.index());
  return false;
}

Handle TestSession::lookup(const ArenaTable& table, Key key, bool keep_hold) {
  const PrefixIndex index(table);
  Handle found = kNoHandle;
  index.find(PrefixIndex::hash(key), [&](PageIndex page, uint32_t generation) {
    if (page >= pages_) return false;
    const Handle candidate = Handle::of(page, generation);
    if (!hold(table, candidate)) return false;
    if (table.placement(state_->geometry.column, page).keyed() && table.key(page) == key) found = candidate;
    if (found.none() || !keep_hold) hold_drop(region_, page);
    return !found.none();
  });
  return found;
}

kvt_abi_completion TestSession::ask(TestArena& arena, uint32_t op, Handle page, Key key, Handle parent,
                                    uint32_t flags) {
  return ask(arena, command_of(op, page, key, parent, flags));
}

kvt_abi_completion TestSession::ask(TestArena& arena, const kvt_abi_submission& command) {
  const uint64_t tag = submit(command);
  KVT_CHECK(tag != 0);
  arena.pass();
  for (;;) {
    const auto answer = completion();
    KVT_CHECK(answer.has_value());
    if (answer->tag == tag) return *answer;
  }
}

Handle TestSession::allocate(TestArena& arena) {
  for (int tries = 0; tries < 4; ++tries) {
    if (const Handle page = pop(); !page.none()) return page;
    ask(arena, KVT_OP_FLUSH, Handle{0});
  }
  return kNoHandle;
}

Handle TestSession::publish_new(TestArena& arena, Key key, Handle parent) {
  const Handle page = allocate(arena);
  if (page.none()) return page;
  std::memcpy(arena.frame_data(arena.placement(page, state_->geometry.column).frame()), &key, sizeof key);
  const kvt_abi_completion answer = ask(arena, KVT_OP_PUBLISH, page, key, parent);
  KVT_CHECK(answer.result == KVT_RESULT_OK);
  return page;
}

void TestSession::let_go(TestArena& arena, Handle page) {
  const bool keyed = arena.placement(page).keyed();
  if (release(page) == HoldDrop::kLast && !keyed) ask(arena, KVT_OP_FREE, page);
}

}  // namespace kvt::test
