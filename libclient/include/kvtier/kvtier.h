/* SPDX-License-Identifier: Apache-2.0
 *
 * libkvtier: the C interface to the KV cache that kvtierd owns on this host.
 *
 * A *session* attaches one *arena* of KV *pages*. A page is FILLING (its session writes it), then SEALED for
 * good; the daemon moves sealed pages between memory tiers while they are read. A page is named by its *handle*,
 * which never changes while the page lives; where its bytes are (its *frame*) is good inside one *step* only.
 *
 *   frame address = base + frame * stride          (one range for all tiers; frame 0 is the scratch frame)
 *
 * Thread safety: every function may be called from any thread, on the same session too, unless its comment says
 * otherwise. A kvt_step belongs to the thread that uses it: one thread at a time. After fork() the child has no
 * session: every call on the parent's session answers KVT_E_FORKED there, and its memory is not mapped.
 *
 * Blocking: a function blocks only where its comment says so, and then never longer than the session's
 * timeout (kvt_attach_args.timeout_ms).
 *
 * Errors: functions return KVT_OK (0) or a positive count, or a negative KVT_E_... code; kvt_last_error() then
 * has a sentence for the calling thread. The library does not log, exit, install signal handlers or start threads
 * (kvt_attach_args.copy_threads asks for threads).
 */
#ifndef KVTIER_KVTIER_H
#define KVTIER_KVTIER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define KVT_NOEXCEPT noexcept
#else
#define KVT_NOEXCEPT
#endif

#define KVT_API __attribute__((visibility("default")))

/* ---- results ---------------------------------------------------------------------------------------------- */

enum {
    KVT_OK = 0,
    KVT_E_INVALID = -1,     /* an argument is out of its range; the text names it */
    KVT_E_AGAIN = -2,       /* the daemon is away, or did not answer in time: reading and steps go on; try later */
    KVT_E_NOT_FOUND = -3,   /* no arena of that name, or no page under that key */
    KVT_E_PERMISSION = -4,  /* the arena's owner, group and mode do not let this process in, or the grant is read-only */
    KVT_E_MISMATCH = -5,    /* version, geometry or fingerprint differ from the arena's: the text has both */
    KVT_E_STALE = -6,       /* the handle's page is gone: its generation is not the page's */
    KVT_E_STATE = -7,       /* the page is not in the state that the call needs (write to a sealed page, ...) */
    KVT_E_NOT_HELD = -8,    /* release without a hold (double release) */
    KVT_E_FULL = -9,        /* no page can be had within the arena's quota */
    KVT_E_LIMIT = -10,      /* a limit of the session is reached: steps, holds, members, sequences, copy jobs */
    KVT_E_OVERRUN = -11,    /* more changes than the change log keeps: resolve everything again */
    KVT_E_NO_MEMORY = -12,  /* this process could not get memory or address space */
    KVT_E_SYSTEM = -13,     /* a system call failed; the text has its name and errno */
    KVT_E_ENDED = -14,      /* the session has ended on the daemon's side (evicted, or the daemon forgot it) */
    KVT_E_FORKED = -15,     /* this is a forked child of the process that attached */
    KVT_E_PROTOCOL = -16    /* the daemon answered something that this library does not understand */
};

/* A short constant text for a code. Never NULL. */
KVT_API const char *kvt_strerror(int code) KVT_NOEXCEPT;
/* What went wrong in the last failed call of this thread, as one sentence; "" when nothing has. Valid until the
 * thread's next kvtier call. */
KVT_API const char *kvt_last_error(void) KVT_NOEXCEPT;
/* Its code, for functions that do not return one (kvt_page_data); KVT_OK when nothing has failed. */
KVT_API int kvt_last_error_code(void) KVT_NOEXCEPT;
/* Version of the library, as "major.minor.patch". */
KVT_API const char *kvt_version(void) KVT_NOEXCEPT;

/* ---- values ------------------------------------------------------------------------------------------------ */

typedef struct kvt_session kvt_session; /* one attached process of a session; opaque */

/* Names a page while it lives: index in the low 32 bits, generation above. KVT_NO_PAGE is never a page. */
typedef uint64_t kvt_page;
#define KVT_NO_PAGE UINT64_MAX
#define KVT_PAGE_INDEX(page) ((uint32_t)(page))

