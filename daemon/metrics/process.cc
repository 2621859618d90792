// SPDX-License-Identifier: Apache-2.0
#include "daemon/metrics/process.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace kvt::metrics {
namespace {

/// Fields of /proc/self/stat behind the name: number 3 of proc(5) and on.
struct Stat {
  uint64_t threads = 0;
  uint64_t start_ticks = 0;  // since the machine's boot
  uint64_t virtual_bytes = 0;
  uint64_t resident_pages = 0;
};

Stat read_stat() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return {};
  Stat stat;
  size_t at = end_of_name + 1;
  for (int field = 3; field <= 24; ++field) {
    at = line.find_first_not_of(' ', at);
    if (at == std::string::npos) break;
    const size_t end = std::min(line.find(' ', at), line.size());
    const auto number = [&] { return std::strtoull(line.c_str() + at, nullptr, 10); };
    if (field == 20) stat.threads = number();
    if (field == 22) stat.start_ticks = number();
    if (field == 23) stat.virtual_bytes = number();
    if (field == 24) stat.resident_pages = number();
    at = end;
  }
  return stat;
}

/// Since 1970, of the machine's boot.
double boot_time() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    double seconds = 0;
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

uint64_t open_descriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  uint64_t count = 0;
  while (const dirent* const entry = ::readdir(folder)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(folder);
  return count - 1;  // the folder itself
}

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

ProcessSample sample_process() {
  ProcessSample sample;
  rusage usage{};
  if (::getrusage(RUSAGE_SELF, &usage) == 0)
    sample.cpu_seconds = seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
  const Stat stat = read_stat();
  sample.threads = stat.threads;
  sample.virtual_bytes = stat.virtual_bytes;
  sample.resident_bytes = stat.resident_pages * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  if (const double boot = boot_time(); boot > 0 && stat.start_ticks != 0)
    sample.start_time_seconds =
        boot + static_cast<double>(stat.start_ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  sample.open_descriptors = open_descriptors();
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) sample.descriptors_max = files.rlim_cur;
  return sample;
}

}  // namespace kvt::metrics
