// SPDX-License-Identifier: Apache-2.0
//
// What the tests of kvtier-decode share: a model that fits the test daemon's pages, a prompt, the run on
// private memory that everything is compared with.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/random.h"
#include "tools/kvtier-decode/run.h"

namespace kvt::test {

/// Sentences of few words, so that there is something to learn: who did what comes back later in the same
/// text.
inline std::string text_of_words(size_t bytes, uint64_t seed) {
  static constexpr const char* kWho[] = {"the cat", "a dog", "the old man", "my sister", "the keeper"};
  static constexpr const char* kDid[] = {"saw", "moved", "found", "lost", "counted"};
  static constexpr const char* kWhat[] = {"a page", "the frames", "a red ball", "two keys", "the table"};
  decode::Random random(seed);
  std::string text;
  while (text.size() < bytes) {
    text += std::string(kWho[random.below(5)]) + " " + kDid[random.below(5)] + " " + kWhat[random.below(5)] +
            ". ";
  }
  text.resize(bytes);
  return text;
}

/// The GPU that reads and writes the KV data of this executable's tests; null: the CPU does.
inline std::shared_ptr<decode::Device> test_device() {
#ifdef KVT_STANDIN_DRIVER
  // Never destroyed: the driver's threads run until the process ends.
  static const auto& device =
      *new std::shared_ptr<decode::Device>(decode::open_device(KVT_STANDIN_DRIVER, 0));
  return device;
#else
  return nullptr;
#endif
}

/// Page of the default arena: 16 tokens of 4 layers fill it to the last byte.
inline World decode_world(const std::string& policy = "off") {
  World world;
  world.planes = 4;
  world.policy = policy;
  world.cooldown_ms = 2;
#ifdef KVT_STANDIN_DRIVER
  world.cuda_driver = KVT_STANDIN_DRIVER;
#endif
  return world;
}

inline const decode::Model& test_model() {
  static const decode::Model model(decode::Shape{}, 7);
  return model;
}

inline decode::RunOptions run_options(const std::string& folder, decode::Place place, const char* attention,
                                      size_t tokens) {
  decode::RunOptions options;
  options.place = place;
  options.arena.socket_dir = folder;
  options.arena.timeout_ms = 10000;
  options.attention = *decode::AttentionKind::parse(attention);
  options.tokens = tokens;
  options.device = test_device();
  return options;
}

/// Compares each step with `reference`; fails once, at the first difference.
class Comparison {
 public:
  explicit Comparison(const decode::Reference& reference) : reference_(reference) {}
  void operator()(const decode::StepEvent& event) {
    ++steps_;
    if (difference_.empty()) difference_ = reference_.compare(event);
  }
  [[nodiscard]] const std::string& difference() const { return difference_; }
  [[nodiscard]] size_t steps() const { return steps_; }

 private:
  const decode::Reference& reference_;
  std::string difference_;
  size_t steps_ = 0;
};

}  // namespace kvt::test
