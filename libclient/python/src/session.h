// SPDX-License-Identifier: Apache-2.0
//
// Session, Hold and Sequence as Python classes.
#pragma once

#include "libclient/python/src/attachment.h"

namespace kvt::python {

void add_session(py::module_& module);

}  // namespace kvt::python
