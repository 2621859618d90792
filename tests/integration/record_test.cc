// SPDX-License-Identifier: Apache-2.0
//
// kvtierctl record against a real daemon and a real client: what is in the file, who may record, and what
// goes wrong.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/integration/recording.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

constexpr uint64_t kPageBytes = 16384;

/// Reads all pages once a step.
void read_once(Client& client, const std::vector<kvt_page>& pages) {
  kvt_step step{};
  ASSERT_EQ(kvt_step_begin(client, &step), KVT_OK);
  ASSERT_GE(kvt_touch(client, pages.data(), pages.size()), 0) << kvt_last_error();
  ASSERT_EQ(kvt_step_end(client, &step), KVT_OK);
}

TEST(Record, WritesWhatIsRead) {
  World world;
  world.policy = "balance";
  Daemon daemon(world);
  Client client(daemon);
  std::vector<kvt_page> pages;
  for (uint64_t key = 1; key <= 200; ++key) pages.push_back(publish_page(client, key_of(key), kPageBytes));
  const Folder folder;
  Recording recording(daemon, folder.path() + "/now.rec");

  // Somebody else may not, and takes nothing away.
  const Outcome second = run_program(
      KVTIERCTL_PATH, {"--socket-dir", daemon.folder(), "record", "--out", folder.path() + "/second.rec"});
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_TRUE(mentions(second.err, {"arena \"default\" is being recorded by somebody else"})) << second.err;
  const Outcome as_json = run_program(KVTIERCTL_PATH, {"--json", "--socket-dir", daemon.folder(), "record",
                                                       "--out", folder.path() + "/second.rec"});
  EXPECT_EQ(json::parse(as_json.out).at("ok"), false);

  constexpr uint64_t kSteps = 3000;
  for (uint64_t i = 0; i < kSteps; ++i) read_once(client, pages);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);  // it has taken the counters by then
  const json said = recording.finish();
  ASSERT_TRUE(said.is_object());
  EXPECT_EQ(said.at("ok"), true);
  EXPECT_EQ(said.at("arena"), "default");
  EXPECT_EQ(said.at("dropped_entries"), 0);
  EXPECT_GE(said.at("periods"), 1);
  EXPECT_GE(said.at("entries"), 200);
  // A touch that races with the daemon's look may be counted later or not at all.
  EXPECT_GE(said.at("reads").get<double>(), 0.98 * kSteps * 200);
  EXPECT_LE(said.at("reads").get<double>(), 1.0 * kSteps * 200);
  const std::string bytes = Recording::read(recording.path());
  EXPECT_EQ(said.at("file_bytes"), bytes.size());
  const json header = json::parse(bytes.substr(0, bytes.find('\n')));
  EXPECT_EQ(header.at("kvtier_recording"), 1);
  EXPECT_EQ(header.at("page_bytes"), kPageBytes);
  EXPECT_EQ(header.at("tiers").at(0).at("name"), "hbm0");
  EXPECT_EQ(header.at("tiers").at(0).at("emulated"), true);
  EXPECT_EQ(header.at("tiers").at(1).at("column"), -1);

  // Done: another one can begin, on an idle daemon, too. People get a sentence.
  const Outcome idle = run_program(KVTIERCTL_PATH, {"--socket-dir", daemon.folder(), "record", "--out",
                                                    folder.path() + "/idle.rec", "--seconds", "0.2"});
  EXPECT_EQ(idle.exit_code, 0) << idle.err;
  EXPECT_TRUE(mentions(idle.out, {"idle.rec: arena default, 0.", " 0 periods", "nobody read anything"}))
      << idle.out;
}

TEST(Record, SaysWhyNot) {
  Daemon daemon;
  const Folder folder;
  const auto refused = [&](const std::vector<std::string>& arguments, int code,
                           std::initializer_list<const char*> words) {
    std::vector<std::string> all{"--socket-dir", daemon.folder(), "record"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Outcome outcome = run_program(KVTIERCTL_PATH, all);
    EXPECT_EQ(outcome.exit_code, code) << outcome.err;
    EXPECT_TRUE(mentions(outcome.err, words)) << outcome.err;
  };
  const std::string out = folder.path() + "/a.rec";
  refused({}, 2, {"--out"});
  refused({"--out", out, "--seconds", "0"}, 2, {"--seconds"});
  refused({"--out", folder.path() + "/none/a.rec"}, 1, {"none/a.rec", "cannot be written", "No such file"});
  refused({"--out", "/dev/full"}, 1, {"/dev/full", "not all could be written"});
  refused({"--out", out, "--arena", "elsewhere"}, 1, {"no arena \"elsewhere\""});
  const auto answer = [&](const std::string& request) { return daemon.control(request); };
  EXPECT_TRUE(mentions(answer("{\"command\":\"record-read\",\"recording\":7}"),
                       {"\"ok\":false", "there is no recording 7"}));
  EXPECT_TRUE(mentions(answer("{\"command\":\"record-stop\"}"), {"\"ok\":false", "recording is a number"}));
  EXPECT_TRUE(mentions(answer("{\"command\":\"record-read\",\"recording\":\"x\"}"),
                       {"\"ok\":false", "recording is a number"}));
  // The one that met a full device has gone without a word; it began a recording, which gives way after ten
  // seconds.
  EXPECT_TRUE(mentions(answer("{\"command\":\"record-start\"}"), {"being recorded by somebody else"}));
  daemon.stop();
  refused({"--out", out}, 1, {"no kvtierd answers"});
  daemon.start();
}

TEST(Record, ADaemonThatGoesAwayLeavesAFileWithoutAnEnd) {
  Daemon daemon;
  const Folder folder;
  const std::string out = folder.path() + "/now.rec";
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::freopen((out + ".err").c_str(), "w", stderr);
    ::execl(KVTIERCTL_PATH, "kvtierctl", "--socket-dir", daemon.folder().c_str(), "record", "--out",
            out.c_str(), "--seconds", "3600", nullptr);
    ::_exit(127);
  }
  EXPECT_TRUE(eventually([&] { return Recording::read(out).find('\n') != std::string::npos; }));
  daemon.stop();
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  EXPECT_TRUE(mentions(Recording::read(out + ".err"), {"no kvtierd answers"}))
      << Recording::read(out + ".err");
  daemon.start();
}

}  // namespace
}  // namespace kvt::test
