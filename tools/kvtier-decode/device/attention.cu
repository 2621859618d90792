// SPDX-License-Identifier: Apache-2.0
//
// Attention of one decode step over pages in HBM and in host memory, in one launch.
//
// Every warp is a worker of its own, with a ring of tiles in shared memory that asynchronous copies fill: no warp waits
// for another one of its block. A worker takes items (a split of a sequence, one KV head), goes through the tokens in
// order and leaves maximum, sum and weighted values; kvt_reduce_* puts the splits together, in order.
//
// Host pages. The warps of the first blocks begin as copiers: they read the host pages of the launch, each once, from
// the first moment on, and store them to HBM: to the frame offered, or to a ring in the workspace. Items read them
// there. That costs one write and one read of HBM for a byte of the link, at most 2 * B_link of the HBM's bandwidth
// (under 3 % of it over PCIe 5), and it makes the arithmetic of an item the same wherever its pages are.
// Order of work: it is a flow shop of two machines, link and HBM, and Johnson's rule gives the order: splits of few host
// pages are copied first; an item whose pages have come is taken first, then those without host pages, and an item
// whose pages have not come only when there is nothing else to do. Copiers that are done become workers.
#ifdef __CUDACC__  // a test has others, which run on a CPU
#include "tools/kvtier-decode/device/primitives.cuh"
#endif

#include "tools/kvtier-decode/device/attention.cuh"

namespace kvt::decode {
namespace {

constexpr unsigned kAll = 0xffffffffu;

template <int kDim>
struct Shape {
  static constexpr int kRowBytes = kDim * 2;
  static constexpr int kHalfBytes = kTileTokens * kRowBytes;  ///< the keys of a tile, or its values
  static constexpr int kTileBytes = 2 * kHalfBytes;
  static constexpr int kStages = kRingBytes / kTileBytes;
  static constexpr int kRowPieces = kRowBytes / 16;       ///< a piece: 16 bytes, what a lane copies at once
  static constexpr int kRowsAtOnce = 32 / kRowPieces;     ///< rows that a warp copies at once
  static constexpr int kCopies = kHalfBytes / (32 * 16);  ///< of a lane, for a half
  static_assert(kStages >= 2 && kStages <= kRingSlots);
};

// ---- splits ----

/// Tokens of a sequence, of those that the arrays have room for.
__device__ __forceinline__ int sequence_tokens(const AttentionParameters& p, int seq) {
  const int length = p.lengths[seq];
  return length < 0 ? 0 : length < p.max_length ? length : p.max_length;
}
/// Tokens of a split: at most split_tokens; 0 beyond the end of the sequence.
__device__ __forceinline__ int split_tokens(const AttentionParameters& p, int seq, int split) {
  const int64_t left = sequence_tokens(p, seq) - int64_t{split} * p.split_tokens;
  return static_cast<int>(left < 0 ? 0 : left < p.split_tokens ? left : p.split_tokens);
}

// ---- copiers ----

/// What a warp of a copying block does: parts of host pages, a tile's bytes each, dealt out in turn.
template <int kDim>
__device__ void copy_pages(const AttentionParameters& p, uint32_t ring, int lane, int copier, int copiers) {
  using S = Shape<kDim>;
  constexpr int kSteps = S::kTileBytes / (32 * 16);
  const int parts = static_cast<int>(p.page_bytes / S::kTileBytes);
  const int64_t end = int64_t{p.state->copies} * parts;
  const auto fetch = [&](int64_t part, int stage) {
    if (part < end) {
      const int copy = static_cast<int>(part / parts);
      const char* from =
          reinterpret_cast<const char*>(p.pages + p.stride * static_cast<uint64_t>(p.copies[copy].frame)) +
          (part - int64_t{copy} * parts) * S::kTileBytes + lane * 16;
      const uint32_t to = ring + stage * S::kTileBytes + lane * 16;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) copy_async_link(to + i * 512, from + i * 512);
    }
    copies_commit();
  };
  int64_t next = copier;
  for (int stage = 0; stage < S::kStages - 1; ++stage, next += copiers) fetch(next, stage);
  int stage = 0;
  for (int64_t part = copier; part < end; part += copiers, next += copiers) {
    // A lane reads what it copied itself, so that its own wait is enough, here and before the stage is filled again.
    copies_wait<S::kStages - 2>();
    fetch(next, stage == 0 ? S::kStages - 1 : stage - 1);
    const int copy = static_cast<int>(part / parts);
    const int target = p.copies[copy].target;
    char* to = nullptr;
    if (target >= 0) {
      to = reinterpret_cast<char*>(p.pages + p.stride * static_cast<uint64_t>(target));
    } else {
      const int number = -1 - target;
      const int slot = number % p.staging_pages;
      const uint32_t uses =
          static_cast<uint32_t>(number / p.staging_pages) * static_cast<uint32_t>(p.kv_heads);
      while (load_relaxed(&p.released[slot]) < uses) __nanosleep(500);
      load_acquire(&p.released[slot]);
      to = reinterpret_cast<char*>(p.staging + p.page_bytes * static_cast<uint64_t>(slot));
    }
    to += (part - int64_t{copy} * parts) * S::kTileBytes + lane * 16;
    const uint32_t from = ring + stage * S::kTileBytes + lane * 16;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) store_global(to + i * 512, shared_load(from + i * 512));
    __syncwarp();
    if (lane == 0) add_release(&p.ready[copy]);
    if (++stage == S::kStages) stage = 0;
  }
  copies_wait<0>();
  __syncwarp();
}

