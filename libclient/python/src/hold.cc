// SPDX-License-Identifier: Apache-2.0
#include "libclient/python/src/hold.h"

#include <algorithm>

#include "libclient/python/src/step.h"

namespace kvt::python {

void release(const Shared& attachment, const kvt_page* pages, size_t n, Step* step) {
  attachment->end_writing(pages, n);
  if (step != nullptr) {
    step->defer(attachment);
    check(kvt_release(attachment->get(), pages, n, step->get()));
    return;
  }
  without_gil(attachment, [&](kvt_session* session) { return kvt_release(session, pages, n, nullptr); });
}

Hold::Hold(Shared attachment, PageArray pages) : attachment_(std::move(attachment)) {
  set_pages(std::move(pages));
}

Hold::~Hold() {
  if (attachment_->mapped() == nullptr) return;  // the holds ended with the session
  const std::vector<kvt_page> pages = held();
  if (pages.empty()) return;
  attachment_->end_writing(pages.data(), pages.size());
  const Use use(attachment_);
  kvt_session* const session = attachment_->mapped();
  const WithoutGil released;
  kvt_release(session, pages.data(), pages.size(), nullptr);
}

void Hold::append(Hold& other) {
  if (&other == this || other.attachment_ != attachment_)
    throw py::value_error("a Hold can append another one of the same session");
  PageArray both(pages_.size() + other.pages_.size());
  std::copy_n(pages_.data(), pages_.size(), both.mutable_data());
  std::copy_n(other.pages_.data(), other.pages_.size(), both.mutable_data() + pages_.size());
  set_pages(std::move(both));
  other.set_pages(PageArray(0));
}

void Hold::release(Step* step) {
  if (step != nullptr) step->defer(attachment_);  // what is refused stays held
  const std::vector<kvt_page> pages = held();
  set_pages(PageArray(0));
  if (pages.empty() || attachment_->closed()) return;
  python::release(attachment_, pages.data(), pages.size(), step);
}

PageArray Hold::take() {
  PageArray pages = pages_;
  set_pages(PageArray(0));
  return pages;
}

std::vector<kvt_page> Hold::held() const {
  std::vector<kvt_page> pages(pages_.data(), pages_.data() + pages_.size());
  pages.erase(std::remove(pages.begin(), pages.end(), KVT_NO_PAGE), pages.end());
  return pages;
}

void Hold::set_pages(PageArray pages) {
  pages_ = std::move(pages);
  make_read_only(pages_);
}

}  // namespace kvt::python
