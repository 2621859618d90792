// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/commands.h"
#include "tools/kvtierctl/daemon_program.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/table.h"

namespace kvt::ctl {
namespace {

using json = nlohmann::ordered_json;

constexpr int kTimeoutMs = 2000;

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk: return "ok";
    case Verdict::kWarn: return "warn";
    case Verdict::kBad: return "bad";
  }
  return "?";
}

/// The daemon that answers, and what it finds itself.
DaemonSeen look_at_daemon(const std::string& socket_dir, std::vector<Finding>& findings) {
  DaemonSeen seen;
  try {
    const std::string answer = ask(socket_dir, command_request("status"), kTimeoutMs);
    check_answer(answer);
    const json status = json::parse(answer);
    seen.answers = true;
    seen.pid = status.at("pid");
    seen.words =
        fmt::format("kvtierd {} answers (process {})", status.at("version").get<std::string>(), seen.pid);
    for (const json& problem : status.at("problems")) {
      const std::string severity = problem.at("severity");
      findings.push_back({"daemon." + problem.at("code").get<std::string>(),
                          severity == "bad"    ? Verdict::kBad
                          : severity == "warn" ? Verdict::kWarn
                                               : Verdict::kOk,
                          problem.at("what"), "the running kvtierd says so itself", problem.at("do")});
    }
  } catch (const std::exception& error) {  // none, or one of another version
    seen.words = error.what();
  }
  return seen;
}

/// What kvtierd says of a configuration: whether it can be meant, and whether it fits this machine now.
void look_at_config(const std::string& config, const DaemonSeen& daemon, std::vector<Finding>& findings) {
  const char* const why = "with it, kvtierd starts or does not";
  const Ran checked = run_kvtierd({"--config", config, "--check-config"});
  if (checked.exit_code != 0) {
    findings.push_back(
        {"config", Verdict::kBad, checked.words, why, "correct it; kvtierctl config check FILE"});
    return;
  }
  if (daemon.answers) {
    findings.push_back(
        {"config",
         Verdict::kOk,
         checked.words + "; whether it fits is not asked: the kvtierd that runs has the memory",
         why,
         {}});
    return;
  }
  const Ran planned = run_kvtierd({"--config", config, "--plan"});
  if (planned.exit_code != 0)
    findings.push_back(
        {"config", Verdict::kBad, planned.words, why,
         "smaller tiers, other nodes, or what the words say; kvtierctl topology shows the machine"});
  else
    findings.push_back({"config", Verdict::kOk, checked.words + "; it fits this machine now", why, {}});
  std::istringstream lines(planned.exit_code == 0 ? planned.words : "");
  for (std::string line; std::getline(lines, line);)
    if (line.find("is left out") != std::string::npos)
      findings.push_back(
          {"config.left_out", Verdict::kWarn, line, why,
           "the driver and the GPU have to be there; or take the tier out of the configuration"});
}

std::string findings_text(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& finding : findings) {
    const bool well = finding.verdict == Verdict::kOk;
    out += paragraph(finding.verdict == Verdict::kBad ? "BAD"
                     : well                           ? "ok"
                                                      : "WARN",
                     finding.code + ": " + finding.seen);
    if (!well) out += paragraph("", "why: " + finding.why);
    if (!finding.action.empty()) out += paragraph("", "do: " + finding.action);
  }
  const auto count = [&](Verdict verdict) {
    return std::count_if(findings.begin(), findings.end(),
                         [verdict](const Finding& finding) { return finding.verdict == verdict; });
  };
  return out + fmt::format("{} bad, {} to look at, {} well\n", count(Verdict::kBad), count(Verdict::kWarn),
                           count(Verdict::kOk));
}

std::string findings_json(const std::vector<Finding>& findings, bool well) {
  json list = json::array();
  for (const Finding& finding : findings)
    list.push_back({{"code", finding.code},
                    {"verdict", verdict_name(finding.verdict)},
                    {"seen", finding.seen},
                    {"why", finding.why},
                    {"do", finding.action}});
  return json{{"schema", "kvtier.doctor/1"}, {"ok", well}, {"findings", list}}.dump(
             2, ' ', false, json::error_handler_t::replace) +
         "\n";
}

}  // namespace

Output doctor(const Options& options) {
  const Host host(options.doctor.fsroot);
  std::vector<Finding> findings;
  const DaemonSeen daemon =
      host.is_this() ? look_at_daemon(options.socket_dir, findings) : DaemonSeen{false, "another machine", 0};
  const std::string pid = daemon.answers && host.exists("/proc/" + std::to_string(daemon.pid))
                              ? std::to_string(daemon.pid)
                              : "self";
  if (!options.doctor.config.empty()) look_at_config(options.doctor.config, daemon, findings);
  findings.push_back(look_at_sockets(host, options.socket_dir, daemon));
  findings.push_back(look_at_kernel(host));
  findings.push_back(look_at_gpu(host));
  findings.push_back(look_at_cgroup(host, pid));
  findings.push_back(look_at_nodes(host, pid));
  findings.push_back(look_at_huge_pages(host));
  findings.push_back(look_at_numa_balancing(host));
  findings.push_back(look_at_memlock(host, pid));
  findings.push_back(look_at_swap(host));
  findings.push_back(look_at_files(host, pid));
  findings.push_back(look_at_overcommit(host));
  findings.push_back(look_at_zone_reclaim(host));
  findings.push_back(look_at_clock(host));
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.verdict > b.verdict; });
  const bool well = std::none_of(findings.begin(), findings.end(),
                                 [](const Finding& finding) { return finding.verdict == Verdict::kBad; });
  return {options.json ? findings_json(findings, well) : findings_text(findings), "", well ? 0 : 1};
}

}  // namespace kvt::ctl