// ---- workers ----

/// The next item for this warp: place in the order * kv_heads + KV head; -1: none. `plain_left` is the warp's memory of
/// whether there are items without host pages. For one lane.
__device__ int take_item(const AttentionParameters& p, int parts, bool& plain_left) {
  AttentionState& state = *p.state;
  const int plain = state.plain_splits * p.kv_heads;
  const int mixed = state.mixed_splits * p.kv_heads;
  for (;;) {
    const int seen = static_cast<int>(load_relaxed(&state.mixed_next));
    if (seen < mixed) {
      const bool come =
          load_relaxed(&p.ready[p.last_copy[seen / p.kv_heads]]) == static_cast<uint32_t>(parts);
      if (come || !plain_left) {
        const int item = atomicAdd(&state.mixed_next, 1);
        if (item < mixed) return plain + item;
      }
    } else if (!plain_left) {
      return -1;
    }
    if (plain_left) {
      const int item = atomicAdd(&state.plain_next, 1);
      if (item < plain) return item;
      plain_left = false;
    }
  }
}

/// A warp's way through the pages of one split of one KV head.
template <typename T, int kDim, bool kWide>
class Worker {
  using S = Shape<kDim>;
  static constexpr int kSteps = kDim / 16;

 public:
  __device__ Worker(const AttentionParameters& p, uint32_t ring, int* slots, int lane)
      : p_(p), ring_(ring), slots_(slots), lane_(lane) {
    parts_ = static_cast<int>(p.page_bytes / S::kTileBytes);
    block_tiles_ = p.block_tokens / kTileTokens;
  }

  __device__ void run() {
    bool plain_left = true;
    for (;;) {
      int item = lane_ == 0 ? take_item(p_, parts_, plain_left) : 0;
      item = __shfl_sync(kAll, item, 0);
      if (item < 0) return;
      const int place = item / p_.kv_heads;
      const int split = p_.order[place];
      work(split / p_.splits, split % p_.splits, item - place * p_.kv_heads);
    }
  }

