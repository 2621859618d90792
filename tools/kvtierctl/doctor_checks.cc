// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "tools/kvtierctl/doctor.h"
#include "tools/kvtierctl/table.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace kvt::ctl {
namespace {

constexpr int64_t kNone = -1;

Finding ok(const char* code, std::string seen, std::string why) {
  return {code, Verdict::kOk, std::move(seen), std::move(why), {}};
}
Finding warn(const char* code, std::string seen, std::string why, std::string action) {
  return {code, Verdict::kWarn, std::move(seen), std::move(why), std::move(action)};
}
Finding bad(const char* code, std::string seen, std::string why, std::string action) {
  return {code, Verdict::kBad, std::move(seen), std::move(why), std::move(action)};
}

/// "always within_size [advise] never" -> "advise".
std::string chosen(const std::string& text) {
  const size_t begin = text.find('[');
  const size_t end = text.find(']');
  return begin == std::string::npos || end == std::string::npos ? text
                                                                : text.substr(begin + 1, end - begin - 1);
}

/// OS indices as in "0-2,4".
std::vector<int> indices(const std::string& list) {
  std::vector<int> all;
  std::istringstream in(list);
  for (std::string part; std::getline(in, part, ',');) {
    int first = 0;
    int last = 0;
    const int got = std::sscanf(part.c_str(), "%d-%d", &first, &last);
    if (got < 1) continue;
    for (int i = first; i <= (got == 2 ? last : first); ++i) all.push_back(i);
  }
  return all;
}
std::vector<int> online_nodes(const Host& host) {
  return indices(host.text("/sys/devices/system/node/online"));
}

std::string mib(int64_t kib) { return bytes_text(static_cast<uint64_t>(std::max<int64_t>(kib, 0)) * 1024); }

/// The hard and soft limit of a row of /proc/PID/limits; kNone: unlimited; 0: no such row.
struct Limit {
  int64_t soft = 0;
  int64_t hard = 0;
};
Limit limit_of(const Host& host, const std::string& pid, const std::string& name) {
  std::istringstream in(host.text("/proc/" + pid + "/limits"));
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream words(line.substr(name.size()));
    const auto value = [&words] {
      std::string word;
      words >> word;
      return word == "unlimited" ? kNone : static_cast<int64_t>(std::strtoll(word.c_str(), nullptr, 10));
    };
    Limit limit;
    limit.soft = value();
    limit.hard = value();
    return limit;
  }
  return {};
}

std::string whose(const std::string& pid) {
  return pid == "self" ? "of this shell" : "of kvtierd (process " + pid + ")";
}

/// Who has a file locked, of the kernel's list: trying to lock it could keep a kvtierd that starts from doing so.
/// 0: nobody.
int lock_holder(const Host& host, const std::string& file) {
  struct stat about {};
  if (::stat(file.c_str(), &about) != 0) return 0;
  std::istringstream in(host.text("/proc/locks"));
  const std::string inode = fmt::format(":{} ", about.st_ino);
  for (std::string line; std::getline(in, line);) {
    // "1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF"
    std::istringstream words(line);
    std::string number;
    std::string kind;
    std::string how;
    std::string access;
    int pid = 0;
    words >> number >> kind >> how >> access >> pid;
    if (pid != 0 && kind == "FLOCK" && line.find(inode) != std::string::npos) return pid;
  }
  return 0;
}

/// What kvtierd cannot do without and this kernel does not do; "" when all is there.
std::string missing_features() {
  std::string missing;
  const auto need = [&missing](bool there, const char* name) {
    if (!there) missing += (missing.empty() ? "" : ", ") + std::string(name);
  };
  const auto pidfd = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  need(pidfd >= 0, "pidfd_open");
  if (pidfd >= 0) ::close(pidfd);
  const int memfd = ::memfd_create("kvtierctl", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  need(memfd >= 0 && ::ftruncate(memfd, 4096) == 0, "memfd_create");
  if (memfd < 0) return missing;
  void* const mapped = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
  need(mapped != MAP_FAILED, "shared memory");
  if (mapped != MAP_FAILED) {
    need(::madvise(mapped, 4096, MADV_POPULATE_WRITE) == 0, "MADV_POPULATE_WRITE (Linux 5.14)");
    ::munmap(mapped, 4096);
  }
  need(::fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "seals of memfds");
  ::close(memfd);
  void* const own = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (own != MAP_FAILED) {
    need(::madvise(own, 4096, MADV_WIPEONFORK) == 0, "MADV_WIPEONFORK");
    ::munmap(own, 4096);
  }
  return missing;
}

}  // namespace

