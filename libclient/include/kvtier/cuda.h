/* SPDX-License-Identifier: Apache-2.0
 *
 * libkvtier with a GPU: steps that a stream ends, pages that kernels read and write, copies and seals in the order of
 * a stream, a page table and counters of reads on the device. Beside kvtier.h, whose rules hold; needs no CUDA header.
 * Kernels include kvtier/device.cuh.
 *
 * A session that attached with KVT_ATTACH_CUDA maps device memory and host memory in one range, and the GPU reaches
 * all of it at the same addresses as the CPU sees host memory: base + frame * stride. Frames of device memory
 * (kvt_geometry.device_tiers) cannot be read by the CPU.
 *
 * Streams are CUstream or cudaStream_t of the device's primary context, which is the CUDA runtime's; NULL is the legacy
 * default stream; cudaStreamPerThread cannot end a step (KVT_E_INVALID). The library makes the context current for the
 * duration of a call, and leaves the thread's as it was. No function here waits for the GPU, except where its comment says so.
 *
 * Errors: KVT_E_STATE for a session without a GPU, or a stream that is captured where a step begins or ends;
 * KVT_E_INVALID for a step that is not open or not of kvt_cuda_step_begin (and kvt_step_end does not take a stream's);
 * KVT_E_NO_MEMORY, or KVT_E_SYSTEM with the driver's words, when it refuses. When a kernel
 * has failed, its context can do nothing any more: steps that its streams would have ended stay open, and what they
 * protect stays where it is, until the process ends.
 */
#ifndef KVTIER_CUDA_H
#define KVTIER_CUDA_H

#include <kvtier/kvtier.h>