 private:
  /// Where this layer of the page of block `block` (of the split) is to be read. `slot`: of the staging ring, or -1.
  __device__ const char* page_of(int seq, int first_block, int block, int& slot) {
    const int frame = __shfl_sync(kAll, table_, block & 31);
    slot = -1;
    if (frame < p_.first_host_frame)
      return reinterpret_cast<const char*>(p_.pages + p_.stride * static_cast<uint64_t>(frame));
    const int copy = p_.copy_of[int64_t{seq} * p_.max_blocks + first_block + block];
    const int target = p_.copies[copy].target;
    while (load_relaxed(&p_.ready[copy]) != static_cast<uint32_t>(parts_)) __nanosleep(500);
    load_acquire(&p_.ready[copy]);
    __syncwarp();
    if (target >= 0)
      return reinterpret_cast<const char*>(p_.pages + p_.stride * static_cast<uint64_t>(target));
    slot = (-1 - target) % p_.staging_pages;
    return reinterpret_cast<const char*>(p_.staging + p_.page_bytes * static_cast<uint64_t>(slot));
  }

  __device__ __forceinline__ void load_half(uint32_t to, const char* from, int rows) const {
    const int row = lane_ / S::kRowPieces;
    const int piece = lane_ % S::kRowPieces;
    from += lane_ * 16;
#pragma unroll
    for (int i = 0; i < S::kCopies; ++i) {
      const int r = row + i * S::kRowsAtOnce;
      // Pieces of a row are swapped by the row's number, so that the eight rows of a matrix lie in different banks.
      const uint32_t at = to + r * S::kRowBytes + ((piece ^ (r & 7)) * 16);
      if (rows >= kTileTokens)
        copy_async(at, from + i * 512);
      else
        copy_async_or_zero(at, from + i * 512, r < rows ? 16 : 0);
    }
  }

  __device__ void work(int seq, int split, int kv_head) {
    const int lane = lane_;
    const int tokens = split_tokens(p_, seq, split);
    const int tiles = (tokens + kTileTokens - 1) / kTileTokens;
    const int blocks = (tokens + p_.block_tokens - 1) / p_.block_tokens;
    const int first_block = split * (p_.split_tokens / p_.block_tokens);
    const int32_t* table = p_.block_table + int64_t{seq} * p_.max_blocks + first_block;
    const int64_t head_bytes = int64_t{p_.block_tokens} * S::kRowBytes;
    const int64_t values_bytes = head_bytes * p_.kv_heads;
    table_ = lane < blocks ? table[lane] : 0;
    int table_next = lane + 32 < blocks ? table[lane + 32] : 0;

    // The queries of the group: rows of A, heads beyond the group are zero.
    const int row = lane / 4;
    const int column = lane % 4 * 2;
    uint32_t query[kSteps][4];
    {
      const int head = kv_head * p_.group;
      const T* q = static_cast<const T*>(p_.q) + (int64_t{seq} * p_.heads + head) * kDim;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int r = row + (i & 1) * 8;
          const int c = k * 16 + column + (i >> 1) * 8;
          query[k][i] = 0;
          if ((kWide || (i & 1) == 0) && r < p_.group)
            query[k][i] = *reinterpret_cast<const uint32_t*>(q + int64_t{r} * kDim + c);
        }
      }
    }

    // Tiles of keys and values on their way.
    int block = 0, part = 0;  // of the next tile to ask for
    const char* page = nullptr;
    int slot = -1;
    const auto ask = [&](int tile, int stage) {
      if (tile < tiles) {
        if (part == 0) {
          if ((block & 31) == 0 && block != 0) {
            table_ = table_next;
            table_next = block + 32 + lane < blocks ? table[block + 32 + lane] : 0;
          }
          page = page_of(seq, first_block, block, slot) + head_bytes * kv_head;
        }
        const int rows = tokens - tile * kTileTokens;
        const char* keys = page + part * S::kHalfBytes;
        load_half(ring_ + stage * S::kTileBytes, keys, rows);
        load_half(ring_ + stage * S::kTileBytes + S::kHalfBytes, keys + values_bytes, rows);
        const bool last = ++part == block_tiles_ || tile + 1 == tiles;
        if (lane == 0) slots_[stage] = last ? slot : -1;
        if (last) {
          part = 0;
          ++block;
        }
      }
      copies_commit();
    };

    float weighted[kDim / 8][4];
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) weighted[n][i] = 0.0f;
    float maximum[2] = {-INFINITY, -INFINITY};
    float sum[2] = {0.0f, 0.0f};
    constexpr int kRows = kWide ? 2 : 1;

    // Addresses of the rows that this lane names to ldmatrix, without the piece.
    const int swap = lane & 7;
    const uint32_t key_row = (lane / 16 * 8 + swap) * S::kRowBytes;
    const uint32_t key_piece = (lane / 8 & 1) ^ swap;
    const uint32_t value_row = S::kHalfBytes + ((lane / 8 & 1) * 8 + swap) * S::kRowBytes;
    const uint32_t value_piece = (lane / 16) ^ swap;

    __syncwarp();  // all lanes are done with the item before
