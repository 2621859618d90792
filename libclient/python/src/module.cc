// SPDX-License-Identifier: Apache-2.0
//
// kvtier._kvtier: the C interface of libkvtier for Python. The package kvtier around it has names and types.
#include "libclient/python/src/copy_job.h"
#include "libclient/python/src/device.h"
#include "libclient/python/src/session.h"
#include "libclient/python/src/step.h"

PYBIND11_MODULE(_kvtier, module) {
  module.doc() = "libkvtier for Python: use it by the package kvtier";
  module.attr("NO_PAGE") = KVT_NO_PAGE;
  module.attr("NO_FRAME") = KVT_NO_FRAME;
  module.attr("__version__") = kvt_version();
  kvt::python::add_step(module);
  kvt::python::add_copy_job(module);
  kvt::python::add_device(module);
  kvt::python::add_session(module);
}