std::string Host::text(const std::string& of) const {
  std::ifstream file(path(of));
  std::stringstream all;
  all << file.rdbuf();
  std::string text = all.str();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool Host::exists(const std::string& of) const { return ::access(path(of).c_str(), F_OK) == 0; }

int64_t Host::number(const std::string& of, int64_t otherwise) const {
  const std::string words = text(of);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(words.data(), words.data() + words.size(), value);
  return error == std::errc() ? value : otherwise;
}

int64_t Host::field(const std::string& of, const std::string& name, int64_t otherwise) const {
  std::istringstream in(text(of));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + ":")) return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10);
  return otherwise;
}

Finding look_at_kernel(const Host& host) {
  const char* const code = "kernel";
  const char* const why = "kvtierd needs pidfds, sealed memfds and MADV_POPULATE_WRITE: Linux 5.14";
  const std::string release = host.text("/proc/sys/kernel/osrelease");
  int major = 0;
  int minor = 0;
  if (std::sscanf(release.c_str(), "%d.%d", &major, &minor) != 2)
    return warn(code, "the kernel's version cannot be read", why, "mount /proc");
  if (host.is_this()) {
    const std::string missing = missing_features();
    if (!missing.empty())
      return bad(code, fmt::format("Linux {} does not have: {}", release, missing), why,
                 "a newer kernel; in a container, a seccomp profile that lets these calls through");
  }
  if (major < 5 || (major == 5 && minor < 14)) return bad(code, "Linux " + release, why, "a newer kernel");
  return ok(code,
            fmt::format("Linux {}{}", release, host.is_this() ? ", all that kvtierd calls is there" : ""),
            why);
}