/* Frame number = the block id that a paged-attention kernel uses. KVT_NO_FRAME: the page is not readable. */
typedef uint32_t kvt_frame;
#define KVT_NO_FRAME UINT32_MAX

/* 128-bit content key: the engine's block hash, folded with its salt and KV-cache group. {0,0} is no key. */
typedef struct kvt_key {
    uint64_t lo;
    uint64_t hi;
} kvt_key;

/* An open step: a span in which what was resolved stays where it was. Plain data; copy freely. */
typedef struct kvt_step {
    uint64_t epoch; /* the arena's epoch that this step published */
    uint32_t slot;
    uint32_t serial;
} kvt_step;

/* ---- attach ------------------------------------------------------------------------------------------------ */

enum { KVT_ACCESS_READ = 1, KVT_ACCESS_READ_WRITE = 2 };

/* kvt_attach_args.flags */
enum {
    /* Never copy a page into a faster tier while it is being resolved (see kvt_resolve): the daemon does all copies. */
    KVT_ATTACH_NO_OFFERS = 1,
    /* kvt_resolve always gives a page's first place, also where it has a second one in a slower tier. */
    KVT_ATTACH_NO_BALANCE = 2,
    /* This process reads and writes pages with the GPU cuda_device: device memory is mapped, host memory is registered
     * with it (kvtier/cuda.h). Without it pages that lie in device memory alone cannot be resolved. */
    KVT_ATTACH_CUDA = 4
};

/* Set `size` to sizeof(kvt_attach_args) and zero the rest; zero means the default named beside each field. */
typedef struct kvt_attach_args {
    size_t size;
    const char *socket_dir;      /* folder of attach.sock; default $KVTIER_SOCKET_DIR, else /run/kvtier */
    const char *arena;           /* name of the arena; default "default" */
    uint64_t page_bytes;         /* 0: whatever the arena has */
    uint32_t block_tokens;       /* 0: whatever the arena has */
    uint32_t planes;             /* layers in a page, by which copies can be strided; 0: whatever the arena has */
    uint32_t columns;            /* consumers with a placement of their own; 0: whatever the arena has */
    uint32_t column;             /* the column that this session reads through: 0 .. columns-1 */
    uint32_t access;             /* KVT_ACCESS_READ or KVT_ACCESS_READ_WRITE (default) */
    uint32_t members_max;        /* processes of this session, the owner included; default 1 */
    uint32_t guarantee_pages;    /* pages that this session can always have; default 0 */
    uint32_t copy_threads;       /* threads that the library starts for copy jobs; default 0: kvt_copy_wait copies */
    uint32_t timeout_ms;         /* longest wait for the daemon in any call; default 1000 */
    uint32_t flags;              /* KVT_ATTACH_... */
    const uint8_t *fingerprint;  /* 32 bytes: model, dtype, layout, split, hash seed, salt; NULL: accept any. The
                                  * first session that gives one sets it where the configuration has none */
    uint64_t stage_bytes_max;    /* most that one step copies into faster tiers, but always a page; default 16 MiB */
    int32_t cuda_device;         /* with KVT_ATTACH_CUDA: the device as CUDA counts them for this process */
    uint32_t reserved0;
    const char *cuda_driver;     /* path of the CUDA driver; default $KVTIER_CUDA_DRIVER, else libcuda.so.1 */
} kvt_attach_args;

/* Connects, attaches the arena and maps it. On success *out is the session; the caller owns it and gives it back
 * with kvt_detach. Blocks until the daemon answered, at most timeout_ms. Errors: KVT_E_AGAIN (no daemon),
 * KVT_E_NOT_FOUND (also: no CUDA driver, or no such device), KVT_E_PERMISSION, KVT_E_MISMATCH, KVT_E_LIMIT, KVT_E_FULL
 * (guarantee), KVT_E_INVALID, ... With a GPU also as long as it takes to make a context and to register host memory: 30 to
 * 150 ms a GiB. */
KVT_API int kvt_attach(const kvt_attach_args *args, kvt_session **out) KVT_NOEXCEPT;

#define KVT_TOKEN_BYTES 16
/* Joins another process to a session whose owner passed on its token (kvt_token). Of `args` only socket_dir,
 * copy_threads, timeout_ms, flags, stage_bytes_max and cuda_... are used; a GPU is the owner's, too. Holds, pages and
 * guarantee are the session's; steps are the member's. */
