/* SPDX-License-Identifier: Apache-2.0
 *
 * The native example of docs/integrate.md against a real kvtierd that moves pages at random: in every step the block
 * table must lead to the right bytes, and nowhere for a page that is gone.
 */
#include "integrate_native.inc"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kSlots = 24, kMoves = 200, kSecondsMax = 60 };

static kvt_geometry arena;
static uint64_t contents[kSlots]; /* the first and last word of each slot's page; 0: the page is gone */
static unsigned steps, from_changes;

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "native: %s; kvt_last_error: %s\n", what, kvt_last_error());
    exit(1);
}

/* What stands for the kernel: looks at the page of each slot where the block table says that it is. */
static void look(const kvt_frame *frames, size_t n) {
    require(n == kSlots, "as many frames as slots");
    for (size_t slot = 0; slot < n; ++slot) {
        if (contents[slot] == 0) {
            require(frames[slot] == 0 || frames[slot] == KVT_NO_FRAME, "a page that is gone has no frame");
            continue;
        }
        require(frames[slot] != 0 && frames[slot] < arena.frames, "a page has a frame");
        const uint64_t *const words = (const uint64_t *)((const char *)arena.base + frames[slot] * arena.stride);
        require(words[0] == contents[slot] && words[arena.page_bytes / 8 - 1] == contents[slot], "a frame has another page's bytes");
    }
    ++steps;
}

static void publish(kvt_session *session, kvt_page page, uint64_t content) {
    uint64_t *const words = kvt_page_data(session, page);
    require(words != NULL, "page data");
    for (uint64_t i = 0; i < arena.page_bytes / 8; ++i) words[i] = content;
    kvt_publish_entry entry = {.page = page, .key = {.lo = content, .hi = 9}, .parent = KVT_NO_PAGE};
    require(kvt_publish(session, &entry, 1) == 1 && entry.result == KVT_PUBLISHED, "publish");
}

static uint64_t moves(kvt_session *session) {
    kvt_stats stats = {.size = sizeof stats};
    require(kvt_get_stats(session, &stats) == KVT_OK, "stats");
    return stats.moves_promoted + stats.moves_demoted_copy + stats.moves_demoted_free;
}

/* Frees slot 0's page, and publishes another under its index: the change log then says where that one is. */
static void free_and_reuse(kvt_session *session, const kvt_page *page) {
    require(kvt_unpublish(session, *page) == KVT_OK && kvt_release(session, page, 1, NULL) == KVT_OK, "free a page");
    require(kvt_flush(session) == KVT_OK, "flush");
    contents[0] = 0;
    kvt_page *const fresh = malloc(arena.pages * sizeof *fresh);
    require(fresh != NULL, "memory");
    size_t n = 0;
    do {
        require(n < arena.pages && kvt_allocate(session, &fresh[n], 1) == 1, "the index does not come back");
    } while (KVT_PAGE_INDEX(fresh[n++]) != KVT_PAGE_INDEX(*page));
    require(fresh[n - 1] != *page, "another generation");
    publish(session, fresh[n - 1], 999);
    require(n == 1 || kvt_release(session, fresh, n - 1, NULL) == KVT_OK, "give the others back");
    free(fresh);
}

int main(void) {
    kvt_attach_args args = {.size = sizeof args, .timeout_ms = 10000};
    kvt_session *session = NULL;
    require(kvt_attach(&args, &session) == KVT_OK, "attach");
    arena.size = sizeof arena;
    require(kvt_get_geometry(session, &arena) == KVT_OK, "geometry");

    kvt_page pages[kSlots];
    kvt_frame frames[kSlots];
    struct table table = {.pages = pages, .frames = frames, .slots = kSlots};
    table.slot_of_index = malloc(arena.pages * sizeof *table.slot_of_index);
    require(table.slot_of_index != NULL, "memory");
    for (uint64_t index = 0; index < arena.pages; ++index) table.slot_of_index[index] = UINT32_MAX;
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
        contents[slot] = 100 + slot;
        require(kvt_allocate(session, &pages[slot], 1) == 1, "allocate");
        publish(session, pages[slot], contents[slot]);
        table.slot_of_index[KVT_PAGE_INDEX(pages[slot])] = slot;
    }

    const uint64_t first = moves(session);
    const time_t end = time(NULL) + kSecondsMax;
    while (moves(session) < first + kMoves) {
        require(time(NULL) < end, "the daemon moves no pages");
        const uint64_t cursor = table.cursor;
        const int was_valid = table.valid;
        require(decode_step(session, &table, look) == KVT_OK, "a step");
        if (steps == 3) free_and_reuse(session, &pages[0]);
        from_changes += was_valid && table.valid && table.cursor != cursor;
    }
    require(from_changes != 0, "no step has learnt a place from the change log");
    kvt_release(session, pages + 1, kSlots - 1, NULL);
    kvt_detach(session);
    free(table.slot_of_index);
    printf("native: %u steps, %u of them with changes\n", steps, from_changes);
    return 0;
}
