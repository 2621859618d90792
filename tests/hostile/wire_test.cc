// SPDX-License-Identifier: Apache-2.0
//
// Messages with one thing wrong and all else right: each field of each message at its boundaries, each length, each
// order. What must come back is said here once more, apart from the daemon's own code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "tests/hostile/siege.h"

namespace kvt::test {
namespace {

constexpr const char* kMarked = "marked";  // an arena with a fingerprint
constexpr uint8_t kMark = 0xab;

enum class What { kServed, kRefused, kEnded };

struct Outcome {
  What what = What::kServed;
  uint32_t status = 0;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};
constexpr Outcome kServed{What::kServed, 0};
constexpr Outcome kEnded{What::kEnded, 0};
constexpr Outcome refused(uint32_t status) { return {What::kRefused, status}; }

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  switch (outcome.what) {
    case What::kServed: return out << "served";
    case What::kRefused: return out << "refused with status " << outcome.status;
    case What::kEnded: return out << "the end of the connection";
  }
  return out;
}

struct Field {
  const char* name;
  size_t offset;
  size_t bytes;
  /// What a value other than the valid one comes to.
  std::function<Outcome(uint64_t)> expects;
};

/// The same outcome for every wrong value.
std::function<Outcome(uint64_t)> always(Outcome outcome) {
  return [outcome](uint64_t) { return outcome; };
}

std::vector<Field> header_fields() {
  return {{"magic", offsetof(kvt_wire_header, magic), 4, always(kEnded)},
          {"type", offsetof(kvt_wire_header, type), 2, always(kEnded)},
          {"bytes", offsetof(kvt_wire_header, bytes), 2, always(kEnded)}};
}

std::vector<Field> with_header(std::vector<Field> fields) {
  std::vector<Field> all = header_fields();
  all.insert(all.end(), std::make_move_iterator(fields.begin()), std::make_move_iterator(fields.end()));
  return all;
}

/// A field of `count` bytes, each by itself.
template <typename Expects>
void add_bytes(std::vector<Field>& fields, const char* name, size_t offset, size_t count, Expects&& expects) {
  for (size_t i = 0; i < count; ++i) fields.push_back({name, offset + i, 1, always(expects(i))});
}

uint64_t value_at(const std::vector<std::byte>& bytes, const Field& field) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + field.offset, field.bytes);
  return value;
}

/// 0, 1, the last, the sign bit and its neighbour, one off on both sides.
std::set<uint64_t> boundaries(uint64_t valid, size_t bytes) {
  const uint64_t max = bytes == 8 ? UINT64_MAX : (uint64_t{1} << (bytes * 8)) - 1;
  std::set<uint64_t> values{0, 1, max, max / 2 + 1, max / 2, (valid + 1) & max, (valid - 1) & max};
  values.erase(valid);
  return values;
}

template <typename Struct>
std::vector<std::byte> bytes_of(const Struct& message) {
  const auto bytes = std::as_bytes(std::span(&message, 1));
  return {bytes.begin(), bytes.end()};
}

Outcome outcome_of(const Answer& answer, uint16_t served_type) {
  if (answer.type == served_type) return kServed;
  if (answer.type == KVT_WIRE_REFUSED) return refused(answer.status);
  EXPECT_TRUE(answer.ended()) << "answer of type " << answer.type;
  return kEnded;
}

World marked_world() {
  World world = hostile_world();
  std::string mark;
  for (uint32_t i = 0; i < KVT_FINGERPRINT_BYTES; ++i) mark += "ab";
  world.more += "[[arena]]\nname = \"marked\"\npage_bytes = 16384\nfingerprint = \"" + mark + "\"\n";
  return world;
}

class Malicious : public Siege {
 protected:
  Malicious() : Siege(marked_world()) {}

  static kvt_wire_attach valid_attach() {
    kvt_wire_attach request = attach_message(kMarked);
    request.page_bytes = kHostilePageBytes;
    request.block_tokens = 16;
    request.planes = 1;
    request.columns = 1;
    request.members_max = 3;
    request.guarantee_pages = 1;
    request.has_fingerprint = 1;
    std::fill(std::begin(request.fingerprint), std::end(request.fingerprint), kMark);
    return request;
  }

