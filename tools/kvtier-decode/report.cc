// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace kvt::decode {
namespace {

using Json = nlohmann::ordered_json;

std::string digest_text(const Digest& digest) { return fmt::format("{:016x}{:016x}", digest.hi, digest.lo); }

std::string where(const Report& report, const Run& run) {
  if (run.place == Place::kPrivate)
    return report.device.empty() ? "private memory" : "private memory of the device";
  return fmt::format("{} mode, arena \"{}\", column {}", name_of(run.place), report.options.arena.arena,
                     report.options.arena.column);
}

void print_run(const Report& report, const Run& run) {
  const DecodeResult& result = run.result;
  const CacheCounts& counts = run.counts;
  fmt::print("run       {}: prefill {} of {} tokens in {:.3f} s, {} tokens decoded at {:.0f} tokens/s\n",
             where(report, run), result.prefill_steps, result.prompt_tokens, result.prefill_seconds,
             result.tokens.size() - result.prompt_tokens, result.decode_tokens_per_second());
  if (run.place != Place::kPrivate) {
    fmt::print("          blocks: {} found, {} published, {} were there; the daemon made {} moves",
               counts.blocks_found, counts.blocks_published, counts.blocks_present, counts.arena_moves);
    if (run.place == Place::kNative)
      fmt::print(", {} of them of {} blocks of this sequence", counts.frames_changed, counts.blocks_moved);
    if (run.place == Place::kNative && !report.device.empty())
      fmt::print(", {} between device memory and host memory", counts.frames_crossed);
    fmt::print("\n");
    if (counts.daemon_away + counts.sessions_lost != 0)
      fmt::print(
          "          the daemon was away for {} calls; {} sessions lost, {} positions computed again\n",
          counts.daemon_away, counts.sessions_lost, result.steps_again);
  }
  if (run.mass.samples != 0) {
    const auto samples = static_cast<double>(run.mass.samples);
    fmt::print(
        "attention {:.1f} % of it in the pages of topk:{}, which have {:.1f} % of the tokens ({} samples)\n",
        100 * run.mass.in_pages / samples, run.mass.pages, 100 * run.mass.of_tokens / samples,
        run.mass.samples);
  }
}

void print_speeds(const Report& report) {
  for (const Place place : {Place::kPrivate, Place::kNative, Place::kConnector}) {
    std::vector<double> by_clock;
    std::vector<double> by_cpu;
    for (const Run& run : report.runs) {
      if (run.place != place) continue;
      by_clock.push_back(run.result.decode_tokens_per_second());
      by_cpu.push_back(run.result.decode_tokens_per_cpu_second());
    }
    if (by_clock.size() < 2) continue;
    const Spread clock = spread_of(by_clock);
    const Spread cpu = spread_of(by_cpu);
    fmt::print(
        "speed     {:<9} median {:.0f} tokens/s of {} runs, {:.0f} to {:.0f}; by CPU time {:.0f}, {:.0f} to "
        "{:.0f}\n",
        name_of(place), clock.median, by_clock.size(), clock.least, clock.most, cpu.median, cpu.least,
        cpu.most);
  }
}

Json json_of(const Run& run) {
  const DecodeResult& result = run.result;
  const CacheCounts& counts = run.counts;
  Json json = {{"place", name_of(run.place)},
               {"prompt_tokens", result.prompt_tokens},
               {"decoded_tokens", result.tokens.size() - result.prompt_tokens},
               {"tokens", result.tokens},
               {"logits", digest_text(result.logits)},
               {"prefill_steps", result.prefill_steps},
               {"decode_steps", result.decode_steps},
               {"steps_again", result.steps_again},
               {"prefill_seconds", result.prefill_seconds},
               {"decode_seconds", result.decode_seconds},
               {"decode_cpu_seconds", result.decode_cpu_seconds},
               {"decode_tokens_per_second", result.decode_tokens_per_second()},
               {"blocks_found", counts.blocks_found},
               {"blocks_published", counts.blocks_published},
               {"blocks_present", counts.blocks_present},
               {"frames_changed", counts.frames_changed},
               {"blocks_moved", counts.blocks_moved},
               {"frames_crossed", counts.frames_crossed},
               {"daemon_away", counts.daemon_away},
               {"sessions_lost", counts.sessions_lost},
               {"arena_moves", counts.arena_moves}};
  if (run.mass.samples != 0) {
    const auto samples = static_cast<double>(run.mass.samples);
    json["attention_mass"] = {{"pages", run.mass.pages},
                              {"samples", run.mass.samples},
                              {"in_pages", run.mass.in_pages / samples},
                              {"of_tokens", run.mass.of_tokens / samples}};
  }
  return json;
}

}  // namespace

std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\n' || (c >= ' ' && c <= '~'))
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out;
}

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

void print_report(const Report& report) {
  fmt::print("model     {}; weights from {}, digest {}\n", shape_text(report.shape), report.weights,
             report.model);
  if (report.trained)
    fmt::print("training  {} tokens in {:.1f} s: held-out loss {:.3f} -> {:.3f} nats a byte\n",
               report.training.tokens, report.training.seconds, report.training.loss_before,
               report.training.loss_after);
  if (report.runs.empty()) return;
  if (!report.device.empty()) fmt::print("device    {}\n", report.device);
  fmt::print("attention {}, {} tokens in a block\n", report.options.attention.text(),
             report.options.block_tokens);
  for (const Run& run : report.runs) print_run(report, run);
  print_speeds(report);
  const DecodeResult& last = report.runs.back().result;
  fmt::print("logits    {}\n", digest_text(last.logits));
  fmt::print("decoded   {}\n", printable(text_of(last.tokens, last.prompt_tokens)));
  if (report.verified)
    fmt::print("verified  {}\n", report.difference.empty()
                                     ? "every token and every bit of the logits as on private memory"
                                     : "DIFFERENT: " + report.difference);
}

void write_json(const Report& report, const std::string& path) {
  const Shape& shape = report.shape;
  Json json = {{"model",
                {{"layers", shape.layers},
                 {"width", shape.width},
                 {"heads", shape.heads},
                 {"kv_heads", shape.kv_heads},
                 {"head_dim", shape.head_dim},
                 {"hidden", shape.hidden},
                 {"weights", report.weights},
                 {"digest", report.model}}},
               {"attention", report.options.attention.text()},
               {"block_tokens", report.options.block_tokens},
               {"arena", report.options.arena.arena},
               {"column", report.options.arena.column}};
  if (!report.device.empty()) json["device"] = report.device;
  if (report.trained) {
    json["training"] = {{"tokens", report.training.tokens},
                        {"seconds", report.training.seconds},
                        {"loss_before", report.training.loss_before},
                        {"loss_after", report.training.loss_after}};
  }
  json["runs"] = Json::array();
  for (const Run& run : report.runs) json["runs"].push_back(json_of(run));
  if (report.verified)
    json["verify"] = {{"equal", report.difference.empty()}, {"difference", report.difference}};
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  file.close();
  if (!file) throw std::runtime_error(fmt::format("--json {}: cannot be written", path));
}

}  // namespace kvt::decode
