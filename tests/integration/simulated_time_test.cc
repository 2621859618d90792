// SPDX-License-Identifier: Apache-2.0
//
// Whether the simulator says what the daemon did: two client processes replay a trace on an emulated pair of
// tiers while kvtierctl records; the modelled decode time by what the clients saw, and by the recording in
// kvtiersim, agree. Readers do not balance by the step here: which of two places each read was from, a
// recording does not say. KVTIER_DATA names the folder with the trace; without it the built-in generator's
// requests are replayed.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/integration/recording.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

TEST(SimulatedTime, IsThatOfTheRecordedDaemon) {
  World world;
  world.page_bytes = 65536;
  world.hbm_bytes = uint64_t{128} << 20;
  world.dram_bytes = uint64_t{1} << 30;
  world.policy = "balance";
  world.period_ms = 10;
  Daemon daemon(world);
  const Folder folder;
  std::vector<std::string> arguments{"--socket-dir",
                                     daemon.folder(),
                                     "--processes",
                                     "2",
                                     "--seconds",
                                     "8",
                                     "--no-balance",
                                     "--json",
                                     folder.path() + "/replay.json"};
  const char* const data = std::getenv("KVTIER_DATA");
  const std::string trace = std::string(data == nullptr ? "" : data) + "/mooncake/conversation_0-30min.jsonl";
  if (std::filesystem::exists(trace))
    arguments.insert(arguments.end(), {"--trace", trace});
  else
    std::printf(
        "KVTIER_DATA names no folder with mooncake/conversation_0-30min.jsonl: the built-in generator "
        "instead\n");

  Recording recording(daemon, folder.path() + "/now.rec");
  const test::Outcome replayed = run_program(KVTIER_REPLAY_PATH, arguments);
  ASSERT_EQ(replayed.exit_code, 0) << replayed.out << replayed.err;
  ASSERT_EQ(recording.finish().value("dropped_entries", 1), 0);
  const test::Outcome simulated = run_program(
      KVTIERSIM_PATH, {"run", "--trace", recording.path(), "--policy",
                       "recorded,recorded-reads,lru,reference", "--json", folder.path() + "/sim.json"});
  ASSERT_EQ(simulated.exit_code, 0) << simulated.err;
  std::printf("%s", simulated.out.c_str());
  const json by_clients = json::parse(Recording::read(folder.path() + "/replay.json"));
  const json by_simulator = json::parse(Recording::read(folder.path() + "/sim.json")).at("policies");

  double pages = 0;
  for (const auto& [tier, bytes] : by_clients.at("bytes_read").items()) pages += bytes.get<double>() / 65536;
  const json& recorded = by_simulator.at("recorded-reads");
  EXPECT_NEAR(recorded.at("asked").get<double>() / pages, 1, 0.01) << "every read of the clients is in it";
  const double together = by_clients.at("modelled_together_seconds").get<double>();
  const double seconds = recorded.at("seconds").get<double>();
  std::printf(
      "modelled decode time: %.5f s by the clients, %.5f s by the simulator (%+.2f %%); moves charged %.5f "
      "s\n",
      together, seconds, 100 * (seconds / together - 1),
      by_simulator.at("recorded").at("seconds").get<double>());
  EXPECT_NEAR(seconds / together, 1, 0.03);
}

}  // namespace
}  // namespace kvt::test
