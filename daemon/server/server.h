// SPDX-License-Identifier: Apache-2.0
//
// attach.sock: connections, versions, who may attach what, and the end of processes. It hands out descriptors
// and tells the keeper about sessions; it never looks into their memory. Runs on the loop's thread; never
// blocks.
//
// What a grant hands out has been stored for the next daemon before it is sent, and the store has said so (PROTOCOL A2):
//
//   ATTACH, JOIN: session made and scanned -> slot of the restart state -> descriptors to the store -> barrier -> GRANT
//
// A process's claims end when its pidfd says that it is dead, or when it detaches; a socket that closes makes
// its member an orphan whose claims all count (PROTOCOL A1). When the owner has gone, nothing new begins in
// the session; it ends with its last process, or when an operator says so. A process that works with a GPU is
// quarantined when it dies, until its GPU work has ended.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/events/kind.h"
#include "daemon/keeper/event_loop.h"
#include "daemon/keeper/keeper.h"
#include "daemon/restart/kept.h"
#include "daemon/server/access.h"
#include "daemon/server/attach_turns.h"
#include "daemon/server/closer.h"
#include "shm/abi/wire.h"
#include "shm/base/socket.h"

namespace kvt::server {

using Token = std::array<uint8_t, KVT_SESSION_TOKEN_BYTES>;

class Server {
 public:
  using Log = std::function<void(events::Kind, const std::string&)>;

  /// `log` gets one line for each refusal and each session that begins or ends. Sessions that the keeper has taken over
  /// from an earlier daemon go on: their processes resume, or have died meanwhile.
  static Result<std::unique_ptr<Server>> create(keeper::EventLoop& loop, keeper::Keeper& keeper, Log log,
                                                const AttachTurns& turns = AttachTurns());
  ~Server();

  /// Listens at socket_dir/attach.sock, or at the socket that the service manager has opened there, whose owner and mode
  /// are the manager's. Once, when all else is ready: who can attach finds the rest of the daemon there.
  Result<void> listen(Fd given = {});

  struct SessionInfo {
    uint64_t id;
    std::string arena;
    int pid;
    uint32_t uid;
    uint32_t members;
    bool connected;
    uint32_t quarantined;   ///< of its processes: dead, and their GPU's work may go on
    uint32_t device_tiers;  ///< bits of the tiers whose device memory it has
    bool ending = false;    ///< its owner has gone: it ends with the last of its processes
  };
  [[nodiscard]] std::vector<SessionInfo> sessions() const;
  /// The session ends as if all of its processes had died: its steps, holds and unpublished pages count no
  /// more, and its connections are closed. The operator's word, never ours (PROTOCOL B6): a process of it
  /// that lives and still reads where it resolved sees other bytes from now on, and one that still writes
  /// spoils the page that is there then. Such a process begins no step any more, its open ones say so when
  /// they end, and when it asks for anything it is told that the session has ended; it may attach anew.
  /// kNotFound.
  Result<void> evict_session(uint64_t id);
  /// Keeper::create_arena(), and who may attach it from when `made` is told on. kNotFound, too: no such user or group.
  Result<void> create_arena(ArenaConfig arena, const std::map<std::string, std::string>& sources,
                            keeper::Keeper::Made made);
  /// Keeper::delete_arena(), after all of its sessions have been evicted; how many they were. What their processes have
  /// mapped stays theirs. REQUIRES: the arena is the keeper's.
  uint64_t delete_arena(keeper::Arena& arena, std::function<void()> done);
  /// Counters: attach requests refused, connections dropped for bad messages or to make room.
  [[nodiscard]] uint64_t refused() const {
    return std::accumulate(refused_.begin(), refused_.end(), uint64_t{0});
  }
  /// By KVT_WIRE_E_...
  using Refusals = std::array<uint64_t, KVT_WIRE_E_ENDED + 1>;
  [[nodiscard]] const Refusals& refusals() const { return refused_; }
  /// When the last attach was refused.
  [[nodiscard]] std::chrono::steady_clock::time_point refused_at() const { return refused_at_; }
  [[nodiscard]] uint64_t dropped() const { return dropped_; }
  /// Connections there are.
  [[nodiscard]] uint64_t connections() const { return connections_.size(); }
  /// Requests to attach that wait for their turn (AttachTurns).
  [[nodiscard]] uint64_t attach_waiting() const { return turns_.waiting(); }
  /// Waits until what clients have sent is closed. For tests that count descriptors.
  void finish_closing(std::chrono::milliseconds limit) const { closer_.finish(limit); }
  /// Memory of all sessions' regions.
  [[nodiscard]] uint64_t session_bytes() const;

