// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/decoder.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace kvt::decode {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// The most probable byte; of equals the first. What begins a sequence is never chosen.
Token most_probable(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.begin() + kBytes) - logits.begin());
}

}  // namespace

DecodeResult decode(const Model& model, const KvLayout& layout, KvCache& cache, std::span<const Token> prompt,
                    const DecodeOptions& options) {
  DecodeResult result;
  result.tokens.assign(prompt.begin(), prompt.end());
  result.prompt_tokens = prompt.size();
  const size_t wanted = prompt.size() + options.count;
  result.tokens.reserve(wanted);

  HostAccess host_access(model.shape, layout);
  KvAccess& access = cache.access() != nullptr ? *cache.access() : host_access;
  Forward forward(model, layout, options.attention, access);
  Summaries summaries(layout);
  StepReads reads;
  std::vector<uint32_t> blocks_read;
  std::vector<Digest> digests(wanted);  // by position; all zero: not computed here yet
  const Clock::time_point begin = Clock::now();
  Clock::time_point decoding_since = begin;
  double cpu_before = 0;
  bool in_decoding = false;

  while (result.tokens.size() < wanted) {
    const size_t position = cache.prepare(result.tokens);
    const bool decoding = position + 1 >= prompt.size();
    if (decoding && !in_decoding) {
      in_decoding = true;
      result.prefill_seconds = seconds_since(begin);
      decoding_since = Clock::now();
      cpu_before = cpu_seconds();
    }
    summaries.truncate(position / layout.block_tokens);
    const KvView view = cache.begin_step();
    const auto logits = forward.step(result.tokens[position], position, view, summaries, reads,
                                     decoding ? options.mass : nullptr);
    reads.collect(blocks_read);
    const bool newest = position + 1 == result.tokens.size();
    cache.end_step(result.tokens, blocks_read);

    const Digest digest = digest_of(logits.data(), logits.size_bytes(), {});
    const bool again = digests[position] != Digest{};
    if (again && digests[position] != digest)
      throw std::runtime_error(fmt::format("position {} was computed again and gave other logits", position));
    digests[position] = digest;
    ++(decoding ? result.decode_steps : result.prefill_steps);
    if (again) ++result.steps_again;
    if (newest) result.tokens.push_back(most_probable(logits));
    if (options.on_step) options.on_step({position, decoding, again, logits, reads, result.tokens});
  }
  if (in_decoding) {
    result.decode_seconds = seconds_since(decoding_since);
    result.decode_cpu_seconds = cpu_seconds() - cpu_before;
  }
  for (size_t position = prompt.size() - 1; position + 1 < wanted; ++position)
    result.logits = digest_of(&digests[position], sizeof(Digest), result.logits);
  return result;
}

}  // namespace kvt::decode
