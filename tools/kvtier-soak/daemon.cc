// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-soak/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace kvt::soak {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kPause = std::chrono::milliseconds(1);

std::string config_text(const DaemonOptions& o) {
  const std::string arena =
      "\n[[arena]]\nname = \"{}\"\npage_bytes = \"{}\"\nbytes = {{ hbm = \"{}MiB\", dram = \"{}MiB\" }}\n";
  std::string text = fmt::format(
      "[daemon]\nperiod_ms = 2\n[policy]\nname = \"churn\"\nmove_bytes_per_second = \"8GiB\"\n"
      "[[tier]]\nname = \"hbm\"\nkind = \"emulated-hbm\"\nbytes = \"{}MiB\"\nhuge_pages = \"{}\"\n"
      "[[tier]]\nname = \"dram\"\nbytes = \"{}MiB\"\nhuge_pages = \"{}\"\n",
      o.storm_hbm_mib + 24 + 8, o.huge_pages, o.storm_host_mib + 104 + 16,
      o.huge_pages);  // 8 and 16: an arena that comes and goes
  text += fmt::format(fmt::runtime(arena), "storm", o.page_bytes, o.storm_hbm_mib, o.storm_host_mib);
  text += fmt::format(fmt::runtime(arena), "archive", o.page_bytes, 8, 24);
  text += fmt::format(fmt::runtime(arena), "reclaim", o.page_bytes, 8, 64);
  text += fmt::format(fmt::runtime(arena), "hostile", o.page_bytes, 8, 16);
  return text;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

Daemon::Daemon(const DaemonOptions& options) : program_(options.program) {
  const char* const base = std::getenv("TMPDIR");
  folder_ = std::string(base != nullptr && base[0] != '\0' ? base : "/tmp") + "/kvtier-soak-XXXXXX";
  if (::mkdtemp(folder_.data()) == nullptr) throw std::runtime_error("mkdtemp " + folder_);
  std::ofstream(folder_ + "/kvtierd.toml") << config_text(options);
  std::vector<std::string> arguments{program_,       "--keep", "--config",         folder_ + "/kvtierd.toml",
                                     "--socket-dir", folder_,  "--allow-injection"};
  if (!options.inject.empty()) arguments.insert(arguments.end(), {"--inject", options.inject});
  std::vector<char*> argv;
  for (std::string& each : arguments) argv.push_back(each.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int log = ::open((folder_ + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(log, STDERR_FILENO);
    ::execv(program_.c_str(), argv.data());
    ::_exit(127);
  }
  if (wait_for_other(0) < 0) throw std::runtime_error("kvtierd did not come up:\n" + log());
}

Daemon::~Daemon() {
  if (pid_ > 0) {
    if (const pid_t now = worker(); now > 0) ::kill(now, SIGCONT);
    ::kill(pid_, SIGTERM);
    int status = 0;
    const auto end = Clock::now() + std::chrono::seconds(20);
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (Clock::now() > end) ::kill(pid_, SIGKILL);
      std::this_thread::sleep_for(kPause);
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

pid_t Daemon::worker() const {
  std::ifstream file(fmt::format("/proc/{}/task/{}/children", pid_, pid_));
  pid_t child = -1;
  file >> child;
  return file ? child : -1;
}

std::optional<json> Daemon::ask(const std::string& request) const {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder_ + "/control.sock";
  std::memcpy(address.sun_path, path.c_str(), std::min(path.size() + 1, sizeof address.sun_path - 1));
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  std::string answer;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    const std::string line = request + "\n";
    if (::send(fd, line.data(), line.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(line.size())) {
      char buffer[65536];
      for (pollfd wait{fd, POLLIN, 0}; ::poll(&wait, 1, 5000) > 0;) {
        const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) break;
        answer.append(buffer, static_cast<size_t>(got));
      }
    }
  }
  ::close(fd);
  json parsed = json::parse(answer, nullptr, false);
  if (!parsed.is_object()) return std::nullopt;
  return parsed;
}

pid_t Daemon::wait_for_other(pid_t before) const {
  const auto end = Clock::now() + kPatience;
  while (Clock::now() < end) {
    if (int status = 0; ::waitpid(pid_, &status, WNOHANG) == pid_) return -1;
    const pid_t now = worker();
    if (now > 0 && now != before && ask(R"({"command":"tiers"})")) return now;
    std::this_thread::sleep_for(kPause);
  }
  return -1;
}

bool Daemon::is_stopped() const {
  const std::string stat = read_file(fmt::format("/proc/{}/stat", worker()));
  const size_t end = stat.rfind(')');
  return end != std::string::npos && end + 2 < stat.size() && stat[end + 2] == 'T';
}

std::string Daemon::log() const { return read_file(folder_ + "/log"); }

std::vector<std::string> Daemon::points() const {
  std::vector<std::string> names;
  std::FILE* const pipe = ::popen(("'" + program_ + "' --list-points").c_str(), "re");
  if (pipe == nullptr) return names;
  char line[256];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    line[std::strcspn(line, "\n")] = '\0';
    names.emplace_back(line);
  }
  ::pclose(pipe);
  return names;
}

}  // namespace kvt::soak
