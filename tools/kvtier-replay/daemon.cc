// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-replay/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "tools/kvtier-replay/errors.h"

namespace kvt::replay {
namespace {

/// It allocates all of its memory first; a build with sanitizers takes long.
constexpr auto kStartMax = std::chrono::seconds(120);
constexpr auto kStopMax = std::chrono::seconds(20);
constexpr auto kPollPause = std::chrono::milliseconds(10);
constexpr size_t kLogLines = 15;

std::string make_folder() {
  const char* const base = std::getenv("TMPDIR");
  std::string path = std::string(base != nullptr && base[0] != '\0' ? base : "/tmp") + "/kvtier-XXXXXX";
  if (mkdtemp(path.data()) == nullptr)
    throw std::system_error(errno, std::generic_category(), "mkdtemp " + path);
  return path;
}

/// A decode step takes tens of microseconds here, and tens of milliseconds on a GPU: a request that lives for
/// hundreds of the daemon's usual periods there would be gone after three of them. So they are shorter, by
/// less than that.
constexpr int kPeriodMs = 2;

/// A worker that died may have left a kernel behind that runs still; here for a moment at most.
constexpr int kQuarantineMs = 200;

std::string cuda_text(const DaemonOptions& options) {
  if (!options.cuda) return "";
  std::string text =
      fmt::format("[cuda]\ndriver = \"{}\"\nquarantine_ms = {}\n", options.cuda_driver, kQuarantineMs);
  // Decode times are modelled by the profile there, and memory is as much as was asked for.
  if (options.stand_in) text += "measure = false\nreserve_bytes = \"0\"\n";
  return text + "\n";
}

std::string hbm_kind_text(const DaemonOptions& options) {
  if (!options.cuda) return "kind = \"emulated-hbm\"";
  return fmt::format("kind = \"cuda\"\ndevice = \"{}\"\nwithout_device = \"fail\"", options.cuda_device);
}

std::string config_text(const DaemonOptions& options) {
  return fmt::format(
      "[daemon]\nperiod_ms = {}\n\n"
      "[policy]\nname = \"{}\"\npromote = \"{}\"\nprofile = \"{}\"\n\n"
      "{}[[tier]]\nname = \"hbm\"\n{}\nbytes = \"{}\"\ncolumn = 0\n\n"
      "[[tier]]\nname = \"dram\"\nkind = \"numa\"\nbytes = \"{}\"\n\n"
      "[[arena]]\nname = \"{}\"\npage_bytes = \"{}\"\nblock_tokens = 16\n"
      "integrity = \"{}\"\n",
      kPeriodMs, options.policy, options.promote, options.profile, cuda_text(options), hbm_kind_text(options),
      options.hbm_bytes, options.host_bytes, options.arena, options.page_bytes, options.integrity);
}

bool accepts(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool connected = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(fd);
  return connected;
}

}  // namespace

Daemon::Daemon(const DaemonOptions& options, Interrupts& interrupts) {
  if (access(options.program.c_str(), X_OK) != 0)
    throw MissingError(fmt::format("{}: there is no such program", options.program));
  folder_ = make_folder();
  try {
    const std::string config = folder_ + "/kvtierd.toml";
    std::ofstream(config) << config_text(options);
    const int log = open((folder_ + "/kvtierd.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0) throw std::system_error(errno, std::generic_category(), "open kvtierd.log");
    ChildSpec spec;
    spec.program = options.program;
    spec.arguments = {"kvtierd", "--config", config, "--socket-dir", folder_};
    if (!options.inject.empty()) {
      for (const std::string& argument :
           {std::string("--allow-injection"), std::string("--inject"), options.inject})
        spec.arguments.push_back(argument);
    }
    spec.output_fd = log;
    spec.own_group = true;
    spec.death_signal = SIGTERM;
    pid_ = spawn(spec);
    close(log);
    wait_until_ready(interrupts);
  } catch (...) {
    stop();
    remove_folder();
    throw;
  }
}

Daemon::~Daemon() {
  stop();
  remove_folder();
}

void Daemon::wait_until_ready(Interrupts& interrupts) {
  const auto give_up = std::chrono::steady_clock::now() + kStartMax;
  while (!accepts(folder_ + "/attach.sock")) {
    if (std::string how; ended(how)) throw std::runtime_error(how);
    interrupts.wait(static_cast<int>(kPollPause.count()));
    if (interrupts.signal() != 0)
      throw InterruptedError("interrupted while kvtierd was starting", interrupts.signal());
    if (std::chrono::steady_clock::now() > give_up)
      throw std::runtime_error("kvtierd did not come up in time. Its log ends:\n" + log_tail());
  }
}

std::string Daemon::log_tail() const {
  std::ifstream file(folder_ + "/kvtierd.log");
  std::deque<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back("  " + line + "\n");
    if (lines.size() > kLogLines) lines.pop_front();
  }
  std::string tail;
  for (const std::string& line : lines) tail += line;
  return tail;
}

bool Daemon::ended(std::string& how) {
  int status = 0;
  if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) != pid_) return false;
  pid_ = -1;
  how = fmt::format("kvtierd {}. Its log ends:\n{}", describe_exit(status), log_tail());
  return true;
}

std::string Daemon::stop() {
  if (pid_ <= 0) return "";
  kill(pid_, SIGTERM);
  int status = 0;
  bool killed = false;
  auto give_up = std::chrono::steady_clock::now() + kStopMax;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (!killed && std::chrono::steady_clock::now() > give_up) {
      kill(pid_, SIGKILL);
      killed = true;
    }
    std::this_thread::sleep_for(kPollPause);
  }
  pid_ = -1;
  if (killed) return "kvtierd did not end when it was asked to. Its log ends:\n" + log_tail();
  const bool asked = WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
  if (asked || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) return "";
  return fmt::format("kvtierd {}. Its log ends:\n{}", describe_exit(status), log_tail());
}

void Daemon::remove_folder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace kvt::replay
