// SPDX-License-Identifier: Apache-2.0
//
// Any text as kvtierd's configuration: it is refused with a line, or accepted, printed, and read again the
// same. What is accepted can also be planned: the keeper refuses it with words or takes it.
#include <cstdint>
#include <string>

#include "daemon/config/config.h"
#include "daemon/keeper/keeper.h"
#include "tests/fuzz/input.h"

namespace {

using kvt::fuzz::found;

/// As print_config; the canary's copy of it has the planted bug: it knows only the geometries of the corpus.
std::string print(const kvt::Config& config) {
#ifdef KVT_FUZZ_CANARY
  for (const kvt::ArenaConfig& arena : config.arenas)
    if (arena.columns > 2 || arena.planes > 2 || (arena.block_tokens != 16 && arena.block_tokens != 32))
      found("canary: a geometry that is not printed");
#endif
  return kvt::print_config(config);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto config = kvt::parse_config(text, "fuzz.toml");
  if (!config) {
    if (config.error().text.find("fuzz.toml") == std::string::npos)
      found("an error that does not name the file: " + config.error().text);
    return 0;
  }
  const std::string printed = print(*config);
  const auto again = kvt::parse_config(printed, "printed.toml");
  if (!again) found("what was printed is refused: " + again.error().text + "\n" + printed);
  if (print(*again) != printed) found("printed and read again, it is another:\n" + printed);
  if (const auto planned = kvt::keeper::check_plan(*config); !planned && planned.error().text.empty())
    found("a plan refused without words");
  return 0;
}
