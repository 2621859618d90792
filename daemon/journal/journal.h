// SPDX-License-Identifier: Apache-2.0
//
// systemd's journal: whether this process's stderr is one, and lines with fields for it.
#pragma once

#include <string_view>

namespace kvt::journal {

/// The service manager has connected stderr with the journal, and nobody has put something else in its place.
bool stderr_is_journal();

/// One line, with the fields of its kind. `priority` as of syslog(3). false: the journal does not take it. As writing to
/// stderr does, it waits while the journal's queue is full.
bool send(int priority, std::string_view line);

}  // namespace kvt::journal
