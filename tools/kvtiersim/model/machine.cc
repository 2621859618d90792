// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/model/machine.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "daemon/topology/profile.h"
#include "tools/kvtiersim/model/machine_file.h"

namespace kvt::sim {

double Machine::balanced_slow_share() const {
  double slow = 0;
  std::vector<double> behind(links.size(), 0);
  for (size_t i = 1; i < tiers.size(); ++i) {
    if (tiers[i].link < 0)
      slow += tiers[i].read_bytes_per_second;
    else
      behind[static_cast<size_t>(tiers[i].link)] += tiers[i].read_bytes_per_second;
  }
  for (size_t i = 0; i < links.size(); ++i) slow += std::min(behind[i], links[i].in_bytes_per_second);
  return slow / (slow + tiers[0].read_bytes_per_second);
}

namespace {

double seconds_with(const Machine& machine, const Traffic& traffic, double fixed, double shifted,
                    std::array<double, kTiersMax>& read) {
  // What is shifted comes from the tiers above the last one in proportion; with two tiers from the fast one.
  read = traffic.read;
  const uint32_t last = machine.last();
  double above = 0;
  for (uint32_t i = 0; i < last; ++i) above += read[i];
  if (shifted > 0 && above > 0) {
    double left = shifted;
    for (uint32_t i = 0; i < last && left > 0; ++i) {
      const double taken = std::min(left, read[i]);
      read[i] -= taken;
      left -= taken;
    }
    read[last] += shifted - left;
  }
  double largest = (fixed + read[0] + traffic.copied_out_of[0] + traffic.written[0]) /
                   machine.tiers[0].read_bytes_per_second;
  double second = 0;
  const auto take = [&](double seconds) {
    if (seconds > largest) {
      second = largest;
      largest = seconds;
    } else {
      second = std::max(second, seconds);
    }
  };
  std::array<double, kTiersMax> in{}, out{};
  for (uint32_t i = 1; i <= last; ++i) {
    const Tier& tier = machine.tiers[i];
    const double from = read[i] + traffic.copied_out_of[i];
    take(std::max(from / tier.read_bytes_per_second, traffic.written[i] / tier.write_bytes_per_second));
    if (tier.link >= 0) {
      in[static_cast<size_t>(tier.link)] += from;
      out[static_cast<size_t>(tier.link)] += traffic.written[i];
    }
  }
  for (size_t i = 0; i < machine.links.size(); ++i)
    take(std::max(in[i] / machine.links[i].in_bytes_per_second,
                  out[i] / machine.links[i].out_bytes_per_second));
  return largest + machine.kappa * second;
}

}  // namespace

StepTime step_time(const Machine& machine, const Traffic& traffic, double fixed_read_bytes) {
  StepTime time;
  const double movable = std::min(traffic.also_in_last, traffic.read[0]);
  double low = 0;
  double shift = 0;
  if (movable > 0 && machine.tiers.size() == 2 && machine.links.empty()) {
    // Both sides equal: (f + H - x)/B1 = (S + x)/B2.
    const double b1 = machine.tiers[0].read_bytes_per_second;
    const double b2 = machine.tiers[1].read_bytes_per_second;
    const double fast = fixed_read_bytes + traffic.read[0] + traffic.copied_out_of[0] + traffic.written[0];
    const double slow = traffic.read[1] + traffic.copied_out_of[1];
    shift = std::clamp((fast * b2 - slow * b1) / (b1 + b2), 0.0, movable);
  } else if (movable > 0) {
    double high = movable;
    std::array<double, kTiersMax> ignored{};
    for (int i = 0; i < 60; ++i) {  // convex in the shift
      const double a = low + (high - low) / 3, b = high - (high - low) / 3;
      if (seconds_with(machine, traffic, fixed_read_bytes, a, ignored) <=
          seconds_with(machine, traffic, fixed_read_bytes, b, ignored))
        high = b;
      else
        low = a;
    }
    shift = low;
  }
  time.seconds = seconds_with(machine, traffic, fixed_read_bytes, shift, time.read);
  return time;
}

Machine find_machine(const std::string& name) {
  std::optional<Profile> profile = find_profile(name);
  if (name == "families") profile = {"families", {3700, 3700}, {350, 350}};
  // While the paper's external memory is read at 450 GB/s it has 50 GB/s left for writes.
  if (name == "paper") profile->host.write_gbps = 50;
  if (profile) {
    Machine machine;
    machine.name = name;
    machine.tiers = {{"hbm", profile->hbm.read_gbps * 1e9, profile->hbm.write_gbps * 1e9, 0, -1},
                     {"host", profile->host.read_gbps * 1e9, profile->host.write_gbps * 1e9, UINT64_MAX, -1}};
    return machine;
  }
  if (std::filesystem::exists(name)) return read_machine(name);
  throw std::invalid_argument("no profile \"" + name + "\"; expected " + machine_names() + " or a file");
}

std::string machine_names() { return profile_names() + ", \"families\""; }

}  // namespace kvt::sim