KVT_API int kvt_join(const kvt_attach_args *args, const uint8_t token[KVT_TOKEN_BYTES], kvt_session **out) KVT_NOEXCEPT;
/* The secret that lets a process join. Give it to nobody else. */
KVT_API int kvt_token(kvt_session *session, uint8_t token[KVT_TOKEN_BYTES]) KVT_NOEXCEPT;

/* Ends this process's part in the session and unmaps everything. When it was the owner's, nothing new begins in the
 * session, and it ends with its last process. No other thread may be using the session; no pointer into the arena may
 * be used any more. Every step is ended. With a GPU it waits first, without a limit, for all work of the device's context;
 * where the driver refuses that (a stream is being captured), timeout_ms for the steps of streams, and if one is not over
 * then, everything stays as it is until the process ends. NULL is fine. */
KVT_API void kvt_detach(kvt_session *session) KVT_NOEXCEPT;

#define KVT_TIERS_MAX 8

typedef struct kvt_window {
    char name[24];
    uint32_t first_frame;           /* frames of the tier: first_frame .. first_frame+frames-1 */
    uint32_t frames;
    uint32_t emulated;              /* 1: ordinary memory that stands for this tier's kind */
    int32_t column;                 /* the only column that is served from it, or -1 for all */
    uint64_t read_bytes_per_second; /* as its consumer reads it, by profile or measurement */
} kvt_window;

typedef struct kvt_geometry {
    size_t size; /* set by the caller to sizeof(kvt_geometry) */
    void *base;  /* frame f begins at base + f*stride */
    uint64_t stride;
    uint64_t page_bytes;
    uint64_t pages;  /* page indices are 0 .. pages-1 */
    uint64_t frames; /* frame numbers are 0 .. frames-1; not every number is backed (see windows) */
    uint32_t block_tokens;
    uint32_t planes;
    uint32_t columns;
    uint32_t column;        /* this session's */
    uint32_t scratch_frame; /* always 0: padding of block tables. In the first tier: a CPU cannot read device memory there */
    uint32_t access;
    uint64_t session_id;
    uint32_t member;
    uint32_t tiers;
    kvt_window windows[KVT_TIERS_MAX];
    uint32_t device_tiers;      /* bit t: tier t is device memory, which a CPU cannot read */
    uint32_t unreachable_tiers; /* bit t: tier t is not mapped in this session: device memory of no GPU of its */
} kvt_geometry;

/* The arena as mapped here. Constant for the life of the session. */
KVT_API int kvt_get_geometry(kvt_session *session, kvt_geometry *out) KVT_NOEXCEPT;

/* ---- pages ------------------------------------------------------------------------------------------------- */

/* Takes up to n fresh pages, each FILLING and held by this session; returns how many (>= 1), which may be fewer
 * than n. No system call while the session's stock lasts; else wakes the daemon and waits, at most timeout_ms.
 * KVT_E_FULL: nothing can be had within the quota; KVT_E_AGAIN: the daemon is away. Pages that leave wait for the
 * steps that may still read them: a thread that waits here with a step of its own open may wait for itself, until
 * the timeout. */
KVT_API int kvt_allocate(kvt_session *session, kvt_page *pages, size_t n) KVT_NOEXCEPT;

/* How many pages this session could allocate now; never less than what is left of its guarantee. Not blocking. */
KVT_API uint64_t kvt_free_count(kvt_session *session) KVT_NOEXCEPT;

/* Where to write a FILLING page of this session (page_bytes bytes), or NULL: KVT_E_STALE, KVT_E_STATE (sealed),
 * KVT_E_PERMISSION (another session's, or device memory and the session has none). It stays there until the page is
 * sealed. Writes by a GPU belong into a step; device memory is the GPU's alone to write. */
KVT_API void *kvt_page_data(kvt_session *session, kvt_page page) KVT_NOEXCEPT;

/* Seals n pages: their contents never change again. With `step` not NULL the seal takes effect when that step
 * ends. Does not wait for the daemon (kvt_flush does). The session's hold stays. */
KVT_API int kvt_seal(kvt_session *session, const kvt_page *pages, size_t n, const kvt_step *step) KVT_NOEXCEPT;

enum { KVT_PUBLISHED = 1, KVT_PRESENT = 2 };

