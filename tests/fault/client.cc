// SPDX-License-Identifier: Apache-2.0
//
// A client for tests in which the daemon's calls fail: writes, publishes, looks up and verifies pages until its stdin
// ends, and attaches again when its session has ended.
//   fault_client SOCKET_DIR
// Prints what its calls answered. Exit: 0; 1 wrong bytes, or an answer that a failing daemon must not cause.
#include "tests/support/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <deque>
#include <map>
#include <string>

#include "shm/base/socket.h"

namespace {

using namespace kvt::test;

std::map<int, uint64_t> answers;

/// Counts it. false: the session is of no use any more.
bool allowed(int code) {
  if (code >= 0) return true;
  ++answers[code];
  switch (code) {
    case KVT_E_AGAIN:
    case KVT_E_FULL:
    case KVT_E_SYSTEM: return true;
    case KVT_E_ENDED: return false;
    default: std::printf("WRONG: an answer of %d: %s\n", code, kvt_last_error()); std::exit(1);
  }
}

/// Of one session: then another one begins.
constexpr int kRounds = 8;

/// As an operator does; whether there was an answer.
bool asks_status(const std::string& folder) {
  const auto socket = kvt::connect_unix(folder + "/control.sock", SOCK_STREAM);
  if (!socket) return false;
  constexpr char kRequest[] = "{\"command\":\"status\"}\n";
  if (::send(socket->get(), kRequest, sizeof kRequest - 1, MSG_NOSIGNAL) < 0) return false;
  char answer[4096];
  pollfd input{socket->get(), POLLIN, 0};
  return ::poll(&input, 1, 100) == 1 && ::recv(socket->get(), answer, sizeof answer, 0) > 0;
}

bool told_to_end(int wait_ms) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return ::poll(&input, 1, wait_ms) != 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string folder = argv[1];
  uint64_t verified = 0;
  uint64_t published = 0;
  uint64_t sessions = 0;
  uint64_t operated = 0;
  uint64_t next = 0;
  while (!told_to_end(0)) {
    kvt_attach_args args = attach_args(folder);
    args.timeout_ms = 300;
    Client client(args);
    if (client.code() != KVT_OK) {
      (void)allowed(client.code());
      told_to_end(5);
      continue;
    }
    ++sessions;
    const uint64_t page_bytes = client.geometry().page_bytes;
    bool good = true;
    for (int round = 0; round < kRounds && good && !told_to_end(1); ++round) {
      operated += asks_status(folder) ? 1 : 0;
      for (int i = 0; i < 8 && good; ++i) {
        const kvt_key key = key_of(++next % 400);
        kvt_page page = KVT_NO_PAGE;
        const int got = kvt_allocate(client, &page, 1);
        good = allowed(got);
        if (got != 1) break;
        fill(kvt_page_data(client, page), page_bytes, key);
        const int result = publish_result(client, page, key);
        published += result == KVT_PUBLISHED ? 1 : 0;
        good = allowed(result) && allowed(kvt_release(client, &page, 1, nullptr));
      }
      for (int i = 0; i < 16 && good; ++i) {
        const kvt_key key = key_of(next * 7 % 400 + static_cast<uint64_t>(i));
        kvt_page page = KVT_NO_PAGE;
        const int found = kvt_lookup(client, &key, 1, KVT_LOOKUP_HOLD, &page);
        good = allowed(found);
        if (found != 1) continue;
        const uint64_t wrong = verify_page(client, page, key, page_bytes);
        if (wrong != 0 && wrong != UINT64_MAX) {
          std::printf("WRONG: %llu words of a page\n", static_cast<unsigned long long>(wrong));
          return 1;
        }
        verified += wrong == 0 ? 1 : 0;
        (void)kvt_touch(client, &page, 1);
        (void)kvt_release(client, &page, 1, nullptr);
      }
      const int flushed = kvt_flush(client);
      good = good && allowed(flushed);
      if (flushed == KVT_E_AGAIN) good = false;  // away: attach anew, as soon as somebody serves
    }
  }
  const auto print = [](const char* what, uint64_t count) {
    std::printf("%s %llu, ", what, static_cast<unsigned long long>(count));
  };
  print("sessions", sessions);
  print("published", published);
  print("verified", verified);
  std::printf("status %llu", static_cast<unsigned long long>(operated));
  for (const auto& [code, count] : answers)
    std::printf(", %llu times %d", static_cast<unsigned long long>(count), code);
  std::printf("\n");
  return 0;
}
