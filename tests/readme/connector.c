/* SPDX-License-Identifier: Apache-2.0
 *
 * The connector example of docs/integrate.md against a real kvtierd: one session stores blocks, another loads them.
 */
#include "integrate_connector.inc"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kBlocks = 3, kStride = 4096 }; /* the engine's layers lie further apart than the page's */

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "connector: %s; kvt_last_error: %s\n", what, kvt_last_error());
    exit(1);
}

static char byte_of(size_t block, size_t layer, size_t at) { return (char)(1 + block * 101 + layer * 7 + at * 3); }

static kvt_session *attach(void) {
    kvt_attach_args args = {.size = sizeof args, .timeout_ms = 10000};
    kvt_session *session = NULL;
    require(kvt_attach(&args, &session) == KVT_OK, "attach");
    return session;
}

int main(void) {
    kvt_session *const writer = attach();
    kvt_geometry arena = {.size = sizeof arena};
    require(kvt_get_geometry(writer, &arena) == KVT_OK, "geometry");
    const uint64_t layer_bytes = arena.page_bytes / kLayers;
    require(layer_bytes != 0 && layer_bytes < kStride, "the test's page is too large");

    kvt_key keys[kBlocks + 1];
    char *blocks[kBlocks + 1];
    for (size_t b = 0; b <= kBlocks; ++b) {
        keys[b] = (kvt_key){.lo = 1000 + b, .hi = 7};
        blocks[b] = calloc(kLayers, kStride);
        require(blocks[b] != NULL, "memory");
        for (size_t layer = 0; layer < kLayers; ++layer)
            for (size_t at = 0; at < layer_bytes; ++at) blocks[b][layer * kStride + at] = byte_of(b, layer, at);
    }
    require(load_blocks(writer, keys, blocks, kBlocks, layer_bytes, kStride) == 0, "nothing is there yet");
    require(store_blocks(writer, keys, blocks, kBlocks, layer_bytes, kStride) == kBlocks, "store");
    require(store_blocks(writer, keys, blocks, kBlocks, layer_bytes, kStride) >= 0, "store what is there");

    kvt_session *const reader = attach();
    for (size_t b = 0; b <= kBlocks; ++b) memset(blocks[b], 0x5a, (size_t)kLayers * kStride);
    require(load_blocks(reader, keys, blocks, kBlocks + 1, layer_bytes, kStride) == kBlocks, "the longest prefix that is there");
    for (size_t b = 0; b <= kBlocks; ++b) {
        for (size_t layer = 0; layer < kLayers; ++layer) {
            for (size_t at = 0; at < kStride; ++at) {
                const char expected = b < kBlocks && at < layer_bytes ? byte_of(b, layer, at) : 0x5a;
                require(blocks[b][layer * kStride + at] == expected, "a byte is not what was stored");
            }
        }
        free(blocks[b]);
    }
    /* Nothing is held any more: neither function forgets a release. */
    kvt_session *const sessions[] = {writer, reader};
    for (size_t s = 0; s < 2; ++s) {
        for (uint32_t index = 0; index < arena.pages; ++index) {
            kvt_page_info info = {.size = sizeof info};
            require(kvt_get_page_info(sessions[s], index, &info) == KVT_OK && info.own_holds == 0, "a page is still held");
        }
    }
    kvt_detach(reader);
    kvt_detach(writer);
    puts("connector: stored and loaded");
    return 0;
}
