// SPDX-License-Identifier: Apache-2.0
#include "daemon/restart/keep.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "shm/base/fd.h"
#include "shm/base/result.h"

namespace kvt::restart {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFirstFd = 3;
/// A daemon that ends again and again before it is ready is started no more often than this.
constexpr std::chrono::milliseconds kPauseMin{20};
constexpr std::chrono::milliseconds kPauseMax{1000};
constexpr size_t kMessageBytes = 4096;
constexpr size_t kMessageFds = 64;

void say(const std::string& line) { std::fprintf(stderr, "kvtierd --keep: %s\n", line.c_str()); }

struct Message {
  std::map<std::string, std::string> words;  // of "NAME=VALUE" lines
  std::vector<Fd> fds;
  pid_t sender = -1;
};

class Keeping {
 public:
  Keeping(std::string program, std::vector<std::string> arguments, std::string socket_path, uint64_t max)
      : program_(std::move(program)),
        arguments_(std::move(arguments)),
        path_(std::move(socket_path)),
        max_(max) {}

  int run() {
    if (const auto opened = open(); !opened) {
      say(opened.error().text);
      return 1;
    }
    const int code = loop();
    ::unlink(path_.c_str());
    return code;
  }

 private:
  Result<void> open() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int each : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, each);
    sigprocmask(SIG_BLOCK, &signals, &mask_before_);
    signals_ = Fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return fail_errno("signalfd");
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
      files.rlim_cur = files.rlim_max;
      ::setrlimit(RLIMIT_NOFILE, &files);
    }
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof address.sun_path)
      return fail(Code::kInvalid, "socket path " + path_ + " is too long");
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ::unlink(path_.c_str());
    socket_ = Fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket_.valid()) return fail_errno("socket");
    const mode_t before = ::umask(0177);
    const int bound = ::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    ::umask(before);
    if (bound != 0) return fail_errno("bind " + path_);
    const int on = 1;
    if (::setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
      return fail_errno("SO_PASSCRED");
    return {};
  }

  int loop() {
    start();
    for (;;) {
      pollfd polls[] = {{socket_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}};
      ::poll(polls, 2, timeout_ms());
      // What a daemon sent before it ended comes before its end.
      while (auto message = receive()) obey(*message);
      for (signalfd_siginfo info{}; ::read(signals_.get(), &info, sizeof info) == sizeof info;) {
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) stopping_ = true;
        if (info.ssi_signo != SIGCHLD && child_ > 0) ::kill(child_, SIGTERM);
      }
      int status = 0;
      while (const pid_t ended = ::waitpid(-1, &status, WNOHANG)) {
        if (ended < 0) break;
        if (ended != child_) continue;
        while (auto message = receive()) obey(*message);
        child_ = -1;
        if (const std::optional<int> code = after_end(status)) return *code;
      }
      if (stopping_ && child_ < 0) return 0;
      if (child_ < 0 && Clock::now() >= start_at_) start();
    }
  }

  int timeout_ms() const {
    if (child_ >= 0) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(start_at_ - Clock::now());
    return static_cast<int>(std::max<int64_t>(0, left.count()));
  }

  /// What became of the daemon; a code to end with.
  std::optional<int> after_end(int status) {
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (stopping_) return code;
    // One that was never ready has nothing to lose, and the words for it have been said.
    if (!ever_ready_ && WIFEXITED(status) && code != 0) return code;
    pause_ = ready_ ? kPauseMin : std::min(2 * std::max(pause_, kPauseMin), kPauseMax);
    start_at_ = Clock::now() + (ready_ ? std::chrono::milliseconds{0} : pause_);
    say((WIFEXITED(status) ? "the daemon has ended with code " + std::to_string(code)
                           : "the daemon was ended by signal " + std::to_string(WTERMSIG(status))) +
        "; starting it again with " + std::to_string(kept_.size()) + " descriptors");
    return std::nullopt;
  }

  void start() {
    ready_ = false;
    std::string names;
    std::vector<int> fds;
    for (const auto& [name, fd] : kept_) {
      names += (names.empty() ? "" : ":") + name;
      fds.push_back(fd.get());
    }
    const pid_t child = ::fork();
    if (child < 0) {
      say(std::string("fork: ") + std::strerror(errno));
      start_at_ = Clock::now() + kPauseMax;
      return;
    }
    if (child == 0) {
      become_daemon(fds, names);
      ::_exit(127);
    }
    child_ = child;
  }

  void become_daemon(const std::vector<int>& fds, const std::string& names) const {
    // All of them out of the way first: a number that is wanted may be another's now.
    std::vector<int> moved;
    const int base = kFirstFd + static_cast<int>(fds.size());
    for (const int fd : fds) moved.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, base));
    for (size_t i = 0; i < moved.size(); ++i) ::dup2(moved[i], kFirstFd + static_cast<int>(i));
    sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
    ::setenv("NOTIFY_SOCKET", path_.c_str(), 1);
    ::setenv("FDSTORE", std::to_string(max_).c_str(), 1);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", std::to_string(fds.size()).c_str(), 1);
    ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
    std::vector<char*> argv{const_cast<char*>(program_.c_str())};
    for (const std::string& each : arguments_) argv.push_back(const_cast<char*>(each.c_str()));
    argv.push_back(nullptr);
    ::execv(program_.c_str(), argv.data());
    say("exec " + program_ + ": " + std::strerror(errno));
  }

  std::optional<Message> receive() const {
    std::array<char, kMessageBytes> text{};
    iovec vector{text.data(), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMessageFds) + CMSG_SPACE(sizeof(ucred))>
        control{};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    ssize_t got = 0;
    do {
      got = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return std::nullopt;
    Message message;
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
      if (item->cmsg_level != SOL_SOCKET) continue;
      if (item->cmsg_type == SCM_CREDENTIALS) {
        ucred from{};
        std::memcpy(&from, CMSG_DATA(item), sizeof from);
        message.sender = from.pid;
      }
      if (item->cmsg_type != SCM_RIGHTS) continue;
      for (size_t i = 0; i < (item->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof fd);
        message.fds.emplace_back(fd);
      }
    }
    const std::string all(text.data(), static_cast<size_t>(got));
    for (size_t at = 0; at < all.size();) {
      const size_t end = std::min(all.find('\n', at), all.size());
      const size_t equals = all.find('=', at);
      if (equals < end) message.words[all.substr(at, equals - at)] = all.substr(equals + 1, end - equals - 1);
      at = end + 1;
    }
    return message;
  }

  void obey(Message& message) {
    if (message.sender != child_) return;  // descriptors are closed with it
    const auto& words = message.words;
    const auto has = [&](const char* word) {
      const auto found = words.find(word);
      return found != words.end() && found->second == "1";
    };
    const auto named = words.find("FDNAME");
    if (has("FDSTORE"))
      for (Fd& fd : message.fds) {
        if (kept_.size() >= max_ || named == words.end()) {
          say("no room for another descriptor");
          break;
        }
        kept_.emplace(named->second, std::move(fd));
      }
    if (has("FDSTOREREMOVE") && named != words.end()) kept_.erase(named->second);
    if (has("READY")) {
      ready_ = ever_ready_ = true;
      pause_ = std::chrono::milliseconds{0};
    }
    // BARRIER: its descriptor is closed with the message, after all that came before.
  }

  std::string program_;
  std::vector<std::string> arguments_;
  std::string path_;
  uint64_t max_;
  sigset_t mask_before_{};
  Fd signals_;
  Fd socket_;
  std::multimap<std::string, Fd> kept_;
  pid_t child_ = -1;
  bool ready_ = false;
  bool ever_ready_ = false;
  bool stopping_ = false;
  std::chrono::milliseconds pause_{0};
  Clock::time_point start_at_{};
};

}  // namespace

int keep(const std::string& program, const std::vector<std::string>& arguments,
         const std::string& socket_path, uint64_t descriptors_max) {
  return Keeping(program, arguments, socket_path, descriptors_max).run();
}

}  // namespace kvt::restart
