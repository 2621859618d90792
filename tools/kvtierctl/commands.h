// SPDX-License-Identifier: Apache-2.0
//
// What kvtierctl does for each of its commands: asks, waits where the answer comes later, and says what is to
// be printed. One thread. Those that ask a daemon throw
// NoAnswer (client.h) or BadAnswer (render.h).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/kvtierctl/record.h"
#include "tools/kvtierctl/topology.h"

namespace kvt::ctl {

struct EventsOptions {
  uint64_t since = 0;  ///< a serial
  bool follow = false;
  std::string kind;  ///< only this; empty: all
};

struct TopOptions {
  double interval = 1;  ///< seconds
  bool once = false;
  uint64_t batch = 0;  ///< so many times, as text
  std::string view = "overview";
};

struct DoctorOptions {
  std::string fsroot;  ///< a folder with another machine's /sys and /proc; empty: this machine
  std::string config;  ///< a configuration that is to be looked at; empty: none
};

/// What the command line says. Each command uses its own part.
struct Options {
  std::string socket_dir;
  bool json = false;  ///< print the daemon's answer
  uint64_t page = 0;
  std::string arena;  ///< empty: the daemon's first
  std::string tier;
  uint32_t column = 0;
  uint32_t timeout_ms = 1000;  ///< for a move
  uint64_t session = 0;
  bool yes = false;   ///< do not ask
  bool undo = false;  ///< of a drain
  bool wait = true;   ///< for a drain or resize to be done
  std::string bytes;  ///< a number; "all"
  bool audit = false;
  bool check = false;              ///< status: the exit code says whether all is well
  std::string list;                ///< of names
  std::vector<std::string> words;  ///< of policy: show, or set KEY=VALUE...; of arena and tier: KEY=VALUE...
  bool force = false;              ///< of arena delete: its sessions are evicted
  TopologyOptions topology;
  CalibrateOptions calibrate;
  RecordOptions record;
  TopOptions top;
  EventsOptions events;
  std::string action;  ///< of config: check, show; of arena: create, delete; of tier: add, remove
  std::string file;
  bool defaults = false;
  DoctorOptions doctor;
};

/// For people or programs, and, when the daemon said no, its words: exit code 1.
struct Output {
  std::string text;
  std::string error;
  int exit_code = 0;  ///< without an error
};
/// Of `status --check`.
inline constexpr int kExitWarn = 3;
inline constexpr int kExitBad = 4;

/// The command line cannot be meant like this. Exit code 2.
class WrongUse : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// With `check`, the exit code is that of the worst problem.
Output status(const Options& options);
/// Live, on the terminal, until somebody ends it; as text with `once` or `batch`. Throws WrongUse when there is
/// no terminal.
Output top(const Options& options);
Output tiers(const Options& options);
Output arenas(const Options& options);
Output sessions(const Options& options);
Output page(const Options& options);
/// What the policy would move now.
Output plan(const Options& options);
inline constexpr const char* kPolicyActions[] = {"show", "set"};
/// What placement obeys; changes it with "set". Throws WrongUse.
Output policy(const Options& options);
/// Why a page is where it is.
Output explain(const Options& options);

/// Of this machine, or of another's recording; these two need no daemon. Throw NoTopology.
Output topology(const Options& options);
/// Says on stderr what it is measuring.
Output calibrate(const Options& options);

/// What has happened lately; with `follow` until somebody ends it.
Output events(const Options& options);
inline constexpr const char* kConfigActions[] = {"check", "show"};
/// What a configuration file is worth, by kvtierd; what the running one uses, and from where.
Output config(const Options& options);
/// How hot pages are, from a sample.
Output heat(const Options& options);

/// What of the machine works against kvtierd, worst first; needs no daemon. Exit code 1 when something is bad.
Output doctor(const Options& options);

/// Asks on the terminal before it does, unless `yes`. Throws WrongUse when there is no terminal.
Output evict_session(const Options& options);
/// With a tier: moves the page there first. Waits at most `timeout_ms` for that.
Output pin(const Options& options);
Output unpin(const Options& options);
/// Returns when the move is committed, or after `timeout_ms`.
Output move(const Options& options);

/// Ask on the terminal before less of a tier is used, unless `yes`. Return when it is done, with `wait`: closed frames
/// are empty and their memory is given back, or taken again; or when what is left cannot go now, exit code 1.
Output drain(const Options& options);
Output resize(const Options& options);

inline constexpr const char* kArenaActions[] = {"create", "delete"};
/// Makes an arena, or asks on the terminal before it gives one up, unless `yes`. Waits for the memory. Throws WrongUse.
Output arena(const Options& options);

inline constexpr const char* kTierActions[] = {"add", "remove"};
/// A tier that the machine is to have from now on, as soon as the daemon has looked at it; or not any more.
Output tier(const Options& options);

/// Takes as long as it is told to. Throws NoFile.
Output record(const Options& options);

/// For the shell's completion: kinds of the events that there are.
Output event_kinds(const Options& options);
/// For the shell's completion: names of arenas, tiers or sessions, one a line; nothing when no daemon answers
/// at once.
Output names(const Options& options);

}  // namespace kvt::ctl
