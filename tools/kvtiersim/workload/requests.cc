// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace kvt::sim {

namespace {

constexpr uint64_t kTokenBytes = 128 << 10;
constexpr uint64_t kTokensMax = uint64_t{1} << 28;   // of one request
constexpr uint64_t kEntriesMax = uint64_t{1} << 30;  // page reads of all steps: 4 GiB
constexpr uint32_t kOwnBlockTokens = 16;             // where a trace has no blocks
constexpr const char* kAzureHeader = "TIMESTAMP,ContextTokens,GeneratedTokens";

struct Request {
  uint64_t input_tokens = 0;
  uint64_t output_tokens = 0;
  std::vector<uint32_t> blocks;  // of the prompt, in its order
};

struct Requests {
  std::vector<Request> all;
  std::vector<uint32_t> parent;  // of each block, by first sight
  uint64_t block_tokens = 0;
};

struct Place {
  const std::string& path;
  uint64_t line;
  [[noreturn]] void fail(const std::string& expected) const {
    throw std::invalid_argument(fmt::format("{}:{}: expected {}", path, line, expected));
  }
};

std::ifstream open(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::invalid_argument(path + ": cannot be read");
  return file;
}

bool next_line(std::ifstream& file, std::string& text, uint64_t& line) {
  while (std::getline(file, text)) {
    ++line;
    if (!text.empty() && text.back() == '\r') text.pop_back();
    if (text.find_first_not_of(" \t") != std::string::npos) return true;
  }
  return false;
}

Requests read_lines_of_json(const std::string& path) {
  Requests requests;
  std::ifstream file = open(path);
  std::unordered_map<uint64_t, uint32_t> block_of;
  std::vector<double> tokens_a_block;
  std::string text;
  for (uint64_t line = 0; next_line(file, text, line);) {
    const Place place{path, line};
    const nlohmann::json object = nlohmann::json::parse(text, nullptr, false);
    if (!object.is_object()) place.fail("a JSON object");
    const auto tokens = [&](const char* name) {
      const auto field = object.find(name);
      if (field == object.end() || !field->is_number_unsigned() || field->get<uint64_t>() > kTokensMax)
        place.fail(fmt::format("\"{}\": a number of tokens, at most {}", name, kTokensMax));
      return field->get<uint64_t>();
    };
    Request request;
    request.input_tokens = tokens("input_length");
    request.output_tokens = tokens("output_length");
    const auto ids = object.find("hash_ids");
    if (ids == object.end() || !ids->is_array() || ids->empty())
      place.fail("\"hash_ids\": block ids, one or more integers");
    uint32_t before = UINT32_MAX;
    for (const auto& id : *ids) {
      if (!id.is_number_unsigned()) place.fail("\"hash_ids\": block ids, one or more integers");
      const auto [found, fresh] =
          block_of.try_emplace(id.get<uint64_t>(), static_cast<uint32_t>(requests.parent.size()));
      if (fresh) requests.parent.push_back(before);
      request.blocks.push_back(found->second);
      before = found->second;
    }
    tokens_a_block.push_back(static_cast<double>(request.input_tokens) / static_cast<double>(ids->size()));
    requests.all.push_back(std::move(request));
  }
  if (requests.all.empty()) throw std::invalid_argument(path + ": expected requests, has none");
  // The last block of a prompt is rarely full, so the median is a little low, and ids of text blocks are only
  // about so long.
  auto& ratio = tokens_a_block;
  std::nth_element(ratio.begin(), ratio.begin() + static_cast<std::ptrdiff_t>(ratio.size() / 2), ratio.end());
  const double median = ratio[ratio.size() / 2];
  requests.block_tokens = uint64_t{1}
                          << std::clamp<long>(std::lround(std::log2(std::max(1.0, median))), 0, 20);
  return requests;
}

Requests read_azure(const std::string& path) {
  Requests requests;
  requests.block_tokens = kOwnBlockTokens;
  std::ifstream file = open(path);
  std::string text;
  uint64_t line = 0;
  (void)next_line(file, text, line);  // the header, which is how it was told
  while (next_line(file, text, line)) {
    const Place place{path, line};
    const auto bad = [&] {
      place.fail(fmt::format("{} with numbers of tokens, at most {}", kAzureHeader, kTokensMax));
    };
    const size_t first = text.find(',');
    const size_t second = first == std::string::npos ? first : text.find(',', first + 1);
    if (second == std::string::npos) bad();
    const auto number = [&](size_t from, size_t to) {
      uint64_t value = 0;
      const auto [end, error] = std::from_chars(text.data() + from, text.data() + to, value);
      if (error != std::errc() || end != text.data() + to || value > kTokensMax) bad();
      return value;
    };
    Request request;
    request.input_tokens = number(first + 1, second);
    request.output_tokens = number(second + 1, text.size());
    uint32_t before = UINT32_MAX;
    for (uint64_t at = 0; at < request.input_tokens; at += kOwnBlockTokens) {
      if (requests.parent.size() >= UINT32_MAX - 1) place.fail("fewer blocks in all");
      request.blocks.push_back(static_cast<uint32_t>(requests.parent.size()));
      requests.parent.push_back(before);
      before = request.blocks.back();
    }
    requests.all.push_back(std::move(request));
  }
  if (requests.all.empty()) throw std::invalid_argument(path + ": expected requests, has none");
  return requests;
}

/// Collects steps; numbers blocks as pages when they are read first, so that a trace that ends early has no
/// pages without reads.
class TraceMaker {
 public:
  TraceMaker(const std::string& name, const Requests& requests)
      : requests_(requests), page_of_(requests.parent.size(), UINT32_MAX) {
    trace_.name = name;
    trace_.page_bytes = requests.block_tokens * kTokenBytes;
  }

