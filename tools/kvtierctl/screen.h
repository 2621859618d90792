// SPDX-License-Identifier: Apache-2.0
//
// A terminal that is drawn on as a whole (ncurses). One at a time; one thread.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/kvtierctl/top_view.h"

namespace kvt::ctl {

enum class Key : uint8_t {
  kNone,
  kEnd,  ///< q, Ctrl-C, or the terminal has gone
  kNextView,
  kPreviousView,
  kView,  ///< a digit
  kUp,
  kDown,
  kPageUp,
  kPageDown,
  kHome,
  kPause,
  kFaster,
  kSlower,
  kSort,
  kHelp,
  kResized,
};

/// The terminal cannot be drawn on. what() says why.
class NoScreen : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Screen {
 public:
  /// Throws NoScreen; the terminal is as it was then.
  Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  /// The terminal is as it was.
  ~Screen();

  [[nodiscard]] size_t rows() const;
  [[nodiscard]] size_t columns() const;
  /// What does not fit is cut off.
  void draw(const std::vector<Line>& lines);
  struct Pressed {
    Key key = Key::kNone;  ///< kNone: nothing, in that time
    int digit = 0;
  };
  Pressed wait(int timeout_ms);

 private:
  void* screen_ = nullptr;  // a SCREEN of curses
  bool colours_ = false;
};

}  // namespace kvt::ctl
