// SPDX-License-Identifier: Apache-2.0
//
// What control.sock answers: one JSON object for one request line, for operators and their tools. The daemon
// renders, kvtierctl prints; docs/kvtierctl.md has every field. What changes anything is done by the keeper
// and the server; here are only the words. Runs on the loop's thread; never blocks.
//
//   {"command": "status" | "tiers" | "arenas" | "sessions"}      from counters: the cost does not depend on the pages
//   {"command": "audit"}                    arenas, and a walk over all of their rows, in which nobody is served
//   {"command": "quiesce"}                  waits up to half a second for limbo and copies, then status with the audit
//   {"command": "page", "page": N}          this and the next three: "arena": A, default the first; "generation": G
//   {"command": "pin" | "unpin", "page": N}                      pin: "tier": T, refused when the page is elsewhere
//   {"command": "move", "page": N, "tier": T, "column": C}       answers "queued"; "page" says when it is there
//   {"command": "evict-session", "session": ID}
//   {"command": "arena-create", "arena": A, "set": {KEY: VALUE}}     keys of [[arena]], "bytes.TIER" for its quotas; answers
//                                           when the arena is there, which may take as long as its memory takes
//   {"command": "arena-delete", "arena": A, "force": true}           answers when its memory is given back; without "force"
//                                           refused while it has sessions
//   {"command": "tier-add", "tier": T, "set": {KEY: VALUE}}          keys of [[tier]]; answers when the machine has been looked at
//   {"command": "tier-remove", "tier": T}               refused while arenas have memory of it
//   {"command": "policy", "set": {KEY: VALUE}}          [policy] of the configuration; with "set": changed first, until a
//                                           reload or the next start
//   {"command": "plan", "arena": A, "column": C}        what would be moved now, and why; nothing is
//   {"command": "explain", "page": N, "column": C}      why a page is where it is
//   {"command": "config"}                               what is used, and where each value comes from
//   {"command": "events", "since": N, "most": M}        what has happened after event N, the newest M of it
//   {"command": "heat", "arena": A, "column": C}        how hot pages are, from 1,024 of them
//   {"command": "record-start", "arena": A}             answers with a number and the header of the file to be
//   {"command": "record-read" | "record-stop", "arena": A, "recording": N}      "bytes" of records follow the answer's
//                                           line; after a stop it is read until it says "done"
//   {"command": "point", "point": NAME, "action": "kill" | "stop", "after": N}    tests; needs --allow-injection
//
// Every answer has "ok" and the name of its "schema" (docs/schemas); with false, "error" says what was expected, and "reason", where there is one, is for
// programs.
#pragma once

#include <functional>
#include <string>
#include <unordered_map>

#include "daemon/control/bursts.h"
#include "daemon/control/vitals.h"
#include "daemon/events/event_log.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"

namespace kvt::control {

/// Gets what operators have done, and what is summed up here, as events and lines of the log.
using Tell = std::function<void(events::Kind, const std::string&)>;

class Answers {
 public:
  /// All outlive it.
  Answers(keeper::Keeper& keeper, server::Server& server, const events::EventLog& events, Tell tell);
  /// After each pass of the loop: a minute's growth of some counters is kept, bursts of them become events.
  void look(keeper::Keeper::Clock::time_point now) {
    signs_.look(now);
    bursts_.look(now);
  }
  /// Gets an answer, without a newline at its end.
  using Reply = std::function<void(std::string)>;
  /// Answers one request line of `who`: at once, or, what takes long, later, out of Keeper::pass().
  void answer(const std::string& request, const std::string& who, const Reply& reply);

 private:
  using Clock = keeper::Keeper::Clock;
  keeper::Keeper& keeper_;
  server::Server& server_;
  const events::EventLog& events_;
  Tell tell_;
  VitalSigns signs_;
  Bursts bursts_;
  Clock::time_point started_;
  // By arena's number: when somebody last asked for its records
  std::unordered_map<uint32_t, Clock::time_point> record_read_at_;
  uint32_t waiting_ = 0;  // answers that come later
};

}  // namespace kvt::control