Finding look_at_huge_pages(const Host& host) {
  const char* const code = "huge_pages";
  const char* const why =
      "with OS pages of 4 KiB a large tier costs page tables and TLB misses, and takes ten times as long to "
      "start";
  const std::string folder = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
  const int64_t all = host.number(folder + "nr_hugepages", 0);
  const int64_t free = host.number(folder + "free_hugepages", 0);
  const std::string shmem = chosen(host.text("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  const std::string seen = fmt::format(
      "{} huge pages of 2 MiB are reserved, {} of them free; transparent ones for shared memory: {}", all,
      free, shmem.empty() ? "not there" : shmem);
  if (free > 0) return ok(code, seen, why);
  if (shmem == "always" || shmem == "advise" || shmem == "within_size" || shmem == "force")
    return ok(code, seen, why);
  if (all > 0) return ok(code, seen + " (in use, by a running kvtierd, too)", why);
  return warn(code, seen, why,
              "reserve them (sysctl vm.nr_hugepages=N, tier bytes / 2 MiB), or: echo advise > "
              "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
}

Finding look_at_memlock(const Host& host, const std::string& pid) {
  const char* const code = "memlock";
  const char* const why =
      "where the machine has swap, kvtierd locks its windows; beyond the limit it goes on without, and says "
      "so";
  const Limit limit = limit_of(host, pid, "Max locked memory");
  const int64_t swap = host.field("/proc/meminfo", "SwapTotal", 0);
  const std::string seen =
      fmt::format("RLIMIT_MEMLOCK {} is {}", whose(pid),
                  limit.hard == kNone ? "unlimited" : bytes_text(static_cast<uint64_t>(limit.hard)));
  if (limit.hard == kNone) return ok(code, seen, why);
  if (swap == 0) return ok(code, seen + "; there is no swap, so nothing needs to be locked", why);
  return warn(code, fmt::format("{}, and there is {} of swap", seen, mib(swap)), why,
              "LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited");
}

Finding look_at_files(const Host& host, const std::string& pid) {
  const char* const code = "descriptors";
  const char* const why =
      "kvtierd needs 3 descriptors a session and one for each further process; when there are none, who "
      "attaches is "
      "refused";
  constexpr int64_t kFew = 8192;
  const Limit limit = limit_of(host, pid, "Max open files");
  const std::string seen =
      fmt::format("{} descriptors at most ({})",
                  limit.hard == kNone ? "any number of" : fmt::to_string(limit.hard), whose(pid));
  if (limit.hard == kNone || limit.hard >= kFew) return ok(code, seen, why);
  return warn(code, seen, why, "LimitNOFILE=65536 in the unit, or ulimit -Hn 65536");
}

Finding look_at_numa_balancing(const Host& host) {
  const char* const code = "numa_balancing";
  const char* const why =
      "the kernel unmaps pages to see who reads them, and moves them between nodes: it works against "
      "placement, and its "
      "faults cost readers";
  const int64_t value = host.number("/proc/sys/kernel/numa_balancing", 0);
  const size_t nodes = online_nodes(host).size();
  const std::string seen =
      fmt::format("kernel.numa_balancing is {}, {} memory node{}", value, nodes, nodes == 1 ? "" : "s");
  if (value == 0 || nodes < 2) return ok(code, seen, why);
  return warn(code, seen, why, "sysctl kernel.numa_balancing=0, and in /etc/sysctl.d");
}

Finding look_at_zone_reclaim(const Host& host) {
  const char* const code = "zone_reclaim";
  const char* const why =
      "a node that is full takes memory from its own caches before another node is asked: stalls";
  const int64_t value = host.number("/proc/sys/vm/zone_reclaim_mode", 0);
  const std::string seen = fmt::format("vm.zone_reclaim_mode is {}", value);
  return value == 0 ? ok(code, seen, why) : warn(code, seen, why, "sysctl vm.zone_reclaim_mode=0");
}

Finding look_at_overcommit(const Host& host) {
  const char* const code = "overcommit";
  const char* const why =
      "with strict accounting memory that is mapped counts as used: small allocations of kvtierd and its "
      "engines may "
      "fail while there is memory";
  const int64_t value = host.number("/proc/sys/vm/overcommit_memory", 0);
  const std::string seen = fmt::format("vm.overcommit_memory is {}", value);
  return value != 2 ? ok(code, seen, why)
                    : warn(code, seen, why, "sysctl vm.overcommit_memory=0, or raise vm.overcommit_ratio");
}

Finding look_at_swap(const Host& host) {
  const char* const code = "swap";
  const char* const why = "a page of a tier that is swapped out is read at the speed of a disk";
  const int64_t swap = host.field("/proc/meminfo", "SwapTotal", 0);
  if (swap == 0) return ok(code, "no swap", why);
  const int64_t free = host.field("/proc/meminfo", "SwapFree", 0);
  const std::string seen = fmt::format("{} of swap, {} used", mib(swap), mib(swap - free));
  return ok(code, seen + "; daemon.lock_memory keeps windows out of it", why);
}

Finding look_at_cgroup(const Host& host, const std::string& pid) {
  const char* const code = "cgroup";
  const char* const why =
      "all memory of the tiers is charged to kvtierd's cgroup; at its limit the kernel ends the daemon, and "
      "a quota of "
      "CPU time stops its loop";
  std::string group;
  {
    std::istringstream in(host.text("/proc/" + pid + "/cgroup"));
    for (std::string line; std::getline(in, line);)
      if (line.starts_with("0::")) group = line.substr(3);
  }
  if (group.empty()) return ok(code, "no cgroup of version 2", why);
  std::string limits;
  bool stops = false;
  for (std::string at = group == "/" ? "" : group;; at = at.substr(0, at.rfind('/'))) {
    const std::string folder = "/sys/fs/cgroup" + at;
    const std::string name = at.empty() ? "/" : at;
    const auto add = [&](const std::string& words) { limits += (limits.empty() ? "" : "; ") + words; };
    if (const int64_t most = host.number(folder + "/memory.max", kNone); most != kNone)
      add(fmt::format("memory.max of {} is {}, {} used", name, bytes_text(static_cast<uint64_t>(most)),
                      bytes_text(static_cast<uint64_t>(host.number(folder + "/memory.current", 0)))));
    if (const int64_t high = host.number(folder + "/memory.high", kNone); high != kNone) {
      add(fmt::format("memory.high of {} is {}", name, bytes_text(static_cast<uint64_t>(high))));
      stops = true;
    }
    if (const std::string quota = host.text(folder + "/cpu.max");
        !quota.empty() && !quota.starts_with("max")) {
      add(fmt::format("cpu.max of {} is {}", name, quota));
      stops = true;
    }
    if (at.empty()) break;
  }
  const std::string seen = limits.empty() ? fmt::format("no limits {}: {}", whose(pid), group) : limits;
  if (!stops) return ok(code, seen, why);
  return warn(code, seen, why,
              "no MemoryHigh and no CPUQuota for kvtierd: both make it wait while engines wait for it");
}

Finding look_at_nodes(const Host& host, const std::string& pid) {
  const char* const code = "nodes";
  const char* const why =
      "a tier on a node that the process may not use does not start (cpuset.mems, AllowedMemoryNodes)";
  std::string allowed;
  std::istringstream in(host.text("/proc/" + pid + "/status"));
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("Mems_allowed_list:")) allowed = line.substr(line.find_last_of(" \t") + 1);
  const std::string online = host.text("/sys/devices/system/node/online");
  if (allowed.empty() || online.empty()) return ok(code, "one memory node, or none is told of", why);
  const std::vector<int> may = indices(allowed);
  std::string not_allowed;
  for (const int node : online_nodes(host))
    if (std::find(may.begin(), may.end(), node) == may.end())
      not_allowed += fmt::format("{}{}", not_allowed.empty() ? "" : ", ", node);
  const std::string seen = fmt::format("memory nodes: {}; may be used: {} ({})", online, allowed, whose(pid));
  if (not_allowed.empty()) return ok(code, seen, why);
  return warn(code, seen, why, "AllowedMemoryNodes of the unit, if tiers are to lie on node " + not_allowed);
}

Finding look_at_clock(const Host& host) {
  const char* const code = "clock";
  const char* const why =
      "clients and daemon look at the clock many times a step: 20 ns with tsc, a microsecond with hpet";
  const std::string source = host.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  if (source.empty()) return ok(code, "the clock source is not told of", why);
  for (const char* const slow : {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"})
    if (source == slow)
      return warn(code, "clock source " + source, why,
                  "why not tsc? dmesg says (an unstable one: firmware, or tsc=reliable)");
  return ok(code, "clock source " + source, why);
}

Finding look_at_gpu(const Host& host) {
  const char* const code = "gpu";
  const char* const why = "HBM of a GPU becomes a tier through the CUDA driver (libcuda.so.1)";
  const std::string version = host.text("/proc/driver/nvidia/version");
  std::string library;
  for (const char* const folder :
       {"/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/", "/usr/local/cuda/compat/",
        "/usr/lib/wsl/lib/", "/usr/local/nvidia/lib64/"})
    if (library.empty() && host.exists(std::string(folder) + "libcuda.so.1"))
      library = std::string(folder) + "libcuda.so.1";
  const bool has_device = host.exists("/dev/nvidiactl");
  if (version.empty() && !has_device && library.empty())
    return ok(code, "no NVIDIA GPU: tiers are host memory", why);
  const std::string kernel = version.empty() ? "no kernel module" : version.substr(0, version.find('\n'));
  const std::string seen = fmt::format("{}; {}", kernel, library.empty() ? "no libcuda.so.1" : library);
  if (version.empty())
    return bad(code, seen, why, "load the kernel module (modprobe nvidia, dmesg); both of one version");
  if (library.empty())
    return bad(
        code, seen, why,
        "install the driver's library (Debian: libcuda1; containers: the NVIDIA runtime), or cuda.driver");
  if (!has_device)
    return bad(code, seen + "; there is no /dev/nvidiactl", why, "give this container the GPU's devices");
  return ok(code, seen, why);
}

Finding look_at_sockets(const Host& host, const std::string& socket_dir, const DaemonSeen& daemon) {
  const char* const code = "sockets";
  const char* const why =
      "engines and kvtierctl find kvtierd in its socket folder, whoever may write there can stand in for it";
  struct stat folder {};
  const std::string path = host.path(socket_dir);
  if (::stat(path.c_str(), &folder) != 0) {
    if (errno == EACCES)
      return bad(code, socket_dir + " may not be entered", why, "ask as root, or as kvtierd's user");
    return warn(code, "there is no " + socket_dir, why,
                "start kvtierd, which makes it, or name another folder with --socket-dir");
  }
  const auto mode = static_cast<unsigned>(folder.st_mode & 07777);
  if (!S_ISDIR(folder.st_mode)) return bad(code, socket_dir + " is no folder", why, "remove it");
  if ((mode & 0002) != 0 && (mode & 01000) == 0)
    return bad(code, fmt::format("{} has mode {:04o}: anybody may replace the sockets", socket_dir, mode),
               why, "chmod 0755 " + socket_dir);
  const std::string about = fmt::format("{} (mode {:04o}, user {})", socket_dir, mode, folder.st_uid);
  if (daemon.answers) return ok(code, about + ": " + daemon.words, why);
  const bool has_socket = host.exists(socket_dir + "/control.sock");
  if (const int holder = lock_holder(host, path + "/kvtierd.lock"); holder != 0)
    return bad(code,
               fmt::format("{}: a kvtierd (process {}) has its lock and does not answer", about, holder), why,
               "it may be starting, stopped or hung: its log, and systemctl status kvtierd");
  return warn(code, about + (has_socket ? ": sockets of a kvtierd that has gone" : ": no kvtierd"), why,
              "start kvtierd (systemctl start kvtierd)");
}

}  // namespace kvt::ctl
