// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal/messages.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>

namespace kvt::journal {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields fields_of(std::string_view line) { return classify(line).fields; }

TEST(Messages, HaveTheFieldsOfTheirWords) {
  EXPECT_EQ(fields_of("session 12: process 4711 (user 1000) attached arena \"llama\""),
            (Fields{{"KVTIER_SESSION", "12"}, {"KVTIER_ARENA", "llama"}}));
  EXPECT_EQ(fields_of("session 3 ended: its owner, process 9, has gone"), (Fields{{"KVTIER_SESSION", "3"}}));
  EXPECT_EQ(
      fields_of("arena \"a b\": page 7 (key 0123): frame 99 of tier hbm cannot be read, its memory is bad"),
      (Fields{{"KVTIER_ARENA", "a b"}, {"KVTIER_TIER", "hbm"}}));
  EXPECT_EQ(fields_of("kvtierd stops"), Fields{});
}

TEST(Messages, AreToldApart) {
  EXPECT_NE(classify("session 3 ended: an operator has evicted it; 2 of its processes live").id,
            classify("session 3 ended: its owner, process 9, has gone").id);
  EXPECT_NE(classify("session 3: process 9 joined as member 2").id,
            classify("session 3: process 9 has gone; its pages are kept until its GPU work has ended").id);
  EXPECT_FALSE(classify("session 3: member 2, process 9, has gone").id.empty());
}

TEST(Messages, OfNoKindHaveNoId) {
  for (const char* const line : {"", "kvtierd stops now", "a line", "session", "session 3", "*"}) {
    EXPECT_EQ(classify(line).id, "") << line;
    EXPECT_EQ(fields_of(line), Fields{}) << line;
  }
}

/// An arena's name that a client asks for stands in the refusal.
TEST(Messages, HaveNoFieldOfAClientsWords) {
  EXPECT_EQ(
      fields_of("refused process 5 (user 1): no arena \"x\": frame 1 of tier hbm cannot be read, \" here"),
      Fields{});
  EXPECT_EQ(fields_of("dropped the connection of process 5 (user 1): session 3 ended: "), Fields{});
}

TEST(Messages, MatchFromTheFirstToTheLastWord) {
  Fields fields;
  EXPECT_TRUE(match("a * c", "a b c", fields));
  EXPECT_TRUE(match("a * c", "a b c c", fields));
  EXPECT_FALSE(match("a * c", "a b c d", fields));
  EXPECT_FALSE(match("a * c", "x a b c", fields));
  EXPECT_TRUE(match("a*", "a", fields));
  EXPECT_TRUE(match("{KVTIER_X}: *", "one: two: three", fields));
  EXPECT_EQ(fields, (Fields{{"KVTIER_X", "one"}}));
  EXPECT_FALSE(match("a", "ab", fields));
  EXPECT_TRUE(match("", "", fields));
}

TEST(Messages, HaveIdsAsJournaldWantsThem) {
  std::set<std::string_view> ids;
  for (const Message& message : messages()) {
    EXPECT_TRUE(std::regex_match(std::string(message.id), std::regex("[0-9a-f]{32}"))) << message.pattern;
    EXPECT_TRUE(ids.insert(message.id).second) << message.id;
  }
}

/// docs/operations.md has the table, and a row of its log lines for each.
TEST(Messages, AreDocumented) {
  std::ifstream file(std::string(KVTIER_SOURCE_DIR) + "/docs/operations.md");
  std::map<std::string, std::string> rows;
  const std::regex row("\\| `([0-9a-f]{32})` \\| `([^`]+)` \\| .+ \\|");
  std::smatch found;
  for (std::string line; std::getline(file, line);)
    if (std::regex_match(line, found, row)) rows[found[1]] = found[2];
  std::map<std::string, std::string> table;
  for (const Message& message : messages()) table[std::string(message.id)] = message.pattern;
  EXPECT_EQ(rows, table);
}

}  // namespace
}  // namespace kvt::journal
