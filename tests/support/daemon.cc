// SPDX-License-Identifier: Apache-2.0
#include "tests/support/daemon.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

namespace kvt::test {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int connect_to(const std::string& path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return -1;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  ::close(fd);
  return -1;
}

/// Starts a program with its output in two files. It ends with this process.
pid_t spawn(std::string program, const std::vector<std::string>& arguments, const std::string& out,
            const std::string& err) {
  std::vector<char*> argv;
  argv.push_back(program.data());
  std::vector<std::string> kept = arguments;
  for (std::string& argument : kept) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  const int in_fd = ::open("/dev/null", O_RDONLY);
  const int out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  const int err_fd = ::open(err.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(in_fd, STDIN_FILENO);
  ::dup2(out_fd, STDOUT_FILENO);
  ::dup2(err_fd, STDERR_FILENO);
  ::execv(program.c_str(), argv.data());
  ::_exit(127);
}

/// The built one; KVT_TEST_KVTIERD names another, where tests run elsewhere than they were built.
std::string kvtierd_path() {
  const char* const named = std::getenv("KVT_TEST_KVTIERD");
  return named == nullptr ? KVTIERD_PATH : named;
}

/// Waits for the end of a child; its wait status, or nothing.
bool wait_for_end(pid_t pid, int& status, std::chrono::milliseconds limit) {
  return eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }, limit);
}

nlohmann::json at(const std::string& answer, const std::string& pointer) {
  const auto parsed = nlohmann::json::parse(answer, nullptr, false);
  if (parsed.is_discarded()) return {};
  const nlohmann::json::json_pointer where(pointer);
  return parsed.contains(where) ? parsed[where] : nlohmann::json();
}

}  // namespace

