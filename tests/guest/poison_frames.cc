// SPDX-License-Identifier: Apache-2.0
//
// Publishes pages, lets the kernel take the memory under some of them for bad, and waits until the daemon has met it: a
// poisoned page is gone, or is read from elsewhere, and every other page has its words.
//   poison_frames PAGES BAD
// The daemon is that of KVTIER_SOCKET_DIR; it has to copy pages, or to check them. Needs CAP_SYS_ADMIN.
// Exit codes: 0, 1 something is wrong, 2 wrong use.
#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "tests/support/client.h"

namespace kvt::test {
namespace {

constexpr int kExitWrong = 1;
constexpr int kExitUsage = 2;

/// One OS page of the frame in which the page lies now. Nobody is told: who touches it next is.
bool poison(kvt_session* session, kvt_page page) {
  kvt_step step{};
  if (kvt_step_begin(session, &step) != KVT_OK) return false;
  const void* address = nullptr;
  bool done = kvt_resolve_addresses(session, &step, &page, 1, &address) == 1;
  if (done && ::madvise(const_cast<void*>(address), 4096, MADV_HWPOISON) != 0) {
    fmt::print("madvise: {}\n", std::strerror(errno));
    done = false;
  }
  kvt_step_end(session, &step);
  return done;
}

int run(size_t count, size_t bad) {
  const char* const folder = std::getenv("KVTIER_SOCKET_DIR");
  if (folder == nullptr) return kExitUsage;
  const std::string socket_dir = folder;
  const Client client(attach_args(socket_dir));
  if (client.code() != KVT_OK) {
    fmt::print("cannot attach: {}\n", kvt_last_error());
    return kExitWrong;
  }
  const uint64_t page_bytes = client.geometry().page_bytes;
  std::vector<kvt_page> pages;
  for (size_t i = 0; i < count; ++i) {
    pages.push_back(publish_page(client, key_of(i), page_bytes));
    if (pages.back() == KVT_NO_PAGE) return kExitWrong;
  }
  for (size_t i = 0; i < bad; ++i)
    if (!poison(client, pages[i])) return kExitWrong;
  kvt_release(client, pages.data(), pages.size(), nullptr);

  // The poisoned ones are not read here: that would be this process's end.
  const auto is_there = [&](size_t i) {
    kvt_page page = KVT_NO_PAGE;
    const kvt_key key = key_of(i);
    if (kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page) != 1) return KVT_NO_PAGE;
    return page;
  };
  size_t gone = 0;
  if (!eventually([&] {
        gone = 0;
        for (size_t i = 0; i < bad; ++i) {
          kvt_page page = is_there(i);
          gone += page == KVT_NO_PAGE ? 1 : 0;
          if (page != KVT_NO_PAGE) kvt_release(client, &page, 1, nullptr);
        }
        return gone != 0;
      })) {
    fmt::print("WRONG: the daemon has not met bad memory\n");
    return kExitWrong;
  }
  size_t right = 0;
  for (size_t i = bad; i < count; ++i) {
    kvt_page page = is_there(i);
    if (page == KVT_NO_PAGE || verify_page(client, page, key_of(i), page_bytes) != 0) {
      fmt::print("WRONG: page {} is lost or has other words\n", i);
      return kExitWrong;
    }
    kvt_release(client, &page, 1, nullptr);
    ++right;
  }
  fmt::print("{} pages on bad memory, {} of them are gone; all {} others have their words\n", bad, gone,
             right);
  return 0;
}

}  // namespace
}  // namespace kvt::test

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print("usage: poison_frames PAGES BAD\n");
    return kvt::test::kExitUsage;
  }
  return kvt::test::run(std::strtoul(argv[1], nullptr, 10), std::strtoul(argv[2], nullptr, 10));
}
