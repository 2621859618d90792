// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/report/json.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace kvt::sim {

namespace {

using Json = nlohmann::ordered_json;

Json cell_json(const Results& results, const Cell& cell) {
  Json bounds = nullptr;
  if (cell.bounds)
    bounds = {{"ub0", cell.bounds->ub0},
              {"ub1", cell.bounds->ub1},
              {"ub2", cell.bounds->ub2},
              {"gap", cell.bounds->gap},
              {"feasible", cell.bounds->feasible_seconds}};
  Json policies = Json::object();
  for (const PolicyResult& policy : cell.policies) {
    const Outcome& outcome = policy.outcome;
    policies[policy.name] = {
        {"seconds", outcome.seconds},
        {"percent_of_bound", cell.bounds ? Json(cell.percent_of_bound(policy)) : Json(nullptr)},
        {"bytes_moved", outcome.bytes_moved},
        {"moves", outcome.counts.moves()},
        {"hits", outcome.hits},
        {"asked", outcome.asked},
        {"promoted_in_read", outcome.counts.promoted_in_read},
        {"promoted_copy", outcome.counts.promoted_copy},
        {"demoted_copy", outcome.counts.demoted_copy},
        {"demoted_free", outcome.counts.demoted_free},
        {"not_paid_back", outcome.counts.not_paid_back},
        {"lost_by_swap", outcome.counts.lost_by_swap},
        {"oracle", policy.oracle}};
  }
  return {{"trace", results.trace},
          {"modelled", results.modelled},
          {"profile", results.profile},
          {"cost", results.cost},
          {"hbm_percent", cell.hbm_percent},
          {"hbm_pages", cell.hbm_pages},
          {"pages", cell.pages},
          {"steps", cell.steps},
          {"page_bytes", results.page_bytes},
          {"advice", results.advice},
          {"seed", cell.seed},
          {"bounds", bounds},
          {"policies", policies}};
}

}  // namespace

std::string json_text(const Results& results) {
  if (results.cells.size() == 1) return cell_json(results, results.cells.front()).dump(2) + "\n";
  Json rows = Json::array();
  for (const Cell& cell : results.cells) rows.push_back(cell_json(results, cell));
  return Json{{"rows", rows}}.dump(2) + "\n";
}

}  // namespace kvt::sim
