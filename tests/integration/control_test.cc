// SPDX-License-Identifier: Apache-2.0
//
// What operators meet: control.sock with good and bad requests, the command line of kvtierd, an idle daemon.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "shm/abi/limits.h"
#include "shm/base/fd.h"
#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

constexpr uint64_t kPageBytes = 16384;

Fd connect_control(const Daemon& daemon) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = daemon.folder() + "/control.sock";
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fd.reset();
  return fd;
}

/// Everything until the daemon closes the connection.
std::string read_all(const Fd& socket) {
  std::string answer;
  char buffer[65536];
  pollfd waiting{socket.get(), POLLIN, 0};
  while (::poll(&waiting, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())) > 0) {
    const ssize_t got = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  return answer;
}

TEST(Control, Answers) {
  Daemon daemon;
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  for (const char* const command : {"status", "tiers", "arenas", "sessions", "page", "quiesce"}) {
    const std::string request = std::string("{\"command\":\"") + command + "\",\"page\":0}";
    EXPECT_EQ(daemon.text(request, "/ok"), "true") << command;
  }
  EXPECT_EQ(daemon.text("status", "/emulated"), "true");
  EXPECT_EQ(daemon.number("status", "/pid"), daemon.pid());
  EXPECT_EQ(daemon.text("status", "/policy"), "off");
  EXPECT_EQ(daemon.text("status", "/socket_dir"), daemon.folder());
  EXPECT_GT(daemon.number("status", "/rss_bytes"), 0);
  EXPECT_GE(daemon.number("status", "/cpu_seconds"), 0);
  EXPECT_EQ(daemon.text("tiers", "/tiers/0/emulated"), "true");
  EXPECT_EQ(daemon.text("tiers", "/tiers/1/emulated"), "false");
  EXPECT_EQ(daemon.number("arenas", "/arenas/0/pages"), static_cast<double>(client.geometry().pages));
  EXPECT_EQ(daemon.number("arenas", "/arenas/0/keyed"), 1);
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/pid"), ::getpid());
  EXPECT_EQ(daemon.number("sessions", "/sessions/0/held_pages"), 1);
  EXPECT_EQ(daemon.text("sessions", "/sessions/0/connected"), "true");
  const std::string ask =
      "{\"command\":\"page\",\"arena\":\"default\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) + "}";
  EXPECT_EQ(daemon.text(ask, "/columns/0/state"), "sealed");
  EXPECT_EQ(daemon.number(ask, "/columns/0/frame"), client.info(page).frame);
  EXPECT_EQ(daemon.text(ask, "/held"), "true");
  struct stat status {};
  ASSERT_EQ(::stat((daemon.folder() + "/control.sock").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(Control, BadRequests) {
  Daemon daemon;
  const auto refused = [&](const std::string& request, std::initializer_list<const char*> words) {
    const std::string answer = daemon.control(request);
    EXPECT_TRUE(mentions(answer, {"\"ok\":false"})) << request.substr(0, 80) << " -> " << answer;
    EXPECT_TRUE(mentions(answer, words)) << request.substr(0, 80) << " -> " << answer;
  };
  refused("nonsense", {"JSON"});
  refused("[]", {"JSON"});
  refused("{}", {"command"});
  refused("{\"command\":7}", {"command"});
  refused("{\"command\":\"status\"", {"JSON"});
  refused("{\"command\":\"stat\"}", {"stat", "expected status"});
  refused("{\"command\":\"\xff\xfe\"}", {"JSON"});
  refused("{\"command\":\"page\"}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":1151}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":18446744073709551615}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":-1}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":1.5}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":\"1\"}", {"0 to 1115"});
  refused("{\"command\":\"page\",\"page\":0,\"arena\":\"elsewhere\"}", {"elsewhere"});
  refused(std::string(4000, '['), {"JSON"});
  // Longer than any request: answered or hung up on, not kept.
  std::ignore = daemon.control(std::string(1 << 20, 'x'));
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
}