  /// Each field at each boundary, by `send`, which gets the whole message and says what became of it.
  static void each_field(const std::vector<Field>& fields, const std::vector<std::byte>& valid,
                         const std::function<Outcome(const std::vector<std::byte>&)>& send,
                         Outcome right = kServed) {
    EXPECT_EQ(send(valid), right) << "with all right";
    for (const Field& field : fields)
      for (const uint64_t value : boundaries(value_at(valid, field), field.bytes)) {
        std::vector<std::byte> bytes = valid;
        std::memcpy(bytes.data() + field.offset, &value, field.bytes);
        EXPECT_EQ(send(bytes), field.expects(value))
            << field.name << " at byte " << field.offset << " = " << value;
      }
    EXPECT_EQ(send(valid), right) << "at the end";
  }

  /// Every length but those that are allowed ends the connection.
  static void each_length(const std::vector<std::byte>& valid, const std::set<size_t>& allowed,
                          const std::function<Outcome(const std::vector<std::byte>&)>& send) {
    std::vector<size_t> lengths{
        valid.size() + 1, valid.size() + 8, KVT_WIRE_MAX_BYTES, KVT_WIRE_MAX_BYTES + 1, 4096, 65535};
    for (size_t i = 0; i <= valid.size(); ++i) lengths.push_back(i);
    for (const size_t length : lengths) {
      std::vector<std::byte> bytes = valid;
      bytes.resize(length);
      const auto said = static_cast<uint16_t>(length);
      if (length >= sizeof(kvt_wire_header))
        std::memcpy(bytes.data() + offsetof(kvt_wire_header, bytes), &said, sizeof said);
      EXPECT_EQ(send(bytes), allowed.contains(length) ? kServed : kEnded) << length << " bytes";
    }
  }

  /// After what came to nothing, the same connection still serves what is right.
  template <typename Struct>
  static void expect_usable(const RawClient& client, const Struct& valid, uint16_t served) {
    EXPECT_EQ(client.ask_with_pidfd(valid).type, served);
  }
};

TEST_F(Malicious, Hello) {
  const auto send = [&](const std::vector<std::byte>& bytes) {
    const RawClient client(daemon_);
    const Outcome outcome = outcome_of(client.ask_bytes(bytes), KVT_WIRE_WELCOME);
    if (outcome.what == What::kRefused) EXPECT_TRUE(client.greet()) << "another version may be asked for";
    return outcome;
  };
  const std::vector<std::byte> valid = bytes_of(hello_message());
  each_field(
      with_header({{"abi_major", offsetof(kvt_wire_hello, abi_major), 2, always(refused(KVT_WIRE_E_VERSION))},
                   {"abi_minor", offsetof(kvt_wire_hello, abi_minor), 2, always(kServed)},
                   {"pad", offsetof(kvt_wire_hello, pad), 4, always(kServed)},
                   {"compat", offsetof(kvt_wire_hello, compat), 8, always(kServed)},
                   {"incompat", offsetof(kvt_wire_hello, incompat), 8,
                    [](uint64_t bits) {
                      return (bits & ~KVT_INCOMPAT_KNOWN) == 0 ? kServed : refused(KVT_WIRE_E_VERSION);
                    }}}),
      valid, send);
  each_length(valid, {sizeof(kvt_wire_hello)}, send);
}

