// SPDX-License-Identifier: Apache-2.0
//
// kvtierctl: asks a running kvtierd and prints what it says.
// Exit codes: 0; 1 no daemon, or it says no; 2 wrong use. A reader that closes the pipe early is no error.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/commands.h"
#include "tools/kvtierctl/render.h"

namespace {

using kvt::ctl::Options;
using kvt::ctl::Output;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// ---- options that several commands have ----

void arena_option(CLI::App& command, Options& options) {
  command.add_option("--arena", options.arena, "name of the arena; default: the daemon's first");
}
void page_options(CLI::App& command, Options& options) {
  command.add_option("PAGE", options.page, "index of the page")
      ->required()
      ->check(CLI::Range(int64_t{0}, int64_t{UINT32_MAX}));
  arena_option(command, options);
}
void column_option(CLI::App& command, Options& options) {
  command.add_option("--column", options.column, "the column whose place it is")
      ->capture_default_str()
      ->check(CLI::Range(0, 7));
}
void place_options(CLI::App& command, Options& options) {
  column_option(command, options);
  command.add_option("--timeout", options.timeout_ms, "milliseconds to wait for the move")
      ->capture_default_str()
      ->check(CLI::Range(0, 600'000));
}

// ---- one row a command ----

struct Command {
  const char* name;
  const char* help;
  const char* more;  ///< below the options in its --help: an example, and what one should know first
  void (*add_options)(CLI::App& command, Options& options);  ///< null: it has none of its own
  Output (*run)(const Options& options);
};

constexpr Command kCommands[] = {
    {"status", "everything on one screen", "Example: kvtierctl status", nullptr, kvt::ctl::status},
    {"tiers", "the tiers: size, bandwidth and where it comes from, node", "Example: kvtierctl --json tiers",
     nullptr, kvt::ctl::tiers},
    {"arenas", "the arenas: pages by state, frames by tier, moves, balance",
     "Example: kvtierctl arenas --audit\n\n"
     "The audit looks at every row and free list. The daemon does nothing else\n"
     "meanwhile: some milliseconds for a million pages.",
     [](CLI::App& command, Options& options) {
       command.add_flag("--audit", options.audit, "look for frames that are in no list and no row");
     },
     kvt::ctl::arenas},
    {"sessions", "the attached sessions: pages, holds, open steps", "Example: kvtierctl sessions", nullptr,
     kvt::ctl::sessions},
    {"page", "one page: where it is, its key, who has it", "Example: kvtierctl page 17 --arena default",
     page_options, kvt::ctl::page},
    {"plan", "what placement would move now, and why; nothing is moved",
     "Example: kvtierctl plan\n\n"
     "The rule of docs/placement.md, asked with what was read last. With policy off\n"
     "nothing of it is done. Pages beside which others are looked at are drawn at\n"
     "random: twice is not quite the same.",
     [](CLI::App& command, Options& options) {
       arena_option(command, options);
       column_option(command, options);
     },
     kvt::ctl::plan},
    {"explain", "why a page is where it is, and what would move it", "Example: kvtierctl explain 17",
     [](CLI::App& command, Options& options) {
       page_options(command, options);
       column_option(command, options);
     },
     kvt::ctl::explain},
    {"topology", "the machine's memory and the tiers that follow; needs no daemon",
     "Example: kvtierctl topology --fsroot recorded-machine --json",
     [](CLI::App& command, Options& options) {
       CLI::Option* const xml =
           command.add_option("--xml", options.topology.xml, "another machine, as lstopo --of xml writes it");
       command
           .add_option("--fsroot", options.topology.fsroot,
                       "another machine's /sys and /proc, as hwloc-gather-topology keeps them")
           ->excludes(xml);
       command.add_option(
           "--profile", options.topology.profile,
           "a published machine whose figures fill gaps: gh200, h200-pcie5, h100-pcie5, paper");
       command.add_option("--state-dir", options.topology.state_dir,
                          "folder of calibration.json; default $KVTIER_STATE_DIR, else /var/lib/kvtier");
     },
     kvt::ctl::topology},
    {"calibrate", "measure the memory of each node, some seconds each; needs no daemon",
     "Example: kvtierctl calibrate --node 0 --node 2\n\n"
     "Reads, writes and copies with all cores of each package and with one, and follows\n"
     "a chain of loads. The result is kept; a kvtierd that starts reads it.",
     [](CLI::App& command, Options& options) {
       command.add_option("--node", options.calibrate.nodes,
                          "OS index of a node; again for more; default: all");
       command
           .add_option("--bytes", options.calibrate.bytes,
                       "bytes of each buffer; default: 256 MiB, or four times the caches of a package")
           ->check(CLI::Range(uint64_t{2} << 20, uint64_t{1} << 40));
       command.add_option("--repetitions", options.calibrate.repetitions, "the median counts")
           ->capture_default_str()
           ->check(CLI::Range(1, 1000));
       command.add_option("--state-dir", options.calibrate.state_dir,
                          "where calibration.json is kept; default $KVTIER_STATE_DIR, else /var/lib/kvtier");
       command.add_flag("!--no-keep", options.calibrate.keep, "print the result and do not keep it");
     },
     kvt::ctl::calibrate},
    {"evict-session", "end a session whose processes do not end it",
     "Example: kvtierctl evict-session 3 --yes\n\n"
     "For a process that hangs or is stopped with an open step, and so keeps memory\n"
     "from being used again. The session ends as if its processes had died: its steps\n"
     "and holds count no more, and what it has not published is freed.\n"
     "The daemon cannot stop a process that lives: one that still reads where it\n"
     "resolved sees other bytes from then on, and what it still writes spoils other\n"
     "pages. Kill it first, if you can: then there is nothing to evict.\n"
     "What it asks of the daemon afterwards is answered with KVT_E_ENDED; it may\n"
     "attach anew. Other sessions and arenas are not touched.",
     [](CLI::App& command, Options& options) {
       command.add_option("ID", options.session, "the session's number, from: kvtierctl sessions")
           ->required();
       command.add_flag("--yes", options.yes, "do not ask");
     },
     kvt::ctl::evict_session},
    {"pin", "keep a page where it is",
     "Example: kvtierctl pin 17 --tier hbm\n\n"
     "The page is neither evicted nor moved until it is unpinned, or until its owner\n"
     "gives its content up; a restart of the daemon ends it as well. Its shadows may\n"
     "be dropped. At most half of an arena's pages can be pinned.",
     [](CLI::App& command, Options& options) {
       page_options(command, options);
       command.add_option("--tier", options.tier, "move it there first");
       place_options(command, options);
     },
     kvt::ctl::pin},
    {"unpin", "let a pinned page move and be evicted again", "Example: kvtierctl unpin 17", page_options,
     kvt::ctl::unpin},
    {"move", "move a page to another tier, now",
     "Example: kvtierctl move 17 dram\n\n"
     "One copy, or none where the page has a frame in that tier. It answers when the\n"
     "page is there. The policy may move the page again after its cooldown; pin keeps\n"
     "it.",
     [](CLI::App& command, Options& options) {
       page_options(command, options);
       command.add_option("TIER", options.tier, "name of the tier")->required();
       place_options(command, options);
     },
     kvt::ctl::move},
    {"policy", "what placement obeys, and to change it while the daemon runs",
     "Examples: kvtierctl policy show\n"
     "          kvtierctl policy set name=off\n"
     "          kvtierctl policy set move_bytes_per_second=4GiB cooldown_ms=100\n\n"
     "Keys are those of [policy] in the configuration; all but profile can be set. They\n"
     "hold until the configuration is read again (SIGHUP) or the daemon is restarted.",
     [](CLI::App& command, Options& options) {
       command.add_option("WHAT", options.words, "show, or set KEY=VALUE...");
     },
     kvt::ctl::policy},
    {"record", "write what is read and where it is into a file, for kvtiersim",
     "Example: kvtierctl record --out now.rec --seconds 60\n\n"
     "Numbers of pages, counts and places: no keys, no contents. What would this host\n"
     "be with twice the HBM? kvtiersim run --trace now.rec says it.\n"
     "The daemon goes on as before; what it cannot keep until it is fetched it leaves\n"
     "out, and says how much. Ctrl-C ends it early, in order.",
     [](CLI::App& command, Options& options) {
       command.add_option("--out", options.record.out, "the file; one that is there is replaced")->required();
       command.add_option("--seconds", options.record.seconds, "how long")
           ->capture_default_str()
           ->check(CLI::Range(0.1, 1e6));
       arena_option(command, options);
     },
     kvt::ctl::record},
};

/// Prints to stdout. false: it could not; nothing is said about a reader that has gone.
bool print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return true;
  if (errno == EPIPE) return true;
  fmt::print(stderr, "kvtierctl: writing the output: {}\n", std::strerror(errno));
  return false;
}

int run(const Command& command, const Options& options) {
  try {
    const Output output = command.run(options);
    const bool printed = print(output.text);
    if (!output.error.empty()) fmt::print(stderr, "kvtierctl: {}\n", output.error);
    return printed && output.error.empty() ? 0 : kExitFailed;
  } catch (const kvt::ctl::WrongUse& error) {
    fmt::print(stderr, "kvtierctl: {}\n", error.what());
    return kExitUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "kvtierctl: {}\n", error.what());
    return kExitFailed;
  }
}

/// For the shell's completion, which knows nothing of this table: the commands, the options of one, names the
/// daemon has.
std::string words(const CLI::App& app, const std::string& what, const Options& options) {
  std::string out;
  if (what == "commands") {
    for (const Command& command : kCommands) out += std::string(command.name) + "\n";
    return out;
  }
  if (what == "arenas" || what == "tiers" || what == "sessions") return kvt::ctl::names(options).text;
  const auto add = [&](const CLI::App& of) {
    for (const CLI::Option* const option : of.get_options())
      for (const std::string& name : option->get_lnames()) out += "--" + name + "\n";
  };
  for (const Command& command : kCommands)
    if (what == command.name) add(*app.get_subcommand(command.name));
  add(app);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // EPIPE says the same, where print() sees it
  Options options;
  options.socket_dir = kvt::ctl::default_socket_dir();
  options.topology.state_dir = options.calibrate.state_dir = kvt::ctl::default_state_dir();
  CLI::App app{"kvtierctl: what kvtierd is doing, and a few things that it does when asked", "kvtierctl"};
  app.add_option("--socket-dir", options.socket_dir,
                 "folder of control.sock; default $KVTIER_SOCKET_DIR, else /run/kvtier");
  app.add_flag("--json", options.json, "print the daemon's answer as JSON");
  app.set_version_flag("--version", std::string("kvtierctl ") + KVT_VERSION);
  app.fallthrough();
  const Command* chosen = nullptr;
  for (const Command& command : kCommands) {
    CLI::App* const made = app.add_subcommand(command.name, command.help);
    made->footer(command.more);
    if (command.add_options != nullptr) command.add_options(*made, options);
    made->callback([&chosen, &command] { chosen = &command; });
  }
  // Not in --help: it is completion.bash's
  CLI::App* const complete = app.add_subcommand("complete-words")->group("");
  complete->add_option("WHAT", options.list)->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  if (chosen != nullptr) return run(*chosen, options);
  if (!complete->parsed()) {
    fmt::print(stderr, "kvtierctl: a command is expected; kvtierctl --help lists them\n");
    return kExitUsage;
  }
  try {
    return print(words(app, options.list, options)) ? 0 : kExitFailed;
  } catch (const std::exception&) {
    return kExitFailed;  // no daemon, no names: a completion does not talk
  }
}
