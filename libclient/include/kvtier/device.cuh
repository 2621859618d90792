/* SPDX-License-Identifier: Apache-2.0
 *
 * What kernels need to read pages in place: where a page is, which memory it is in, counting reads, prefetching, and
 * storing what is read into a page's next frame. Header only, C++17; the functions of kernels are there where nvcc
 * compiles, the structs everywhere. For sm_80 and later.
 *
 *   page index --frame_of(map)--> frame --View::at()--> address       the map is kvt_cuda_map_frames()
 *
 * Nothing here waits or fails. What a page index or a frame must be is the caller's to know: a page of the arena that is
 * resolved in the step that the kernel runs in.
 */
#ifndef KVTIER_DEVICE_CUH
#define KVTIER_DEVICE_CUH

#include <kvtier/kvtier.h>

#ifdef __CUDACC__
#define KVT_DEVICE __device__ __forceinline__
#define KVT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define KVT_HOST_DEVICE inline
#endif

namespace kvt::device {

/* ---- where pages are ---------------------------------------------------------------------------------------- */

/* An arena as a kernel sees it. A value: pass it to kernels. */
struct View {
    unsigned char *base;
    uint64_t stride;      /* bytes from a frame to the next */
    uint64_t plane_bytes; /* bytes of a plane of a page */
    uint32_t first_device_frame;
    uint32_t device_frames; /* 0: all of the arena is host memory */

    /* Whether a frame is device memory: 10 to 80 times as fast to read as what comes over the link. */
    KVT_HOST_DEVICE bool is_device(uint32_t frame) const { return frame - first_device_frame < device_frames; }
    KVT_HOST_DEVICE unsigned char *at(uint32_t frame, uint32_t plane = 0, uint64_t offset = 0) const {
        return base + frame * stride + plane * plane_bytes + offset;
    }
};

/* Of an attached session. Where more than one window is this GPU's memory, the first one counts as device memory. */
inline View view_of(const kvt_geometry &geometry) {
    View view{static_cast<unsigned char *>(geometry.base), geometry.stride, geometry.page_bytes / geometry.planes, 0, 0};
    for (uint32_t tier = 0; tier < geometry.tiers; ++tier) {
        if ((geometry.device_tiers & ~geometry.unreachable_tiers & 1u << tier) == 0) continue;
        view.first_device_frame = geometry.windows[tier].first_frame;
        view.device_frames = geometry.windows[tier].frames;
        break;
    }
    return view;
}

/* Where a page of a block table is: kvt_cuda_translate for one. The scratch frame for a page < 0. */
KVT_HOST_DEVICE uint32_t frame_of(const uint32_t *map_frames, int32_t page) { return page < 0 ? 0 : map_frames[page]; }

/* ---- counting reads ------------------------------------------------------------------------------------------- */

/* What kvt_cuda_touches_counters() points to, in device memory; counts[pages] and list[capacity] follow it. A page is in
 * the list when its count is not 0. */
struct Touches {
    uint32_t length; /* pages in the list; may pass its capacity */
    uint32_t capacity;
    uint32_t pages;
    uint32_t blocks_done; /* of the kernel that takes the counts */

    KVT_HOST_DEVICE uint32_t *counts() { return reinterpret_cast<uint32_t *>(this + 1); }
    KVT_HOST_DEVICE uint32_t *list() { return counts() + pages; }
};

/* What is taken of a page. */
struct Touched {
    uint32_t page;
    uint32_t reads;
};

#ifdef __CUDACC__

/* Counts reads of a page. Call it once a page and step, or once a thread block that reads the page, from one thread. Beyond
 * `capacity` different pages a step nothing is counted. */
KVT_DEVICE void touch(Touches *touches, uint32_t page, uint32_t reads = 1) {
    if (page >= touches->pages || reads == 0) return;
    uint32_t *const count = touches->counts() + page;
    if (atomicAdd(count, reads) != 0) return;
    /* The first one of this step. Looked at before, so that the length does not go round. */
    const bool full = *static_cast<const volatile uint32_t *>(&touches->length) >= touches->capacity;
    const uint32_t at = full ? touches->capacity : atomicAdd(&touches->length, 1u);
    if (at < touches->capacity)
        touches->list()[at] = page;
    else
        atomicExch(count, 0u); /* in no list: it must not stay */
}

/* ---- reading ahead -------------------------------------------------------------------------------------------- */

/* Which lines L2 gives up first. kLast: keep it before others, for what is read more than once. */
enum class Keep { kNormal, kLast };

constexpr uint32_t kLineBytes = 128;

KVT_DEVICE uint32_t lane_of_warp() {
    uint32_t lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

/* Asks for the line at `address` to be brought into L2. */
template <Keep keep = Keep::kNormal>
KVT_DEVICE void prefetch_line(const void *address) {
    const uint64_t global = __cvta_generic_to_global(address);
    if constexpr (keep == Keep::kLast)
        asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(global));
    else
        asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

/* The same for [data, data + bytes): a warp together, each lane every 32nd line. A warp reads a page with its next
 * one's address in hand: prefetch that, then read this. */
template <Keep keep = Keep::kNormal>
KVT_DEVICE void prefetch(const void *data, uint64_t bytes) {
    const auto *const first = static_cast<const unsigned char *>(data);
    for (uint64_t offset = lane_of_warp() * uint64_t{kLineBytes}; offset < bytes; offset += 32 * kLineBytes)
        prefetch_line<keep>(first + offset);
}

/* The same for a plane of each of n frames: the pages that come next. Frames of device memory are left out with
 * `host_alone`: what is near needs no help. */
template <Keep keep = Keep::kNormal>
KVT_DEVICE void prefetch_pages(const View &view, const uint32_t *frames, uint32_t n, uint32_t plane, bool host_alone = false) {
    for (uint32_t i = 0; i < n; ++i)
        if (!host_alone || !view.is_device(frames[i])) prefetch<keep>(view.at(frames[i], plane), view.plane_bytes);
}

/* ---- storing through ------------------------------------------------------------------------------------------ */

/* Reads 16 bytes, and stores them at `target` too if it is not null: what kvt_cuda_resolve asks for, a page's bytes in
 * the frame that was offered while they are read anyway. Both are aligned to 16 bytes. All page_bytes of the page have to
 * come by, in this launch or in others of the step; else kvt_cuda_drop_targets. */
KVT_DEVICE uint4 read_through(const void *source, void *target) {
    const uint4 value = *static_cast<const uint4 *>(source);
    if (target != nullptr) *static_cast<uint4 *>(target) = value;
    return value;
}

/* The same at an offset into a plane of a page that lies in `frame` and has `target_frame`, or KVT_NO_FRAME. */
KVT_DEVICE uint4 read_through(const View &view, uint32_t frame, uint32_t target_frame, uint32_t plane, uint64_t offset) {
    return read_through(view.at(frame, plane, offset),
                        target_frame == KVT_NO_FRAME ? nullptr : view.at(target_frame, plane, offset));
}

#endif /* __CUDACC__ */

} /* namespace kvt::device */

#endif
