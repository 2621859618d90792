/* SPDX-License-Identifier: Apache-2.0
 *
 * Every limit of the shared-memory contract, in one place. Constants only; C11 and C++.
 * Each has a test in tests/unit/shm/abi/limits_test.cc or in tests/integration that reaches it.
 */
#ifndef KVT_SHM_ABI_LIMITS_H
#define KVT_SHM_ABI_LIMITS_H

/* Tiers of an arena: 4 bits of a placement word; 8 keeps the header small and is more than any host has. */
#define KVT_MAX_TIERS 8u
/* Consumers with a placement of their own: the GPUs of the largest NVLink node. */
#define KVT_MAX_COLUMNS 8u
/* Pages of an arena: what 112 bytes a page still allow on a host (28 GiB of rows). */
#define KVT_MAX_PAGES (1u << 28)
/* Frame numbers are int32 block ids in every paged-attention kernel; 31 bits of a word. */
#define KVT_MAX_FRAMES 0x7fffffffu
/* Bytes of a page: below 16 KiB the cost of a row shows, above 64 MiB a single move takes too long. */
#define KVT_MIN_PAGE_BYTES 16384u
#define KVT_MAX_PAGE_BYTES (64u << 20)
/* Page sizes are multiples of this: the alignment of vector loads and of DMA descriptors. */
#define KVT_PAGE_BYTES_STEP 512u
/* Live sessions of one arena: 8 bits of an offer word, 0 means none. */
#define KVT_MAX_SESSIONS 128u
/* Processes of one session: a scheduler and its ranks. */
#define KVT_MAX_MEMBERS 16u
/* Open steps of one member; one cache line each, one OS page together. */
#define KVT_STEP_SLOTS 64u
/* Counts of steps by how long they took: four for each power of two ns from 2^10 to 2^33, and one before them. */
#define KVT_STEP_TIMES 97u
/* Entries of each submission and completion ring. Power of two. */
#define KVT_RING_ENTRIES 1024u
/* Fresh pages that wait in a session region. Power of two. */
#define KVT_MAGAZINE_ENTRIES 4096u
/* FILLING pages that a member keeps for itself after freeing them. */
#define KVT_STOCK_ENTRIES 511u
/* Registered sequences of a member, and page indices in all of them together. */
#define KVT_SEQUENCES 1024u
#define KVT_SEQUENCE_POOL 65536u
/* Pages for each bit of a summary bitmap. */
#define KVT_SUMMARY_PAGES 64u
/* Entries of the change log. Power of two; the entry keeps 24 bits of its position. */
#define KVT_LOG_ENTRIES 65536u
/* Slots of the prefix index that a lookup looks at before it calls a miss. Lookups end at an empty slot, after two or
 * three; the longest run of 2^31 slots filled to 3/4 is shorter than this but for one arena in millions. */
#define KVT_INDEX_PROBES 1024u
/* Generations are 24 bits; the last one retires an index (PROTOCOL C4). */
#define KVT_MAX_GENERATION 0xffffffu
/* Holds of one session on one page; saturates below 2^16 so that racing adds cannot wrap. */
#define KVT_MAX_HOLDS 65000u
/* What one session can add to one page's reads in one period (heat is statistics, but no weapon). */
#define KVT_MAX_READS_PERIOD 4096u
/* Names of arenas, with the final 0. */
#define KVT_ARENA_NAME_BYTES 64u
#define KVT_TIER_NAME_BYTES 24u
#define KVT_FINGERPRINT_BYTES 32u
#define KVT_SESSION_TOKEN_BYTES 16u
/* What names a GPU on every host and in every process. */
#define KVT_DEVICE_UUID_BYTES 16u
/* Descriptors behind one window of device memory. */
#define KVT_WINDOW_CHUNKS 16u
/* A message on attach.sock, and descriptors with it: table, session, doorbell, and all windows in chunks. */
#define KVT_WIRE_MAX_BYTES 1024u
#define KVT_WIRE_MAX_FDS (3u + KVT_MAX_TIERS * KVT_WINDOW_CHUNKS)
/* Connections of attach.sock and of control.sock. */
#define KVT_MAX_CONNECTIONS 2048u
#define KVT_MAX_CONTROL_CONNECTIONS 32u
/* Arenas of a host. */
#define KVT_MAX_ARENAS 64u

#endif
