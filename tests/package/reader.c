/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes pages, publishes and holds them, and reads every word of them again and again until a file says that it is
 * enough; by then it must have come back to another daemon, found each page by its key, and written one more there.
 *
 *   reader READY STOP     makes READY when the pages are published, ends when STOP is there
 * Exit: 0; 1 with a line that says what is wrong.
 */
#define _POSIX_C_SOURCE 200809L
#include <kvtier/kvtier.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { kPages = 100, kPauseMs = 5, kTriesMax = 2000 };

static kvt_page pages[kPages];
static kvt_geometry arena = {.size = sizeof arena};

static int fail(const char* what) {
  fprintf(stderr, "reader: %s: %s\n", what, kvt_last_error());
  return 1;
}
static void pause_ms(long ms) {
  const struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}
static kvt_key key_of(uint64_t i) { return (kvt_key){.lo = 0xace0 + i, .hi = 7}; }
static uint64_t word_of(uint64_t page, uint64_t word) { return page * 0x9e3779b97f4a7c15u + word; }

/* Writes page i and publishes it. While the daemon is away it tries again. */
static int write_page(kvt_session* session, uint64_t i, kvt_page* page) {
  int tries = 0;
  while (kvt_allocate(session, page, 1) != 1) {
    if (++tries == kTriesMax) return fail("allocate");
    pause_ms(kPauseMs);
  }
  uint64_t* const words = kvt_page_data(session, *page);
  if (words == NULL) return fail("page data");
  for (uint64_t w = 0; w < arena.page_bytes / 8; ++w) words[w] = word_of(i, w);
  for (tries = 0;;) {
    kvt_publish_entry entry = {.page = *page, .key = key_of(i), .parent = KVT_NO_PAGE};
    const int done = kvt_publish(session, &entry, 1);
    if (done == 1 && entry.result == KVT_PUBLISHED) return 0;
    if (done != KVT_E_AGAIN || ++tries == kTriesMax) return fail("publish");
    pause_ms(kPauseMs);
  }
}

/* Reads every word of each page, where it is now, and finds each by its key. */
static int read_pages(kvt_session* session) {
  kvt_step step;
  if (kvt_step_begin(session, &step) != KVT_OK) return fail("begin a step");
  const void* at[kPages];
  int wrong = kvt_resolve_addresses(session, &step, pages, kPages, at) != kPages;
  for (uint64_t i = 0; i < kPages && !wrong; ++i) {
    const uint64_t* const words = at[i];
    for (uint64_t w = 0; w < arena.page_bytes / 8 && !wrong; ++w) wrong = words[w] != word_of(i, w);
  }
  kvt_touch(session, pages, kPages);
  if (kvt_step_end(session, &step) != KVT_OK) return fail("end a step");
  if (wrong) return fail("a page is not there, or has other words");
  for (uint64_t i = 0; i < kPages; ++i) {
    const kvt_key key = key_of(i);
    kvt_page found;
    if (kvt_lookup(session, &key, 1, 0, &found) != 1 || found != pages[i])
      return fail("a page is not under its key");
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 3) return 1;
  kvt_attach_args args = {.size = sizeof args, .arena = "default"};
  kvt_session* session = NULL;
  if (kvt_attach(&args, &session) != KVT_OK) return fail("attach");
  kvt_get_geometry(session, &arena);
  for (uint64_t i = 0; i < kPages; ++i)
    if (write_page(session, i, &pages[i]) != 0) return 1;
  unsigned long reads = 0;
  while (access(argv[2], F_OK) != 0) {
    if (read_pages(session) != 0) return 1;
    if (reads++ == 0) fclose(fopen(argv[1], "w"));
    pause_ms(kPauseMs);
  }
  kvt_page more;
  if (write_page(session, kPages, &more) != 0 || read_pages(session) != 0) return 1;
  kvt_stats stats = {.size = sizeof stats};
  kvt_get_stats(session, &stats);
  printf("reader: %d pages read %lu times, came back to %lu other daemons\n", kPages, reads + 1,
         (unsigned long)stats.reconnects);
  kvt_detach(session);
  return stats.reconnects > 0 ? 0 : fail("there was no other daemon");
}
