// SPDX-License-Identifier: Apache-2.0
//
// control.sock: one JSON request a connection, one JSON answer, for operators and their tools. The daemon renders,
// kvtierctl prints. Runs on the loop's thread; never blocks.
//
//   {"command": "status"} | "tiers" | "arenas" | "sessions" | "quiesce" | {"command": "page", "arena": A, "page": N}
//
// Every answer has "ok"; with false, "error" says what was expected.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/server/server.h"

namespace kvt::control {

class Control {
 public:
  /// Listens at socket_dir/control.sock, for the daemon's user alone.
  static Result<std::unique_ptr<Control>> start(keeper::EventLoop& loop, keeper::Keeper& keeper, const server::Server& server);
  ~Control();

  /// The answer to one request line.
  [[nodiscard]] std::string answer(const std::string& request);

 private:
  struct Connection {
    Fd socket;
    std::string request;
  };
  Control(keeper::EventLoop& loop, keeper::Keeper& keeper, const server::Server& server);
  void on_accept();
  void on_data(Connection& connection);
  void close(int fd);

  keeper::EventLoop& loop_;
  keeper::Keeper& keeper_;
  const server::Server& server_;
  std::string path_;
  Fd listener_;
  Fd spare_;  ///< given up for a moment when there are no descriptors left
  keeper::Keeper::Clock::time_point started_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
};

}  // namespace kvt::control