#pragma unroll
    for (int stage = 0; stage < S::kStages - 1; ++stage) ask(stage, stage);
    int stage = 0;
    for (int tile = 0; tile < tiles; ++tile) {
      copies_wait<S::kStages - 2>();
      __syncwarp();  // the tile is there for all lanes; and all are done with the tile before, whose stage is filled next
      if (lane == 0 && slots_[stage] >= 0) add_release(&p_.released[slots_[stage]]);
      ask(tile + S::kStages - 1, stage == 0 ? S::kStages - 1 : stage - 1);
      const uint32_t at = ring_ + stage * S::kTileBytes;

      // Scores: [head][token] of 16 tokens, even and odd steps apart for shorter chains.
      float score[2][4], odd[2][4];
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) score[n][i] = odd[n][i] = 0.0f;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t b[4];
        matrices(b, at + key_row + (((2 * k) ^ key_piece) * 16));
        auto& into = k % 2 == 0 ? score : odd;
        Element<T>::multiply(into[0], query[k], b[0], b[1]);
        Element<T>::multiply(into[1], query[k], b[2], b[3]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) score[n][i] += odd[n][i];
      const int left = tokens - tile * kTileTokens;
      if (left < kTileTokens) {
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (n * 8 + column + (i & 1) >= left) score[n][i] = -INFINITY;
      }

      // Weights, and what was summed so far on the scale of the new maximum.
      float factor[2] = {1.0f, 1.0f};
      bool raised = false;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float top =
            fmaxf(fmaxf(score[0][2 * r], score[0][2 * r + 1]), fmaxf(score[1][2 * r], score[1][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(kAll, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAll, top, 2)) * p_.scale_log2;
        if (top > maximum[r]) {
          factor[r] = power2(maximum[r] - top);
          maximum[r] = top;
          raised = true;
        }
        float added = 0.0f;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            score[n][2 * r + i] = power2(fmaf(score[n][2 * r + i], p_.scale_log2, -maximum[r]));
            added += score[n][2 * r + i];
          }
        sum[r] = sum[r] * factor[r] + added;
      }
      if (__any_sync(kAll, raised)) {  // a factor of 1 changes no bit
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
          for (int i = 0; i < 2 * kRows; ++i) weighted[n][i] *= factor[i / 2];
      }

      const uint32_t weight[4] = {Element<T>::pack(score[0][0], score[0][1]),
                                  kWide ? Element<T>::pack(score[0][2], score[0][3]) : 0u,
                                  Element<T>::pack(score[1][0], score[1][1]),
                                  kWide ? Element<T>::pack(score[1][2], score[1][3]) : 0u};
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t b[4];
        matrices_transposed(b, at + value_row + (((2 * n) ^ value_piece) * 16));
        Element<T>::multiply(weighted[2 * n], weight, b[0], b[1]);
        Element<T>::multiply(weighted[2 * n + 1], weight, b[2], b[3]);
      }
      if (++stage == S::kStages) stage = 0;
    }

