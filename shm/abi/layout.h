/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes that kvtierd and its clients share. Fixed-width integers only; C11 and C++. Only shm/region touches
 * these fields, through atomics.
 *
 *   arena table (daemon RW, clients RO)          session region (daemon RW, its session RW)
 *   +--------------------------------+           +--------------------------------+
 *   | arena_header: geometry, tiers  |           | session_header: offsets        |
 *   |   hot words: epoch, log_tail   |           | magazine of fresh pages        |
 *   | placement[column][page]  u64   |           | counters[page]     u32         |
 *   | shadow   [column][page]  u64   |           | touched bitmap     u64 words   |
 *   | offer    [column][page]  u64   |           | holds[page]        u16         |
 *   | serial   [column][page]  u64   |           | held bitmap        u64 words   |
 *   | key[page] 16  owner[page]  u64 |           | member blocks:                 |
 *   | parent[page]   u64             |           |   step slots, rings, stock,    |
 *   | group[page] u16                |           |   sequences                    |
 *   | heat[column][page] u8          |           +--------------------------------+
 *   | prefix index           u64     |
 *   | change log             u64     |           window (one for each tier): frames, page_bytes each
 *   +--------------------------------+
 *
 * Placement word (one for each column):      state machine; D = daemon does it, C = a client asks
 *   bits  0-1  state                             FREE --D (magazine)--> FILLING --C seal, D--> SEALED
 *   bit   2    keyed                             SEALED <--D--> EVICTING --D--> FREE, generation + 1
 *   bits  4-7  tier                              FILLING --C free / death, D--> FREE, generation + 1
 *   bits  8-38 frame
 *   bits 40-63 generation                    Who repairs what when its owner dies: FILLING: the daemon frees it
 * Shadow word:  bit 0 valid, tier, frame,    when the session ends. EVICTING: a restarted daemon makes it SEALED
 *   generation as above                      again. All else belongs to the daemon and is valid at every store.
 * Offer word:   bits 0-7 session slot + 1 (0: no offer), frame and generation as above
 *
 * A change of any size, offset or meaning raises KVT_ABI_MAJOR; a new field at an end raises KVT_ABI_MINOR.
 * tests/abi/layout.golden has every offset; its test names the version to raise.
 */
#ifndef KVT_SHM_ABI_LAYOUT_H
#define KVT_SHM_ABI_LAYOUT_H

#include <stdint.h>

#include "shm/abi/limits.h"

#ifdef __cplusplus
#define KVT_ABI_ASSERT(condition, text) static_assert(condition, text)
#else
#define KVT_ABI_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define KVT_ABI_MAJOR 1u
#define KVT_ABI_MINOR 7u

#define KVT_ARENA_MAGIC 0x414e455241545648ull   /* "HVTARENA" */
#define KVT_SESSION_MAGIC 0x4e4f495353455348ull /* "HSESSION" */

/* A reader refuses an incompat bit that it does not know, and ignores a compat bit. */
#define KVT_COMPAT_KNOWN 0ull
/* Of an arena: some of its windows are device memory, which a CPU cannot read and a grant may leave out. */
#define KVT_INCOMPAT_DEVICE_WINDOWS 1ull
#define KVT_INCOMPAT_KNOWN KVT_INCOMPAT_DEVICE_WINDOWS

/* Begins every region. Written once by the daemon before the descriptor leaves it; magic last. */
struct kvt_abi_region {
    uint64_t magic;
    uint16_t major;
    uint16_t minor;
    uint32_t header_bytes;
    uint64_t compat;
    uint64_t incompat;
    uint64_t region_bytes;
};

enum kvt_abi_state { KVT_FREE = 0, KVT_FILLING = 1, KVT_SEALED = 2, KVT_EVICTING = 3 };

