// SPDX-License-Identifier: Apache-2.0
//
// A report has every figure, is well-formed, loads nothing, and shows names as they are.
#include "tools/kvtiersim/report/html.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "tools/kvtiersim/model/random.h"
#include "tools/kvtiersim/report/svg.h"

namespace kvt::sim {
namespace {

/// What is wrong with tags and entities of a document of ours (all attributes quoted, all elements closed),
/// or empty.
std::string malformed(std::string_view text) {
  std::vector<std::string> open;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '&') {
      const size_t end = text.find(';', at);
      if (end == std::string_view::npos || end - at > 6) return "a bare & at " + std::to_string(at);
    }
    if (text[at] == '>') return "a bare > at " + std::to_string(at);
    if (text[at] != '<') continue;
    size_t end = at + 1;
    bool quoted = false;
    for (; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return "a bare < at " + std::to_string(end);
    }
    if (end == text.size()) return "a tag without an end at " + std::to_string(at);
    const std::string_view tag = text.substr(at + 1, end - at - 1);
    const std::string name(tag.substr(0, tag.find_first_of(" /", 1)));
    if (tag.front() == '/') {
      if (open.empty() || open.back() != name.substr(1))
        return "<" + std::string(tag) + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (tag.front() != '!' && tag.back() != '/' && name != "meta") {
      open.push_back(name);
      if (name == "style") at = text.find("</style>", end) - 1;
    }
    if (name != "style") at = end;
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

/// Text of the table cells.
std::vector<std::string> table_cells(const std::string& html) {
  std::vector<std::string> cells;
  for (const std::string_view kind : {"td>", "th scope=\"row\">"}) {
    for (size_t at = html.find("<" + std::string(kind)); at != std::string::npos;
         at = html.find("<" + std::string(kind), at + 1)) {
      const size_t begin = at + 1 + kind.size();
      cells.push_back(html.substr(begin, html.find("</", begin) - begin));
    }
  }
  return cells;
}

Results results_of(std::vector<double> sizes, std::vector<uint64_t> seeds, bool bound, uint64_t draws) {
  Random random(draws);
  Results results{.trace = "zipf <3 & \"more\"",
                  .modelled = "all",
                  .profile = "families",
                  .machine = "hbm 3700 GB/s",
                  .cost = "offers",
                  .advice = 0.25,
                  .page_bytes = 65536,
                  .cells = {}};
  for (const double size : sizes) {
    for (const uint64_t seed : seeds) {
      Cell cell{.hbm_percent = size,
                .hbm_pages = random.below(100'000),
                .seed = seed,
                .pages = 4000,
                .steps = 300,
                .bounds = {},
                .policies = {}};
      if (bound)
        cell.bounds = BoundFigures{.ub0 = random.uniform(),
                                   .ub1 = 1 + random.uniform(),
                                   .ub2 = 2 + random.uniform(),
                                   .gap = random.uniform() / 100,
                                   .feasible_seconds = 3 + random.uniform()};
      for (const char* const name : {"lru", "reference", "kvtier", "belady"}) {
        Outcome outcome;
        outcome.seconds = 4 + random.uniform();
        outcome.counts = {.promoted_in_read = random.below(1'000'000),
                          .promoted_copy = random.below(1'000'000),
                          .demoted_free = random.below(1'000'000),
                          .demoted_copy = random.below(1'000'000),
                          .not_paid_back = random.below(1000)};
        outcome.bytes_moved = 1e12 * random.uniform();
        outcome.hits = random.below(1'000'000'000);
        outcome.asked = 1'000'000'000 + random.below(1'000'000'000);
        cell.policies.push_back({.name = name, .oracle = std::string(name) == "belady", .outcome = outcome});
      }
      results.cells.push_back(std::move(cell));
    }
  }
  return results;
}

Trace small_trace(uint32_t steps) {
  Trace trace;
  trace.name = "small";
  trace.page_bytes = 1000;
  trace.pages = 7;
  for (uint32_t n = 0; n < steps; ++n) {
    for (uint32_t page = n % 2; page < 7; page += 2) {
      trace.page.push_back(page);
      trace.reads.push_back(static_cast<uint16_t>(1 + page));
    }
    trace.end_step();
  }
  trace.finish();
  return trace;
}

/// Promotes what is read while there is room.
class Fills : public Policy {
 public:
  void step(const StepView& step, World& world) override {
    for (const uint32_t page : step.page)
      if (!world.fast(page) && world.room() != 0) world.promote(page);
  }
};

void expect_offline(const std::string& html) {
  EXPECT_EQ(malformed(html), "");
  for (const char* const word : {"http", "src=", "href=", "url(", "@import", "<script", "<link"})
    EXPECT_EQ(html.find(word), std::string::npos) << word;
  EXPECT_NE(html.find("prefers-color-scheme: dark"), std::string::npos);
  EXPECT_EQ(html.find("nan"), std::string::npos) << "a coordinate or figure is no number";
  EXPECT_EQ(html.find("=\"inf"), std::string::npos);
  for (const std::string& cell : table_cells(html)) EXPECT_NE(cell, "inf");
}

TEST(Html, HasAllFiguresOfARun) {
  for (const bool bound : {false, true}) {
    for (const auto& sizes : {std::vector<double>{25}, std::vector<double>{12.5, 50}}) {
      const Results results = results_of(sizes, {101, 102}, bound, 7);
      const std::string html = html_text(results, {});
      expect_offline(html);
      EXPECT_NE(html.find("zipf &lt;3 &amp; &quot;more&quot;"), std::string::npos);
      std::vector<std::string> cells = table_cells(html);
      std::sort(cells.begin(), cells.end());
      const auto has = [&](const std::string& text) {
        return std::binary_search(cells.begin(), cells.end(), text);
      };
      const auto expect = [&](double value) { EXPECT_TRUE(has(fmt::format("{:.6g}", value))) << value; };
      const auto expect_count = [&](uint64_t value) { EXPECT_TRUE(has(std::to_string(value))) << value; };
      for (const Cell& cell : results.cells) {
        expect(cell.hbm_percent);
        expect_count(cell.hbm_pages);
        expect_count(cell.seed);
        if (bound)
          for (const double value : {cell.bounds->ub0, cell.bounds->ub1, cell.bounds->ub2, cell.bounds->gap,
                                     cell.bounds->feasible_seconds})
            expect(value);
        for (const PolicyResult& policy : cell.policies) {
          const Outcome& o = policy.outcome;
          EXPECT_TRUE(has(policy.name));
          expect(o.seconds);
          expect(o.bytes_moved);
          if (bound) expect(100 * cell.bounds->ub2 / o.seconds);
          for (const uint64_t value :
               {o.counts.moves(), o.counts.promoted_in_read, o.counts.promoted_copy, o.counts.demoted_copy,
                o.counts.demoted_free, o.counts.not_paid_back, o.hits, o.asked})
            expect_count(value);
        }
      }
    }
  }
}

TEST(Html, SaysNothingOfAScheduleThatWasNotMade) {
  Results results = results_of({25}, {101}, true, 7);
  EXPECT_NE(html_text(results, {}).find("a clairvoyant schedule "), std::string::npos);
  results.cells.front().bounds->feasible_seconds = std::numeric_limits<double>::infinity();
  const std::string html = html_text(results, {});
  expect_offline(html);
  EXPECT_EQ(html.find("a clairvoyant schedule "), std::string::npos);
}

TEST(Html, HasAllFiguresOfThePaper) {
  for (const auto& sparsities : {std::vector<double>{60}, std::vector<double>{40, 50, 60}}) {
    Random random(3);
    std::vector<PaperRow> rows;
    for (const char* const variation : {"actual", "generated"}) {
      for (const double sparsity : sparsities) {
        PaperRow row;
        row.sparsity = sparsity;
        row.variation = variation;
        row.noise = "drift";
        row.new_tokens = 20 + random.uniform();
        row.best_seconds = 20 + random.uniform();
        row.ub1_seconds = 22 + random.uniform();
        for (const char* const name : {"static", "lru", "sa", "kvtier"})
          row.policies.push_back({name,
                                  {.seconds = 25 + random.uniform(),
                                   .hit_rate = random.uniform(),
                                   .hit_rate_with_weights = random.uniform(),
                                   .bytes_moved = 1e12 * random.uniform()}});
        rows.push_back(row);
      }
    }
    const std::string html = html_text(rows);
    expect_offline(html);
    std::vector<std::string> cells = table_cells(html);
    std::sort(cells.begin(), cells.end());
    const auto expect = [&](double value) {
      EXPECT_TRUE(std::binary_search(cells.begin(), cells.end(), fmt::format("{:.6g}", value))) << value;
    };
    for (const PaperRow& row : rows) {
      for (const double value : {row.sparsity, row.new_tokens, row.best_seconds, row.ub1_seconds})
        expect(value);
      for (const auto& [name, result] : row.policies)
        for (const double value :
             {result.seconds, result.hit_rate, result.hit_rate_with_weights, result.bytes_moved})
          expect(value);
    }
  }
}

TEST(Html, DrawsWhatHappenedOverTheSteps) {
  for (const uint32_t steps : {1u, 5u, 300u}) {
    const Trace trace = small_trace(steps);
    Machine machine = find_machine("families");
    machine.tiers[0].capacity_pages = 3;
    Fills policy;
    CourseRecorder recorder("kvtier", false, steps);
    const Outcome outcome = simulate(trace, machine, Cost::kOffers, policy, 0, std::ref(recorder));
    const Course course = recorder.course();
    double seconds = 0, moved = 0;
    for (uint32_t bin = 0; bin < course.bins.count; ++bin) {
      seconds += course.seconds[bin];
      moved += course.bytes_moved[bin];
      EXPECT_GE(course.fast_share[bin], 0);
      EXPECT_LE(course.fast_share[bin], 1);
    }
    EXPECT_NEAR(seconds, outcome.seconds, 1e-12);
    EXPECT_DOUBLE_EQ(moved, outcome.bytes_moved);
    EXPECT_EQ(course.fast_share.front(), 0) << "the fast tier begins empty";
    if (steps > 1) {
      EXPECT_GT(course.fast_share.back(), 0);
    }

    const HeatMap heat = heat_map(trace, 3, 4);
    ASSERT_EQ(heat.groups, 3u);
    double reads = 0;  // what the cells stand for is every read
    for (uint32_t group = 0; group < heat.groups; ++group)
      for (uint32_t bin = 0; bin < heat.bins.count; ++bin)
        reads += heat.reads[group * heat.bins.count + bin] *
                 (heat.first_page(group + 1) - heat.first_page(group)) *
                 (heat.bins.first(bin + 1) - heat.bins.first(bin));
    EXPECT_NEAR(reads, static_cast<double>(trace.asked()), 1e-6 * reads);
    EXPECT_GT(heat.reads[2 * heat.bins.count], heat.reads[0]) << "later pages are read more";

    const std::string html =
        html_text(results_of({25}, {101}, true, 5),
                  {{.hbm_percent = 25, .seed = 101, .heat = heat_map(trace), .courses = {course}}});
    expect_offline(html);
    EXPECT_NE(html.find("Heat over time"), std::string::npos);
    EXPECT_NE(html.find("class=\"heat\""), std::string::npos);
    EXPECT_NE(html.find("<polyline class=\"line ours\""), std::string::npos);
  }
}

TEST(Html, BinsAndStepsAgree) {
  for (uint32_t steps = 1; steps < 60; ++steps) {
    for (const uint32_t most : {1u, 7u, 40u}) {
      const Bins bins(steps, most);
      for (uint32_t step = 0; step < steps; ++step) {
        const uint32_t bin = bins.of(step);
        ASSERT_LT(bin, bins.count);
        ASSERT_LE(bins.first(bin), step) << steps << " " << most;
        ASSERT_LT(step, bins.first(bin + 1)) << steps << " " << most;
      }
    }
  }
}

TEST(Html, TheCheckOfTagsSeesWhatIsWrong) {
  EXPECT_EQ(malformed("<p>a &amp; b<br/></p>"), "");
  for (const char* const wrong :
       {"<p>", "<p></b></p>", "<p>a & b</p>", "<p>a < b</p>", "<p a=\"x></p>", "</p>", "a > b"})
    EXPECT_NE(malformed(wrong), "") << wrong;
  EXPECT_EQ(escaped("<a b=\"c\" d='e'>&"), "&lt;a b=&quot;c&quot; d=&#39;e&#39;&gt;&amp;");
}

}  // namespace
}  // namespace kvt::sim