#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float total = sum[r] + __shfl_xor_sync(kAll, sum[r], 1);
      total += __shfl_xor_sync(kAll, total, 2);
      const int head = row + r * 8;
      if (head < p_.group) {
        const int64_t at = (int64_t{seq} * p_.heads + kv_head * p_.group + head) * p_.splits + split;
        if (lane % 4 == 0) p_.stats[at] = AttentionStat{maximum[r], total};
        float* sums = p_.sums + at * kDim + column;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          *reinterpret_cast<float2*>(sums + n * 8) = make_float2(weighted[n][2 * r], weighted[n][2 * r + 1]);
      }
    }
  }

  const AttentionParameters& p_;
  const uint32_t ring_;
  int* const slots_;
  const int lane_;
  int parts_;        ///< tiles of a page
  int block_tiles_;  ///< tiles of a block of one KV head
  int table_ = 0;    ///< a lane's entry of the 32 blocks around the next tile
};

template <typename T, int kDim, bool kWide>
__device__ __forceinline__ void attend(const AttentionParameters& p) {
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  const int lane = threadIdx.x % 32;
  char* mine = dynamic_shared() + warp * kWarpSharedBytes;
  const uint32_t ring = shared_address(mine);
  if (static_cast<int>(blockIdx.x) < p.copying_blocks)
    copy_pages<kDim>(p, ring, lane, blockIdx.x * warps + warp, p.copying_blocks * warps);
  Worker<T, kDim, kWide>(p, ring, reinterpret_cast<int*>(mine + kRingBytes), lane).run();
}

// ---- putting splits together ----

/// One block for each sequence and head. Clears the counters of the launch as well.
template <typename T, int kDim>
__device__ __forceinline__ void reduce(const AttentionParameters& p) {
  constexpr int kWarps = kReduceThreads / 32;
  constexpr int kWide = kDim / 32;
  __shared__ float parts[kWarps][kDim];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int seq = blockIdx.x / p.heads;
  const int splits = (sequence_tokens(p, seq) + p.split_tokens - 1) / p.split_tokens;
  const AttentionStat* stats = p.stats + int64_t{blockIdx.x} * p.splits;
  const float* sums = p.sums + int64_t{blockIdx.x} * p.splits * kDim + lane * kWide;

  // Every warp for itself, in the same order.
  float maximum = -INFINITY;
  for (int i = lane; i < splits; i += 32) maximum = fmaxf(maximum, stats[i].maximum);
#pragma unroll
  for (int step = 16; step != 0; step /= 2) maximum = fmaxf(maximum, __shfl_xor_sync(kAll, maximum, step));
  float total = 0.0f;
  for (int i = lane; i < splits; i += 32) total += stats[i].sum * power2(stats[i].maximum - maximum);
#pragma unroll
  for (int step = 16; step != 0; step /= 2) total += __shfl_xor_sync(kAll, total, step);

  float mine[kWide] = {};
#pragma unroll 8
  for (int i = warp; i < splits; i += kWarps) {
    const float weight = power2(stats[i].maximum - maximum);
    const float* from = sums + int64_t{i} * kDim;
    float loaded[kWide];
    if constexpr (kWide == 4)
      *reinterpret_cast<float4*>(loaded) = *reinterpret_cast<const float4*>(from);
    else
      *reinterpret_cast<float2*>(loaded) = *reinterpret_cast<const float2*>(from);
#pragma unroll
    for (int d = 0; d < kWide; ++d) mine[d] += weight * loaded[d];
  }
#pragma unroll
  for (int d = 0; d < kWide; ++d) parts[warp][lane * kWide + d] = mine[d];
  __syncthreads();
  if (threadIdx.x < kDim) {
    float value = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) value += parts[w][threadIdx.x];
    static_cast<T*>(p.out)[int64_t{blockIdx.x} * kDim + threadIdx.x] =
        Element<T>::from(splits == 0 ? 0.0f : value / total);
  }

  const int thread = blockIdx.x * kReduceThreads + threadIdx.x;
  const int threads = gridDim.x * kReduceThreads;
  const int copies = p.state->copies;
  for (int i = thread; i < copies; i += threads) p.ready[i] = 0;
  if (p.state->staged != 0)
    for (int i = thread; i < p.staging_pages; i += threads) p.released[i] = 0;
  if (thread == 0) p.state->plain_next = p.state->mixed_next = 0;
}