bool eventually(const std::function<bool()>& done, std::chrono::milliseconds limit) {
  const auto end = Clock::now() + limit;
  for (;;) {
    if (done()) return true;
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::string World::toml() const {
  std::ostringstream out;
  out << "[daemon]\nperiod_ms = " << period_ms << "\nprefault = " << (prefault ? "true" : "false") << "\n";
  if (descriptors_max != 0) out << "descriptors_max = " << descriptors_max << "\n";
  if (!session_bytes_max.empty()) out << "session_bytes_max = \"" << session_bytes_max << "\"\n";
  out << "[policy]\nname = \"" << policy << "\"\npromote = \"" << promote
      << "\"\ncooldown_ms = " << cooldown_ms << "\nmove_bytes_per_second = \"64GiB\"\n";
  if (!profile.empty()) out << "profile = \"" << profile << "\"\n";
  if (!cuda_driver.empty()) {
    out << "[cuda]\ndriver = \"" << cuda_driver << "\"\nmeasure = " << (cuda_measure ? "true" : "false")
        << "\npeers = " << (cuda_peers ? "true" : "false") << "\nquarantine_ms = " << quarantine_ms << "\n";
    for (uint32_t gpu = 0; gpu < cuda_gpus; ++gpu) {
      out << "[[tier]]\nname = \"hbm" << gpu << "\"\nkind = \"cuda\"\nbytes = " << hbm_bytes
          << "\ndevice = " << gpu << "\n";
      if (columns > 1) out << "column = " << gpu << "\n";
    }
  }
  for (uint32_t column = cuda_driver.empty() ? 0 : cuda_gpus; column < columns; ++column)
    out << "[[tier]]\nname = \"hbm" << column << "\"\nkind = \"emulated-hbm\"\nbytes = " << hbm_bytes
        << "\ncolumn = " << column << "\n";
  out << "[[tier]]\nname = \"dram\"\nbytes = " << dram_bytes << "\n";
  if (cuda_host) out << "kind = \"cuda-host\"\n";
  if (!huge_pages.empty()) out << "huge_pages = \"" << huge_pages << "\"\n";
  out << "[[arena]]\nname = \"default\"\npage_bytes = " << page_bytes << "\ncolumns = " << columns
      << "\nplanes = " << planes << "\nmode = \"" << mode << "\"\n";
  if (integrity != "off")
    out << "integrity = \"" << integrity << "\"\nscrub_pages_per_second = " << scrub_pages_per_second << "\n";
  if (pages != 0) out << "pages = " << pages << "\n";
  if (sessions_per_user != 0) out << "sessions_per_user = " << sessions_per_user << "\n";
  out << more;
  return out.str();
}

Daemon::Daemon(World world) : world_(std::move(world)) {
  folder_ = "/tmp/kvtier-test-XXXXXX";
  if (::mkdtemp(folder_.data()) == nullptr) {
    ADD_FAILURE() << "mkdtemp: " << std::strerror(errno);
    return;
  }
  if (world_.open_folder) ::chmod(folder_.c_str(), 0755);
  std::ofstream(folder_ + "/kvtierd.toml") << world_.toml();
  start();
}

Daemon::~Daemon() {
  if (pid_ > 0) {
    signal(SIGCONT);
    if (const int code = stop(); code != 0) ADD_FAILURE() << "kvtierd ended with " << code << " at SIGTERM";
  }
  if (::testing::Test::HasFailure()) std::fprintf(stderr, "---- kvtierd's log\n%s----\n", log().c_str());
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Daemon::log() const { return read_file(folder_ + "/stderr"); }

void Daemon::start() {
  std::vector<std::string> arguments{"--config", folder_ + "/kvtierd.toml", "--socket-dir", folder_};
  if (world_.keep) arguments.emplace_back("--keep");
  arguments.insert(arguments.end(), world_.arguments.begin(), world_.arguments.end());
  pid_ = spawn(kvtierd_path(), arguments, folder_ + "/stdout", folder_ + "/stderr");
  int status = 0;
  bool ended = false;
  const bool up = eventually([&] {
    ended = ::waitpid(pid_, &status, WNOHANG) == pid_;
    if (ended) return true;
    const int attach = connect_to(folder_ + "/attach.sock", SOCK_SEQPACKET);
    const int operators = connect_to(folder_ + "/control.sock", SOCK_STREAM);
    if (attach >= 0) ::close(attach);
    if (operators >= 0) ::close(operators);
    return attach >= 0 && operators >= 0;
  });
  if (ended) pid_ = -1;
  if (ended || !up) {
    ADD_FAILURE() << "kvtierd did not come up:\n" << log();
    kill();
  }
}

int Daemon::stop() {
  if (pid_ <= 0) return -1;
  signal(SIGTERM);
  int status = 0;
  if (!wait_for_end(pid_, status, kPatience)) {
    kill();
    return -1;
  }
  pid_ = -1;
  if (WIFSIGNALED(status)) return -WTERMSIG(status);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void Daemon::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  // A daemon that was gone already has crashed: a fault of its own, whatever the test looked at.
  if (WIFEXITED(status) || (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL))
    ADD_FAILURE() << "kvtierd had ended by itself, wait status " << status << ":\n" << log();
  pid_ = -1;
}

pid_t Daemon::worker() const {
  std::ifstream file("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(pid_) + "/children");
  pid_t child = -1;
  file >> child;
  return file ? child : -1;
}

bool Daemon::wait_for_worker(pid_t before) const {
  return eventually([&] {
    const pid_t now = worker();
    return now > 0 && now != before && !control(R"({"command":"tiers"})").empty();
  });
}

bool Daemon::restart(int number) {
  const pid_t before = worker();
  if (before <= 0 || ::kill(before, number) != 0) return false;
  return wait_for_worker(before);
}

void Daemon::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

std::string Daemon::control(const std::string& line) const {
  const int fd = connect_to(folder_ + "/control.sock", SOCK_STREAM);
  if (fd < 0) return {};
  const std::string whole = line + "\n";
  std::string answer;
  if (::send(fd, whole.data(), whole.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(whole.size())) {
    char buffer[65536];
    pollfd waiting{fd, POLLIN, 0};
    while (::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) > 0) {
      const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
      if (got <= 0) break;
      answer.append(buffer, static_cast<size_t>(got));
    }
  }
  ::close(fd);
  return answer;
}

double Daemon::number(const std::string& command, const std::string& pointer) const {
  const nlohmann::json value =
      at(control(command.front() == '{' ? command : "{\"command\":\"" + command + "\"}"), pointer);
  if (value.is_number()) return value.get<double>();
  if (value.is_array()) return static_cast<double>(value.size());
  return std::nan("");
}

std::string Daemon::text(const std::string& command, const std::string& pointer) const {
  const nlohmann::json value =
      at(control(command.front() == '{' ? command : "{\"command\":\"" + command + "\"}"), pointer);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

uint64_t Daemon::sleeps() const {
  uint64_t sum = 0;
  std::error_code ignored;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task", ignored)) {
    std::ifstream status(task.path() / "status");
    std::string word;
    while (status >> word)
      if (uint64_t count = 0; word == "voluntary_ctxt_switches:" && status >> count) sum += count;
  }
  return sum;
}

Outcome run_kvtierd(const std::vector<std::string>& arguments) {
  return run_program(kvtierd_path(), arguments);
}

std::string kvtierd_program() { return kvtierd_path(); }

Outcome run_program(const std::string& program, const std::vector<std::string>& arguments) {
  const Folder folder;
  const pid_t pid = spawn(program, arguments, folder.path() + "/out", folder.path() + "/err");
  Outcome outcome;
  int status = 0;
  if (wait_for_end(pid, status, kPatience)) {
    if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  } else {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  outcome.out = read_file(folder.path() + "/out");
  outcome.err = read_file(folder.path() + "/err");
  return outcome;
}

Folder::Folder() : path_("/tmp/kvtier-test-XXXXXX") {
  if (::mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "mkdtemp: " << std::strerror(errno);
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Folder::write(const std::string& name, const std::string& text) const {
  std::ofstream(path_ + "/" + name) << text;
  return path_ + "/" + name;
}

}  // namespace kvt::test
