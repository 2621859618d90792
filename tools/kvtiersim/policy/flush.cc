// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/policy/flush.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace kvt::sim {

void Flush::step(const StepView& step, World& world) {
  if (world.capacity() == 0) return;
  const auto take = [&](uint32_t page) {
    if (world.fast(page)) return;
    if (world.room() == 0)
      while (world.used() > 0) world.demote(world.members(0).back());
    world.promote(page);
  };
  for (const uint32_t page : step.page) take(page);
}

FlushedLayers simulate_flushed_layers(std::span<const Trace* const> traces, const Machine& machine,
                                      uint32_t layers, uint64_t capacity_pages, uint32_t steps) {
  if (traces.empty() || layers == 0 || capacity_pages == 0)
    throw std::invalid_argument("flushed layers: traces, layers and a capacity are expected");
  struct Layer {
    std::vector<uint8_t> fast;
    uint64_t used = 0;
  };
  std::vector<Layer> all(layers);
  FlushedLayers sum;
  uint64_t used = 0;
  const uint32_t last = machine.last();
  const uint32_t rows =
      (layers + static_cast<uint32_t>(traces.size()) - 1) / static_cast<uint32_t>(traces.size());
  double speed = 0;
  for (const Tier& tier : machine.tiers) speed += tier.read_bytes_per_second;
  for (Layer& layer : all) layer.fast.assign(traces[0]->pages, 0);
  for (uint32_t n = 0; n < steps; ++n) {
    for (uint32_t i = 0; i < layers; ++i) {
      const Trace& trace = *traces[i % traces.size()];
      Layer& layer = all[i];
      const uint64_t displaced = uint64_t{trace.steps()} * (i / traces.size()) / rows;
      const StepView step = trace.step(static_cast<uint32_t>((n + displaced) % trace.steps()));
      uint64_t hits = 0;
      for (const uint32_t page : step.page) hits += layer.fast[page];
      uint64_t promoted = 0;
      if (hits != step.page.size()) {
        for (const uint32_t page : step.page) {
          if (layer.fast[page] != 0) continue;
          if (used >= capacity_pages) {
            std::fill(layer.fast.begin(), layer.fast.end(), uint8_t{0});
            used -= layer.used;
            layer.used = 0;
            if (used >= capacity_pages) break;  // others hold it all
          }
          layer.fast[page] = 1;
          ++layer.used;
          ++used;
          ++promoted;
        }
      }
      const auto bytes = static_cast<double>(trace.page_bytes);
      Traffic traffic;
      traffic.read[0] = traffic.also_in_last = static_cast<double>(hits) * bytes;
      traffic.read[last] = static_cast<double>(step.page.size() - hits) * bytes;
      traffic.written[0] = traffic.promoted_in_read = static_cast<double>(promoted) * bytes;
      traffic.written[last] = trace.written_bytes;
      sum.seconds += step_time(machine, traffic, trace.fixed_read_bytes).seconds;
      sum.best_seconds += (trace.fixed_read_bytes + static_cast<double>(step.page.size()) * bytes) / speed;
      sum.hits += hits;
      sum.asked += step.page.size();
      sum.bytes_moved += traffic.promoted_in_read;
      sum.promotions += promoted;
    }
  }
  return sum;
}

}  // namespace kvt::sim
