// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtierctl/screen.h"

#include <curses.h>
#include <poll.h>
#include <term.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

// Names of capabilities, which term.h has as macros
#undef columns
#undef lines

namespace kvt::ctl {
namespace {

/// Colour pairs.
constexpr short kGood = 1;
constexpr short kWarn = 2;
constexpr short kBad = 3;

/// Whether the terminal of this name can be drawn on; says why not.
std::string why_not(const char* name) {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
    return "top draws on a terminal, and this is none";
  if (name == nullptr || name[0] == '\0') return "TERM is not set, so nobody knows what this terminal can do";
  int error = 0;
  if (::setupterm(name, STDOUT_FILENO, &error) != OK)
    return std::string("terminals of TERM=") + name + " are not known here (package ncurses-term?)";
  char capability[] = "cup";  // moves the cursor
  const char* const moves = ::tigetstr(capability);
  const bool can_move = moves != nullptr && moves != reinterpret_cast<const char*>(-1);
  ::del_curterm(cur_term);
  if (!can_move) return std::string("a terminal of TERM=") + name + " cannot move its cursor";
  return {};
}

}  // namespace

Screen::Screen() {
  const char* const name = std::getenv("TERM");
  if (const std::string why = why_not(name); !why.empty()) throw NoScreen(why);
  SCREEN* const screen = ::newterm(nullptr, stdout, stdin);
  if (screen == nullptr) throw NoScreen("the terminal cannot be set up");
  screen_ = screen;
  ::raw();  // Ctrl-C is a key: the terminal is put back in order
  ::noecho();
  ::keypad(stdscr, TRUE);
  ::nodelay(stdscr, TRUE);
  ::curs_set(0);
  ::set_escdelay(50);
  const char* const none = std::getenv("NO_COLOR");
  colours_ = ::has_colors() && (none == nullptr || none[0] == '\0') && ::start_color() == OK;
  if (!colours_) return;
  ::use_default_colors();
  ::init_pair(kGood, COLOR_GREEN, -1);
  ::init_pair(kWarn, COLOR_YELLOW, -1);
  ::init_pair(kBad, COLOR_RED, -1);
}

Screen::~Screen() {
  ::endwin();
  ::delscreen(static_cast<SCREEN*>(screen_));
}

size_t Screen::rows() const { return static_cast<size_t>(LINES); }
size_t Screen::columns() const { return static_cast<size_t>(COLS); }

void Screen::draw(const std::vector<Line>& lines) {
  const auto colour = [this](short pair) { return colours_ ? COLOR_PAIR(pair) : chtype{A_NORMAL}; };
  const auto attributes = [&](Look look) -> chtype {
    switch (look) {
      case Look::kPlain: return A_NORMAL;
      case Look::kBold: return A_BOLD;
      case Look::kDim: return A_DIM;
      case Look::kTitle: return A_REVERSE;
      case Look::kGood: return colour(kGood);
      case Look::kWarn: return A_BOLD | colour(kWarn);
      case Look::kBad: return A_BOLD | A_REVERSE | colour(kBad);
    }
    return A_NORMAL;
  };
  ::erase();
  for (size_t row = 0; row < lines.size() && row < rows(); ++row) {
    ::move(static_cast<int>(row), 0);
    int left = COLS;
    for (const Piece& piece : lines[row]) {
      const int fits = std::min(left, static_cast<int>(piece.text.size()));
      ::attrset(static_cast<attr_t>(attributes(piece.look)));
      ::addnstr(piece.text.c_str(), fits);
      left -= fits;
      if (left == 0) break;
    }
  }
  ::attrset(A_NORMAL);
  ::refresh();
}

Screen::Pressed Screen::wait(int timeout_ms) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  const int ready = ::poll(&input, 1, timeout_ms);  // a signal ends it: SIGWINCH comes as a key below
  const int key = ::getch();
  if (key == ERR) return {ready > 0 ? Key::kEnd : Key::kNone};
  switch (key) {
    case 'q':
    case 'Q':
    case 3:  // Ctrl-C
    case 4: return {Key::kEnd};
    case '\t':
    case KEY_RIGHT: return {Key::kNextView};
    case KEY_BTAB:
    case KEY_LEFT: return {Key::kPreviousView};
    case KEY_UP: return {Key::kUp};
    case KEY_DOWN: return {Key::kDown};
    case KEY_PPAGE: return {Key::kPageUp};
    case KEY_NPAGE: return {Key::kPageDown};
    case KEY_HOME: return {Key::kHome};
    case 'p':
    case ' ': return {Key::kPause};
    case '+':
    case '=': return {Key::kFaster};
    case '-': return {Key::kSlower};
    case 's': return {Key::kSort};
    case 'h':
    case '?': return {Key::kHelp};
    case KEY_RESIZE: return {Key::kResized};
    default: break;
  }
  if (key >= '1' && key <= '9') return {Key::kView, key - '0'};
  return {};
}

}  // namespace kvt::ctl
