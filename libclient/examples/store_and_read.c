/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a few KV blocks in C: write and publish them, then find them by their keys, as any process of this host
 * can, and read them inside a step.
 *
 *   cc -std=c11 store_and_read.c $(pkg-config --cflags --libs kvtier) -o store_and_read
 *
 * Needs a running kvtierd; KVTIER_SOCKET_DIR names its folder where that is not /run/kvtier.
 */
#include <kvtier/kvtier.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { kBlocks = 4 };

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, kvt_last_error());
    return 1;
}

/* Writes each block and publishes it under its key. */
static int store(kvt_session *session, const kvt_geometry *arena, const kvt_key *keys) {
    kvt_page pages[kBlocks];
    for (int have = 0; have < kBlocks;) { /* it may give fewer than asked for */
        const int got = kvt_allocate(session, pages + have, (size_t)(kBlocks - have));
        if (got < 0) {
            kvt_release(session, pages, (size_t)have, NULL);
            return fail("allocate");
        }
        have += got;
    }
    kvt_publish_entry entries[kBlocks];
    for (int i = 0; i < kBlocks; ++i) {
        void *const bytes = kvt_page_data(session, pages[i]);
        if (bytes == NULL) return fail("page data");
        memset(bytes, 'a' + i, arena->page_bytes);
        /* The block before as parent: a chain is evicted from its end. */
        entries[i] = (kvt_publish_entry){.page = pages[i], .key = keys[i], .parent = i == 0 ? KVT_NO_PAGE : pages[i - 1]};
    }
    if (kvt_publish(session, entries, kBlocks) != kBlocks) return fail("publish");
    for (int i = 0; i < kBlocks; ++i) {
        if (entries[i].result < 0) return fail("publish a block");
        if (entries[i].result == KVT_PRESENT) printf("block %d was there already\n", i);
    }
    /* They stay for others, until room is needed. */
    return kvt_release(session, pages, kBlocks, NULL) == KVT_OK ? 0 : fail("release");
}

/* Finds the blocks by their keys, and reads each where it is now. */
static int read_back(kvt_session *session, const kvt_geometry *arena, const kvt_key *keys) {
    kvt_page pages[kBlocks];
    const int found = kvt_lookup(session, keys, kBlocks, KVT_LOOKUP_HOLD | KVT_LOOKUP_CHAIN, pages);
    if (found < 0) return fail("lookup");
    kvt_step step;
    kvt_frame frames[kBlocks];
    if (kvt_step_begin(session, &step) != KVT_OK) return fail("begin a step");
    int wrong = kvt_resolve(session, &step, pages, (size_t)found, frames) != found;
    for (int i = 0; i < found && !wrong; ++i) {
        const char *const bytes = (const char *)arena->base + (uint64_t)frames[i] * arena->stride;
        for (uint64_t at = 0; at < arena->page_bytes; ++at) wrong |= bytes[at] != 'a' + i;
        printf("block %d: page %u, frame %u\n", i, KVT_PAGE_INDEX(pages[i]), frames[i]);
    }
    kvt_touch(session, pages, (size_t)found); /* what is read often moves to faster memory */
    kvt_step_end(session, &step);             /* from here on the frames say nothing any more */
    if (kvt_release(session, pages, (size_t)found, NULL) != KVT_OK) return fail("release");
    printf("%d of %d blocks found%s\n", found, kBlocks, wrong ? ", and not what was written" : "");
    return found == kBlocks && !wrong ? 0 : 1;
}

int main(void) {
    kvt_attach_args args = {.size = sizeof args, .arena = "default"};
    kvt_session *session = NULL;
    if (kvt_attach(&args, &session) != KVT_OK) return fail("attach");
    kvt_geometry arena = {.size = sizeof arena};
    kvt_get_geometry(session, &arena);
    printf("arena of %llu pages of %llu bytes\n", (unsigned long long)arena.pages, (unsigned long long)arena.page_bytes);

    /* An engine's keys are hashes of all tokens up to the end of the block. These are new in each run. */
    kvt_key keys[kBlocks];
    for (int i = 0; i < kBlocks; ++i) keys[i] = (kvt_key){.lo = (uint64_t)i + 1, .hi = (uint64_t)time(NULL)};
    int code = store(session, &arena, keys);
    if (code == 0) code = read_back(session, &arena, keys);
    kvt_detach(session);
    return code;
}