TEST(Control, HalfALineAndHangUps) {
  Daemon daemon;
  const std::string request = "{\"command\":\"tiers\"}\n";
  {  // half a line, for ever
    const Fd half = connect_control(daemon);
    ASSERT_EQ(::send(half.get(), request.data(), 5, MSG_NOSIGNAL), 5);
    EXPECT_EQ(daemon.text("status", "/ok"), "true");
    // The rest comes later.
    ASSERT_EQ(::send(half.get(), request.data() + 5, request.size() - 5, MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size() - 5));
    EXPECT_TRUE(mentions(read_all(half), {"\"ok\":true"}));
  }
  {  // byte by byte
    const Fd slow = connect_control(daemon);
    for (const char byte : request) ASSERT_EQ(::send(slow.get(), &byte, 1, MSG_NOSIGNAL), 1);
    EXPECT_TRUE(mentions(read_all(slow), {"\"ok\":true"}));
  }
  for (int i = 0; i < 20; ++i) {  // a request whose answer nobody waits for
    const Fd gone = connect_control(daemon);
    std::ignore = ::send(gone.get(), request.data(), request.size(), MSG_NOSIGNAL);
  }
  for (int i = 0; i < 20; ++i) const Fd silent = connect_control(daemon);
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
}

TEST(Control, ManyConnections) {
  Daemon daemon;
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK);
  {
    std::vector<Fd> sockets;
    for (uint32_t i = 0; i < 4 * KVT_MAX_CONTROL_CONNECTIONS; ++i) {
      sockets.push_back(connect_control(daemon));
      ASSERT_TRUE(sockets.back().valid());
    }
    // Those within the limit are served, the others are closed.
    for (size_t i = 0; i < sockets.size(); ++i) {
      const bool within = i < KVT_MAX_CONTROL_CONNECTIONS;
      std::ignore = ::send(sockets[i].get(), "{\"command\":\"tiers\"}", 19, MSG_NOSIGNAL);
      if (!within) EXPECT_EQ(read_all(sockets[i]), "") << i;
    }
    EXPECT_NE(publish_page(client, key_of(1), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
    ASSERT_EQ(::send(sockets[0].get(), "\n", 1, MSG_NOSIGNAL), 1);
    EXPECT_TRUE(mentions(read_all(sockets[0]), {"\"ok\":true"}));
  }
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/ok") == "true"; }));
  for (int i = 0; i < 2000; ++i) const Fd flood = connect_control(daemon);
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/ok") == "true"; }));
  EXPECT_EQ(kvt_flush(client), KVT_OK);
}

/// An answer of many sessions is longer than the socket takes: the rest waits for the reader, and the daemon
/// for nobody.
TEST(Control, ALongAnswerComesWhole) {
  World world;
  world.hbm_bytes = 8u << 20;
  world.dram_bytes = 32u << 20;
  for (int i = 0; i < 7; ++i)
    world.more +=
        "[[arena]]\nname = \"" + std::string(50, 'a') + std::to_string(i) + "\"\npage_bytes = 16384\n";
  Daemon daemon(world);
  std::vector<Client> clients;
  kvt_attach_args args = attach_args(daemon.folder());
  for (int arena = 0; arena < 8; ++arena) {
    const std::string name = arena == 0 ? "default" : std::string(50, 'a') + std::to_string(arena - 1);
    args.arena = name.c_str();
    for (int i = 0; i < 100; ++i) {
      clients.emplace_back(args);
      ASSERT_EQ(clients.back().code(), KVT_OK) << kvt_last_error();
    }
  }
  EXPECT_EQ(daemon.number("status", "/sessions"), 800);

  const Fd slow = connect_control(daemon);
  const std::string request = "{\"command\":\"status\"}\n";
  ASSERT_EQ(::send(slow.get(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  pollfd waiting{slow.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&waiting, 1, 60'000), 1);
  // Others are served meanwhile.
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
  EXPECT_NE(publish_page(clients[0], key_of(1), kPageBytes), KVT_NO_PAGE) << kvt_last_error();
  // In small bites.
  std::string answer;
  char bite[777];
  for (ssize_t got = 0; (got = ::recv(slow.get(), bite, sizeof bite, 0)) > 0;)
    answer.append(bite, static_cast<size_t>(got));
  int buffer = 0;
  socklen_t bytes = sizeof buffer;
  ASSERT_EQ(::getsockopt(slow.get(), SOL_SOCKET, SO_SNDBUF, &buffer, &bytes), 0);
  EXPECT_GT(answer.size(), static_cast<size_t>(buffer)) << "or nothing has waited";
  EXPECT_TRUE(answer.ends_with("}\n")) << answer.size();
  EXPECT_TRUE(mentions(answer, {"\"ok\":true", "\"version\""}));
  // Many who ask for a long answer and take none of it.
  std::vector<Fd> lazy;
  for (uint32_t i = 0; i + 1 < KVT_MAX_CONTROL_CONNECTIONS; ++i) {
    lazy.push_back(connect_control(daemon));
    ASSERT_EQ(::send(lazy.back().get(), request.data(), request.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(request.size()));
  }
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/ok") == "true"; }));
  EXPECT_EQ(kvt_flush(clients[0]), KVT_OK);
  lazy.clear();
  EXPECT_TRUE(eventually([&] { return daemon.text("status", "/ok") == "true"; }));
}

TEST(Control, BadRequestsThatWouldChangeSomething) {
  Daemon daemon;
  Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  ASSERT_NE(page, KVT_NO_PAGE);
  const std::string at = ",\"page\":" + std::to_string(KVT_PAGE_INDEX(page));
  const auto refused = [&](const std::string& request, std::initializer_list<const char*> words) {
    const std::string answer = daemon.control(request);
    EXPECT_TRUE(mentions(answer, {"\"ok\":false"})) << request << " -> " << answer;
    EXPECT_TRUE(mentions(answer, words)) << request << " -> " << answer;
  };
  for (const std::string command : {"pin", "unpin", "move"}) {
    const std::string begin = "{\"command\":\"" + command + "\"";
    refused(begin + "}", {"page is a number"});
    refused(begin + ",\"page\":-1}", {"page is a number"});
    refused(begin + ",\"page\":1e30}", {"page is a number"});
    refused(begin + at + ",\"arena\":7}", {"arena is the name"});
    refused(begin + at + ",\"arena\":\"none\"}", {"no arena"});
    refused(begin + at + ",\"generation\":-1}", {"generation is a number"});
    refused(begin + at + ",\"generation\":5}", {"generation 5", "is gone"});
  }
  refused("{\"command\":\"move\"" + at + "}", {"tier is the name of a tier: hbm0, dram"});
  refused("{\"command\":\"move\"" + at + ",\"tier\":[]}", {"tier is the name of a tier"});
  refused("{\"command\":\"move\"" + at + ",\"tier\":\"dram\",\"column\":1}",
          {"column is a number from 0 to 0"});
  refused("{\"command\":\"pin\"" + at + ",\"tier\":\"dram\"}", {"is in tier hbm0, not in dram", "elsewhere"});
  refused("{\"command\":\"pin\"" + at + ",\"tier\":\"cxl\"}", {"no tier"});
  refused("{\"command\":\"evict-session\"}", {"session is the number"});
  refused("{\"command\":\"evict-session\",\"session\":\"1\"}", {"session is the number"});
  refused("{\"command\":\"evict-session\",\"session\":0}", {"there is no session 0"});
  refused("{\"command\":\"evict-session\",\"session\":18446744073709551615}", {"there is no session"});
  EXPECT_EQ(daemon.number("status", "/arenas/0/pinned"), 0);
  EXPECT_EQ(daemon.number("status", "/sessions"), 1);
  EXPECT_EQ(verify_page(client, page, key_of(1), kPageBytes), 0u);
  EXPECT_EQ(kvt_flush(client), KVT_OK);
}

// ---- the command line ----

TEST(CommandLine, DefaultConfiguration) {
  const Outcome printed = run_kvtierd({"--print-default-config"});
  EXPECT_EQ(printed.exit_code, 0) << printed.err;
  const Folder folder;
  const std::string path = folder.write("kvtierd.toml", printed.out);
  const Outcome checked = run_kvtierd({"--config", path, "--check-config"});
  EXPECT_EQ(checked.exit_code, 0) << checked.err;
  EXPECT_TRUE(mentions(checked.out, {path.c_str(), "2 tier(s)", "1 arena(s)"})) << checked.out;
  EXPECT_EQ(run_kvtierd({"--check-config"}).exit_code, 0);
  EXPECT_EQ(run_kvtierd({"--version"}).exit_code, 0);
  EXPECT_EQ(run_kvtierd({"--help"}).exit_code, 0);
}

TEST(CommandLine, BadConfigurationsSayWhere) {
  const Folder folder;
  const auto bad = [&](const std::string& text, int line, std::initializer_list<const char*> words) {
    const std::string path = folder.write("bad.toml", text);
    const Outcome outcome = run_kvtierd({"--config", path, "--check-config"});
    EXPECT_EQ(outcome.exit_code, 2) << text << outcome.err;
    const std::string where = line == 0 ? std::string() : path + ":" + std::to_string(line) + ":";
    EXPECT_TRUE(mentions(outcome.err, {where.c_str()})) << text << outcome.err;
    EXPECT_TRUE(mentions(outcome.err, words)) << text << outcome.err;
    EXPECT_EQ(run_kvtierd({"--config", path, "--socket-dir", folder.path()}).exit_code, 2)
        << "to start with it is refused too";
  };
  const std::string tiers =
      "[[tier]]\nname = \"hbm\"\nbytes = \"2MiB\"\n[[tier]]\nname = \"dram\"\nbytes = \"16MiB\"\n";
  bad("[daemon]\n\nperiod = 10\n", 3, {"unknown key daemon.period", "period_ms"});
  bad("[daemon]\nperiod_ms = 0\n", 2, {"period_ms", "1 to 1000"});
  bad("[daemon]\nperiod_ms = \"ten\"\n", 2, {"period_ms", "integer"});
  bad("[daemon]\nprefault = 1\n", 2, {"true or false"});
  bad("[deamon]\n", 1, {"unknown key deamon"});
  bad("[policy]\nname = \"best\"\n", 2, {"best", "\"balance\"", "\"churn\""});
  bad("[policy]\nprofile = \"gh300\"\n", 2, {"gh300", "gh200"});
  bad("[policy]\nmove_bytes_per_second = \"2 Gigabytes\"\n", 2, {"size"});
  bad("[daemon\n", 1, {});
  bad("[[tier]]\nname = \"hbm\"\n", 1, {"needs bytes"});
  bad("[[tier]]\nname = \"hbm\"\nbytes = \"2MiB\"\nkind = \"cuda9\"\n", 4, {"cuda9", "emulated-hbm"});
  bad(tiers + "[[tier]]\nname = \"dram\"\nbytes = \"1MiB\"\n", 7, {"second tier", "dram"});
  bad(tiers + "[[arena]]\nname = \"a\"\npage_bytes = 1000\n", 9, {"16384"});
  bad(tiers + "[[arena]]\nname = \"a\"\npage_bytes = 16385\n", 9, {"512"});
  bad(tiers + "[[arena]]\nname = \"a\"\npage_bytes = \"128MiB\"\n", 9, {"67108864"});
  bad(tiers + "[[arena]]\nname = \"a\"\nplanes = 3\n", 9, {"divisor"});
  bad(tiers + "[[arena]]\nname = \"a\"\nmode = \"rw\"\n", 9, {"octal"});
  bad(tiers + "[[arena]]\nname = \"a\"\nbytes = { cxl = \"1MiB\" }\n", 9, {"cxl", "not there"});
  bad(tiers + "[[arena]]\nname = \"a\"\nfingerprint = \"abc\"\n", 9, {"64 hexadecimal"});
  bad(tiers + "[[arena]]\nname = \"a\"\n[[arena]]\nname = \"a\"\n", 9, {"second arena"});
  bad(tiers + "[[arena]]\nname = \"a\"\npage_bytes = \"4MiB\"\n", 0, {"not one page"});
  bad(tiers + "[[arena]]\nname = \"a\"\npages = 1000\n", 0, {"1000 pages", "287"});
  bad(tiers + "[[arena]]\nname = \"a\"\nbytes = { hbm = \"4MiB\" }\n", 0, {"hbm", "4194304", "2097152"});
  const Outcome missing = run_kvtierd({"--config", folder.path() + "/none.toml", "--check-config"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_TRUE(mentions(missing.err, {"none.toml"})) << missing.err;
}

TEST(CommandLine, UnknownOptionsAndInjection) {
  EXPECT_EQ(run_kvtierd({"--frobnicate"}).exit_code, 2);
  EXPECT_EQ(run_kvtierd({"--config"}).exit_code, 2);
  const Folder folder;
  const Outcome refused = run_kvtierd({"--inject", "flip", "--socket-dir", folder.path()});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_TRUE(mentions(refused.err, {"flip", "--allow-injection"})) << refused.err;
  const Outcome unknown =
      run_kvtierd({"--allow-injection", "--inject", "explode", "--socket-dir", folder.path()});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_TRUE(mentions(unknown.err, {"explode", "early-reuse"})) << unknown.err;
  World world;
  world.arguments = {"--allow-injection", "--inject", "leak"};
  Daemon daemon(world);
  EXPECT_TRUE(daemon.ok()) << "with both it starts";
}

TEST(CommandLine, WhatTheMachineDoesNotHave) {
  const Folder folder;
  const auto run = [&](const std::string& text) {
    const std::string path = folder.write("kvtierd.toml", text);
    return run_kvtierd({"--config", path, "--socket-dir", folder.path()});
  };
  const std::string arena = "[[arena]]\nname = \"default\"\n";
  const Outcome node = run("[[tier]]\nname = \"dram\"\nbytes = \"16MiB\"\nnode = 999\n" + arena);
  EXPECT_EQ(node.exit_code, 3);
  EXPECT_TRUE(mentions(node.err, {"NUMA node 999", "dram"})) << node.err;
  const Outcome memory =
      run("[[tier]]\nname = \"dram\"\nbytes = \"32TiB\"\n[[arena]]\nname = \"default\"\npage_bytes = "
          "\"64MiB\"\n");
  EXPECT_EQ(memory.exit_code, 2);
  EXPECT_TRUE(mentions(memory.err, {"33620016 MiB, tables included", "prefault"})) << memory.err;
  const Outcome owner =
      run("[[tier]]\nname = \"dram\"\nbytes = \"16MiB\"\n" + arena + "owner = \"no-such-user\"\n");
  EXPECT_EQ(owner.exit_code, 3);
  EXPECT_TRUE(mentions(owner.err, {"no-such-user"})) << owner.err;
}

/// Without prefaulting, tiers beyond the machine's memory are accepted; frames cost memory when they are
/// touched.
TEST(CommandLine, ThePlanHasTheOperatorsWordOnMemory) {
  const Outcome topology = run_kvtierd({"--plan"});
  ASSERT_EQ(topology.exit_code, 0) << topology.err;
  EXPECT_TRUE(
      mentions(topology.out, {"tier hbm: hbm (emulated), 256 MiB of any node, read 3728 GB/s (profile gh200)",
                              "tier dram: dram, 2048 MiB"}))
      << topology.out;
  const Folder folder;
  const std::string head = "[daemon]\nstate_dir = \"" + folder.path() + "\"\n";
  const std::string tail =
      "[[tier]]\nname = \"far\"\nkind = \"cxl\"\nbytes = \"16MiB\"\nhuge_pages = \"off\"\n[[arena]]\nname = "
      "\"default\"\n";
  const std::string good = folder.write(
      "good.toml", head + "[[memory]]\nof_kind = \"dram\"\nkind = \"cxl\"\nread_gbps = 28\n" + tail);
  const Outcome plan = run_kvtierd({"--config", good, "--plan"});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_TRUE(
      mentions(plan.out, {"tier far: cxl, 16 MiB of node", "(configuration), no huge pages, as configured"}))
      << plan.out;
  const Outcome missing = run_kvtierd({"--config", folder.write("bad.toml", head + tail), "--plan"});
  EXPECT_EQ(missing.exit_code, 3) << missing.err;
  EXPECT_TRUE(mentions(missing.err, {"wants nodes of kind cxl"})) << missing.err;
}

TEST(CommandLine, WithoutPrefault) {
  World lazy;
  lazy.dram_bytes = 256ull << 30;
  lazy.page_bytes = 1 << 20;
  lazy.prefault = false;
  Daemon daemon(lazy);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_GE(client.geometry().pages, 250'000u);
  EXPECT_NE(publish_page(client, key_of(1), 1 << 20), KVT_NO_PAGE) << kvt_last_error();
  EXPECT_LT(daemon.number("status", "/rss_bytes"), 1e9);
}

TEST(CommandLine, OneDaemonAFolder) {
  Daemon daemon;
  ASSERT_TRUE(daemon.ok());
  const Outcome second =
      run_kvtierd({"--config", daemon.folder() + "/kvtierd.toml", "--socket-dir", daemon.folder()});
  EXPECT_GT(second.exit_code, 0);
  EXPECT_TRUE(mentions(second.err, {"another kvtierd"})) << second.err;
  // The first has lost nothing by that.
  Client client(daemon);
  EXPECT_EQ(client.code(), KVT_OK) << kvt_last_error();
  EXPECT_EQ(daemon.text("status", "/ok"), "true");
  client.detach();
  // Sockets of one that was killed are no hindrance; after an orderly end there are none.
  struct stat status {};
  daemon.kill();
  EXPECT_EQ(::stat((daemon.folder() + "/attach.sock").c_str(), &status), 0);
  daemon.start();
  ASSERT_TRUE(daemon.ok());
  EXPECT_EQ(daemon.stop(), 0);
  EXPECT_NE(::stat((daemon.folder() + "/attach.sock").c_str(), &status), 0);
  EXPECT_NE(::stat((daemon.folder() + "/control.sock").c_str(), &status), 0);
}

// ---- changes while it runs ----

const std::string kPolicy = R"({"command":"policy"})";

/// The daemon's configuration with other words, and SIGHUP.
void reload(const Daemon& daemon, const World& world, const std::string& more = "") {
  std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml() << more;
  daemon.signal(SIGHUP);
}
bool has_said(const Daemon& daemon, const std::string& words) {
  return eventually([&] { return daemon.log().find(words) != std::string::npos; });
}

TEST(Reload, TakesWhatItCanAndNamesTheRest) {
  World world;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const Client client(daemon);
  const kvt_page page = publish_page(client, key_of(1), kPageBytes);
  world.policy = "balance";
  world.cooldown_ms = 70;
  world.dram_bytes *= 2;
  reload(daemon, world);
  ASSERT_TRUE(has_said(daemon, "SIGHUP: the configuration was read again, 2 value(s) taken over"))
      << daemon.log();
  EXPECT_EQ(daemon.text(kPolicy, "/policy/name"), "balance");
  EXPECT_EQ(daemon.number(kPolicy, "/policy/cooldown_ms"), 70);
  EXPECT_TRUE(has_said(daemon, "tier 'dram': bytes has changed, which waits for the next start"));
  EXPECT_EQ(verify_page(client, page, key_of(1), kPageBytes), 0u);
  EXPECT_NE(publish_page(client, key_of(2), kPageBytes), KVT_NO_PAGE);
  // What waits is said again, and nothing else.
  reload(daemon, world);
  EXPECT_TRUE(has_said(daemon, "SIGHUP: the configuration was read again, 0 value(s) taken over"));
}

TEST(Reload, AFileThatIsWrongChangesNothing) {
  World world;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  world.cooldown_ms = 70;
  reload(daemon, world, "nonsense = 1\n");
  EXPECT_TRUE(has_said(daemon, "SIGHUP: nothing is changed: ")) << daemon.log();
  EXPECT_TRUE(has_said(daemon, "unknown key"));
  EXPECT_EQ(daemon.number(kPolicy, "/policy/cooldown_ms"), 0);
  reload(daemon, world);
  EXPECT_TRUE(has_said(daemon, "1 value(s) taken over"));
  EXPECT_EQ(daemon.number(kPolicy, "/policy/cooldown_ms"), 70);
}

TEST(Reload, UnderKeepTheWorkerReloadsAndTheParentRestarts) {
  World world;
  world.keep = true;
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const pid_t worker = daemon.worker();
  ASSERT_GT(worker, 0);
  world.cooldown_ms = 70;
  std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml();
  ASSERT_EQ(::kill(worker, SIGHUP), 0);
  EXPECT_TRUE(has_said(daemon, "1 value(s) taken over"));
  EXPECT_EQ(daemon.worker(), worker);
  daemon.signal(SIGHUP);
  EXPECT_TRUE(daemon.wait_for_worker(worker));
}

TEST(Policy, CanBeSetAndIsCheckedAsInTheFile) {
  World world;
  world.policy = "churn";
  const Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const Client client(daemon);
  for (uint64_t i = 0; i < 100; ++i) ASSERT_NE(publish_page(client, key_of(i), kPageBytes), KVT_NO_PAGE);
  const auto moves = [&] {
    return daemon.number("arenas", "/arenas/0/moves/promoted") +
           daemon.number("arenas", "/arenas/0/moves/demoted_copy") +
           daemon.number("arenas", "/arenas/0/moves/demoted_free");
  };
  EXPECT_TRUE(eventually([&] { return moves() > 20; }));
  for (const char* const wrong :
       {R"({"name":"fast"})", R"({"cooldown_ms":-1})", R"({"cooldown_ms":true})", R"({"profile":"gh200"})",
        R"({"a b":1})", R"({"cooldown_ms":18446744073709551615})", R"({"name":"off\"\ncooldown_ms = 5"})",
        R"(["name"])", R"({"name":"off","speed":1})"}) {
    const std::string answer = daemon.control(R"({"command":"policy","set":)" + std::string(wrong) + "}");
    EXPECT_NE(answer.find("\"ok\":false"), std::string::npos) << wrong << " " << answer;
    EXPECT_EQ(daemon.text(kPolicy, "/policy/name"), "churn") << wrong;
  }
  EXPECT_EQ(daemon.number(kPolicy, "/policy/cooldown_ms"), 0);
  EXPECT_EQ(daemon.text(R"({"command":"policy","set":{"name":"off","move_bytes_per_second":"3GiB"}})",
                        "/policy/name"),
            "off");
  EXPECT_EQ(daemon.text(kPolicy, "/policy/name"), "off");
  EXPECT_EQ(daemon.number(kPolicy, "/policy/move_bytes_per_second"), 3.0 * (1 << 30));
  // Nothing moves any more, when what was under way has ended.
  EXPECT_TRUE(eventually([&] {
    EXPECT_NE(daemon.control(R"({"command":"quiesce"})"), "");
    const double before = moves();
    EXPECT_NE(daemon.control(R"({"command":"quiesce"})"), "");  // many passes
    return moves() == before;
  }));
  // The file's word counts again when it is read.
  reload(daemon, world);
  EXPECT_TRUE(has_said(daemon, "SIGHUP: policy.name has changed"));
  EXPECT_EQ(daemon.text(kPolicy, "/policy/name"), "churn");
}

// ---- idle ----

TEST(Idle, SleepsAndIsWokenByAStep) {
  for (const char* const policy : {"off", "balance"}) {
    World world;
    world.policy = policy;
    Daemon daemon(world);
    std::vector<Client> clients;
    for (int i = 0; i < 3; ++i) clients.emplace_back(daemon);
    ASSERT_EQ(clients.back().code(), KVT_OK);
    const kvt_page page = publish_page(clients[0], key_of(1), kPageBytes);
    ASSERT_NE(page, KVT_NO_PAGE);
    // A whole second in which it hardly wakes up comes, and soon.
    const auto sleeps = [&] {
      const uint64_t before = daemon.sleeps();
      return !eventually([&] { return daemon.sleeps() > before + 3; }, std::chrono::seconds(1));
    };
    EXPECT_TRUE(eventually(sleeps)) << "it does not go to sleep: " << policy;
    // One step with a touch is noticed.
    const uint64_t before = daemon.sleeps();
    kvt_step step{};
    ASSERT_EQ(kvt_step_begin(clients[1], &step), KVT_OK);
    ASSERT_EQ(kvt_touch(clients[1], &page, 1), KVT_OK);
    ASSERT_EQ(kvt_step_end(clients[1], &step), KVT_OK);
    EXPECT_TRUE(eventually([&] { return daemon.sleeps() > before; })) << "the step has not woken it";
    const std::string ask = "{\"command\":\"page\",\"page\":" + std::to_string(KVT_PAGE_INDEX(page)) + "}";
    EXPECT_TRUE(eventually([&] { return daemon.number(ask, "/columns/0/reads_per_period") > 0; }));
    EXPECT_TRUE(eventually(sleeps)) << "it does not go to sleep again";
    // So is a command.
    EXPECT_EQ(kvt_flush(clients[2]), KVT_OK);
    EXPECT_NE(publish_page(clients[2], key_of(2), kPageBytes), KVT_NO_PAGE);
  }
}

}  // namespace
}  // namespace kvt::test