#define KVT_WORD_STATE_MASK 0x3ull
#define KVT_WORD_KEYED 0x4ull
#define KVT_WORD_TIER_SHIFT 4
#define KVT_WORD_TIER_MASK 0xfull
#define KVT_WORD_FRAME_SHIFT 8
#define KVT_WORD_FRAME_MASK 0x7fffffffull
#define KVT_WORD_GENERATION_SHIFT 40
#define KVT_SHADOW_VALID 0x1ull
#define KVT_OFFER_SESSION_MASK 0xffull

#define KVT_TIER_EMULATED 0x1u
#define KVT_TIER_DEVICE 0x2u /* a GPU's memory: kvt_abi_device says whose */
#define KVT_TIER_HOST 0x4u   /* with KVT_TIER_DEVICE, minor 7: host memory that this GPU's driver has allocated */

/* One tier's window in the arena. Constant. */
struct kvt_abi_tier {
    char name[KVT_TIER_NAME_BYTES];
    uint64_t first_frame;
    uint64_t frames;       /* usable frames: first_frame .. first_frame+frames-1 */
    uint64_t window_bytes; /* of the memfd; frames*page_bytes rounded up */
    uint64_t read_bytes_per_second;
    uint64_t write_bytes_per_second;
    int32_t column; /* -1: serves every column */
    uint32_t flags;
};

/* What is behind a tier's window when it is device memory. Constant; all zero for a tier that is not. */
struct kvt_abi_device {
    uint8_t uuid[KVT_DEVICE_UUID_BYTES];
    uint64_t chunk_bytes; /* of memory behind one descriptor; of the last one what is left */
    uint64_t pad;
};

/* Published by the daemon for everybody; 64-bit counters that only grow. Read racily. */
struct kvt_abi_arena_counters {
    uint64_t promoted;
    uint64_t demoted_copy;
    uint64_t demoted_free;
    uint64_t aborted;
    uint64_t evicted;
    uint64_t published;
    uint64_t limbo_frames;
    uint64_t passes;
};

struct kvt_abi_arena_header {
    struct kvt_abi_region region;
    char name[KVT_ARENA_NAME_BYTES];
    uint8_t fingerprint[KVT_FINGERPRINT_BYTES]; /* all zero until a session sets it; checked on the socket */
    uint64_t arena_id;
    uint64_t page_bytes; /* also the stride of frames */
    uint64_t pages;
    uint64_t frames; /* frame numbers in the whole range, gaps included */
    uint32_t block_tokens;
    uint32_t planes;
    uint32_t columns;
    uint32_t tiers;
    /* byte offsets of the arrays from the start of the region */
    uint64_t placement_offset;
    uint64_t shadow_offset;
    uint64_t offer_offset;
    uint64_t serial_offset;
    uint64_t key_offset;
    uint64_t owner_offset;
    uint64_t parent_offset;
    uint64_t group_offset;
    uint64_t heat_offset;
    uint64_t index_offset;
    uint64_t index_slots; /* power of two */
    uint64_t log_offset;
    uint64_t log_entries;   /* power of two */
    uint64_t column_stride; /* words from one column's array to the next */
    struct kvt_abi_tier tier[KVT_MAX_TIERS];
    uint64_t pad0[11]; /* fills the cache line */

    /* written by the keeper loop alone; a cache line each where readers poll */
    uint64_t epoch; /* starts at 1, never reset (A2.3, A8); release after the log */
    uint64_t log_tail;
    /* 1 while the keeper sleeps without a timeout. Daemon: store 1, full fence, look for work once more.
     * Client: store its work, full fence, load; if 1, ring the doorbell. */
    uint32_t keeper_asleep;
    uint32_t closing; /* 1: the daemon is going down in order */
    /* Daemons that have had the arena before this one. A member that sees another number than before resumes. */
    uint64_t incarnation;
    uint64_t pad1[4];
    struct kvt_abi_arena_counters counters;

    struct kvt_abi_device device[KVT_MAX_TIERS]; /* constant */

