// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "tools/kvtiersim/report/paper_rows.h"

namespace kvt::sim {

std::string paper_json(const std::vector<PaperRow>& rows) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const PaperRow& row : rows) {
    nlohmann::ordered_json seconds = nlohmann::ordered_json::object();
    nlohmann::ordered_json hits = nlohmann::ordered_json::object();
    nlohmann::ordered_json hits_with_weights = nlohmann::ordered_json::object();
    for (const auto& [name, result] : row.policies) {
      seconds[name] = result.seconds;
      hits[name] = result.hit_rate;
      hits_with_weights[name] = result.hit_rate_with_weights;
    }
    all.push_back({{"sparsity", row.sparsity},
                   {"variation", row.variation},
                   {"new_tokens", row.new_tokens},
                   {"new_tokens_measured", row.new_tokens_measured},
                   {"noise", row.noise},
                   {"seed", row.seed},
                   {"best_seconds", row.best_seconds},
                   {"ub1_seconds", row.ub1_seconds},
                   {"policies", std::move(seconds)},
                   {"hbm_hit_rate", std::move(hits)},
                   {"hbm_hit_rate_with_weights", std::move(hits_with_weights)},
                   {"annealed", row.annealed},
                   {"layers", row.layers},
                   {"steps", row.steps},
                   {"page_tokens", row.page_tokens},
                   {"token_bytes", row.token_bytes}});
  }
  return nlohmann::ordered_json{{"rows", std::move(all)}}.dump(2) + "\n";
}

}  // namespace kvt::sim