TEST_F(Malicious, Attach) {
  const uint64_t pages = static_cast<uint64_t>(daemon_.number("arenas", "/arenas/2/pages"));
  ASSERT_GT(pages, 100u);
  const auto send = [&](const std::vector<std::byte>& bytes) {
    const RawClient client(daemon_);
    EXPECT_TRUE(client.greet());
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    const Outcome outcome = outcome_of(client.ask_bytes(bytes, fds), KVT_WIRE_GRANT);
    if (outcome.what == What::kRefused) expect_usable(client, valid_attach(), KVT_WIRE_GRANT);
    if (outcome.what != What::kEnded) EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
    return outcome;
  };
  const auto or_default = [](uint64_t value) { return value == 0 ? kServed : refused(KVT_WIRE_E_MISMATCH); };
  std::vector<Field> fields = with_header(
      {{"page_bytes", offsetof(kvt_wire_attach, page_bytes), 8, or_default},
       {"block_tokens", offsetof(kvt_wire_attach, block_tokens), 4, or_default},
       {"planes", offsetof(kvt_wire_attach, planes), 4, or_default},
       {"columns", offsetof(kvt_wire_attach, columns), 4, or_default},
       {"column", offsetof(kvt_wire_attach, column), 4, always(refused(KVT_WIRE_E_MISMATCH))},
       // With read access alone a guarantee makes no sense.
       {"access", offsetof(kvt_wire_attach, access), 4, always(refused(KVT_WIRE_E_PROTOCOL))},
       {"members_max", offsetof(kvt_wire_attach, members_max), 4,
        [](uint64_t members) {
          return members >= 1 && members <= KVT_MAX_MEMBERS ? kServed : refused(KVT_WIRE_E_LIMIT);
        }},
       {"guarantee_pages", offsetof(kvt_wire_attach, guarantee_pages), 4,
        [pages](uint64_t wanted) { return wanted <= pages ? kServed : refused(KVT_WIRE_E_FULL); }},
       {"has_fingerprint", offsetof(kvt_wire_attach, has_fingerprint), 4, always(kServed)},
       {"pad", offsetof(kvt_wire_attach, pad), 4, always(kServed)},
       {"has_device", offsetof(kvt_wire_attach, has_device), 4, always(kServed)}});
  const size_t name_bytes = std::strlen(kMarked) + 1;  // what is behind its end is nobody's
  add_bytes(fields, "arena", offsetof(kvt_wire_attach, arena), KVT_ARENA_NAME_BYTES,
            [&](size_t i) { return i < name_bytes ? refused(KVT_WIRE_E_NOT_FOUND) : kServed; });
  add_bytes(fields, "fingerprint", offsetof(kvt_wire_attach, fingerprint), KVT_FINGERPRINT_BYTES,
            [](size_t) { return refused(KVT_WIRE_E_MISMATCH); });
  add_bytes(fields, "device_uuid", offsetof(kvt_wire_attach, device_uuid), KVT_DEVICE_UUID_BYTES,
            [](size_t) { return kServed; });
  each_field(fields, bytes_of(valid_attach()), send);
  each_length(bytes_of(valid_attach()), {KVT_WIRE_ATTACH_BYTES_MIN, sizeof(kvt_wire_attach)}, send);

  // A guarantee is one until it is over: two sessions cannot have all pages each.
  kvt_wire_attach all = valid_attach();
  all.guarantee_pages = static_cast<uint32_t>(pages);
  const RawClient first(daemon_);
  ASSERT_TRUE(first.greet());
  EXPECT_EQ(first.ask_with_pidfd(all).type, KVT_WIRE_GRANT);
  const RawClient second(daemon_);
  ASSERT_TRUE(second.greet());
  EXPECT_EQ(second.ask_with_pidfd(valid_attach()).status, static_cast<uint32_t>(KVT_WIRE_E_FULL));
  EXPECT_EQ(first.detach().type, KVT_WIRE_DETACHED);
}

TEST_F(Malicious, Join) {
  const RawClient owner(daemon_);
  ASSERT_TRUE(owner.greet());
  const RawSession session = RawSession::of(owner.ask_with_pidfd(valid_attach()));
  ASSERT_TRUE(session.valid());
  auto valid = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  std::memcpy(valid.token, session.grant().token, sizeof valid.token);
  const auto send = [&](const std::vector<std::byte>& bytes) {
    const RawClient client(daemon_);
    EXPECT_TRUE(client.greet());
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    const Outcome outcome = outcome_of(client.ask_bytes(bytes, fds), KVT_WIRE_GRANT);
    if (outcome.what == What::kRefused) expect_usable(client, valid, KVT_WIRE_GRANT);
    if (outcome.what != What::kEnded) EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
    return outcome;
  };
  std::vector<Field> fields =
      with_header({{"has_device", offsetof(kvt_wire_join, has_device), 4, always(kServed)}});
  add_bytes(fields, "token", offsetof(kvt_wire_join, token), KVT_SESSION_TOKEN_BYTES,
            [](size_t) { return refused(KVT_WIRE_E_ENDED); });
  add_bytes(fields, "device_uuid", offsetof(kvt_wire_join, device_uuid), KVT_DEVICE_UUID_BYTES,
            [](size_t) { return kServed; });
  each_field(fields, bytes_of(valid), send);
  each_length(bytes_of(valid), {KVT_WIRE_JOIN_BYTES_MIN, sizeof(kvt_wire_join)}, send);
  EXPECT_EQ(daemon_.number("sessions", "/sessions/2/members"), 1) << "the others have detached";
  EXPECT_EQ(owner.detach().type, KVT_WIRE_DETACHED);
  const RawClient late(daemon_);
  ASSERT_TRUE(late.greet());
  EXPECT_EQ(late.ask_with_pidfd(valid).status, static_cast<uint32_t>(KVT_WIRE_E_ENDED))
      << "a token dies with its session";
}