// ---- what is where: for block tables that stay the same, once for all layers ----

constexpr int kBins = kPlanThreads;

/// A block of a split that is in host memory, and whether it has an offer.
struct HostBlock {
  int frame;
  int offer;
  bool host;
};
__device__ __forceinline__ HostBlock host_block(const AttentionParameters& p, int seq, int block,
                                                bool within) {
  const int64_t at = int64_t{seq} * p.max_blocks + block;
  HostBlock b{0, -1, false};
  if (!within) return b;
  b.frame = p.block_table[at];
  b.host = b.frame >= p.first_host_frame;
  if (b.host && p.offers != nullptr) b.offer = p.offers[at];
  return b;
}

/// Exclusive sum over the block's threads; `total` is that of all.
__device__ int block_sum(int value, int (&warps)[32], int& total) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    int all = warps[lane];
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kAll, all, step);
      if (lane >= step) all += other;
    }
    warps[lane] = all;
  }
  __syncthreads();
  const int before = warp == 0 ? 0 : warps[warp - 1];
  total = warps[31];
  __syncthreads();
  return before + sum - value;
}

}  // namespace

/// Host pages of each split: a warp a split.
extern "C" __global__ void kvt_plan_count(const __grid_constant__ AttentionParameters p) {
  const int split = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (split >= p.seqs * p.splits) return;
  const int seq = split / p.splits;
  const int tokens = split_tokens(p, seq, split % p.splits);
  const int blocks = (tokens + p.block_tokens - 1) / p.block_tokens;
  const int first = split % p.splits * (p.split_tokens / p.block_tokens);
  int host = 0, staged = 0;
  for (int i = lane; i < blocks; i += 32) {
    const HostBlock b = host_block(p, seq, first + i, true);
    host += b.host;
    staged += b.host && b.offer < 0;
  }
  host = __reduce_add_sync(kAll, host);
  staged = __reduce_add_sync(kAll, staged);
  if (lane == 0) {
    p.host_pages[split] = blocks == 0 ? -1 : host;
    p.staged_pages[split] = staged;
  }
}

/// The order of work: splits by their host pages, few first; and where the copies of each split begin. One block.
extern "C" __global__ void __launch_bounds__(kPlanThreads)
    kvt_plan_order(const __grid_constant__ AttentionParameters p) {
  __shared__ int bins[kBins];
  __shared__ int warps[32];
  const int thread = threadIdx.x;
  const int all = p.seqs * p.splits;
  bins[thread] = 0;
  __syncthreads();
  for (int i = thread; i < all; i += kPlanThreads)
    if (p.host_pages[i] >= 0) atomicAdd(&bins[min(p.host_pages[i], kBins - 1)], 1);
  __syncthreads();
  const int plain = bins[0];
  int splits = 0;
  const int begin = block_sum(bins[thread], warps, splits);
  bins[thread] = begin;
  __syncthreads();
  for (int i = thread; i < all; i += kPlanThreads)
    if (p.host_pages[i] >= 0) p.order[atomicAdd(&bins[min(p.host_pages[i], kBins - 1)], 1)] = i;
  __syncthreads();
  int copies = 0, staged = 0;
  const int mixed = splits - plain;
  for (int base = 0; base < mixed; base += kPlanThreads) {
    const int at = base + thread;
    const int split = at < mixed ? p.order[plain + at] : 0;
    const int host = at < mixed ? p.host_pages[split] : 0;
    const int ring = at < mixed ? p.staged_pages[split] : 0;
    int host_total = 0, ring_total = 0;
    const int first = copies + block_sum(host, warps, host_total);
    const int first_staged = staged + block_sum(ring, warps, ring_total);
    if (at < mixed) {
      p.first_copy[split] = first;
      p.first_staged[split] = first_staged;
      p.last_copy[at] = first + host - 1;
    }
    copies += host_total;
    staged += ring_total;
  }
  if (thread == 0) {
    p.state->plain_splits = plain;
    p.state->mixed_splits = mixed;
    p.state->copies = copies;
    p.state->staged = staged;
    p.state->plain_next = p.state->mixed_next = 0;
  }
  for (int i = thread; i < p.staging_pages; i += kPlanThreads) p.released[i] = 0;
}

