// SPDX-License-Identifier: Apache-2.0
//
// What `kvtierctl top` shows: two answers to "status" become rates, and these become lines. No terminal here: what draws
// them is screen.h. Values; one thread (user names come from getpwuid).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kvt::ctl {

/// How a piece of a line stands out, where the terminal can show it.
enum class Look : uint8_t { kPlain, kBold, kDim, kTitle, kGood, kWarn, kBad };
struct Piece {
  std::string text;
  Look look = Look::kPlain;
};
using Line = std::vector<Piece>;

/// Between two answers of one daemon. Without a first one, or where it is another daemon's, there are no rates.
struct Rates {
  struct Tier {
    std::string name;
    bool emulated = false;
    uint64_t bytes = 0;
    uint64_t used = 0;  ///< bytes of frames that have a page, a shadow or an offer
    uint64_t limbo = 0;
    uint64_t reserved = 0;  ///< targets of copies
    uint64_t free = 0;
    double read_per_second = 0;  ///< bytes
    std::optional<double> most;  ///< bytes a second that placement reckons with
  };
  struct Arena {
    std::string name;
    uint64_t pages = 0;
    uint64_t free = 0;
    uint64_t filling = 0;
    uint64_t sealed = 0;
    uint64_t limbo = 0;
    double limbo_seconds = 0;
    double read_per_second = 0;        ///< bytes, of all tiers
    std::optional<double> fast_share;  ///< of the bytes read in the last period; none when none were
    std::optional<double> best_share;
    // Pages a second
    double promoted = 0;
    double demoted = 0;       ///< by copy
    double demoted_free = 0;  ///< since there was a shadow
    double evicted = 0;
    double published = 0;
    double steps = 0;                ///< a second
    std::optional<double> step_p50;  ///< seconds; none where no step has ended
    std::optional<double> step_p99;
  };
  std::optional<double> seconds;  ///< between the two answers; none: all rates are 0
  double cpu_share = 0;           ///< of one core
  std::vector<Tier> tiers;
  std::vector<Arena> arenas;
};
/// `before` may be empty. Throws BadAnswer.
Rates rates_of(const std::string& status, const std::string& before);

enum class View : uint8_t { kOverview, kArenas, kSessions, kHeat, kEvents };
inline constexpr const char* kViewNames[] = {"overview", "arenas", "sessions", "heat", "events"};
enum class SessionOrder : uint8_t { kId, kHeld, kUnkeyed, kSteps, kOldest };
inline constexpr const char* kOrderNames[] = {"id", "held", "unkeyed", "steps", "oldest"};

/// Answers to "status", and to "heat" and "events" where their view is shown; empty: none yet.
struct Answered {
  std::string status;
  std::string before;  ///< an earlier "status"
  std::string heat;
  std::string events;
};

/// What a view shows, however high the screen is. Throws BadAnswer.
std::vector<Line> view_lines(const Answered& answered, View view, SessionOrder order);
/// The first line: which daemon, whether all is well.
Line head_line(const Answered& answered);
std::vector<Line> help_lines();

/// `width` characters: '#' used, '+' reserved, '~' limbo, '.' free.
Line bar(const Rates::Tier& tier, size_t width);

/// The answer to "heat" as bars. Throws BadAnswer.
std::string heat_text(const std::string& answer);

/// All text of the lines, without their looks.
std::string plain_text(const std::vector<Line>& lines);

/// The rates as one JSON document.
std::string rates_json(const Answered& answered);

}  // namespace kvt::ctl
