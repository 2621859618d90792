// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_machines.h"

namespace kvt::test {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr const char* kXeon = "Intel(R) Xeon(R) Platinum 8480+";

void set_distances(FakeMachine& machine, const std::vector<std::vector<uint32_t>>& rows) {
  for (size_t i = 0; i < machine.nodes.size(); ++i) machine.nodes[i].distances = rows[i];
}

FakeNode node(uint32_t os_index, uint64_t bytes, const std::string& cpus = "") {
  FakeNode made;
  made.os_index = os_index;
  made.bytes = bytes;
  made.cpus = cpus;
  return made;
}

FakeNode with_access(FakeNode made, const FakeAccess& access) {
  made.access = access;
  return made;
}

FakeMachine xeon(const std::vector<std::string>& packages) {
  FakeMachine machine;
  machine.cpu = kXeon;
  machine.packages = packages;
  return machine;
}

}  // namespace

FakeMachine gh200(bool firmware) {
  FakeMachine machine;
  machine.architecture = "aarch64";
  machine.cpu = "0xd4f";
  machine.packages = {"0-71"};
  machine.nodes = {node(0, 480 * kGiB, "0-71"), node(1, 96 * kGiB)};
  if (firmware) {
    machine.nodes[0].access = FakeAccess{380000, 350000, 115, {0}};
    machine.nodes[1].access = FakeAccess{400000, 300000, 700, {0}};
  }
  for (uint32_t index = 2; index <= 8; ++index) machine.nodes.push_back(node(index, 0));
  set_distances(machine, plain_distances(9, 80));
  machine.gpus = {{"0009:01:00.0", 1, 96 * kGiB, "online"}};
  return machine;
}

FakeMachine gh200_four_way() {
  FakeMachine machine;
  machine.architecture = "aarch64";
  machine.cpu = "0xd4f";
  machine.packages = {"0-71", "72-143", "144-215", "216-287"};
  for (uint32_t index = 0; index < 4; ++index)
    machine.nodes.push_back(node(index, 120 * kGiB, machine.packages[index]));
  for (uint32_t index = 4; index < 36; ++index)
    machine.nodes.push_back(node(index, (index - 4) % 8 == 0 ? 96 * kGiB : 0));
  const auto gpu_of = [](size_t index) { return (index - 4) / 8; };
  std::vector<std::vector<uint32_t>> rows(36, std::vector<uint32_t>(36));
  for (size_t from = 0; from < 36; ++from) {
    for (size_t to = 0; to < 36; ++to) {
      const bool from_cpu = from < 4;
      const bool to_cpu = to < 4;
      if (from == to)
        rows[from][to] = 10;
      else if (from_cpu && to_cpu)
        rows[from][to] = 40;
      else if (!from_cpu && !to_cpu)
        rows[from][to] = 255;
      else
        rows[from][to] = (from_cpu ? from == gpu_of(to) : to == gpu_of(from)) ? 80 : 120;
    }
  }
  set_distances(machine, rows);
  for (uint32_t gpu = 0; gpu < 4; ++gpu)
    machine.gpus.push_back({"00" + std::to_string(gpu) + "9:01:00.0", 4 + 8 * gpu, 96 * kGiB, "online"});
  return machine;
}

FakeMachine dram_and_cxl() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {with_access(node(0, 256 * kGiB, "0-3"), {220000, 180000, 110, {0}}),
                   with_access(node(1, 256 * kGiB, "4-7"), {220000, 180000, 110, {1}}),
                   with_access(node(3, 128 * kGiB), {50000, 40000, 250, {0}}),
                   with_access(node(6, 128 * kGiB), {50000, 40000, 250, {1}})};
  set_distances(machine, {{10, 21, 14, 24}, {21, 10, 24, 14}, {14, 24, 10, 26}, {24, 14, 26, 10}});
  return machine;
}

FakeMachine set_apart_without_initiators() {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {with_access(node(0, 64 * kGiB, "0-3"), {100000, 90000, 95, {0}}), node(1, 0),
                   with_access(node(4, 32 * kGiB), {30000, 25000, 300, {}})};
  set_distances(machine, plain_distances(3, 20));
  machine.dax = {{"dax0.0", 32 * kGiB, 4, "platform/hmem.0", "kmem"}};
  return machine;
}

