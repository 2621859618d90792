// SPDX-License-Identifier: Apache-2.0
//
// `kvtierctl top`: asks the daemon once an interval and shows what has become of its counters.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <thread>
#include <utility>

#include "tools/kvtierctl/client.h"
#include "tools/kvtierctl/commands.h"
#include "tools/kvtierctl/render.h"
#include "tools/kvtierctl/screen.h"
#include "tools/kvtierctl/top_view.h"

namespace kvt::ctl {
namespace {

using Clock = std::chrono::steady_clock;

/// A daemon that does not answer in time is not waited for: it is asked again.
constexpr int kTimeoutMs = 1000;
constexpr double kSecondsLeast = 0.2;
constexpr double kSecondsMost = 10;
constexpr size_t kRowsLeast = 6;
constexpr size_t kColumnsLeast = 40;
constexpr size_t kViews = std::size(kViewNames);
constexpr size_t kOrders = std::size(kOrderNames);

Clock::duration interval_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

View view_named(const std::string& name) {
  for (size_t i = 0; i < kViews; ++i)
    if (name == kViewNames[i]) return static_cast<View>(i);
  throw WrongUse("there is no view " + name);
}

/// Asks for what `view` needs.
void ask_for(const Options& options, View view, Answered& answered) {
  std::string status = ask(options.socket_dir, command_request("status"), kTimeoutMs);
  check_answer(status);
  answered.before = std::exchange(answered.status, std::move(status));
  if (view == View::kEvents) answered.events = ask(options.socket_dir, command_request("events"), kTimeoutMs);
  if (view == View::kHeat) answered.heat = ask(options.socket_dir, command_request("heat"), kTimeoutMs);
}

/// Text for scripts: `times` times the view, or for ever with 0.
Output batch(const Options& options, View view, uint64_t times) {
  Answered answered;
  ask_for(options, view, answered);
  for (uint64_t i = 0; times == 0 || i < times; ++i) {
    std::this_thread::sleep_for(interval_of(options.top.interval));
    ask_for(options, view, answered);
    if (options.json) return {rates_json(answered), "", 0};
    std::vector<Line> lines = view_lines(answered, view, SessionOrder::kId);
    lines.insert(lines.begin(), head_line(answered));
    if (i != 0) lines.insert(lines.begin(), Line());
    const std::string text = plain_text(lines);
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
      return {};  // its reader has gone
  }
  return {};
}

/// What is shown and what the keys have changed.
class Top {
 public:
  Top(const Options& options, View view) : options_(options), view_(view), seconds_(options.top.interval) {}

