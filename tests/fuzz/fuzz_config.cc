// SPDX-License-Identifier: Apache-2.0
//
// Any text as kvtierd's configuration: it is refused with a line, or accepted, printed, and read again the same.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "daemon/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = kvt::parse_config(text, "fuzz.toml");
  if (!config) {
    if (config.error().text.find("fuzz.toml") == std::string::npos) {
      std::fprintf(stderr, "an error that does not name the file: %s\n", config.error().text.c_str());
      std::abort();
    }
    return 0;
  }
  const std::string printed = kvt::print_config(*config);
  const auto again = kvt::parse_config(printed, "printed.toml");
  if (!again || kvt::print_config(*again) != printed) {
    std::fprintf(stderr, "printed and read again, it is another: %s\n%s\n", again ? "" : again.error().text.c_str(), printed.c_str());
    std::abort();
  }
  return 0;
}
