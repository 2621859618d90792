// SPDX-License-Identifier: Apache-2.0
#include "daemon/config/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>

namespace kvt {

Result<ListenAddress> parse_listen_address(const std::string& text) {
  const auto bad = [&] {
    return fail(Code::kInvalid,
                "\"" + text +
                    "\" is no place to listen: expected \"unix:NAME\", or a numeric address and a "
                    "port, such as \"127.0.0.1:9713\" or \"[::1]:9713\"");
  };
  ListenAddress listen;
  if (text.starts_with("unix:")) {
    listen.path = text.substr(5);
    listen.is_loopback = true;
    if (listen.path.empty()) return bad();
    return listen;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return bad();
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, listen.port);
  if (error != std::errc() || rest != end || listen.port == 0) return bad();
  listen.address = text.substr(0, colon);
  if (listen.address.starts_with('[') && listen.address.ends_with(']')) {
    listen.is_ipv6 = true;
    listen.address = listen.address.substr(1, listen.address.size() - 2);
    in6_addr six{};
    if (::inet_pton(AF_INET6, listen.address.c_str(), &six) != 1) return bad();
    listen.is_loopback = IN6_IS_ADDR_LOOPBACK(&six) != 0;
    return listen;
  }
  in_addr four{};
  if (::inet_pton(AF_INET, listen.address.c_str(), &four) != 1) return bad();
  listen.is_loopback = (ntohl(four.s_addr) >> 24) == 127;
  return listen;
}

}  // namespace kvt
