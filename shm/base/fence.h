// SPDX-License-Identifier: Apache-2.0
//
// The one full fence of the protocol (PROTOCOL B1), and relaxed/acquire/release access to words of shared
// memory.
//
// full_fence() stands in exactly these places: step begin (slot store | loads), the daemon after the last
// store of a withdrawal (| epoch, slot loads), hold (increments | row loads), evict (EVICTING store | hold
// loads), and both sides of each sleep flag. A seq_cst read-modify-write of the word itself is no substitute
// on arm64 with LDAPR.
#pragma once

#include <atomic>

namespace kvt {

#if defined(__SANITIZE_THREAD__)
#define KVT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define KVT_TSAN 1
#endif
#endif

#ifdef KVT_TSAN
/// tsan does not model fences: there a read-modify-write of one word that all threads share orders them
/// instead.
inline std::atomic<unsigned> tsan_fence_word{0};
inline void full_fence() { tsan_fence_word.fetch_add(1, std::memory_order_seq_cst); }
#else
inline void full_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
#endif

template <typename T>
[[nodiscard]] inline T load_relaxed(const T& word) {
  return std::atomic_ref<T>(const_cast<T&>(word)).load(std::memory_order_relaxed);
}
template <typename T>
[[nodiscard]] inline T load_acquire(const T& word) {
  return std::atomic_ref<T>(const_cast<T&>(word)).load(std::memory_order_acquire);
}
template <typename T>
inline void store_relaxed(T& word, T value) {
  std::atomic_ref<T>(word).store(value, std::memory_order_relaxed);
}
template <typename T>
inline void store_release(T& word, T value) {
  std::atomic_ref<T>(word).store(value, std::memory_order_release);
}

}  // namespace kvt
