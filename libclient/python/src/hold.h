// SPDX-License-Identifier: Apache-2.0
//
// Holds as Python has them: given back with the last reference, or before.
#pragma once

#include <vector>

#include "libclient/python/src/arguments.h"

namespace kvt::python {

class Step;

/// Gives back one hold on each page. With `step` not NULL: when that ends. Raises.
void release(const Shared& attachment, const kvt_page* pages, size_t n, Step* step);

class Hold {
 public:
  /// Takes over one hold of the session on each page that is not KVT_NO_PAGE.
  Hold(Shared attachment, PageArray pages);
  ~Hold();
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

  [[nodiscard]] const PageArray& pages() const { return pages_; }
  [[nodiscard]] size_t size() const { return static_cast<size_t>(pages_.size()); }
  void append(Hold& other);
  void release(Step* step);
  PageArray take();

 private:
  [[nodiscard]] std::vector<kvt_page> held() const;
  void set_pages(PageArray pages);

  Shared attachment_;
  PageArray pages_;  // read-only in Python
};

}  // namespace kvt::python
