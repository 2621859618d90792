// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/kvtier-replay/errors.h"

namespace kvt::replay {
namespace {

/// More bad lines than this are only counted: a file of another format would drown the report.
constexpr uint64_t kBadLinesShown = 10;
/// A request of 4 billion tokens is no request.
constexpr uint64_t kTokensMax = uint64_t{1} << 32;
constexpr size_t kBlocksMax = size_t{1} << 20;

/// The request of one line; else "" becomes what was expected.
Request parse_line(const std::string& text, std::string& expected) {
  Request request;
  const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
  if (line.is_discarded() || !line.is_object()) {
    expected = "a JSON object";
    return request;
  }
  const auto timestamp = line.find("timestamp");
  if (timestamp == line.end() || !timestamp->is_number() || timestamp->get<double>() < 0) {
    expected = "\"timestamp\": milliseconds, 0 or more";
    return request;
  }
  request.timestamp_ms = timestamp->get<double>();
  for (const auto& [name, value] :
       {std::pair{"input_length", &request.input_tokens}, {"output_length", &request.output_tokens}}) {
    const auto field = line.find(name);
    if (field == line.end() || !field->is_number_unsigned() || field->get<uint64_t>() > kTokensMax) {
      expected = fmt::format("\"{}\": a number of tokens", name);
      return request;
    }
    *value = field->get<uint64_t>();
  }
  const auto ids = line.find("hash_ids");
  const bool good =
      ids != line.end() && ids->is_array() && !ids->empty() && ids->size() <= kBlocksMax &&
      std::all_of(ids->begin(), ids->end(), [](const auto& id) { return id.is_number_unsigned(); });
  if (!good) {
    expected = "\"hash_ids\": block ids, one or more integers";
    return request;
  }
  request.block_ids = ids->get<std::vector<uint64_t>>();
  return request;
}

}  // namespace

TraceReader::TraceReader(std::string path, bool strict)
    : path_(std::move(path)), strict_(strict), file_(path_) {
  if (!file_) throw UsageError(fmt::format("{}: cannot be opened", path_));
}

void TraceReader::report_bad(const std::string& expected) {
  const std::string message = fmt::format("{}:{}: expected {}", path_, line_, expected);
  if (strict_) throw UsageError(message);
  ++bad_lines_;
  if (bad_lines_ <= kBadLinesShown) fmt::print(stderr, "kvtier-replay: {}; line skipped\n", message);
  if (bad_lines_ == kBadLinesShown) fmt::print(stderr, "kvtier-replay: further bad lines are counted only\n");
}

std::optional<Request> TraceReader::next() {
  std::string text;
  while (std::getline(file_, text)) {
    ++line_;
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::string expected;
    Request request = parse_line(text, expected);
    if (!expected.empty()) {
      report_bad(expected);
      continue;
    }
    // Lines are replayed in their order, so a clock that goes back stands still.
    last_timestamp_ms_ = request.timestamp_ms = std::max(request.timestamp_ms, last_timestamp_ms_);
    return request;
  }
  return std::nullopt;
}

}  // namespace kvt::replay