TEST_F(Malicious, Resume) {
  RawClient owner(daemon_);
  ASSERT_TRUE(owner.greet());
  const RawSession session = RawSession::of(owner.ask_with_pidfd(valid_attach()));
  ASSERT_TRUE(session.valid());
  owner.close();
  auto valid = wire_message<kvt_wire_resume>(KVT_WIRE_RESUME);
  std::memcpy(valid.token, session.grant().token, sizeof valid.token);
  valid.session_id = session.grant().session_id;
  valid.member = session.grant().member;
  const auto send = [&](const std::vector<std::byte>& bytes) {
    const RawClient client(daemon_);
    EXPECT_TRUE(client.greet());
    const Fd pidfd = RawClient::pidfd_of(::getpid());
    const int fds[] = {pidfd.get()};
    return outcome_of(client.ask_bytes(bytes, fds), KVT_WIRE_RESUMED);
  };
  std::vector<Field> fields = with_header(
      {{"session_id", offsetof(kvt_wire_resume, session_id), 8, always(refused(KVT_WIRE_E_ENDED))},
       {"member", offsetof(kvt_wire_resume, member), 4, always(refused(KVT_WIRE_E_ENDED))},
       {"pad", offsetof(kvt_wire_resume, pad), 4, always(kServed)}});
  add_bytes(fields, "token", offsetof(kvt_wire_resume, token), KVT_SESSION_TOKEN_BYTES,
            [](size_t) { return refused(KVT_WIRE_E_ENDED); });
  each_field(fields, bytes_of(valid), send);
  each_length(bytes_of(valid), {sizeof(kvt_wire_resume)}, send);
  const RawClient last(daemon_);
  ASSERT_TRUE(last.greet());
  EXPECT_EQ(last.ask_with_pidfd(valid).type, KVT_WIRE_RESUMED);
  EXPECT_EQ(last.detach().type, KVT_WIRE_DETACHED);
  EXPECT_EQ(send(bytes_of(valid)), refused(KVT_WIRE_E_ENDED));
}

/// Half a DETACH detaches nobody: the session goes on, and its process may come back to it.
TEST_F(Malicious, Detach) {
  RawClient owner(daemon_);
  ASSERT_TRUE(owner.greet());
  const RawSession session = RawSession::of(owner.ask_with_pidfd(valid_attach()));
  ASSERT_TRUE(session.valid());
  auto resume = wire_message<kvt_wire_resume>(KVT_WIRE_RESUME);
  std::memcpy(resume.token, session.grant().token, sizeof resume.token);
  resume.session_id = session.grant().session_id;
  const std::vector<std::byte> valid = bytes_of(wire_message<kvt_wire_empty>(KVT_WIRE_DETACH));
  const auto spoiled = [&](const std::vector<std::byte>& bytes, const std::string& how) {
    EXPECT_EQ(outcome_of(owner.ask_bytes(bytes), KVT_WIRE_DETACHED), kEnded) << how;
    EXPECT_EQ(attackers(), 1) << how;
    owner = RawClient(daemon_);
    ASSERT_TRUE(owner.greet());
    EXPECT_EQ(owner.ask_with_pidfd(resume).type, KVT_WIRE_RESUMED) << how;
  };
  for (const Field& field : header_fields())
    for (const uint64_t value : boundaries(value_at(valid, field), field.bytes)) {
      std::vector<std::byte> bytes = valid;
      std::memcpy(bytes.data() + field.offset, &value, field.bytes);
      spoiled(bytes, field.name + std::string(" = ") + std::to_string(value));
    }
  for (size_t length = 0; length < valid.size(); ++length)
    spoiled({valid.begin(), valid.begin() + static_cast<std::ptrdiff_t>(length)},
            std::to_string(length) + " bytes");
  EXPECT_EQ(owner.detach().type, KVT_WIRE_DETACHED);
}

