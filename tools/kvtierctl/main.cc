// SPDX-License-Identifier: Apache-2.0
//
// kvtierctl: asks a running kvtierd and prints what it says.
// Exit codes: 0, 1 no daemon or the daemon says no, 2 wrong use.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/topology.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
/// A status of a large arena walks all of its rows.
constexpr int kTimeoutMs = 10'000;

struct Options {
  std::string socket_dir = kvt::ctl::default_socket_dir();
  std::string command;
  bool json = false;
  int64_t page = 0;
  std::string arena;
  kvt::ctl::TopologyOptions topology;
  kvt::ctl::CalibrateOptions calibrate;
};

void run(const Options& options) {
  using namespace kvt::ctl;
  const auto ask_for = [&](const std::string& request) { return ask(options.socket_dir, request, kTimeoutMs); };
  if (options.command == "topology") {
    TopologyOptions wanted = options.topology;
    wanted.json = options.json;
    fmt::print("{}", topology_report(wanted));
    return;
  }
  if (options.command == "calibrate") {
    CalibrateOptions wanted = options.calibrate;
    wanted.json = options.json;
    fmt::print("{}", calibrate_report(wanted, [](const std::string& line) { fmt::print(stderr, "kvtierctl: {}\n", line); }));
    return;
  }
  const bool page = options.command == "page";
  const std::string answer = ask_for(page ? page_request(static_cast<uint64_t>(options.page), options.arena) : command_request(options.command));
  std::string out;
  if (options.json) {
    fmt::print("{}", pretty_json(answer));
    check_answer(answer);
    return;
  }
  if (page) {
    check_answer(answer);
    out = page_text(answer, ask_for(command_request("tiers")));
  } else if (options.command == "status") {
    out = status_text(answer);
  } else if (options.command == "tiers") {
    out = tiers_text(answer);
  } else if (options.command == "arenas") {
    out = arenas_text(answer);
  } else {
    out = sessions_text(answer);
  }
  fmt::print("{}", out);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"kvtierctl: what kvtierd is doing", "kvtierctl"};
  app.add_option("--socket-dir", options.socket_dir, "folder of control.sock; default $KVTIER_SOCKET_DIR, else /run/kvtier");
  app.add_flag("--json", options.json, "print the daemon's answer as JSON");
  app.set_version_flag("--version", std::string("kvtierctl ") + KVT_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  const auto command = [&](const char* name, const char* help) {
    CLI::App* const made = app.add_subcommand(name, help);
    made->callback([&options, name] { options.command = name; });
    return made;
  };
  command("status", "everything on one screen");
  command("tiers", "the tiers: size, bandwidth and where it comes from, node");
  command("arenas", "the arenas: pages by state, frames by tier, moves, balance");
  command("sessions", "the attached sessions: pages, holds, open steps");
  CLI::App* const page = command("page", "one page: where it is, its key, who has it");
  page->add_option("id", options.page, "index of the page")->required()->check(CLI::Range(int64_t{0}, int64_t{UINT32_MAX}));
  page->add_option("--arena", options.arena, "name of the arena; default: the daemon's first");
  CLI::App* const topology = command("topology", "this machine's memory and the tiers that follow; needs no daemon");
  topology->footer("Example: kvtierctl topology --fsroot recorded-machine --json");
  options.topology.state_dir = options.calibrate.state_dir = kvt::ctl::default_state_dir();
  CLI::Option* const xml = topology->add_option("--xml", options.topology.xml, "another machine's topology, as lstopo --of xml writes it");
  topology->add_option("--fsroot", options.topology.fsroot, "a folder with another machine's /sys and /proc, as hwloc-gather-topology makes it")->excludes(xml);
  topology->add_option("--profile", options.topology.profile, "a published machine whose figures fill gaps: gh200, h200-pcie5, h100-pcie5, paper");
  topology->add_option("--state-dir", options.topology.state_dir, "folder of calibration.json; default $KVTIER_STATE_DIR, else /var/lib/kvtier");
  CLI::App* const calibrate = command("calibrate", "measure the memory of each node, some seconds each; needs no daemon");
  calibrate->footer("Example: kvtierctl calibrate --node 0 --node 2");
  calibrate->add_option("--node", options.calibrate.nodes, "OS index of a node; again for more; default: all");
  calibrate->add_option("--bytes", options.calibrate.bytes, "bytes of each buffer, larger than the caches; default 268435456")->check(CLI::Range(uint64_t{2} << 20, uint64_t{1} << 40));
  calibrate->add_option("--repetitions", options.calibrate.repetitions, "the median counts; default 5")->check(CLI::Range(1, 1000));
  calibrate->add_option("--state-dir", options.calibrate.state_dir, "where calibration.json is kept; default $KVTIER_STATE_DIR, else /var/lib/kvtier");
  calibrate->add_flag("!--no-keep", options.calibrate.keep, "print the result and do not keep it");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  try {
    run(options);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    fmt::print(stderr, "kvtierctl: {}\n", error.what());
    return kExitFailed;
  }
  return std::fflush(stdout) == 0 ? 0 : kExitFailed;
}
