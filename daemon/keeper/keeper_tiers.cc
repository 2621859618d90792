// SPDX-License-Identifier: Apache-2.0
//
// Keeper: tiers that come and go while the loop runs. Looking at the machine takes long, and is a thread's (background.h).
//
//   add_tiers: the configuration with them, and what the arenas have -> thread: planned as at a start
//              -> the new ones of that plan are the machine's; new arenas can have bytes of them
//   remove_tier: of a tier in which no arena has a window; its memory is nobody's
//
// Nothing is kept of it for the next daemon but the windows of arenas: what their tiers were is in their tables.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "daemon/keeper/adopt.h"
#include "daemon/keeper/keeper.h"
#include "daemon/keeper/size_text.h"

namespace kvt::keeper {
namespace {

std::string nodes_text(const TierOnMachine& tier) {
  if (tier.gpu) return fmt::format("of GPU {}", tier.gpu->ordinal);
  if (tier.parts.empty()) return "of any NUMA node";
  std::string text;
  for (const tier::NodePart& part : tier.parts)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", part.node);
  return "of NUMA node " + text;
}

std::string tier_text(const TierConfig& tier, const TierOnMachine& plan) {
  const std::string pages = plan.pages_note.empty() ? "" : ", " + plan.pages_note;
  const std::string figures =
      plan.read_gbs.known() ? fmt::format(", {:.4g} GB/s ({})", plan.read_gbs.value, plan.figures_from) : "";
  return fmt::format("tier \"{}\" is there: {} {}{}{}; new arenas can have memory of it", tier.name,
                     size_text(tier.bytes), nodes_text(plan), pages, figures);
}

const TierConfig* find_tier(const std::vector<TierConfig>& tiers, const std::string& name) {
  const auto found =
      std::find_if(tiers.begin(), tiers.end(), [&](const TierConfig& tier) { return tier.name == name; });
  return found == tiers.end() ? nullptr : &*found;
}

bool has_window(const ArenaTable& table, const std::string& tier) {
  for (uint32_t i = 0; i < table.tiers(); ++i)
    if (tier == table.tier(i).name) return true;
  return false;
}

}  // namespace

Result<void> Keeper::add_tiers(const std::vector<TierConfig>& tiers,
                               const std::map<std::string, std::string>& sources, Added added) {
  if (tiers_coming_) return fail(Code::kAgain, "tiers are being added already");
  for (const TierConfig& tier : tiers)
    if (find_tier(machine_.config.tiers, tier.name) != nullptr)
      return fail(Code::kInvalid, fmt::format("there is a tier \"{}\"", tier.name));
  // A GPU that is not there leaves windows without a tier.
  for (size_t i = 0; i < arenas_.size(); ++i)
    for (const TierConfig& tier : tiers)
      if (has_window(arenas_[i]->table(), tier.name))
        return fail(
            Code::kInvalid,
            fmt::format("arena \"{}\" has a window in a tier \"{}\", which is not there now: expected "
                        "another name",
                        machine_.config.arenas[i].name, tier.name));
  if (machine_.config.tiers.size() + tiers.size() > KVT_MAX_TIERS)
    return fail(Code::kLimit, fmt::format("{} tiers are all that can be", KVT_MAX_TIERS));
  // By the thread: values of its own.
  struct Work {
    Config config;
    std::vector<AdoptedArena> adopted;
    std::shared_ptr<tier::Gpus> gpus;
    Result<Machine> planned = fail(Code::kAgain, "not planned");
  };
  const auto work = std::make_shared<Work>();
  work->config = machine_.config;
  for (TierConfig& tier : work->config.tiers) {  // as they are: nothing of them is looked for anew
    tier.adopted_bytes = tier.windows_bytes = 0;
    tier.percent = 0;
  }
  work->config.tiers.insert(work->config.tiers.end(), tiers.begin(), tiers.end());
  for (size_t i = 0; i < arenas_.size(); ++i)
    work->adopted.push_back(as_adopted(arenas_[i]->table(), machine_.config.arenas[i]));
  work->gpus = machine_.gpus;
  auto begun =
      background_->submit([this, work, tiers, sources, added = std::move(added)]() -> Background::Then {
        work->planned = plan_this_machine(
            work->config, [](const std::string&) {}, work->adopted, std::move(work->gpus));
        return [this, work, tiers, sources, added] {
          tiers_coming_ = false;
          added(take_tiers(tiers, sources, std::move(work->planned)));
        };
      });
  tiers_coming_ = begun.has_value();
  return begun;
}

/// Of a plan with all tiers the new ones; all of them, or none.
Result<void> Keeper::take_tiers(const std::vector<TierConfig>& tiers,
                                const std::map<std::string, std::string>& sources, Result<Machine> planned) {
  if (!planned) return tl::unexpected<Error>(planned.error());
  if (!planned->lack.empty()) return fail(Code::kFull, planned->lack);
  std::vector<size_t> places;
  for (const TierConfig& tier : tiers) {
    const TierConfig* const found = find_tier(planned->config.tiers, tier.name);
    if (found == nullptr) {
      const auto why = planned->left_out.find(tier.name);
      return fail(Code::kNotFound, why == planned->left_out.end()
                                       ? fmt::format("tier \"{}\" is not there", tier.name)
                                       : why->second);
    }
    places.push_back(static_cast<size_t>(found - planned->config.tiers.data()));
  }
  for (const size_t place : places) {
    const auto& gpu = planned->tiers[place].gpu;
    if (!gpu || mover_->has_gpu(gpu->ordinal)) continue;
    KVT_TRY_ASSIGN(auto opened, planned->gpus->gpu(gpu->ordinal));
    KVT_TRY(add_gpu(gpu->ordinal, std::move(opened)));
  }
  if (machine_.gpus == nullptr) {
    machine_.gpus = planned->gpus;
    machine_.cuda_text = planned->cuda_text;
  }
  for (const size_t place : places) {
    TierConfig& tier = planned->config.tiers[place];
    TierOnMachine& plan = planned->tiers[place];
    const std::vector<uint32_t> nodes = plan.all_nodes();
    nodes_.watch(std::set<uint32_t>(nodes.begin(), nodes.end()));
    notes_.push_back({events::Kind::kTierAdded, tier_text(tier, plan)});
    // Those that are there have nothing of it, also where their configuration is written down and read again.
    for (ArenaConfig& arena : machine_.config.arenas) arena.bytes.emplace_back(tier.name, 0);
    for (Coming& coming : coming_) coming.config.bytes.emplace_back(tier.name, 0);
    const auto slower =
        std::find_if(machine_.tiers.begin(), machine_.tiers.end(),
                     [&](const TierOnMachine& each) { return each.read_gbs.value < plan.read_gbs.value; });
    const auto at = slower - machine_.tiers.begin();
    machine_.config.tiers.insert(machine_.config.tiers.begin() + at, std::move(tier));
    machine_.tiers.insert(slower, std::move(plan));
  }
  for (const TierConfig& tier : tiers) machine_.left_out.erase(tier.name);
  for (const auto& [key, source] : sources) machine_.config.given[key] = source;
  return {};
}

Result<void> Keeper::remove_tier(const std::string& name) {
  const TierConfig* const tier = find_tier(machine_.config.tiers, name);
  if (tier == nullptr) return fail(Code::kNotFound, fmt::format("there is no tier \"{}\"", name));
  std::string users;
  const auto uses = [&](const std::string& arena, uint64_t bytes) {
    if (bytes != 0) users += fmt::format("{}\"{}\" ({})", users.empty() ? "" : ", ", arena, size_text(bytes));
  };
  const auto named = [&](const ArenaConfig& arena) {
    for (const auto& [of, bytes] : arena.bytes)
      if (of == name) uses(arena.name, bytes);
  };
  for (size_t i = 0; i < arenas_.size(); ++i)
    for (uint32_t at = 0; at < arenas_[i]->table().tiers(); ++at)
      if (name == arenas_[i]->table().tier(at).name)
        uses(machine_.config.arenas[i].name, arenas_[i]->table().tier(at).window_bytes);
  for (const Coming& coming : coming_) named(coming.config);
  for (const Going& going : going_) named(going.config);
  if (!users.empty())
    return fail(
        Code::kInvalid,
        fmt::format("tier \"{}\" stays: arenas have memory of it: {}. An arena's windows stay until it is "
                    "deleted; \"drain\" empties them",
                    name, users));
  if (machine_.config.tiers.size() == 1)
    return fail(Code::kInvalid, fmt::format("tier \"{}\" is the only one", name));
  const auto at = tier - machine_.config.tiers.data();
  machine_.tiers.erase(machine_.tiers.begin() + at);
  machine_.config.tiers.erase(machine_.config.tiers.begin() + at);
  for (ArenaConfig& arena : machine_.config.arenas)  // nothing of a tier that there is not
    std::erase_if(arena.bytes, [&](const auto& entry) { return entry.first == name; });
  std::erase_if(machine_.config.given,
                [of = "tier." + name + "."](const auto& entry) { return entry.first.starts_with(of); });
  notes_.push_back({events::Kind::kTierRemoved, fmt::format("tier \"{}\" is removed", name)});
  return {};
}

}  // namespace kvt::keeper
