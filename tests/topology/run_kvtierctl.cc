// SPDX-License-Identifier: Apache-2.0
#include "tests/topology/run_kvtierctl.h"

#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/support/fake_sysfs.h"

namespace kvt::test {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char letter : text) out += letter == '\'' ? std::string("'\\''") : std::string(1, letter);
  return out + "'";
}

std::string text_of(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

}  // namespace

Outcome run_kvtierctl(const std::vector<std::string>& arguments, const std::string& state_dir) {
  const TemporaryFolder folder;
  const std::string out = folder.path() + "/out";
  const std::string err = folder.path() + "/err";
  std::string command =
      "unset HWLOC_XMLFILE HWLOC_FSROOT; KVTIER_SOCKET_DIR=" + quoted(folder.path() + "/none") +
      " KVTIER_STATE_DIR=" + quoted(state_dir) + " " + quoted(KVTIERCTL_PATH);
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  const int status = std::system((command + " >" + quoted(out) + " 2>" + quoted(err)).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text_of(out), text_of(err)};
}

}  // namespace kvt::test
