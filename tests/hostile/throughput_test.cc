// SPDX-License-Identifier: Apache-2.0
//
// The throughput program runs, and its good client reads what it wrote. No figure is looked at: a machine may be busy.
#include <gtest/gtest.h>

#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

TEST(Throughput, BesideAttackersNothingIsCorrupt) {
  const Outcome outcome =
      run_program(KVT_HOSTILE_THROUGHPUT, {"--rounds", "2", "--seconds", "0.5", "--neighbours", "3"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("\"ratio\": {\"min\": "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\"wrong_words\": 0, \"failed_calls\": 0"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace kvt::test
