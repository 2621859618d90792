// SPDX-License-Identifier: Apache-2.0
#include "daemon/journal/journal.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <string>
#include <vector>

#define SD_JOURNAL_SUPPRESS_LOCATION  // the line says what happened; where in the source is no matter of operators
#include <systemd/sd-journal.h>

#include "daemon/journal/messages.h"

namespace kvt::journal {

bool stderr_is_journal() {
  const char* const text = std::getenv("JOURNAL_STREAM");  // device:inode, systemd.exec(5)
  if (text == nullptr) return false;
  const std::string_view stream(text);
  uint64_t device = 0;
  uint64_t inode = 0;
  const char* const end = stream.data() + stream.size();
  const auto first = std::from_chars(stream.data(), end, device);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != ':') return false;
  const auto second = std::from_chars(first.ptr + 1, end, inode);
  if (second.ec != std::errc() || second.ptr != end) return false;
  struct stat error_stream {};
  return ::fstat(STDERR_FILENO, &error_stream) == 0 && error_stream.st_dev == device &&
         error_stream.st_ino == inode;
}

bool send(int priority, std::string_view line) {
  const Classified classified = classify(line);
  std::vector<std::string> entries{"MESSAGE=" + std::string(line), "PRIORITY=" + std::to_string(priority),
                                   "SYSLOG_IDENTIFIER=kvtierd"};
  if (!classified.id.empty()) entries.push_back("MESSAGE_ID=" + std::string(classified.id));
  for (const auto& [name, value] : classified.fields) entries.push_back(name + "=" + value);
  std::vector<iovec> parts;
  for (std::string& entry : entries) parts.push_back({entry.data(), entry.size()});
  return ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) == 0;
}

}  // namespace kvt::journal
