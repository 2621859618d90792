// SPDX-License-Identifier: Apache-2.0
//
// Kinds of lines of the log, for the journal: each has an id that never changes, and fields that are taken out of its
// words. One table, messages.cc; docs/operations.md shows it. Pure; thread-safe.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvt::journal {

/// A line matches where its words are those of the pattern: `*` stands for any, {KVTIER_...} for the value of that field.
/// A pattern is of the daemon's own words up to its last field: what clients have given comes behind, and is in no field.
struct Message {
  std::string_view id;  ///< 32 hexadecimal digits, as journald's MESSAGE_ID
  std::string_view pattern;
};

/// The first that matches holds.
std::span<const Message> messages();

struct Classified {
  std::string_view id;  ///< empty: a line of no kind
  std::vector<std::pair<std::string, std::string>> fields;
};
Classified classify(std::string_view line);

/// false: the line is not the pattern's. With true, `fields` are what it says.
bool match(std::string_view pattern, std::string_view line,
           std::vector<std::pair<std::string, std::string>>& fields);

}  // namespace kvt::journal
