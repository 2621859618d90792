// SPDX-License-Identifier: Apache-2.0
#include "shm/base/result.h"

#include <cerrno>
#include <system_error>

namespace kvt {

tl::unexpected<Error> fail_errno(const std::string& what, int error_number) {
  return tl::unexpected<Error>(
      Error{Code::kSystem, error_number, what + ": " + std::generic_category().message(error_number)});
}

tl::unexpected<Error> fail_errno(const std::string& what) { return fail_errno(what, errno); }

}  // namespace kvt
