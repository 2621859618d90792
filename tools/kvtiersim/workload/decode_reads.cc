// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/workload/decode_reads.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace kvt::sim {
namespace {

using nlohmann::json;

constexpr uint64_t kPagesMax = uint64_t{1} << 24;
constexpr const char* kMark = "kvtier_decode_reads";

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path) {
    if (!file_) throw std::invalid_argument(path + ": cannot be read");
  }

  Workload read() {
    header();
    std::string line;
    while (std::getline(file_, line)) {
      ++line_;
      const json parsed = json::parse(line, nullptr, false);
      if (!parsed.is_object()) fail("expected an object of JSON; is the file cut off?");
      if (parsed.contains("step")) step(parsed);
    }
    if (trace_.steps() == 0) fail("expected a step");
    trace_.pages = static_cast<uint32_t>(born_.size());
    trace_.born_step = std::move(born_);
    trace_.finish();
    Workload workload;
    workload.trace = std::move(trace_);
    return workload;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument(path_ + ":" + std::to_string(line_) + ": " + what);
  }

  /// An unsigned number from `least` to `most`.
  uint64_t number(const json& value, const char* what, uint64_t least, uint64_t most) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() < least || value.get<uint64_t>() > most)
      fail(std::string("expected ") + what + " from " + std::to_string(least) + " to " +
           std::to_string(most));
    return value.get<uint64_t>();
  }
  const json& field(const json& from, const char* key) const {
    const auto found = from.find(key);
    if (found == from.end()) fail(std::string("expected \"") + key + "\"");
    return *found;
  }

  void header() {
    std::string line;
    line_ = 1;
    std::getline(file_, line);
    const json parsed = json::parse(line, nullptr, false);
    if (!parsed.is_object() || !parsed.contains(kMark))
      fail(std::string("expected what kvtier-decode --record writes: a line with \"") + kMark +
           "\" comes first");
    if (parsed.at(kMark) != 1)
      fail("it is of version " + parsed.at(kMark).dump() + "; version 1 is read here");
    const json& page = field(parsed, "page");
    if (!page.is_object()) fail("expected an object \"page\"");
    trace_.name = "reads of kvtier-decode";
    trace_.page_bytes = number(field(page, "bytes"), "bytes of a page", 1, uint64_t{1} << 40);
  }

  void step(const json& line) {
    if (number(field(line, "step"), "step", trace_.steps(), trace_.steps()) > UINT32_MAX - 2)
      fail("too many steps");
    const uint64_t write = number(field(line, "write"), "the page that is written", 0, kPagesMax - 1);
    // Pages before the first one that is written were found: they are there from the start.
    const uint32_t now = trace_.steps();
    while (born_.size() <= write) born_.push_back(now == 0 && born_.size() < write ? 0 : now);
    if (seen_.size() < born_.size()) seen_.resize(born_.size(), 0);
    const json& layers = field(line, "reads");
    if (!layers.is_array()) fail("expected a list of layers \"reads\"");
    const size_t first = trace_.page.size();
    for (const json& layer : layers) {
      if (!layer.is_array()) fail("expected a list of runs for each layer");
      for (const json& run : layer) {
        if (!run.is_array() || run.size() != 3) fail("expected runs [first page, number of pages, KV heads]");
        const uint64_t begin = number(run[0], "the first page of a run", 0, write);
        const uint64_t count = number(run[1], "the number of pages of a run", 1, write + 1 - begin);
        for (uint64_t page = begin; page < begin + count; ++page) {
          if (seen_[page] == now + 1) continue;
          seen_[page] = now + 1;
          trace_.page.push_back(static_cast<uint32_t>(page));
        }
      }
    }
    std::sort(trace_.page.begin() + static_cast<std::ptrdiff_t>(first), trace_.page.end());
    trace_.end_step();
  }

  std::string path_;
  std::ifstream file_;
  size_t line_ = 0;
  Trace trace_;
  std::vector<uint32_t> born_;
  std::vector<uint32_t> seen_;  // the last step that read a page, + 1
};

}  // namespace

bool is_decode_reads(const std::string& path) {
  std::ifstream file(path);
  std::string begin(64, '\0');
  file.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  return begin.find(kMark) != std::string::npos;
}

Workload read_decode_reads(const std::string& path) { return Reader(path).read(); }

}  // namespace kvt::sim
