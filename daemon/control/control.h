// SPDX-License-Identifier: Apache-2.0
//
// control.sock: one JSON request a connection, one JSON answer (answers.h). An answer may be longer than the
// socket takes at once: the rest goes out when there is room; one that takes long comes when it is there. Who does not send
// a request, or does not take the answer, in ten seconds is hung up on. Runs on the loop's thread; never blocks.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "daemon/control/answers.h"
#include "daemon/keeper/event_loop.h"

namespace kvt::control {

class Control {
 public:
  /// Listens at socket_dir/control.sock, for the daemon's user alone; or at the socket that the service manager has opened
  /// there.
  static Result<std::unique_ptr<Control>> start(keeper::EventLoop& loop, keeper::Keeper& keeper,
                                                server::Server& server, const events::EventLog& events,
                                                Tell tell, Fd given = {});
  ~Control();

  /// After each pass of the loop.
  void look(keeper::Keeper::Clock::time_point now) { answers_.look(now); }

 private:
  using Clock = keeper::Keeper::Clock;
  struct Connection {
    Fd socket;
    std::string who;  ///< for people: user and process
    Clock::time_point deadline;
    std::string request;
    std::string reply;    ///< empty: the request is not complete
    size_t sent = 0;      ///< bytes of `reply`
    uint64_t serial = 0;  ///< no other has had it
    bool waits = false;   ///< for an answer that comes later: nothing is looked for in its socket
  };
  Control(keeper::EventLoop& loop, keeper::Keeper& keeper, server::Server& server,
          const events::EventLog& events, Tell tell)
      : loop_(loop), answers_(keeper, server, events, std::move(tell)) {}
  void on_accept();
  void on_ready(Connection& connection);
  void on_tick();
  void set_tick(bool on);
  /// true: it has to be closed.
  bool receive(Connection& connection);
  bool send_more(Connection& connection);
  void take_answer(int fd, uint64_t serial, const std::string& text);
  void close(int fd);

  keeper::EventLoop& loop_;
  Answers answers_;
  std::string path_;  ///< empty: the service manager's
  Fd listener_;
  Fd spare_;  ///< given up for a moment when there are no descriptors left
  Fd timer_;  ///< rings each second while there are connections
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
  uint64_t next_serial_ = 1;
};

}  // namespace kvt::control
