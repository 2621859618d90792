// SPDX-License-Identifier: Apache-2.0
//
// Any text as a trace of kvtier-replay: each line is a request or is reported with its number, nothing else
// comes out, and strict reading stops where the first bad line is.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shm/base/fd.h"
#include "tests/fuzz/input.h"
#include "tools/kvtier-replay/errors.h"
#include "tools/kvtier-replay/trace.h"

namespace {

using kvt::fuzz::found;
using kvt::fuzz::require;
using kvt::replay::Request;
using kvt::replay::TraceReader;
using kvt::replay::UsageError;

/// Lines about bad lines go nowhere while one of these lives; what a sanitizer says goes to descriptor 2
/// itself.
class Silence {
 public:
  Silence() : stderr_(std::exchange(stderr, nowhere())) {}
  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;
  ~Silence() { stderr = stderr_; }

 private:
  static std::FILE* nowhere() {
    static std::FILE* const file = std::fopen("/dev/null", "we");
    return file;
  }
  std::FILE* stderr_;
};

/// Lines with something on them: each must become a request or a complaint.
uint64_t lines_of(std::string_view text) {
  uint64_t lines = 0;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) ++lines;
    text.remove_prefix(std::min(text.size(), line.size() + 1));
  }
  return lines;
}

/// Reads to the end, or to the first bad line when strict; `error` is then what was thrown.
std::vector<Request> read_all(const std::string& path, bool strict, uint64_t& bad_lines, std::string& error) {
  const Silence silence;
  std::vector<Request> requests;
  TraceReader reader(path, strict);
  try {
    while (auto request = reader.next()) requests.push_back(std::move(*request));
  } catch (const UsageError& thrown) {
    error = thrown.what();
  }
  bad_lines = reader.bad_lines();
  return requests;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The reader opens a file by its name: memory has one, too.
  static const kvt::Fd file(::memfd_create("trace", MFD_CLOEXEC));
  static const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  require(
      ::ftruncate(file.get(), 0) == 0 && ::pwrite(file.get(), data, size, 0) == static_cast<ssize_t>(size),
      "the harness: memfd");

  uint64_t bad_lines = 0;
  std::string error;
  const std::vector<Request> requests = read_all(path, false, bad_lines, error);
  if (!error.empty()) found("lenient reading throws: " + error);
  const uint64_t lines = lines_of({reinterpret_cast<const char*>(data), size});
  require(requests.size() + bad_lines == lines, "a line that is neither a request nor bad, or both");
  double last_ms = 0;
  for (const Request& request : requests) {
    require(std::isfinite(request.timestamp_ms) && request.timestamp_ms >= last_ms,
            "the clock of the trace goes back");
    last_ms = request.timestamp_ms;
    require(!request.block_ids.empty(), "a request without blocks");
    require(request.input_tokens <= uint64_t{1} << 32 && request.output_tokens <= uint64_t{1} << 32,
            "a request of more tokens than may be");
#ifdef KVT_FUZZ_CANARY
    // The planted bug: a copy of the rule with a limit of 16 bits.
    if (request.output_tokens > UINT16_MAX) found("canary: more than 65535 tokens of output");
#endif
  }

  uint64_t no_count = 0;
  const std::vector<Request> strict = read_all(path, true, no_count, error);
  require(error.empty() == (bad_lines == 0), "strict and lenient reading disagree about bad lines");
  require(error.empty() || error.find(path + ":") != std::string::npos,
          "an error that does not name the file");
  require(error.empty() ? strict.size() == requests.size() : strict.size() <= requests.size(),
          "strict reading finds other requests");
  const auto same = [](const Request& a, const Request& b) {
    return a.timestamp_ms == b.timestamp_ms && a.input_tokens == b.input_tokens &&
           a.output_tokens == b.output_tokens && a.block_ids == b.block_ids;
  };
  require(std::equal(strict.begin(), strict.end(), requests.begin(), same),
          "strict reading finds other requests");
  return 0;
}