    /* minor 4. Daemon: handle of the page that is being handed out or published now, in several stores; UINT64_MAX: none. What a daemon that was killed between them has begun is undone by the next. */
    uint64_t changing;
    /* minor 5. Frames at the end of each tier that are not used: an operator has closed them. 0: all are used. */
    uint32_t set_aside[KVT_MAX_TIERS];
    /* minor 7. Of device memory: chunks at the end of each tier's window that are given up. No frame of them is used, and
     * none will be before every member has mapped them again; a member that comes by unmaps them. */
    uint16_t chunks_given_up[KVT_MAX_TIERS];
    uint64_t pad2[1];
};

struct kvt_abi_key {
    uint64_t lo;
    uint64_t hi;
};

/* One step of one member. The member stores the epoch at begin and 0 (release) at end; the daemon loads with
 * acquire. When the member dies, the daemon ignores its slots. */
struct kvt_abi_step_slot {
    uint64_t epoch;
    uint64_t pad[7];
};

enum kvt_abi_op {
    KVT_OP_NONE = 0,
    KVT_OP_SEAL = 1,
    KVT_OP_PUBLISH = 2,
    /* FILLING pages, or "I let go of this unkeyed sealed page": up to KVT_FREE_HANDLES handles in page, key.lo, key.hi,
     * parent and extra; UINT64_MAX = none */
    KVT_OP_FREE = 3,
    KVT_OP_UNPUBLISH = 4,
    KVT_OP_RESERVE = 5,
    KVT_OP_ADVISE = 6,
    KVT_OP_GROUP = 7,
    KVT_OP_FLUSH = 8, /* answered when all before it has been done */
    KVT_OP_OFFER_DONE = 9
};

#define KVT_FREE_HANDLES 5

/* A command. The daemon copies it once and checks the copy. */
struct kvt_abi_submission {
    uint32_t op;
    uint32_t flags; /* ADVISE: kind; GROUP, PUBLISH: group */
    uint64_t tag;   /* comes back in the completion; 0: no completion wanted */
    uint64_t page;  /* handle */
    struct kvt_abi_key key;
    uint64_t parent; /* handle or UINT64_MAX; OFFER_DONE: frame */
    uint64_t extra;  /* OFFER_DONE: serial */
    uint64_t pad;
};

enum kvt_abi_result {
    KVT_RESULT_OK = 0,
    KVT_RESULT_PRESENT = 1,
    KVT_RESULT_PENDING = 2,
    KVT_RESULT_STALE = 3,
    KVT_RESULT_STATE = 4,
    KVT_RESULT_PERMISSION = 5,
    KVT_RESULT_INVALID = 6,
    KVT_RESULT_FULL = 7 /* publishing would break another session's guarantee */
};

struct kvt_abi_completion {
    uint64_t tag;
    uint32_t result;
    uint32_t op;
    uint64_t page; /* PRESENT: the page that has the key */
    uint64_t pad[5];
};

/* Indices of a ring only grow; entry = index modulo KVT_RING_ENTRIES. Each on a line of its own. */
struct kvt_abi_ring_index {
    uint64_t value;
    uint64_t pad[7];
};

/* One counter for a list of pages: pool[first .. first+length). Member writes; daemon writes `seen`. */
struct kvt_abi_sequence {
    uint32_t count;
    uint32_t seen;
    uint32_t first;
    uint32_t length; /* 0: none */
};

enum kvt_abi_claim {
    KVT_CLAIM_GRANTED = 0,
    KVT_CLAIM_TAKEN = 1,
    KVT_CLAIM_WITHDRAWN = 2, /* by a daemon: the member must not use what it was granted */
    KVT_CLAIM_LEFT = 3       /* it has detached, and no daemon may have heard it */
};