typedef struct kvt_publish_entry {
    kvt_page page;    /* FILLING or SEALED, of this session */
    kvt_key key;      /* not {0,0} */
    kvt_page parent;  /* page of the block before this one, or KVT_NO_PAGE */
    uint32_t group;   /* KV-cache group: pages read by the same kernel launch */
    int32_t result;   /* out: KVT_PUBLISHED; KVT_PRESENT: the key was there already; or a KVT_E_ code */
    kvt_page present; /* out, with KVT_PRESENT: the page that has the key; the own page stays sealed, unkeyed, held */
} kvt_publish_entry;

/* Seals and publishes n pages under their keys, so that other sessions find them. Waits for the daemon, at most
 * timeout_ms; when it returns n, lookups see every page whose result is KVT_PUBLISHED. May be done again after
 * KVT_E_AGAIN: publishing a page under the key that it has already succeeds. Not inside a step that writes them: a page
 * that was given to kvt_seal with a step which is not over has the result KVT_E_STATE. */
KVT_API int kvt_publish(kvt_session *session, kvt_publish_entry *entries, size_t n) KVT_NOEXCEPT;
/* Takes a page's key away: it is not found any more; holds stay. The page's publisher only. Does not wait. */
KVT_API int kvt_unpublish(kvt_session *session, kvt_page page) KVT_NOEXCEPT;

enum {
    KVT_LOOKUP_HOLD = 1,  /* hold each page that is found: one kvt_release for each */
    KVT_LOOKUP_CHAIN = 2  /* stop at the first key that is missing; the result is the length of the prefix */
};
/* Looks n keys up. pages[i] = the page or KVT_NO_PAGE. Returns how many were found. No system call, no waiting.
 * Without KVT_LOOKUP_HOLD the answer is a hint that has no effect on anything: pages may be evicted any time. */
KVT_API int kvt_lookup(kvt_session *session, const kvt_key *keys, size_t n, uint32_t flags, kvt_page *pages) KVT_NOEXCEPT;

/* Holds n sealed pages by handle, so that they stay. ok[i] (may be NULL) = 1 where it succeeded. Returns how many.
 * A page that is gone or being evicted is not held. KVT_E_LIMIT when a page has 65,000 holds of this session. */
KVT_API int kvt_hold(kvt_session *session, const kvt_page *pages, size_t n, uint8_t *ok) KVT_NOEXCEPT;
/* Gives back one hold on each of n pages. A FILLING page goes back to the session's stock with its last hold
 * (with `step` not NULL: when that step ends), and may be the next that kvt_allocate gives, under the same handle; an
 * unkeyed sealed page is freed when nobody holds it any more; a keyed one stays until it is evicted. KVT_E_NOT_HELD or
 * KVT_E_STALE for the first bad one: the others are done. */
KVT_API int kvt_release(kvt_session *session, const kvt_page *pages, size_t n, const kvt_step *step) KVT_NOEXCEPT;

enum { KVT_RESERVE_NEW = 1, KVT_RESERVE_PRESENT = 2, KVT_RESERVE_PENDING = 3, KVT_RESERVE_FULL = 4 };
/* Connector mode: for each of n keys, who stores it? NEW: pages[i] is a fresh page to write and publish, and others
 * are told PENDING until then; PRESENT: pages[i] has it and is held; PENDING: another session is storing it; FULL.
 * Waits for the daemon, at most timeout_ms. Returns n. */
KVT_API int kvt_reserve(kvt_session *session, const kvt_key *keys, size_t n, kvt_page *pages, uint8_t *results) KVT_NOEXCEPT;

enum { KVT_STATE_FREE = 0, KVT_STATE_FILLING = 1, KVT_STATE_SEALED = 2, KVT_STATE_EVICTING = 3 };

typedef struct kvt_page_info {
    size_t size; /* set by the caller to sizeof(kvt_page_info) */
    kvt_page page;
    uint32_t state;
    uint32_t tier;        /* in this session's column */
    uint32_t frame;
    uint32_t shadow_frame; /* KVT_NO_FRAME: none */
    uint32_t keyed;
    uint32_t group;
    kvt_key key;
    uint64_t owner_session;
    kvt_page parent;
    uint32_t own_holds;   /* of this session */
    uint32_t reserved0;
} kvt_page_info;
/* What the arena table says of a page index now. A racy read of several words: for people and tests. */
KVT_API int kvt_get_page_info(kvt_session *session, uint32_t index, kvt_page_info *out) KVT_NOEXCEPT;