/// Device memory is for who was granted some.
TEST_F(Malicious, Chunks) {
  auto valid = wire_message<kvt_wire_chunks>(KVT_WIRE_CHUNKS);
  valid.count = 1;
  const auto without_session = [&](const std::vector<std::byte>& bytes) {
    const RawClient client(daemon_);
    EXPECT_TRUE(client.greet());
    return outcome_of(client.ask_bytes(bytes), KVT_WIRE_CHUNKS_GRANT);
  };
  each_field(header_fields(), bytes_of(valid), without_session, refused(KVT_WIRE_E_PROTOCOL));
  for (size_t length = 0; length < sizeof valid + 8; ++length) {
    std::vector<std::byte> bytes = bytes_of(valid);
    bytes.resize(length);
    if (length != sizeof valid) EXPECT_EQ(without_session(bytes), kEnded) << length;
  }
  const RawClient client(daemon_);
  ASSERT_TRUE(client.greet());
  ASSERT_EQ(client.ask_with_pidfd(valid_attach()).type, KVT_WIRE_GRANT);
  const auto send = [&](const std::vector<std::byte>& bytes) {
    return outcome_of(client.ask_bytes(bytes), KVT_WIRE_CHUNKS_GRANT);
  };
  const Outcome not_its = refused(KVT_WIRE_E_PERMISSION);
  const auto nothing = always(not_its);
  each_field({{"tier", offsetof(kvt_wire_chunks, tier), 4, nothing},
              {"first", offsetof(kvt_wire_chunks, first), 4, nothing},
              {"count", offsetof(kvt_wire_chunks, count), 4, nothing},
              {"pad", offsetof(kvt_wire_chunks, pad), 4, nothing}},
             bytes_of(valid), send, not_its);
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
}

TEST_F(Malicious, Order) {
  const auto join = wire_message<kvt_wire_join>(KVT_WIRE_JOIN);
  const auto resume = wire_message<kvt_wire_resume>(KVT_WIRE_RESUME);
  // Nothing before HELLO.
  EXPECT_TRUE(RawClient(daemon_).ask_with_pidfd(valid_attach()).ended());
  EXPECT_TRUE(RawClient(daemon_).ask_with_pidfd(join).ended());
  EXPECT_TRUE(RawClient(daemon_).ask_with_pidfd(resume).ended());
  EXPECT_TRUE(RawClient(daemon_).detach().ended());
  {  // No DETACH without a session
    const RawClient client(daemon_);
    ASSERT_TRUE(client.greet());
    EXPECT_TRUE(client.detach().ended());
  }
  {  // What the daemon says is nothing to say to it.
    for (const uint16_t type : {KVT_WIRE_WELCOME, KVT_WIRE_GRANT, KVT_WIRE_RESUMED, KVT_WIRE_DETACHED,
                                KVT_WIRE_REFUSED, KVT_WIRE_CHUNKS_GRANT}) {
      const RawClient client(daemon_);
      ASSERT_TRUE(client.greet());
      EXPECT_TRUE(client.ask(wire_message<kvt_wire_empty>(type)).ended()) << type;
    }
  }
  // One session a connection, and HELLO as often as one likes.
  const RawClient client(daemon_);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(client.greet());
  ASSERT_EQ(client.ask_with_pidfd(valid_attach()).type, KVT_WIRE_GRANT);
  for (const Answer& answer :
       {client.ask_with_pidfd(valid_attach()), client.ask_with_pidfd(join), client.ask_with_pidfd(resume)}) {
    EXPECT_EQ(answer.type, KVT_WIRE_REFUSED);
    EXPECT_EQ(answer.status, static_cast<uint32_t>(KVT_WIRE_E_PROTOCOL));
  }
  EXPECT_TRUE(client.greet());
  EXPECT_EQ(client.detach().type, KVT_WIRE_DETACHED);
  EXPECT_TRUE(client.detach().ended()) << "a second time";
}

/// What a client says does not look like anything else in the log.
TEST_F(Malicious, NamesInTheLog) {
  const RawClient client(daemon_);
  ASSERT_TRUE(client.greet());
  kvt_wire_attach request = valid_attach();
  for (uint32_t first = 1; first < 256; first += 60) {
    for (uint32_t i = 0; i < 60; ++i)
      request.arena[i] = static_cast<char>(std::min<uint32_t>(first + i, 255));
    EXPECT_EQ(client.ask_with_pidfd(request).status, static_cast<uint32_t>(KVT_WIRE_E_NOT_FOUND));
  }
  const std::string log = daemon_.log();
  EXPECT_NE(log.find("ABCDEF"), std::string::npos) << "the name is there";
  for (const char each : log)
    EXPECT_TRUE(each == '\n' || (each >= 0x20 && each < 0x7f))
        << "byte " << static_cast<int>(static_cast<unsigned char>(each));
}

}  // namespace
}  // namespace kvt::test