/* All that one process of a session writes. OS-page aligned; the step slots fill the first OS page. */
struct kvt_abi_member {
    struct kvt_abi_step_slot slot[KVT_STEP_SLOTS];
    struct kvt_abi_ring_index sq_tail; /* member */
    struct kvt_abi_ring_index sq_head; /* daemon publishes its private one */
    struct kvt_abi_ring_index cq_tail; /* daemon */
    struct kvt_abi_ring_index cq_head; /* member */
    /* futex word: the daemon adds 1 and wakes after it posted, when `waiters` is not 0 */
    uint32_t wake;
    uint32_t waiters;
    uint64_t pad0[7];
    uint64_t sequences_touched[KVT_SEQUENCES / 64];
    struct kvt_abi_submission sq[KVT_RING_ENTRIES];
    struct kvt_abi_completion cq[KVT_RING_ENTRIES];
    /* FILLING pages freed by this member; a hint that the daemon reads when the member has died */
    uint64_t stock_count;
    uint64_t stock[KVT_STOCK_ENTRIES];
    struct kvt_abi_sequence sequence[KVT_SEQUENCES];
    uint32_t sequence_pool[KVT_SEQUENCE_POOL];
    /* Whose the block is, since a grant may be on its way when a daemon dies: enum kvt_abi_claim. Changed by
     * compare-and-swap: the member takes it when it has mapped all, the next daemon takes back what nobody took. */
    uint32_t claim;
    uint32_t pad1;
    /* minor 6. How long its steps took, begin to end: how many, by time (shm/region/step_times.h), and all of them together.
     * Only grow; nobody but people is told of them. */
    uint64_t step_ns;
    uint64_t step_times[KVT_STEP_TIMES];
    /* minor 7. Of device memory: chunks at the end of each tier's window that it has not mapped. The daemon says what it was
     * granted; then the member's, stored when it has unmapped them, or mapped them again. */
    uint16_t chunks_unmapped[KVT_MAX_TIERS];
    uint64_t pad2[355];
};

struct kvt_abi_session_header {
    struct kvt_abi_region region;
    uint64_t session_id; /* never reused while the host is up */
    uint64_t arena_id;
    uint64_t pages;
    uint32_t slot; /* small index of the session in its arena */
    uint32_t members_max;
    uint32_t column;
    uint32_t access;
    uint64_t counters_offset;
    uint64_t touched_offset;
    uint64_t holds_offset;
    uint64_t held_offset;
    uint64_t magazine_offset;
    uint64_t members_offset;
    uint64_t member_stride;
    /* Daemon: members ring the doorbell when this many fresh pages are left, so that it refills meanwhile. */
    uint64_t low_water;
    /* Daemon: 1 before the first frame that the session's steps and holds kept is used again, when it ends while
     * processes of it may live. Members look at it behind the fence of a step's begin, and after a step's reads. */
    uint64_t ended;
    /* Daemon: offers that name this session now. A hint: members look at offer words while it is not 0. */
    uint64_t offers;
    /* Members: 1 when one of them takes offers. A hint: the daemon makes none to a session where it is 0. */
    uint64_t takes_offers;
    uint64_t pad0[3];
    /* Daemon: magazine_tail plus the pages that it could still add; allowance - magazine_head can be taken now. */
    struct kvt_abi_ring_index allowance;
    struct kvt_abi_ring_index magazine_tail; /* daemon */
    struct kvt_abi_ring_index magazine_head; /* members, by compare-and-swap */
};

/* One word: reads counted by the members (low half) and how many of them the daemon has taken (high half). */
struct kvt_abi_counter {
    uint16_t count;
    uint16_t seen;
};

KVT_ABI_ASSERT(sizeof(struct kvt_abi_region) == 40, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_tier) == 72, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_device) == 32, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_arena_counters) == 64, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_arena_header) % 64 == 0, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_step_slot) == 64, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_submission) == 64, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_completion) == 64, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_ring_index) == 64, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_sequence) == 16, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_member) % 4096 == 0, "a member block fills whole OS pages");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_session_header) % 64 == 0, "layout");
KVT_ABI_ASSERT(sizeof(struct kvt_abi_counter) == 4, "layout");

#endif
