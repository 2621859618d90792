// SPDX-License-Identifier: Apache-2.0
//
// Requests as JSON lines, and the daemon's answers as tables for people. Pure functions of their arguments;
// thread-safe.
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
/// Asks for one page; an empty arena means the daemon's first.
std::string page_request(uint64_t page, const std::string& arena);

/// The answer as the daemon gave it, indented. Does not look at "ok". Throws BadAnswer when it is no JSON.
std::string pretty_json(const std::string& answer);
/// Throws BadAnswer with the daemon's words when "ok" is not true.
void check_answer(const std::string& answer);

// Tables, each ending with a newline. Every tier that is emulated says so. All throw BadAnswer.

std::string status_text(const std::string& answer);
std::string tiers_text(const std::string& answer);
std::string arenas_text(const std::string& answer);
std::string sessions_text(const std::string& answer);
/// `tiers_answer`: the answer to "tiers", which says what is emulated; an answer about a page does not.
std::string page_text(const std::string& answer, const std::string& tiers_answer);

}  // namespace kvt::ctl
