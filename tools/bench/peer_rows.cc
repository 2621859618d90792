// SPDX-License-Identifier: Apache-2.0
//
// The same question put to what Debian packages: is this key there, and keep it? Neither peer is at a
// disadvantage that a label does not name.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tools/bench/child.h"
#include "tools/bench/rows.h"
#include "tools/bench/sequence.h"

#if KVT_HAVE_LMDB
#include <lmdb.h>
#endif
#if KVT_HAVE_HIREDIS
#include <hiredis/hiredis.h>
#endif

namespace kvt::bench {
namespace {

#if KVT_HAVE_LMDB

constexpr size_t kLmdbBytesAKey = 128;  ///< of address space; a full leaf needs about 40

void lmdb_checked(int result, const char* call) {
  if (result != MDB_SUCCESS) throw RowError(std::string(call) + ": " + mdb_strerror(result));
}

/// `keys` keys, 16 bytes each, with the page number as value, in a file on tmpfs that has no name any more.
class Lmdb {
 public:
  explicit Lmdb(uint64_t keys) : keys_(keys) {
    const TemporaryFolder folder("/dev/shm");
    const std::string file = folder.path() + "/peer.mdb";
    MDB_env* environment = nullptr;
    lmdb_checked(mdb_env_create(&environment), "mdb_env_create");
    environment_.reset(environment);
    lmdb_checked(mdb_env_set_mapsize(environment, keys * kLmdbBytesAKey + (size_t{16} << 20)),
                 "mdb_env_set_mapsize");
    lmdb_checked(mdb_env_open(environment, file.c_str(), MDB_NOSUBDIR | MDB_NOSYNC | MDB_WRITEMAP, 0600),
                 "mdb_env_open");
    fill();
    lmdb_checked(mdb_txn_begin(environment, nullptr, MDB_RDONLY, &reader_), "mdb_txn_begin");
    mdb_txn_reset(reader_);
  }
  Lmdb(const Lmdb&) = delete;
  Lmdb& operator=(const Lmdb&) = delete;
  ~Lmdb() {
    if (reader_ != nullptr) mdb_txn_abort(reader_);
  }

  /// Value of the key, inside a read transaction that pins it; KVT_NO_PAGE when something fails.
  uint64_t lookup_pinned(kvt_key key) {
    MDB_val name{sizeof key, &key};
    MDB_val value{};
    uint64_t number = KVT_NO_PAGE;
    if (mdb_txn_renew(reader_) != MDB_SUCCESS) return KVT_NO_PAGE;
    if (mdb_get(reader_, table_, &name, &value) == MDB_SUCCESS && value.mv_size == sizeof number)
      std::memcpy(&number, value.mv_data, sizeof number);
    mdb_txn_reset(reader_);
    return number;
  }
  [[nodiscard]] uint64_t keys() const { return keys_; }

 private:
  void fill() {
    // In the order of the tree: quick, and its leaves are full, which is LMDB's best case.
    std::vector<uint32_t> order(keys_);
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [](uint32_t a, uint32_t b) {
      const kvt_key x = key_of(a);
      const kvt_key y = key_of(b);
      return std::memcmp(&x, &y, sizeof x) < 0;
    });
    MDB_txn* writer = nullptr;
    lmdb_checked(mdb_txn_begin(environment_.get(), nullptr, 0, &writer), "mdb_txn_begin");
    lmdb_checked(mdb_dbi_open(writer, nullptr, 0, &table_), "mdb_dbi_open");
    for (uint64_t number : order) {
      kvt_key key = key_of(number);
      MDB_val name{sizeof key, &key};
      MDB_val value{sizeof number, &number};
      lmdb_checked(mdb_put(writer, table_, &name, &value, MDB_APPEND), "mdb_put");
    }
    lmdb_checked(mdb_txn_commit(writer), "mdb_txn_commit");
  }

