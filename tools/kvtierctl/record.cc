// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/record.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/table.h"

namespace kvt::ctl {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kTimeoutMs = 10'000;
/// Between two fetches when there is little: the daemon gives recordings up after ten seconds.
constexpr std::chrono::milliseconds kPause{200};

constexpr uint64_t kWorthAFetch = 256 << 10;

/// SIGINT and SIGTERM as a descriptor, for as long as the object lives.
class Interrupts {
 public:
  Interrupts() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &signals, &before_);
    fd_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts() {
    signalfd_siginfo taken{};
    while (::read(fd_, &taken, sizeof taken) > 0) {
    }
    if (fd_ >= 0) ::close(fd_);
    ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }
  /// true: somebody wants it to end.
  [[nodiscard]] bool wait(std::chrono::milliseconds most) const {
    pollfd waiting{fd_, POLLIN, 0};
    return ::poll(&waiting, 1, static_cast<int>(most.count())) > 0;
  }

 private:
  sigset_t before_{};
  int fd_ = -1;
};

/// An answer's first line, and the bytes behind it.
struct Part {
  json answer;
  std::string bytes;
};

Part fetch(const RecordOptions& options, const json& request) {
  std::string all =
      ask(options.socket_dir, request.dump(-1, ' ', false, json::error_handler_t::replace), kTimeoutMs);
  Part part;
  const size_t end = std::min(all.find('\n'), all.size());
  check_answer(all.substr(0, end));
  part.answer = json::parse(all.substr(0, end));
  if (!part.answer.contains("bytes")) return part;
  const auto bytes = part.answer.at("bytes").get<size_t>();
  if (all.size() < end + 1 + bytes)
    throw BadAnswer(fmt::format("kvtierd's answer is cut off: {} bytes of records were announced, {} came",
                                bytes, all.size() - end - 1));
  part.bytes = all.substr(end + 1, bytes);
  return part;
}

std::string summary(const RecordOptions& options, const json& header, const json& last, uint64_t file_bytes,
                    double seconds) {
  const auto number = [&](const char* key) { return last.at(key).get<uint64_t>(); };
  if (options.json) {
    json report{{"ok", true},          {"schema", "kvtier.record/1"},
                {"file", options.out}, {"arena", header.at("arena")},
                {"seconds", seconds},  {"file_bytes", file_bytes}};
    for (const char* const key : {"periods", "entries", "reads", "dropped_periods", "dropped_entries"})
      report[key] = number(key);
    return report.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
  }
  std::string out = fmt::format("{}: arena {}, {:.1f} s, {} periods with reads, {} pages read in them, {}\n",
                                options.out, header.at("arena").get<std::string>(), seconds,
                                number("periods"), number("entries"), bytes_text(file_bytes));
  if (number("dropped_entries") != 0)
    out +=
        fmt::format("left out, because they came faster than they could be fetched: {} pages in {} periods\n",
                    number("dropped_entries"), number("dropped_periods"));
  if (number("periods") == 0) out += "nobody read anything in this time\n";
  return out;
}

}  // namespace

std::string record(const RecordOptions& options) {
  std::ofstream file(options.out, std::ios::binary | std::ios::trunc);
  if (!file) throw NoFile(fmt::format("--out {}: cannot be written: {}", options.out, std::strerror(errno)));
  uint64_t file_bytes = 0;
  const auto write = [&](const std::string& bytes) {
    if (!file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush())
      throw NoFile(fmt::format("--out {}: not all could be written: {}", options.out, std::strerror(errno)));
    file_bytes += bytes.size();
  };
  json request{{"command", "record-start"}};
  if (!options.arena.empty()) request["arena"] = options.arena;
  const Interrupts interrupts;
  const Part start = fetch(options, request);
  const json header = start.answer.at("header");
  write(header.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");

  request["recording"] = start.answer.at("recording");
  request["command"] = "record-read";
  const Clock::time_point begin = Clock::now();
  const Clock::time_point end =
      begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  for (bool enough = false; !enough;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0 || interrupts.wait(std::min(left, kPause))) break;
    uint64_t waiting = UINT64_MAX;
    while (waiting >= kWorthAFetch && !enough) {
      const Part part = fetch(options, request);
      write(part.bytes);
      waiting = part.answer.at("waiting").get<uint64_t>();
      enough = Clock::now() >= end;
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  request["command"] = "record-stop";
  Part last;
  do {
    last = fetch(options, request);
    write(last.bytes);
  } while (!last.answer.at("done").get<bool>());
  file.close();
  if (!file)
    throw NoFile(fmt::format("--out {}: not all could be written: {}", options.out, std::strerror(errno)));
  return summary(options, header, last.answer, file_bytes, seconds);
}

}  // namespace kvt::ctl
