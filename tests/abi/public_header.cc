// SPDX-License-Identifier: Apache-2.0
//
// kvtier.hpp and cuda.hpp as a C++17 program sees it: every member is instantiated and links.
#include <cstdio>
#include <kvtier/cuda.hpp>
#include <kvtier/kvtier.hpp>
#include <type_traits>

static_assert(!std::is_copy_constructible_v<kvt::Session>, "a session has one owner");
static_assert(std::is_nothrow_move_constructible_v<kvt::Session> &&
              std::is_nothrow_move_assignable_v<kvt::Session>);
static_assert(!std::is_copy_constructible_v<kvt::Step> && !std::is_move_constructible_v<kvt::Step>);
static_assert(!std::is_copy_constructible_v<kvt::CudaStep> && !std::is_move_constructible_v<kvt::CudaStep>);
static_assert(!std::is_copy_constructible_v<kvt::CudaMap> && !std::is_copy_constructible_v<kvt::CudaTouches>);
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

/// The same with a GPU.
void use_gpu(const kvt::Session& session, kvt_cuda_stream stream, const std::vector<kvt_page>& pages) {
  const kvt::CudaMap map(session);
  const kvt::CudaTouches touches(session, 100);
  {
    kvt::CudaStep step(session, stream);
    const kvt::CudaStep::Targets found = step.resolve_targets(pages);
    step.drop_targets();
    touches.take(step);
    std::printf("%d %u %p %p %p\n", map.update(step, pages), found.targets[0], touches.counters(),
                static_cast<const void*>(map.frames()), static_cast<const void*>(step.get()));
    map.translate(nullptr, nullptr, 0, stream);
    step.end();
  }
  kvt::seal(session, pages, stream);
  kvt::copy(session, KVT_COPY_LOAD, {}, stream);
  std::printf("%d %d %d\n", kvt::poll(session), map.get() != nullptr ? 1 : 0, touches.get() != nullptr ? 1 : 0);
}

}  // namespace

int main(int argc, char**) {
  // Without a daemon: the error is an exception that carries the code and the words.
  kvt_attach_args args{};
  args.socket_dir = "/nonexistent";
  try {
    if (argc > 1) use(args);
    if (argc > 2) use_gpu(kvt::Session(), nullptr, {});
    const kvt::Session session = kvt::Session::attach(args);
  } catch (const kvt::Exception& error) {
    std::printf("%d %s\n", error.code(), error.what());
    return error.code() == KVT_E_AGAIN && error.what()[0] != '\0' ? 0 : 1;
  }
  return 1;
}
