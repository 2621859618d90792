// SPDX-License-Identifier: Apache-2.0
#include "daemon/topology/calibration.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

namespace kvt {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
/// Files are some hundred bytes a node and package.
constexpr size_t kFileBytesMax = size_t{4} << 20;

}  // namespace

std::optional<NodeSpeed> Calibration::best_of(uint32_t node) const {
  std::optional<NodeSpeed> best;
  for (const NodeSpeed& speed : speeds) {
    if (speed.node != node) continue;
    if (!best) {
      best = speed;
      continue;
    }
    best->read_gbs = std::max(best->read_gbs, speed.read_gbs);
    best->write_gbs = std::max(best->write_gbs, speed.write_gbs);
    best->copy_gbs = std::max(best->copy_gbs, speed.copy_gbs);
    if (speed.latency_ns > 0)
      best->latency_ns =
          best->latency_ns > 0 ? std::min(best->latency_ns, speed.latency_ns) : speed.latency_ns;
  }
  return best;
}

std::string fingerprint_of(const Topology& topology) {
  std::string text = topology.cpu_model;
  for (const MemoryNode& node : topology.nodes)
    text += "; node " + std::to_string(node.os_index) + (node.has_cpus() ? " with cpus " + node.cpus : "");
  return text;
}

std::string calibration_path(const std::string& state_dir) { return state_dir + "/calibration.json"; }

Result<Calibration> load_calibration(const std::string& path, const Topology& topology) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    return fail(Code::kNotFound, "there is no " + path);
  if (error) return fail_errno("open " + path, error.value());
  if (!std::filesystem::is_regular_file(status))
    return fail(Code::kInvalid, path + ": expected a file");  // a pipe would never end
  std::ifstream file(path);
  if (!file) return fail_errno("open " + path);
  std::string text(kFileBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  const auto bad = [&path](const std::string& expected) {
    return fail(Code::kInvalid, path + ": expected " + expected + "; kvtierctl calibrate writes it anew");
  };
  const json parsed = text.size() > kFileBytesMax ? json() : json::parse(text, nullptr, false);
  if (!parsed.is_object() || parsed.value("version", json()) != kVersion)
    return bad("a calibration of version " + std::to_string(kVersion));
  Calibration calibration;
  try {
    calibration.machine = parsed.at("machine").get<std::string>();
    calibration.measured_at = parsed.at("measured_at").get<std::string>();
    for (const json& each : parsed.at("speeds")) {
      NodeSpeed speed;
      for (const auto& [key, field] : {std::pair{"package", &NodeSpeed::package},
                                       {"node", &NodeSpeed::node},
                                       {"threads", &NodeSpeed::threads}}) {
        const json& value = each.at(key);  // get<uint32_t>() would wrap, or cut a fraction off
        if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<uint32_t>::max())
          return bad(std::string(key) + " from 0 to 2^32 - 1");
        speed.*field = value.get<uint32_t>();
      }
      for (const auto& [key, field] : {std::pair{"read_gbs", &NodeSpeed::read_gbs},
                                       {"write_gbs", &NodeSpeed::write_gbs},
                                       {"copy_gbs", &NodeSpeed::copy_gbs},
                                       {"latency_ns", &NodeSpeed::latency_ns},
                                       {"spread", &NodeSpeed::spread}}) {
        speed.*field = each.at(key).get<double>();
        if (!std::isfinite(speed.*field) || speed.*field < 0 || speed.*field > 1e9)
          return bad(std::string(key) + " from 0 to 10^9");
      }
      calibration.speeds.push_back(speed);
    }
  } catch (const json::exception& wrong) {
    return bad(std::string("other fields (") + wrong.what() + ")");
  }
  if (const std::string here = fingerprint_of(topology); calibration.machine != here)
    return fail(Code::kMismatch, path + " was measured on another machine (" + calibration.machine +
                                     "; this one: " + here + ")");
  return calibration;
}

Result<void> save_calibration(const std::string& path, const Calibration& calibration) {
  json speeds = json::array();
  for (const NodeSpeed& speed : calibration.speeds)
    speeds.push_back({{"package", speed.package},
                      {"node", speed.node},
                      {"threads", speed.threads},
                      {"read_gbs", speed.read_gbs},
                      {"write_gbs", speed.write_gbs},
                      {"copy_gbs", speed.copy_gbs},
                      {"latency_ns", speed.latency_ns},
                      {"spread", speed.spread}});
  const json file{{"version", kVersion},
                  {"machine", calibration.machine},
                  {"measured_at", calibration.measured_at},
                  {"speeds", speeds}};
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (!folder.empty() && ::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST)
    return fail_errno("mkdir " + folder.string());
  const std::string next = path + ".new";
  {
    std::ofstream out(next, std::ios::trunc);
    out << file.dump(2, ' ', false, json::error_handler_t::replace) << "\n";
    out.flush();
    if (!out) {
      const auto failure = fail_errno("write " + next);
      ::unlink(next.c_str());
      return failure;
    }
  }
  if (std::rename(next.c_str(), path.c_str()) != 0) {
    const auto failure = fail_errno("rename " + next + " to " + path);
    ::unlink(next.c_str());
    return failure;
  }
  return {};
}

}  // namespace kvt
