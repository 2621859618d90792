// SPDX-License-Identifier: Apache-2.0
//
// A second process for one test: a fork that uses the library and talks with the test line by line. It must
// be forked while the test process has one thread. It dies with the test process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

namespace kvt::test {

/// One end of the lines between a test and its child.
class Lines {
 public:
  Lines() = default;
  Lines(int in, int out) : in_(in), out_(out) {}
  void say(const std::string& line) const;
  /// The other side's next line; "" when it has gone or nothing came in time.
  [[nodiscard]] std::string hear();
  /// Whether the other side has said something, or gone.
  [[nodiscard]] bool has_line() const;

 private:
  int in_ = -1;
  int out_ = -1;
  std::string buffer_;
};

class Child {
 public:
  /// What the child does; returns "" or what went wrong.
  using Body = std::function<std::string(Lines&)>;
  explicit Child(const Body& body);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void say(const std::string& line) const { lines_.say(line); }
  [[nodiscard]] std::string hear() { return lines_.hear(); }
  [[nodiscard]] bool has_line() const { return lines_.has_line(); }
  /// Waits for the end of its body: "" or what went wrong in it.
  [[nodiscard]] std::string finish();
  /// SIGKILL, and waits for the end.
  void kill();

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  Lines lines_;
};

}  // namespace kvt::test

/// In a child's body: returns the place and the words of a condition that does not hold.
#define KVT_CHILD_CHECK(condition)                                                                         \
  do {                                                                                                     \
    if (!(condition))                                                                                      \
      return std::string(__FILE__ ":" + std::to_string(__LINE__) + ": " #condition "; kvt_last_error: ") + \
             kvt_last_error();                                                                             \
  } while (false)