/* ---- steps ------------------------------------------------------------------------------------------------- */

/* Begins a step: everything resolved in it stays readable, where it was, until kvt_step_end. Steps may overlap;
 * at most 64 are open in a process (KVT_E_LIMIT). Keep it as short as the work: an open step keeps memory from
 * being reused. Never blocks, except to send seals and releases of streams' steps that are over, when the ring is full. KVT_E_ENDED: an operator has ended the session. */
KVT_API int kvt_step_begin(kvt_session *session, kvt_step *step) KVT_NOEXCEPT;
/* Ends it; seals and releases that were given with it take effect. A step that is not open: KVT_E_INVALID.
 * KVT_E_ENDED: it has ended, and an operator had ended the session before: throw away what was read in it. */
KVT_API int kvt_step_end(kvt_session *session, const kvt_step *step) KVT_NOEXCEPT;

/* frames[i] = where page i may be read until the step ends, or KVT_NO_FRAME when the handle is stale (or a page of
 * another session is still being filled, or lies in device memory alone and the session has none). Returns how many are readable. The caller should hold the pages.
 * A page that lies in two tiers is read from either: from the slower one where the step's reads from the fast tier
 * would otherwise take longer than those from the slow one (KVT_ATTACH_NO_BALANCE: always the fast one). So the same
 * page may get another frame in the next call, with the same bytes.
 * A page in a slow tier for which the daemon has offered this session a faster frame is copied there by this very
 * call, and frames[i] is the copy: the slow memory is read once, and when the step ends the page has moved. That costs
 * the call the copy: at most stage_bytes_max a step; and never in a session with read access, or with
 * KVT_ATTACH_NO_OFFERS. */
KVT_API int kvt_resolve(kvt_session *session, const kvt_step *step, const kvt_page *pages, size_t n, kvt_frame *frames) KVT_NOEXCEPT;
/* The same as addresses; NULL for KVT_NO_FRAME. */
KVT_API int kvt_resolve_addresses(kvt_session *session, const kvt_step *step, const kvt_page *pages, size_t n, const void **addresses) KVT_NOEXCEPT;

typedef struct kvt_change {
    uint32_t index;  /* page index */
    kvt_frame frame; /* where it is now in this session's column, or KVT_NO_FRAME */
    kvt_page page;   /* handle with the generation that is there now */
} kvt_change;
/* Changes of placement since *cursor, which it advances. Start with the cursor that kvt_changes_begin gives and a
 * block table resolved in the same step; then each step, after kvt_step_begin, apply until it returns 0.
 * Returns how many were written (<= capacity), or KVT_E_OVERRUN: begin anew. */
KVT_API int kvt_changes(kvt_session *session, const kvt_step *step, uint64_t *cursor, kvt_change *changes, size_t capacity) KVT_NOEXCEPT;
/* The cursor for a block table that is resolved in `step` after this call. From now on kvt_resolve gives this process
 * first places only, and copies nothing: second places and offered frames come and go without a change in the log, so a
 * block table that is kept over steps must not name them. KVT_E_STATE where pages may lie in device memory that this
 * session has not mapped (kvt_geometry.unreachable_tiers of its column): it resolves in each step. */
KVT_API int kvt_changes_begin(kvt_session *session, const kvt_step *step, uint64_t *cursor) KVT_NOEXCEPT;

/* ---- what was read: the counters that move pages ------------------------------------------------------------ */

/* Counts one read of each of n pages. A few nanoseconds a page, no system call; increments of threads that race
 * may be lost. Pages by handle; a generation that is stale is not noticed (it is statistics). */
KVT_API int kvt_touch(kvt_session *session, const kvt_page *pages, size_t n) KVT_NOEXCEPT;
/* Counts one read of each page with index first .. first+n-1: the cheapest form. */
KVT_API int kvt_touch_range(kvt_session *session, uint32_t first, uint32_t n) KVT_NOEXCEPT;

/* A sequence is a list of up to pages_max pages that are always read together: touching it costs one counter. It is this
 * process's; KVT_E_LIMIT when there are too many. */
