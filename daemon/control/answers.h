// SPDX-License-Identifier: Apache-2.0
//
// What control.sock answers: one JSON object for one request line, for operators and their tools. The daemon renders,
// kvtierctl prints; docs/kvtierctl.md has every field. What changes anything is done by the keeper and the server; here
// are only the words. Runs on the loop's thread; never blocks.
//
//   {"command": "status" | "tiers" | "arenas" | "sessions"}      from counters: the cost does not depend on the pages
//   {"command": "audit"}                    arenas, and a walk over all of their rows, in which nobody is served
//   {"command": "quiesce"}                  waits up to half a second for limbo and copies, then status with the audit
//   {"command": "page", "page": N}          this and the next three: "arena": A, default the first; "generation": G
//   {"command": "pin" | "unpin", "page": N}                      pin: "tier": T, refused when the page is elsewhere
//   {"command": "move", "page": N, "tier": T, "column": C}       answers "queued"; "page" says when it is there
//   {"command": "evict-session", "session": ID}
//
// Every answer has "ok"; with false, "error" says what was expected, and "reason", where there is one, is for programs.
#pragma once

#include <string>

#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"

namespace kvt::control {

class Answers {
 public:
  /// Both outlive it.
  Answers(keeper::Keeper& keeper, server::Server& server);
  /// The answer to one request line, without a newline.
  [[nodiscard]] std::string answer(const std::string& request);

 private:
  keeper::Keeper& keeper_;
  server::Server& server_;
  keeper::Keeper::Clock::time_point started_;
};

}  // namespace kvt::control
