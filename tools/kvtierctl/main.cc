// SPDX-License-Identifier: Apache-2.0
//
// kvtierctl: asks a running kvtierd and prints what it says.
// Exit codes: 0; 1 no daemon, or it says no; 2 wrong use; of status --check 3 and 4, too. A reader that closes the pipe early is no error.
#include <fmt/format.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/commands.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/top_view.h"

namespace {

using kvt::ctl::Options;
using kvt::ctl::Output;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

template <size_t N>
std::vector<std::string> names_of(const char* const (&names)[N]) {
  return {std::begin(names), std::end(names)};
}

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
    {"status", "everything on one screen; first of all, whether all is well",
     "Example: kvtierctl status --check > /dev/null\n\n"
     "With --check the exit code is 0 when all is well, 3 when something will not stay\n"
     "well or could be better, 4 when users are hurt or something is lost.",
     [](CLI::App& command, Options& options) {
       command.add_flag("--check", options.check, "the exit code says whether all is well");
     },
     kvt::ctl::status},
    {"top", "the same live: tiers as bars, moves a second, sessions, heat",
     "Example: kvtierctl top --once\n\n"
     "Keys: h shows them, q ends. It asks the daemon for what status shows, once an\n"
     "interval. --once and --batch N print text for scripts, --json one document of\n"
     "rates; each after an interval.",
     [](CLI::App& command, Options& options) {
       command.add_option("--interval", options.top.interval, "seconds between two looks")
           ->capture_default_str()
           ->check(CLI::Range(0.2, 10.0));
       CLI::Option* const once = command.add_flag("--once", options.top.once, "print text once");
       command.add_option("--batch", options.top.batch, "print text so many times")
           ->check(CLI::Range(1, 1'000'000'000))
           ->excludes(once);
       command.add_option("--view", options.top.view, "the first view")
           ->capture_default_str()
           ->check(CLI::IsMember(names_of(kvt::ctl::kViewNames)));
     },
     kvt::ctl::top},
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
    {"events", "what has happened lately, one line each",
     "Example: kvtierctl events --follow\n\n"
     "The daemon keeps the last 64 of each kind. With --follow it goes on until it is\n"
     "ended, also with the next daemon; with --json each event is then one line.",
     [](CLI::App& command, Options& options) {
       command.add_option("--since", options.events.since, "only events behind the one of this serial");
       command.add_flag("--follow", options.events.follow, "go on with what happens");
       command.add_option("--kind", options.events.kind, "only events of this kind, such as session_end");
     },
     kvt::ctl::events},
    {"config", "check a configuration file, show what the daemon uses",
     "Examples: kvtierctl config check kvtierd.toml\n"
     "          kvtierctl config show\n\n"
     "check asks the kvtierd beside kvtierctl, or the one that KVTIERD names, and\n"
     "needs no daemon. show prints what the running daemon uses as TOML, and behind\n"
     "each value where it comes from; with --defaults what it uses without a file.",
     [](CLI::App& command, Options& options) {
       command.add_option("ACTION", options.action, "check or show")
           ->required()
           ->check(CLI::IsMember(names_of(kvt::ctl::kConfigActions)));
       command.add_option("FILE", options.file, "the file to be checked");
       command.add_flag("--defaults", options.defaults, "show the default configuration");
     },
     kvt::ctl::config},
    {"heat", "how hot pages are, by tier, from a sample of them", "Example: kvtierctl heat --arena default",
     [](CLI::App& command, Options& options) {
       arena_option(command, options);
       column_option(command, options);
     },
     kvt::ctl::heat},
    {"doctor", "what of this machine works against kvtierd, and what to do",
     "Example: kvtierctl doctor --config kvtierd.toml\n\n"
     "Works with and without a daemon. The exit code is 1 when something is bad.\n"
     "KVTIERD names the kvtierd that looks at the configuration, where it is not\n"
     "beside kvtierctl.",
     [](CLI::App& command, Options& options) {
       command.add_option("--config", options.doctor.config, "a configuration: is it right, does it fit");
       command.add_option("--fsroot", options.doctor.fsroot, "another machine's /sys and /proc, in a folder");
     },
     kvt::ctl::doctor},
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
       command.add_flag_callback(
           "--no-keep", [&options] { options.calibrate.keep = false; },
           "print the result and do not keep it");
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
    {"drain", "use nothing of a tier any more: before its memory is taken away",
     "Example: kvtierctl drain cxl --yes\n\n"
     "In all arenas: pages leave the tier while everybody reads, and host memory is\n"
     "given back to the system. Pages with no room elsewhere are evicted, if nobody\n"
     "holds them. It stays drained, after a restart too, until --undo.",
     [](CLI::App& command, Options& options) {
       command.add_option("TIER", options.tier, "name of the tier")->required();
       command.add_flag("--undo", options.undo, "use all of it again");
       command.add_flag("--yes", options.yes, "do not ask");
       command.add_flag_callback(
           "--no-wait", [&options] { options.wait = false; }, "answer at once");
     },
     kvt::ctl::drain},
    {"resize", "change how much of a tier an arena uses",
     "Example: kvtierctl resize default dram 8GiB --yes\n\n"
     "Up to what the arena's window was made with: less is given back to the system\n"
     "when pages have left it, more is taken from it again.",
     [](CLI::App& command, Options& options) {
       command.add_option("ARENA", options.arena, "name of the arena")->required();
       command.add_option("TIER", options.tier, "name of the tier")->required();
       command.add_option("BYTES", options.bytes, "such as 8GiB; all: what the window has")
           ->required()
           ->transform([](const std::string& text) {
             std::string bytes = text;
             if (text != "all" && !CLI::AsSizeValue(true)(bytes).empty())
               throw CLI::ValidationError("BYTES", "\"" + text + "\": expected such as 8GiB, 512MiB, or all");
             return bytes;
           });
       command.add_flag("--yes", options.yes, "do not ask");
       command.add_flag_callback(
           "--no-wait", [&options] { options.wait = false; }, "answer at once");
     },
     kvt::ctl::resize},
    {"arena", "make an arena while the daemon runs, or give one up",
     "Examples: kvtierctl arena create chat page_bytes=128KiB bytes.dram=8GiB\n"
     "          kvtierctl arena delete chat --yes\n\n"
     "Keys are those of [[arena]] in the configuration; bytes.TIER=SIZE is its part of\n"
     "a tier, 0 none of it. Of a tier that is not named it gets what no other arena\n"
     "has. It survives restarts of the daemon; only a configuration that names it\n"
     "makes it after a stop.\n"
     "delete gives up its pages and its memory. While processes are attached it\n"
     "refuses, unless --force evicts their sessions; what they have mapped stays\n"
     "theirs until they end.",
     [](CLI::App& command, Options& options) {
       command.add_option("ACTION", options.action, "create or delete")
           ->required()
           ->check(CLI::IsMember(names_of(kvt::ctl::kArenaActions)));
       command.add_option("NAME", options.arena, "name of the arena")->required();
       command.add_option("SET", options.words, "KEY=VALUE...");
       command.add_flag("--force", options.force, "evict its sessions first");
       command.add_flag("--yes", options.yes, "do not ask");
     },
     kvt::ctl::arena},
    {"tier", "add a tier while the daemon runs, or forget one that no arena uses",
     "Examples: kvtierctl tier add cxl kind=cxl bytes=64GiB\n"
     "          kvtierctl tier remove cxl\n\n"
     "Keys are those of [[tier]] in the configuration; nodes=0,2 names several. The\n"
     "daemon looks whose memory it is and how fast. Arenas that are made from then on\n"
     "can have memory of it; those that are there keep their windows.\n"
     "remove refuses while an arena has memory of it: drain empties a tier that is in\n"
     "use, and arena delete gives its windows up.",
     [](CLI::App& command, Options& options) {
       command.add_option("ACTION", options.action, "add or remove")
           ->required()
           ->check(CLI::IsMember(names_of(kvt::ctl::kTierActions)));
       command.add_option("NAME", options.tier, "name of the tier")->required();
       command.add_option("SET", options.words, "KEY=VALUE...");
     },
     kvt::ctl::tier},
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
    return printed && output.error.empty() ? output.exit_code : kExitFailed;
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
  const auto all_of = [](const auto& names) {
    std::string lines;
    for (const char* const name : names) lines += std::string(name) + "\n";
    return lines;
  };
  if (what == "views") return all_of(kvt::ctl::kViewNames);
  if (what == "actions") return all_of(kvt::ctl::kConfigActions);
  if (what == "arena-actions") return all_of(kvt::ctl::kArenaActions);
  if (what == "tier-actions") return all_of(kvt::ctl::kTierActions);
  if (what == "policy-actions") return all_of(kvt::ctl::kPolicyActions);
  if (what == "kinds") return kvt::ctl::event_kinds(options).text;
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