  struct Close {
    void operator()(MDB_env* environment) const { mdb_env_close(environment); }
  };
  uint64_t keys_;
  std::unique_ptr<MDB_env, Close> environment_;
  MDB_dbi table_ = 0;
  MDB_txn* reader_ = nullptr;
};

using LmdbSlot = std::shared_ptr<std::unique_ptr<Lmdb>>;

void peer_lmdb_lookup(benchmark::State& state, uint64_t pages, const LmdbSlot& slot) {
  if (*slot == nullptr || (*slot)->keys() != pages) {
    slot->reset();
    *slot = std::make_unique<Lmdb>(pages);
  }
  const std::vector<uint32_t> order = visits(pages);
  size_t next = 0;
  uint64_t bad = 0;
  for (auto _ : state) {
    bad |= (*slot)->lookup_pinned(key_of(order[next])) ^ order[next];
    next = next + 1 < order.size() ? next + 1 : 0;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  state.SetLabel("pin = one renewed read transaction a key; NOSYNC, WRITEMAP, tmpfs");
  require(bad == 0, "LMDB did not give a key's value");
}

#else
using LmdbSlot = std::shared_ptr<int>;
void peer_lmdb_lookup(benchmark::State&, uint64_t, const LmdbSlot&) {
  throw RowError("built without LMDB: install liblmdb-dev and configure again");
}
#endif

#if KVT_HAVE_HIREDIS

constexpr uint64_t kKeysAtOnce = 512;  ///< of one MSET while filling
constexpr int kRedisTimeoutMs = 20000;

/// A redis-server of our own on a Unix socket, without persistence, with `keys` keys of 16 bytes.
class Redis {
 public:
  explicit Redis(uint64_t keys) : keys_(keys) {
    const std::string socket = folder_.path() + "/redis.sock";
    const std::string log = folder_.path() + "/redis.log";
    server_ = Child({"redis-server", "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700",
                     "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", folder_.path()},
                    log);
    wait_for_socket(socket, SOCK_STREAM, server_, log, kRedisTimeoutMs);
    connection_.reset(redisConnectUnix(socket.c_str()));
    if (connection_ == nullptr || connection_->err != 0)
      throw RowError(std::string("redis: ") + (connection_ == nullptr ? "no memory" : connection_->errstr));
    fill();
  }

  /// Whether the key is there: one command, one answer.
  bool exists(kvt_key key) {
    const char* const words[] = {"EXISTS", reinterpret_cast<const char*>(&key)};
    const size_t lengths[] = {6, sizeof key};
    const Reply reply(static_cast<redisReply*>(
        redisCommandArgv(connection_.get(), 2, const_cast<const char**>(words), lengths)));
    return reply != nullptr && reply->type == REDIS_REPLY_INTEGER && reply->integer == 1;
  }
  [[nodiscard]] uint64_t keys() const { return keys_; }

 private:
  struct FreeReply {
    void operator()(redisReply* reply) const { freeReplyObject(reply); }
  };
  using Reply = std::unique_ptr<redisReply, FreeReply>;
  struct FreeContext {
    void operator()(redisContext* context) const { redisFree(context); }
  };

  void fill() {
    std::array<kvt_key, kKeysAtOnce> keys{};
    std::array<uint64_t, kKeysAtOnce> numbers{};
    std::vector<const char*> words;
    std::vector<size_t> lengths;
    for (uint64_t first = 0; first < keys_; first += kKeysAtOnce) {
      const uint64_t n = std::min(kKeysAtOnce, keys_ - first);
      words.assign(1, "MSET");
      lengths.assign(1, 4);
      for (uint64_t i = 0; i < n; ++i) {
        keys[i] = key_of(first + i);
        numbers[i] = first + i;
        words.push_back(reinterpret_cast<const char*>(&keys[i]));
        lengths.push_back(sizeof(kvt_key));
        words.push_back(reinterpret_cast<const char*>(&numbers[i]));
        lengths.push_back(sizeof(uint64_t));
      }
      const Reply reply(static_cast<redisReply*>(
          redisCommandArgv(connection_.get(), static_cast<int>(words.size()), words.data(), lengths.data())));
      if (reply == nullptr || reply->type != REDIS_REPLY_STATUS)
        throw RowError(std::string("redis MSET: ") + (reply == nullptr ? connection_->errstr : reply->str));
    }
  }

  uint64_t keys_;
  TemporaryFolder folder_;
  Child server_;
  std::unique_ptr<redisContext, FreeContext> connection_;
};

using RedisSlot = std::shared_ptr<std::unique_ptr<Redis>>;

void peer_redis_exists(benchmark::State& state, uint64_t pages, const RedisSlot& slot) {
  if (*slot == nullptr || (*slot)->keys() != pages) {
    slot->reset();
    *slot = std::make_unique<Redis>(pages);
  }
  const std::vector<uint32_t> order = visits(pages);
  size_t next = 0;
  uint64_t missing = 0;
  for (auto _ : state) {
    missing += (*slot)->exists(key_of(order[next])) ? 0 : 1;
    next = next + 1 < order.size() ? next + 1 : 0;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
  state.SetLabel("Unix socket, one key a command, no pipelining, no pin");
  require(missing == 0, "redis did not know a key");
}

#else
using RedisSlot = std::shared_ptr<int>;
void peer_redis_exists(benchmark::State&, uint64_t, const RedisSlot&) {
  throw RowError("built without hiredis: install libhiredis-dev and redis-server, and configure again");
}
#endif

}  // namespace

void add_peer_rows(RowList& rows, const Sizes& sizes) {
  // Filled by the first row of its kind and size that runs; the rows own them, so they end with the list of
  // rows.
  const auto lmdb = std::make_shared<LmdbSlot::element_type>();
  const auto redis = std::make_shared<RedisSlot::element_type>();
  for (const uint64_t pages : sizes.pages) {
    rows.add({"peer_lmdb_lookup", pages, "peers", Timing::kThreadCpu, 0,
              [pages, lmdb](benchmark::State& state) { peer_lmdb_lookup(state, pages, lmdb); }});
    rows.add({"peer_redis_exists", pages, "peers", Timing::kReal, 0,
              [pages, redis](benchmark::State& state) { peer_redis_exists(state, pages, redis); }});
  }
}

}  // namespace kvt::bench