KVT_API int kvt_sequence_create(kvt_session *session, uint32_t pages_max, uint32_t *sequence) KVT_NOEXCEPT;
/* Appends pages. KVT_E_LIMIT when pages_max is passed. */
KVT_API int kvt_sequence_append(kvt_session *session, uint32_t sequence, const kvt_page *pages, size_t n) KVT_NOEXCEPT;
/* Counts one read of each of its pages. One that is not there (any more) is not counted. */
KVT_API int kvt_sequence_touch(kvt_session *session, uint32_t sequence) KVT_NOEXCEPT;
/* Forgets it. KVT_E_INVALID when it is not there. */
KVT_API int kvt_sequence_destroy(kvt_session *session, uint32_t sequence) KVT_NOEXCEPT;

/* ---- advice ------------------------------------------------------------------------------------------------- */

enum { KVT_ADVISE_PREFETCH = 1, KVT_ADVISE_DEMOTE = 2 };
/* Says that pages will be read soon / not soon. The daemon may ignore it. Does not wait. Returns how many were
 * passed on (the ring may be full). */
KVT_API int kvt_advise(kvt_session *session, const kvt_page *pages, size_t n, uint32_t advice) KVT_NOEXCEPT;
/* Tags pages with a KV-cache group. Publisher or filler only. Does not wait. */
KVT_API int kvt_set_group(kvt_session *session, const kvt_page *pages, size_t n, uint32_t group) KVT_NOEXCEPT;

/* Waits until the daemon has done everything that this process asked before, at most timeout_ms. */
KVT_API int kvt_flush(kvt_session *session) KVT_NOEXCEPT;

/* ---- copy jobs (connector mode) ------------------------------------------------------------------------------ */

enum { KVT_COPY_STORE = 1, KVT_COPY_LOAD = 2 };

/* One strided copy between a page and the caller's memory:
 * for r in 0 .. rows-1:  page[page_offset + r*page_stride .. +row_bytes)  <->  memory + r*memory_stride */
typedef struct kvt_copy {
    kvt_page page;
    void *memory;          /* read by STORE, written by LOAD; the caller keeps it until the job is done */
    uint64_t page_offset;
    uint64_t page_stride;
    uint64_t memory_stride;
    uint64_t row_bytes;
    uint32_t rows;
    uint32_t reserved0;
} kvt_copy;

/* Submits one job of n copies, all in one direction. STORE needs FILLING pages of this session; LOAD needs pages
 * that the caller holds. The job takes its own copy of `copies`. *job names it. With copy_threads it runs at once,
 * else in kvt_copy_wait. At most 1,024 jobs are open (KVT_E_LIMIT). */
KVT_API int kvt_copy_submit(kvt_session *session, uint32_t direction, const kvt_copy *copies, size_t n, uint64_t *job) KVT_NOEXCEPT;
/* 1: done (the job is forgotten, its result is returned as KVT_E_ code if it failed); 0: not yet. */
KVT_API int kvt_copy_poll(kvt_session *session, uint64_t job) KVT_NOEXCEPT;
/* Waits for the job, copying in this thread when it has not begun. KVT_OK, or why it failed: KVT_E_STALE,
 * KVT_E_STATE, KVT_E_INVALID (a row that leaves its page). */
KVT_API int kvt_copy_wait(kvt_session *session, uint64_t job) KVT_NOEXCEPT;

/* ---- statistics ---------------------------------------------------------------------------------------------- */

typedef struct kvt_stats {
    size_t size; /* set by the caller to sizeof(kvt_stats) */
    uint64_t epoch;
    uint64_t steps;          /* of this process */
    uint64_t allocated;      /* pages taken, of this process */
    uint64_t lookups;        /* keys asked, of this process */
    uint64_t lookup_hits;
    uint64_t moves_promoted; /* of the arena, since it was made */
    uint64_t moves_demoted_copy;
    uint64_t moves_demoted_free;
    uint64_t moves_aborted;
    uint64_t evictions;
    uint64_t reconnects;     /* of this process */
    uint64_t connected;      /* 1: the daemon's socket is open */
    uint64_t offers_taken;   /* pages that this process has copied into a faster tier and reported */
    uint64_t bytes_staged;   /* that it copied so */
} kvt_stats;
KVT_API int kvt_get_stats(kvt_session *session, kvt_stats *out) KVT_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
