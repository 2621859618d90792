// SPDX-License-Identifier: Apache-2.0
//
// kvtier.hpp as a C++17 program sees it: every member is instantiated and links.
#include <cstdio>
#include <kvtier/kvtier.hpp>
#include <type_traits>

static_assert(!std::is_copy_constructible_v<kvt::Session>, "a session has one owner");
static_assert(std::is_nothrow_move_constructible_v<kvt::Session> &&
              std::is_nothrow_move_assignable_v<kvt::Session>);
static_assert(!std::is_copy_constructible_v<kvt::Step> && !std::is_move_constructible_v<kvt::Step>);
static_assert(!std::is_copy_constructible_v<kvt::Hold>, "a hold is given back once");
static_assert(std::is_nothrow_move_constructible_v<kvt::Hold> &&
              std::is_nothrow_move_assignable_v<kvt::Hold>);

namespace {

/// What an engine does with it; compiled and linked, never run.
void use(const kvt_attach_args& args) {
  kvt::Session session = kvt::Session::attach(args);
  uint8_t token[KVT_TOKEN_BYTES];
  kvt::check(kvt_token(session.get(), token));
  kvt::Session member = kvt::Session::join(args, token);
  member = std::move(session);
  kvt::Hold pages = member.allocate(member.geometry().pages);
  std::vector<kvt_publish_entry> entries;
  for (const kvt_page page : pages) {
    *static_cast<uint64_t*>(member.data(page)) = page;
    entries.push_back({page, {page, 1}, KVT_NO_PAGE, 0, 0, KVT_NO_PAGE});
  }
  member.publish(entries);
  pages.append(member.hold_prefix({kvt_key{1, 2}}));
  {
    kvt::Step step(member);
    uint64_t cursor = step.changes_begin();
    kvt_change change{};
    std::printf("%zu %zu %u\n", step.resolve(pages.pages()).size(),
                step.changes(cursor, &change, 1).value_or(0), step.get()->slot);
    member.touch(pages.pages());
    pages.release(step.get());
    step.end();
  }
  kvt::Hold other(member.get(), pages.take());
  pages = std::move(other);
  std::printf("%zu %d %d\n", pages.size(), pages.empty() ? 1 : 0, static_cast<int>(pages[0]));
}

}  // namespace

int main(int argc, char**) {
  // Without a daemon: the error is an exception that carries the code and the words.
  kvt_attach_args args{};
  args.socket_dir = "/nonexistent";
  try {
    if (argc > 1) use(args);
    const kvt::Session session = kvt::Session::attach(args);
  } catch (const kvt::Exception& error) {
    std::printf("%d %s\n", error.code(), error.what());
    return error.code() == KVT_E_AGAIN && error.what()[0] != '\0' ? 0 : 1;
  }
  return 1;
}
