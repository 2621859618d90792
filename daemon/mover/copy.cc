// SPDX-License-Identifier: Apache-2.0
#include "daemon/mover/copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvt::mover {
namespace {

#if defined(__x86_64__)

// The page is read in two streams half a page apart, prefetched a few lines ahead, because one hardware
// stream does not keep a memory channel busy; it is written with non-temporal stores, which neither read the
// target first nor push the readers' data out of the cache.
__attribute__((target("avx512f"))) void copy_avx512(std::byte* target, const std::byte* source,
                                                    size_t bytes) {
  for (size_t at = 0; at < bytes; at += 256) {
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1024), _MM_HINT_NTA);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1088), _MM_HINT_NTA);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1152), _MM_HINT_NTA);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1216), _MM_HINT_NTA);
    const __m512i a = _mm512_load_si512(source + at);
    const __m512i b = _mm512_load_si512(source + at + 64);
    const __m512i c = _mm512_load_si512(source + at + 128);
    const __m512i d = _mm512_load_si512(source + at + 192);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at + 64), b);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at + 128), c);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + at + 192), d);
  }
}

__attribute__((target("avx2"))) void copy_avx2(std::byte* target, const std::byte* source, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1024), _MM_HINT_NTA);
    _mm_prefetch(reinterpret_cast<const char*>(source + at + 1088), _MM_HINT_NTA);
    const __m256i a = _mm256_load_si256(reinterpret_cast<const __m256i*>(source + at));
    const __m256i b = _mm256_load_si256(reinterpret_cast<const __m256i*>(source + at + 32));
    const __m256i c = _mm256_load_si256(reinterpret_cast<const __m256i*>(source + at + 64));
    const __m256i d = _mm256_load_si256(reinterpret_cast<const __m256i*>(source + at + 96));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + at), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + at + 32), b);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + at + 64), c);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(target + at + 96), d);
  }
}

void copy_sse2(std::byte* target, const std::byte* source, size_t bytes) {
  for (size_t at = 0; at < bytes; at += 64) {
    for (size_t i = 0; i < 64; i += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + at + i),
                       _mm_load_si128(reinterpret_cast<const __m128i*>(source + at + i)));
  }
}

using CopyFunction = void (*)(std::byte*, const std::byte*, size_t);

CopyFunction choose() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return copy_avx512;
  if (__builtin_cpu_supports("avx2")) return copy_avx2;
  return copy_sse2;
}

#endif

}  // namespace

// Non-temporal stores are not ordered by a release: before the completion is (PROTOCOL A6).
void order_copied() {
#if defined(__x86_64__)
  _mm_sfence();
#elif defined(__aarch64__)
  __asm__ volatile("dmb osh" ::: "memory");
#else
  __sync_synchronize();
#endif
}

void copy_page(std::byte* target, const std::byte* source, size_t bytes) {
#if defined(__x86_64__)
  static const CopyFunction copy = choose();
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  std::memcpy(target, source, bytes);  // what the sanitizer can see
  (void)copy;
#else
  copy(target, source, bytes);
#endif
#else
  std::memcpy(target, source, bytes);
#endif
  order_copied();
}

}  // namespace kvt::mover