  /// A read of a block of a prompt, in this step.
  void read_block(uint32_t block) {
    uint32_t& page = page_of_[block];
    if (page == UINT32_MAX) {
      const uint32_t parent = requests_.parent[block];
      page = new_page(parent == UINT32_MAX ? UINT32_MAX : page_of_[parent]);
    }
    now_.push_back(page);
  }
  void read_page(uint32_t page) { now_.push_back(page); }
  [[nodiscard]] uint32_t page_of(uint32_t block) const { return page_of_[block]; }
  /// Born in this step.
  uint32_t new_page(uint32_t parent) {
    trace_.born_step.push_back(trace_.steps());
    trace_.parent.push_back(parent);
    return trace_.pages++;
  }

  void end_step() {
    std::sort(now_.begin(), now_.end());
    if (trace_.page.size() + now_.size() > kEntriesMax)
      throw std::invalid_argument("trace \"" + trace_.name +
                                  "\": more than 2^30 page reads; fewer steps are expected");
    for (size_t i = 0; i < now_.size();) {
      size_t end = i + 1;
      while (end < now_.size() && now_[end] == now_[i]) ++end;
      trace_.page.push_back(now_[i]);
      trace_.reads.push_back(static_cast<uint16_t>(std::min<size_t>(end - i, UINT16_MAX)));
      i = end;
    }
    now_.clear();
    trace_.end_step();
  }
  [[nodiscard]] uint32_t steps() const { return trace_.steps(); }
  Trace finish() {
    trace_.finish();
    return std::move(trace_);
  }

 private:
  const Requests& requests_;
  Trace trace_;
  std::vector<uint32_t> page_of_;
  std::vector<uint32_t> now_;
};

Trace as_requests(const std::string& name, const Requests& requests, uint32_t steps_max) {
  TraceMaker maker(name, requests);
  for (const Request& request : requests.all) {
    if (maker.steps() == steps_max) break;
    for (const uint32_t block : request.blocks) maker.read_block(block);
    maker.end_step();
  }
  return maker.finish();
}

Trace as_decode(const std::string& name, const Requests& requests, uint32_t concurrency, uint32_t steps_max) {
  struct Slot {
    const Request* request = nullptr;
    std::vector<uint32_t> own;  // pages of the output
    uint64_t generated = 0;
  };
  TraceMaker maker(name, requests);
  std::vector<Slot> slots(concurrency);
  size_t next = 0;
  const auto refill = [&](Slot& slot) {
    while (next < requests.all.size() && requests.all[next].output_tokens == 0) ++next;  // nothing to decode
    slot = {};
    if (next < requests.all.size()) slot.request = &requests.all[next++];
  };
  for (Slot& slot : slots) refill(slot);
  while (maker.steps() < steps_max) {
    bool any = false;
    for (Slot& slot : slots) {
      if (slot.request == nullptr) continue;
      any = true;
      const Request& request = *slot.request;
      for (const uint32_t block : request.blocks) maker.read_block(block);
      // The token of this step goes behind all others; a block of the output begins where the last one is
      // full.
      if ((request.input_tokens + slot.generated) % requests.block_tokens == 0) {
        const uint32_t parent =
            slot.own.empty() ? (request.blocks.empty() ? UINT32_MAX : maker.page_of(request.blocks.back()))
                             : slot.own.back();
        slot.own.push_back(maker.new_page(parent));
      }
      for (const uint32_t page : slot.own) maker.read_page(page);
      if (++slot.generated == request.output_tokens) refill(slot);
    }
    if (!any) break;
    maker.end_step();
  }
  return maker.finish();
}

std::string first_line(const std::string& path) {
  std::ifstream file = open(path);
  std::string text(4096, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text.substr(0, text.find_first_of("\r\n"));
}

}  // namespace

bool is_request_trace(const std::string& path) {
  const std::string line = first_line(path);
  return line.starts_with(kAzureHeader) ||
         (line.starts_with("{") && line.find("\"input_length\"") != std::string::npos);
}

Workload read_requests(const std::string& path, const RequestOptions& options) {
  if (options.concurrency == 0)
    throw std::invalid_argument("concurrency: expected 1 or more requests at a time");
  const Requests requests =
      first_line(path).starts_with(kAzureHeader) ? read_azure(path) : read_lines_of_json(path);
  const size_t slash = path.find_last_of('/');
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  const uint32_t steps_max = options.steps_max == 0 ? UINT32_MAX : options.steps_max;
  Workload workload;
  workload.trace = options.as == RequestsAs::kRequests
                       ? as_requests(name, requests, steps_max)
                       : as_decode(name, requests, options.concurrency, steps_max);
  return workload;
}

}  // namespace kvt::sim
