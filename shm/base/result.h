// SPDX-License-Identifier: Apache-2.0
//
// How failures travel: Result<T> for what can go wrong on a bad day, KVT_CHECK for what never may.
// Values only, no state; thread-safe.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace kvt {

/// What a caller can branch on. The words in Error::text are for people.
enum class Code {
  kInvalid,     ///< an argument, a key or a message is wrong
  kNotFound,    ///< the thing named is not there
  kPermission,  ///< not for this user, or the grant is read-only
  kMismatch,    ///< versions, geometry or fingerprint differ
  kLimit,       ///< a limit of limits.h or of the configuration
  kFull,        ///< no memory of the kind asked for
  kAgain,       ///< the other side is away or late
  kEnded,       ///< the session is over
  kSystem,      ///< a system call failed; system_errno says why
};

struct Error {
  Code code = Code::kInvalid;
  int system_errno = 0;
  std::string text;  ///< names the thing (file, tier, session) and what was expected
};

template <typename T>
using Result = tl::expected<T, Error>;

[[nodiscard]] inline tl::unexpected<Error> fail(Code code, std::string text) {
  return tl::unexpected<Error>(Error{code, 0, std::move(text)});
}

/// For a failed system call: appends errno's text to `what` ("open /x").
[[nodiscard]] tl::unexpected<Error> fail_errno(const std::string& what);
[[nodiscard]] tl::unexpected<Error> fail_errno(const std::string& what, int error_number);

}  // namespace kvt

#define KVT_CONCAT2(a, b) a##b
#define KVT_CONCAT(a, b) KVT_CONCAT2(a, b)

/// Returns the error of `expression` from this function, or goes on.
#define KVT_TRY(expression)                                            \
  do {                                                                 \
    if (auto kvt_try = (expression); !kvt_try)                         \
      return tl::unexpected<::kvt::Error>(std::move(kvt_try).error()); \
  } while (false)

/// `KVT_TRY_ASSIGN(auto x, f());` : x is the value, or this function returns the error.
#define KVT_TRY_ASSIGN(target, expression)                                                  \
  auto KVT_CONCAT(kvt_try_, __LINE__) = (expression);                                       \
  if (!KVT_CONCAT(kvt_try_, __LINE__))                                                      \
    return tl::unexpected<::kvt::Error>(std::move(KVT_CONCAT(kvt_try_, __LINE__)).error()); \
  target = std::move(*KVT_CONCAT(kvt_try_, __LINE__))

/// A bug if false; on in every build. Never reachable from bytes that a client wrote.
#define KVT_CHECK(condition)                                                             \
  do {                                                                                   \
    if (!(condition)) [[unlikely]] {                                                     \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