  void run() {
    Clock::time_point next{};
    for (;;) {
      if (!paused_ && Clock::now() >= next) {
        look();
        next = Clock::now() + interval_of(seconds_);
      }
      draw();
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count() + 1;
      const Screen::Pressed pressed =
          screen_.wait(paused_ ? 60'000 : static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
      if (pressed.key == Key::kEnd) return;
      const double before = seconds_;
      const View view_before = view_;
      press(pressed);
      if (seconds_ != before) next = Clock::now() + interval_of(seconds_);
      // It may need another answer; rates would be those of a moment.
      if (view_ != view_before && !paused_) look_at_more();
    }
  }

 private:
  void look() {
    try {
      ask_for(options_, view_, answered_);
      trouble_.clear();
    } catch (const std::exception& error) {  // a daemon that is being restarted is there again soon
      trouble_ = error.what();
    }
  }

  void look_at_more() {
    try {
      if (view_ == View::kHeat)
        answered_.heat = ask(options_.socket_dir, command_request("heat"), kTimeoutMs);
      if (view_ == View::kEvents)
        answered_.events = ask(options_.socket_dir, command_request("events"), kTimeoutMs);
    } catch (const std::exception& error) {
      trouble_ = error.what();
    }
  }

  Line tabs() const {
    Line line;
    for (size_t i = 0; i < kViews; ++i) {
      line.push_back({fmt::format("{} {}", i + 1, kViewNames[i]),
                      static_cast<View>(i) == view_ ? Look::kTitle : Look::kPlain});
      line.push_back({"  "});
    }
    line.push_back({fmt::format("{:.2g} s", seconds_)});
    if (paused_) line.push_back({"  PAUSED", Look::kWarn});
    if (order_ != SessionOrder::kId)
      line.push_back({std::string("  by ") + kOrderNames[static_cast<size_t>(order_)]});
    line.push_back({"  h help  q end", Look::kDim});
    return line;
  }

  std::vector<Line> body() const {
    if (help_) return help_lines();
    if (answered_.status.empty()) return {};
    try {
      return view_lines(answered_, view_, order_);
    } catch (const BadAnswer& error) {
      return {{{error.what(), Look::kBad}}};
    }
  }

  void draw() {
    const size_t rows = screen_.rows();
    if (rows < kRowsLeast || screen_.columns() < kColumnsLeast)
      return screen_.draw(
          {{{fmt::format("{} by {} at least", kColumnsLeast, kRowsLeast), Look::kWarn}}, {{"q: end"}}});
    std::vector<Line> lines;
    try {
      if (!answered_.status.empty()) lines.push_back(head_line(answered_));
    } catch (const BadAnswer& error) {
      lines.push_back({{error.what(), Look::kBad}});
    }
    if (lines.empty()) lines.push_back({{"kvtierctl top", Look::kBold}});
    lines.push_back(tabs());
    lines.push_back(trouble_.empty() ? Line() : Line{{trouble_, Look::kBad}});
    std::vector<Line> all = body();
    const size_t room = rows - lines.size();
    const size_t last = all.size() > room ? all.size() - room : 0;
    scroll_ = std::min(scroll_, last);
    for (size_t i = scroll_; i < all.size() && lines.size() < rows; ++i) lines.push_back(std::move(all[i]));
    if (scroll_ < last) lines.back() = {{fmt::format("... {} more lines", last - scroll_ + 1), Look::kDim}};
    screen_.draw(lines);
  }

  void show(size_t view) {
    view_ = static_cast<View>(view % kViews);
    scroll_ = 0;
    help_ = false;
  }

  void press(const Screen::Pressed& pressed) {
    const size_t page = screen_.rows() > 5 ? screen_.rows() - 5 : 1;
    const auto at = static_cast<size_t>(view_);
    switch (pressed.key) {
      case Key::kNextView: show(at + 1); break;
      case Key::kPreviousView: show(at + kViews - 1); break;
      case Key::kView:
        if (static_cast<size_t>(pressed.digit) <= kViews) show(static_cast<size_t>(pressed.digit) - 1);
        break;
      case Key::kUp: scroll_ -= std::min<size_t>(scroll_, 1); break;
      case Key::kDown: ++scroll_; break;
      case Key::kPageUp: scroll_ -= std::min(scroll_, page); break;
      case Key::kPageDown: scroll_ += page; break;
      case Key::kHome: scroll_ = 0; break;
      case Key::kPause: paused_ = !paused_; break;
      case Key::kFaster: seconds_ = std::max(kSecondsLeast, seconds_ / 2); break;
      case Key::kSlower: seconds_ = std::min(kSecondsMost, seconds_ * 2); break;
      case Key::kSort: order_ = static_cast<SessionOrder>((static_cast<size_t>(order_) + 1) % kOrders); break;
      case Key::kHelp:
        help_ = !help_;
        scroll_ = 0;
        break;
      default: break;
    }
  }

  const Options& options_;
  Screen screen_;
  Answered answered_;
  std::string trouble_;
  View view_;
  SessionOrder order_ = SessionOrder::kId;
  double seconds_;
  size_t scroll_ = 0;
  bool paused_ = false;
  bool help_ = false;
};

}  // namespace

Output top(const Options& options) {
  const View view = view_named(options.top.view);
  if (options.top.once || options.json) return batch(options, view, 1);
  if (options.top.batch != 0) return batch(options, view, options.top.batch);
  try {
    Top(options, view).run();
    return {};
  } catch (const NoScreen& why) {
    if (::isatty(STDOUT_FILENO) == 0)
      throw WrongUse(std::string(why.what()) + "; --once and --batch N print text");
    fmt::print(stderr, "kvtierctl: {}: plain text instead, as with --batch\n", why.what());
  }
  return batch(options, view, 0);
}

}  // namespace kvt::ctl