#ifdef __cplusplus
extern "C" {
#endif

struct CUstream_st;
typedef struct CUstream_st *kvt_cuda_stream;

/* ---- steps ------------------------------------------------------------------------------------------------- */

/* Begins a step that `stream` ends: what is resolved in it may be read by work that is enqueued there until
 * kvt_cuda_step_end. Otherwise as kvt_step_begin; steps that their streams have not ended yet count among the 64. Never
 * inside a captured graph: begin, launch the graph, end. KVT_E_STATE: the stream is being captured. */
KVT_API int kvt_cuda_step_begin(kvt_session *session, kvt_cuda_stream stream, kvt_step *step) KVT_NOEXCEPT;
/* Enqueues the end: the step is over when all work before it in its stream is done, and costs the CPU nothing more.
 * Work on other streams that reads in this step has to be waited for by this one first (an event). Seals and releases
 * that were given with the step take effect at the first of kvt_step_begin, kvt_cuda_step_begin, kvt_cuda_poll,
 * kvt_flush and kvt_detach that finds it over. */
KVT_API int kvt_cuda_step_end(kvt_session *session, const kvt_step *step) KVT_NOEXCEPT;
/* Does what waits for steps that have ended meanwhile. Returns how many have not; or, once, what a seal or a release of
 * one that is over failed with, or KVT_E_ENDED where an operator had ended the session. Never waits for the GPU; waits
 * for the daemon, at most timeout_ms, when the ring is full. Where an operator has made a tier of device memory smaller,
 * or larger again, it unmaps, or maps, what nobody reads: calls of the driver that a capture in global mode does not
 * take, some milliseconds, and the daemon is asked, at most timeout_ms a tier. It waits for each process to have made them:
 * call this now and then when idle. What fails of it is tried again by the next call, and changes no error of the thread. */
KVT_API int kvt_cuda_poll(kvt_session *session) KVT_NOEXCEPT;

/* Seals n pages when all work before this call in `stream` is done; kvt_cuda_poll and the calls that poll notice it. It
 * is a step of its own. kvt_publish does not wait for it: publish when the stream has passed. */
KVT_API int kvt_cuda_seal(kvt_session *session, const kvt_page *pages, size_t n, kvt_cuda_stream stream) KVT_NOEXCEPT;

/* ---- promotion by kernels ---------------------------------------------------------------------------------- */

/* kvt_resolve for kernels that write through: targets[i] = a frame of device memory into which the kernel is to store
 * page i's bytes, all page_bytes of it, while it reads frames[i]; or KVT_NO_FRAME. When the step ends without an error
 * the page has moved, and nobody has read it once more for that. A page gets a target in one step; steps of the same
 * stream that are resolved after that one's kvt_cuda_step_end read the target, since it is filled before. A launch that does not fill every target has to say
 * so (kvt_cuda_drop_targets) before the step ends. Not after kvt_changes_begin or kvt_cuda_map_create: then there are
 * no targets. */
KVT_API int kvt_cuda_resolve(kvt_session *session, const kvt_step *step, const kvt_page *pages, size_t n, kvt_frame *frames,
                             kvt_frame *targets) KVT_NOEXCEPT;
/* The step's targets have not all been filled: none of them counts, nor what kvt_resolve has copied in this step. */
KVT_API int kvt_cuda_drop_targets(kvt_session *session, const kvt_step *step) KVT_NOEXCEPT;

/* ---- copies in stream order (connector mode) ----------------------------------------------------------------- */

/* Enqueues n strided copies between pages and memory that the GPU reaches (device memory, or pinned host memory), as of
 * kvt_copy_submit: STORE into FILLING pages of this session, LOAD from pages that the caller holds. Each call is
 * a step of its own, which `stream` ends, and a LOAD counts a read of each page. To wait for a layer, call once a layer
 * and record an event after each; 64 steps of a process can be under way (KVT_E_LIMIT: wait for an event of an older
 * one). STORE: publish when the stream has passed. */
KVT_API int kvt_cuda_copy(kvt_session *session, uint32_t direction, const kvt_copy *copies, size_t n,
                          kvt_cuda_stream stream) KVT_NOEXCEPT;

/* ---- a page table on the device ------------------------------------------------------------------------------ */

/* An array in device memory: frames[page index] = where the page is now in this session's column, or KVT_NO_FRAME. A
 * captured graph that translates block ids by it sees pages that have moved when it is replayed. A map belongs to one
 * stream at a time; use one for each stream. From its creation on kvt_resolve gives this process first places only
 * (kvt_changes_begin). */
typedef struct kvt_cuda_map kvt_cuda_map;
/* Waits for a copy of 4 bytes a page of the arena. KVT_E_STATE where this library has no device code, or where
 * kvt_changes_begin refuses (unreachable_tiers); KVT_E_LIMIT when all steps are open. */
KVT_API int kvt_cuda_map_create(kvt_session *session, kvt_cuda_map **out) KVT_NOEXCEPT;
/* Waits until the last update is done. NULL is fine. Before kvt_detach. */
KVT_API void kvt_cuda_map_destroy(kvt_cuda_map *map) KVT_NOEXCEPT;
/* Enqueues what has moved since the last update, and where the n pages are that the caller's block tables have got since
 * then. In each step, before the work that translates by it. Waits for the fourth update before this one, if that
 * is not done. Returns how many entries it writes. `step` is open and of kvt_cuda_step_begin. */
KVT_API int kvt_cuda_map_update(kvt_cuda_map *map, const kvt_step *step, const kvt_page *pages, size_t n) KVT_NOEXCEPT;
/* The array, in device memory; constant for the life of the map. */
KVT_API const uint32_t *kvt_cuda_map_frames(const kvt_cuda_map *map) KVT_NOEXCEPT;
/* Enqueues frames[i] = frame of page index pages[i], or the scratch frame where that is no page of the arena or the page is
 * gone, so hold the pages, and give them to kvt_cuda_map_update when they come into a table; both arrays in memory
 * that the GPU reaches. May be captured. */
KVT_API int kvt_cuda_translate(const kvt_cuda_map *map, const int32_t *pages, int32_t *frames, size_t n,
                               kvt_cuda_stream stream) KVT_NOEXCEPT;

/* ---- counting reads on the device ------------------------------------------------------------------------------ */

/* Counters in device memory, for kernels that choose by themselves which pages they read: kvt_touch for what the CPU does
 * not know. kvt::device::touch (kvtier/device.cuh) counts there; what was counted is added to the session's counters when
 * a step is over that takes it. It is statistics: pages beyond pages_max in one step are dropped, and what cannot be taken
 * now is taken with a later step's. Belongs to one stream at a time; use one for each stream. */
typedef struct kvt_cuda_touches kvt_cuda_touches;
/* Takes 4 bytes a page of the arena of device memory, and 64 bytes a page of pages_max of pinned memory; waits until they
 * are clear. pages_max: different pages that are counted in a step; 0: 16,384. KVT_E_STATE where this library has no
 * device code. */
KVT_API int kvt_cuda_touches_create(kvt_session *session, uint32_t pages_max, kvt_cuda_touches **out) KVT_NOEXCEPT;
/* No kernel may be counting there. Steps that take from it still do. NULL is fine. Before kvt_detach. */
KVT_API void kvt_cuda_touches_destroy(kvt_cuda_touches *touches) KVT_NOEXCEPT;
/* The kernels' argument, a kvt::device::Touches in device memory; constant for the life of the counters. */
KVT_API void *kvt_cuda_touches_counters(const kvt_cuda_touches *touches) KVT_NOEXCEPT;
/* Says that kernels of this step count there: kvt_cuda_step_end enqueues a small kernel that takes what was counted in its
 * stream so far, and the counters begin anew. `step` is open and of kvt_cuda_step_begin; one set of counters a step
 * (KVT_E_STATE). */
KVT_API int kvt_cuda_touches_take(kvt_cuda_touches *touches, const kvt_step *step) KVT_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
