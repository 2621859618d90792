// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "tools/kvtier-decode/errors.h"

namespace kvt::decode {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kFormatVersion = 1;

/// Pages that a layer has read: [first, count, kv heads] for neighbours that equally many heads have read.
Json runs_of(const StepReads& reads, size_t layer) {
  Json runs = Json::array();
  for (size_t block = 0; block < reads.blocks();) {
    const uint32_t heads = reads.heads(layer, block);
    size_t end = block + 1;
    while (end < reads.blocks() && reads.heads(layer, end) == heads) ++end;
    if (heads != 0) runs.push_back({block, end - block, heads});
    block = end;
  }
  return runs;
}

}  // namespace

Record::Record(const std::string& path, const RecordHeader& header)
    : path_(path),
      file_(path),
      layout_(header.layout),
      keys_(header.attention, header.layout.block_tokens, header.salt) {
  if (!file_) throw UsageError(fmt::format("--record {}: cannot be written", path));
  const Shape& shape = header.shape;
  const Json line = {{"kvtier_decode_reads", kFormatVersion},
                     {"model",
                      {{"layers", shape.layers},
                       {"width", shape.width},
                       {"heads", shape.heads},
                       {"kv_heads", shape.kv_heads},
                       {"head_dim", shape.head_dim},
                       {"hidden", shape.hidden},
                       {"weights", fmt::format("{:016x}{:016x}", header.weights[1], header.weights[0])}}},
                     {"page",
                      {{"block_tokens", layout_.block_tokens},
                       {"bytes", layout_.layers * layout_.layer_bytes()},
                       {"layer_bytes", layout_.layer_bytes()}}},
                     {"attention", header.attention.text()},
                     {"seed", header.seed},
                     {"salt", header.salt},
                     {"prompt_tokens", header.prompt_tokens},
                     {"tokens", header.tokens}};
  file_ << line.dump() << '\n';
}

void Record::write(const StepEvent& event) {
  Json reads = Json::array();
  for (size_t layer = 0; layer < event.reads.layers(); ++layer) reads.push_back(runs_of(event.reads, layer));
  const Json line = {{"step", steps_++},
                     {"position", event.position},
                     {"phase", event.decoding ? "decode" : "prefill"},
                     {"write", event.position / layout_.block_tokens},
                     {"reads", std::move(reads)}};
  file_ << line.dump() << '\n';
  const size_t full = (event.position + 1) / layout_.block_tokens;
  if (full <= pages_named_) return;
  const auto keys = keys_.keys(event.tokens, full);
  for (; pages_named_ < full; ++pages_named_) {
    const kvt_key key = keys[pages_named_];
    file_ << Json{{"page", pages_named_}, {"key", fmt::format("{:016x}{:016x}", key.hi, key.lo)}}.dump()
          << '\n';
  }
}

void Record::close() {
  file_.close();
  if (!file_) throw std::runtime_error(fmt::format("--record {}: not all could be written", path_));
}

}  // namespace kvt::decode