FakeMachine xeon_max(bool with_cxl) {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.cpu = "Intel(R) Xeon(R) CPU Max 9480";
  machine.nodes = {with_access(node(0, 128 * kGiB, "0-3"), {250000, 200000, 110, {0}}),
                   with_access(node(1, 128 * kGiB, "4-7"), {250000, 200000, 110, {1}}),
                   with_access(node(2, 64 * kGiB), {800000, 500000, 130, {0}}),
                   with_access(node(3, 64 * kGiB), {800000, 500000, 130, {1}})};
  std::vector<std::vector<uint32_t>> rows{
      {10, 21, 13, 23}, {21, 10, 23, 13}, {13, 23, 10, 23}, {23, 13, 23, 10}};
  if (with_cxl) {
    machine.nodes.push_back(with_access(node(4, 256 * kGiB), {40000, 30000, 280, {0}}));
    for (size_t i = 0; i < 4; ++i) rows[i].push_back(i == 0 ? 14 : 24);
    rows.push_back({14, 24, 24, 24, 10});
  }
  set_distances(machine, rows);
  return machine;
}

FakeMachine zeros() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {with_access(node(0, 64 * kGiB, "0-3"), {0, 0, 0, {0}}),
                   with_access(node(1, 64 * kGiB, "4-7"), {0, 0, 0, {1}}),
                   with_access(node(2, 32 * kGiB), {0, 0, 0, {0}})};
  set_distances(machine, {{10, 21, 17}, {21, 10, 28}, {17, 28, 10}});
  return machine;
}

FakeMachine one_figure_a_kind() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {with_access(node(0, 64 * kGiB, "0-3"), {100000, 80000, 100, {0}}),
                   node(1, 64 * kGiB, "4-7"), with_access(node(2, 32 * kGiB), {30000, 20000, 200, {0}}),
                   node(3, 32 * kGiB)};
  set_distances(machine, {{10, 20, 20, 40}, {20, 10, 40, 40}, {20, 40, 10, 40}, {40, 40, 40, 10}});
  const std::string region = "platform/ACPI0017:00/root0/decoder0.0/region";
  machine.dax = {{"dax0.0", 32 * kGiB, 2, region + "0/dax_region0", "kmem"},
                 {"dax1.0", 32 * kGiB, 3, region + "1/dax_region1", "kmem"}};
  return machine;
}

FakeMachine nothing_said() {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {node(0, 64 * kGiB, "0-3"), node(1, 32 * kGiB)};
  return machine;
}

FakeMachine memoryless() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {node(0, 0, "0-3"), node(1, 64 * kGiB, "4-7"), node(2, 0)};
  set_distances(machine, plain_distances(3, 20));
  return machine;
}

FakeMachine node_0_missing() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {node(1, 64 * kGiB, "0-3"), node(3, 64 * kGiB, "4-7")};
  set_distances(machine, plain_distances(2, 21));
  return machine;
}

FakeMachine offline_blocks() {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {node(0, 64 * kGiB, "0-3"), node(1, 0)};
  machine.nodes[1].offline_blocks = 16;
  set_distances(machine, plain_distances(2, 20));
  machine.homeless_offline_blocks = 8;
  return machine;
}

FakeMachine devices_not_in_use() {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {node(0, 64 * kGiB, "0-3")};
  machine.dax = {
      {"dax0.0", 8 * kGiB, 1, "platform/hmem.0", "device_dax"},
      {"dax1.0", 16 * kGiB, -1, "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region6/dax6.1", "device_dax"},
      {"dax2.0", 4 * kGiB, 2, "platform/ACPI0017:00/root0/decoder0.0/region0/dax_region0", ""}};
  machine.cxl = {{0, 32 * kGiB, 0, 0}, {1, 32 * kGiB, 16 * kGiB, 40 * kGiB}, {2, 32 * kGiB, 0, 32 * kGiB}};
  return machine;
}

FakeMachine one_gpu(const std::string& status) {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {node(0, 256 * kGiB, "0-3"), node(255, status == "online" ? 80 * kGiB : 0)};
  set_distances(machine, plain_distances(2, 80));
  machine.gpus = {{"0000:3b:00.0", 255, 80 * kGiB, status}};
  return machine;
}

FakeMachine eight_gpus() {
  FakeMachine machine = xeon({"0-3"});
  machine.nodes = {with_access(node(0, 512 * kGiB, "0-3"), {300000, 250000, 100, {0}}),
                   with_access(node(1, 256 * kGiB), {60000, 50000, 250, {0}})};
  for (uint32_t gpu = 0; gpu < 8; ++gpu) {
    machine.nodes.push_back(node(10 + gpu, 80 * kGiB));
    machine.gpus.push_back({"0000:" + std::to_string(10 + gpu) + ":00.0", 10 + gpu, 80 * kGiB, "online"});
  }
  set_distances(machine, plain_distances(10, 80));
  return machine;
}

FakeMachine in_a_cpuset() {
  FakeMachine machine = xeon({"0-3", "4-7"});
  machine.nodes = {node(0, 64 * kGiB, "0-3"), node(1, 64 * kGiB, "4-7")};
  set_distances(machine, plain_distances(2, 21));
  machine.allowed_nodes = "0";
  return machine;
}

}  // namespace kvt::test