 private:
  struct Process;
  /// An ATTACH before its turn.
  struct Waiting {
    kvt_wire_attach request;
    std::vector<Fd> fds;
  };
  struct Connection {
    Fd socket;
    int pid = 0;
    uint32_t uid = 0;
    uint32_t gid = 0;
    bool greeted = false;
    uint32_t minor = 0;              ///< of the layout that the client knows
    uint64_t serial = 0;             ///< older ones are smaller
    Process* process = nullptr;      ///< after a grant
    std::optional<Waiting> waiting;  ///< until its turn nothing more is read
  };
  struct Session {
    uint64_t id = 0;
    keeper::Arena* arena = nullptr;
    Token token{};
    uint32_t uid = 0;
    Fd doorbell;
    bool ending = false;  ///< its owner has gone; members live
    std::list<Process> processes;
  };
  struct Process {
    Session* session = nullptr;
    uint32_t member = 0;
    bool owner = false;
    int pid = 0;
    Fd pidfd;
    bool is_watched = true;            ///< its end will be noticed
    Connection* connection = nullptr;  ///< null: orphan
    bool has_device = false;           ///< it works with a GPU: quarantined when it dies (PROTOCOL A1)
    bool device_listed = false;        ///< with one that the daemon sees, too
    uint32_t device_tiers = 0;         ///< whose device memory it was given
    /// By tier: for which chunks_given_up of the table it was given chunks last, and how often
    struct ChunksServed {
      uint32_t given_up = UINT32_MAX;
      uint32_t times = 0;
    };
    std::array<ChunksServed, KVT_MAX_TIERS> chunks_served{};
    std::optional<std::chrono::steady_clock::time_point> quarantined_until;
    std::optional<std::chrono::steady_clock::time_point> died;  ///< when the daemon heard of it
    uint64_t serial = 0;                                        ///< no other has had it
    uint32_t layout_minor = 0;                                  ///< that its library knows
  };
  /// A grant that waits for the store.
  struct Pending {
    Fd done;
    uint64_t session = 0;
    uint64_t process = 0;  ///< its serial
  };

  Server(keeper::EventLoop& loop, keeper::Keeper& keeper, Log log, const AttachTurns& turns)
      : loop_(loop), keeper_(keeper), log_(std::move(log)), turns_(turns) {}
  void on_accept();
  bool make_room();
  void note(events::Kind kind, const std::string& text);
  void on_message(Connection& connection);
  void hang_up(Fd socket, uint32_t uid);
  void serve_waiting();
  void set_turns_timer();
  void handle(Connection& connection, Message& message);
  void on_hello(Connection& connection, const kvt_wire_hello& hello);
  void on_attach(Connection& connection, const kvt_wire_attach& request, std::vector<Fd>& fds);
  void serve_attach(Connection& connection, const kvt_wire_attach& request, std::vector<Fd>& fds);
  [[nodiscard]] Result<void> has_room_for(const kvt_wire_attach& request, const keeper::Arena& arena,
                                          uint32_t uid) const;
  void on_join(Connection& connection, const kvt_wire_join& request, std::vector<Fd>& fds);
  void on_resume(Connection& connection, const kvt_wire_resume& request, std::vector<Fd>& fds);
  static void add_chunks(Session& session, const Process& process, uint32_t tier, kvt_wire_grant& grant,
                         std::vector<int>& fds);
  void on_chunks(Connection& connection, const kvt_wire_chunks& request);
  void on_detach(Connection& connection);
  void note_process(Session& session, const Process& process, const uint8_t (&uuid)[KVT_DEVICE_UUID_BYTES]);
  void store_and_grant(Session& session, Process& process, bool first);
  void on_stored(int fd);
  void grant(Session& session, Process& process);
  void adopt_sessions();
  void adopt_processes(Session& session, restart::SessionSlot& slot);
  void end_gone();
  void forget_process(const Process& process);
  [[nodiscard]] restart::SessionSlot& slot_of(const Session& session);
  Result<Fd> take_pidfd(const Connection& connection, std::vector<Fd>& fds) const;
  Process& add_process(Session& session, Connection& connection, uint32_t member, bool owner, Fd pidfd);
  void on_death(Process& process);
  void set_timer(bool on);
  void end_quarantines();
  [[nodiscard]] bool lists_gpu(const uint8_t (&uuid)[KVT_DEVICE_UUID_BYTES]) const;
  void end_process(Process& process);
  void begin_end(Session& session, const std::string& why);
  void end_session(Session& session, const std::string& why);
  void close_connections(Session& session);
  void open_for_others();
  void refuse(Connection& connection, uint32_t status, const std::string& text);
  void close(Connection& connection);
  void drop(Connection& connection, const std::string& why);
  Session* find_by_token(const uint8_t* token);

  keeper::EventLoop& loop_;
  keeper::Keeper& keeper_;
  Log log_;
  std::string path_;  ///< empty: the service manager's
  Fd listener_;
  Fd timer_;  ///< set while a dead process is quarantined
  bool timer_set_ = false;
  AttachTurns turns_;
  Fd turns_timer_;  ///< set while a request to attach waits
  Closer closer_;
  Fd spare_;  ///< given up for a moment when there are no descriptors left, to be rid of who waits
  std::unordered_map<const keeper::Arena*, Ownership> ownership_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
  std::unordered_map<uint64_t, std::unique_ptr<Session>> sessions_;
  std::unordered_map<int, Pending> pending_;         // by descriptor
  std::vector<std::pair<uint64_t, uint64_t>> gone_;  // sessions and processes, adopted and not there
  uint64_t next_serial_ = 1;
  Refusals refused_{};
  std::chrono::steady_clock::time_point refused_at_{};
  uint64_t dropped_ = 0;
};

}  // namespace kvt::server
