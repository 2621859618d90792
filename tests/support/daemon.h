// SPDX-License-Identifier: Apache-2.0
//
// A real kvtierd for one test: private folder, configuration of a few MiB, stderr in a file, both sockets.
// The process and its folder go with the object. One thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace kvt::test {

using Clock = std::chrono::steady_clock;

/// The longest that any test waits for an event that must come. Sanitizers and busy machines are slow.
inline constexpr std::chrono::seconds kPatience{60};

/// Polls `done` until it is true (returns true) or `limit` has passed.
bool eventually(const std::function<bool()>& done, std::chrono::milliseconds limit = kPatience);

/// What a test's daemon is made of: emulated HBM for each column, one shared host tier, one arena "default".
struct World {
  uint32_t columns = 1;
  uint64_t page_bytes = 16384;
  uint64_t hbm_bytes = 2u << 20;
  uint64_t dram_bytes = 16u << 20;
  uint64_t pages = 0;  ///< 0: as many as there are frames
  uint32_t planes = 1;
  std::string policy = "off";
  std::string promote = "offers";
  std::string profile;  ///< empty: the daemon's default
  uint32_t period_ms = 2;
  uint32_t cooldown_ms = 0;
  std::string mode = "0600";
  bool prefault = true;
  std::string integrity = "off";
  uint32_t scrub_pages_per_second = 100;
  std::string huge_pages;     ///< of the host tier; empty: as it is by default
  std::string cuda_driver;    ///< not empty: the HBM of the first columns is GPUs', through this driver
  uint32_t cuda_gpus = 1;     ///< how many columns: each has the GPU of its number
  bool cuda_host = false;     ///< the host tier is memory that this driver allocates
  bool cuda_measure = false;  ///< at start, how fast the GPU and its link are
  bool cuda_peers = true;     ///< pages are copied from one GPU to another
  uint32_t quarantine_ms = 100;
  std::string more;  ///< appended: further arenas
  std::vector<std::string> arguments;
  uint32_t descriptors_max = 0;    ///< 0: the default of the daemon
  std::string session_bytes_max;   ///< empty: the default
  uint32_t sessions_per_user = 0;  ///< of the arena "default"; 0: the default
  bool keep = false;               ///< under `kvtierd --keep`: see worker() and restart()
  bool open_folder = false;        ///< other users may enter the socket folder

  [[nodiscard]] std::string toml() const;
};

class Daemon {
 public:
  /// Starts it and waits for both sockets; a failure is a fatal test failure, see ok().
  explicit Daemon(World world = {});
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  [[nodiscard]] bool ok() const { return pid_ > 0; }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string log() const;

  /// Starts it again in the same folder, after stop() or kill().
  void start();
  /// SIGTERM; its exit code, or -1 when it had to be killed.
  int stop();
  /// SIGKILL, and waits for the end.
  void kill();
  void signal(int number) const;

  /// With World::keep: the daemon itself, the child of pid(); -1: there is none now.
  [[nodiscard]] pid_t worker() const;
  /// Kills the daemon (not its parent) with a signal, and waits until another one answers. False: none did.
  bool restart(int number = 9);
  /// Waits until a daemon that is not `before` answers.
  [[nodiscard]] bool wait_for_worker(pid_t before) const;

  /// Sends one line to control.sock; the answer's text, "" when none came.
  [[nodiscard]] std::string control(const std::string& line) const;
  /// The number at a JSON pointer ("/arenas/0/moves/promoted") of the answer to a command; a list: its
  /// length; NaN when it is not there.
  [[nodiscard]] double number(const std::string& command, const std::string& pointer) const;
  [[nodiscard]] std::string text(const std::string& command, const std::string& pointer) const;
  /// Times that the process's threads have gone to sleep of their own will.
  [[nodiscard]] uint64_t sleeps() const;

 private:
  World world_;
  std::string folder_;
  pid_t pid_ = -1;
};

/// How a kvtierd that ends by itself ended.
struct Outcome {
  int exit_code = -1;  ///< -1: a signal, or it did not end in time
  std::string out;
  std::string err;
};
/// Its path.
std::string kvtierd_program();
/// Runs kvtierd with these arguments until it ends.
Outcome run_kvtierd(const std::vector<std::string>& arguments);
/// The same for any program. Its stdin is /dev/null.
Outcome run_program(const std::string& program, const std::vector<std::string>& arguments);

/// A folder that goes with the object.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Writes a file in it; its path.
  [[nodiscard]] std::string write(const std::string& name, const std::string& text) const;

 private:
  std::string path_;
};

}  // namespace kvt::test
