// SPDX-License-Identifier: Apache-2.0
//
// The daemon's answers as tables for people. Tables fit 80 columns while numbers are of usual size: long
// names are cut, counts from 100000 on have three digits and a letter. No colours. One thread: user names
// come from getpwuid.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace kvt::ctl {

/// The answer says no, or is not understood. what() is the daemon's own sentence in the first case.
class BadAnswer : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// {"command": command}
std::string command_request(const std::string& command);

/// The answer as the daemon gave it, indented. Does not look at "ok". Throws BadAnswer when it is no JSON.
std::string pretty_json(const std::string& answer);
/// Throws BadAnswer with the daemon's words when "ok" is not true.
void check_answer(const std::string& answer);

// Tables, each ending with a newline. Every tier that is emulated says so. All throw BadAnswer.

/// Begins with whether all is well, and what to do where it is not: as the daemon says.
std::string status_text(const std::string& answer);
/// The worst that the answer to "status" has: "", "note", "warn", "bad".
std::string worst_severity(const std::string& answer);
std::string tiers_text(const std::string& answer);
std::string arenas_text(const std::string& answer);
std::string sessions_text(const std::string& answer);
/// `tiers_answer`: the answer to "tiers", which says what is emulated; an answer about a page does not.
std::string page_text(const std::string& answer, const std::string& tiers_answer);

/// What would be moved, and why.
std::string plan_text(const std::string& answer);
/// Why a page is where it is, in sentences.
std::string explain_text(const std::string& answer);

/// A line for each event, with the time of day by this machine's clock. `kind`: only these; empty: all.
std::string events_text(const std::string& answer, const std::string& kind);
/// The running configuration as TOML, with the source of each value behind it.
std::string config_text(const std::string& answer);

/// Who a session is and what it loses when it is evicted, from the answer to "sessions". Throws BadAnswer
/// when it is not there.
std::string session_question(const std::string& sessions_answer, uint64_t id);
/// The names in a list of the answer ("arenas", "tiers"; "sessions": their ids), one a line.
std::string names_text(const std::string& answer, const std::string& list);

}  // namespace kvt::ctl