/// The copies of each split: a warp a split.
extern "C" __global__ void kvt_plan_fill(const __grid_constant__ AttentionParameters p) {
  const int split = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (split >= p.seqs * p.splits || p.host_pages[split] <= 0) return;
  const int seq = split / p.splits;
  const int tokens = split_tokens(p, seq, split % p.splits);
  const int blocks = (tokens + p.block_tokens - 1) / p.block_tokens;
  const int first = split % p.splits * (p.split_tokens / p.block_tokens);
  int copy = p.first_copy[split];
  int staged = p.first_staged[split];
  const unsigned before = (1u << lane) - 1;
  for (int base = 0; base < blocks; base += 32) {
    const HostBlock b = host_block(p, seq, first + base + lane, base + lane < blocks);
    const unsigned hosts = __ballot_sync(kAll, b.host);
    const unsigned rings = __ballot_sync(kAll, b.host && b.offer < 0);
    if (b.host) {
      const int mine = copy + __popc(hosts & before);
      const int target = b.offer >= 0 ? b.offer : -1 - (staged + __popc(rings & before));
      p.copies[mine] = AttentionCopy{b.frame, target};
      p.copy_of[int64_t{seq} * p.max_blocks + first + base + lane] = mine;
      p.ready[mine] = 0;
    }
    copy += __popc(hosts);
    staged += __popc(rings);
  }
}

#define KVT_ATTEND(name, type, dim, wide)                                \
  extern "C" __global__ void __launch_bounds__(kWarpsMax * 32, 1)        \
      kvt_attend_##name(const __grid_constant__ AttentionParameters p) { \
    attend<type, dim, wide>(p);                                          \
  }
#define KVT_REDUCE(name, type, dim)                                      \
  extern "C" __global__ void __launch_bounds__(kReduceThreads)           \
      kvt_reduce_##name(const __grid_constant__ AttentionParameters p) { \
    reduce<type, dim>(p);                                                \
  }
// Names: type, head_dim, and for the attention kernels the most heads of a group.
KVT_ATTEND(f16_64_8, __half, 64, false)
KVT_ATTEND(f16_64_16, __half, 64, true)
KVT_ATTEND(f16_128_8, __half, 128, false)
KVT_ATTEND(f16_128_16, __half, 128, true)
KVT_ATTEND(bf16_64_8, __nv_bfloat16, 64, false)
KVT_ATTEND(bf16_64_16, __nv_bfloat16, 64, true)
KVT_ATTEND(bf16_128_8, __nv_bfloat16, 128, false)
KVT_ATTEND(bf16_128_16, __nv_bfloat16, 128, true)
KVT_REDUCE(f16_64, __half, 64)
KVT_REDUCE(f16_128, __half, 128)
KVT_REDUCE(bf16_64, __nv_bfloat16, 64)
KVT_REDUCE(bf16_128, __nv_bfloat16, 128)

}  // namespace kvt::decode
