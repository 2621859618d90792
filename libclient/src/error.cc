// SPDX-License-Identifier: Apache-2.0
#include <new>

#include "libclient/src/session.h"

namespace kvt::client {
namespace {

thread_local std::string last_error;
thread_local int last_code = KVT_OK;

int code_of(Code code) {
  switch (code) {
    case Code::kInvalid: return KVT_E_INVALID;
    case Code::kNotFound: return KVT_E_NOT_FOUND;
    case Code::kPermission: return KVT_E_PERMISSION;
    case Code::kMismatch: return KVT_E_MISMATCH;
    case Code::kLimit: return KVT_E_LIMIT;
    case Code::kFull: return KVT_E_NO_MEMORY;
    case Code::kAgain: return KVT_E_AGAIN;
    case Code::kEnded: return KVT_E_ENDED;
    case Code::kSystem: return KVT_E_SYSTEM;
  }
  return KVT_E_SYSTEM;
}

}  // namespace

int set_error(int code, std::string text) {
  last_error = std::move(text);
  last_code = code;
  return code;
}
int no_memory() noexcept {
  last_error.clear();  // a text would need memory too
  last_code = KVT_E_NO_MEMORY;
  return last_code;
}

int set_error(const Error& error) { return set_error(code_of(error.code), error.text); }

}  // namespace kvt::client

extern "C" {

const char* kvt_last_error(void) noexcept { return kvt::client::last_error.c_str(); }

int kvt_last_error_code(void) noexcept { return kvt::client::last_code; }

const char* kvt_version(void) noexcept { return KVT_VERSION; }

const char* kvt_strerror(int code) noexcept {
  switch (code) {
    case KVT_OK: return "success";
    case KVT_E_INVALID: return "invalid argument";
    case KVT_E_AGAIN: return "the daemon is away or did not answer in time";
    case KVT_E_NOT_FOUND: return "not found";
    case KVT_E_PERMISSION: return "permission denied";
    case KVT_E_MISMATCH: return "version, geometry or fingerprint differ";
    case KVT_E_STALE: return "stale page handle";
    case KVT_E_STATE: return "the page is in another state";
    case KVT_E_NOT_HELD: return "the page is not held";
    case KVT_E_FULL: return "the arena is full";
    case KVT_E_LIMIT: return "a limit of the session is reached";
    case KVT_E_OVERRUN: return "the change log was overrun";
    case KVT_E_NO_MEMORY: return "out of memory";
    case KVT_E_SYSTEM: return "a system call failed";
    case KVT_E_ENDED: return "the session has ended";
    case KVT_E_FORKED: return "the session belongs to the parent process";
    case KVT_E_PROTOCOL: return "the daemon's answer was not understood";
    default: return code > 0 ? "success" : "unknown error";
  }
}

}  // extern "C"
