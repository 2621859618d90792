// SPDX-License-Identifier: Apache-2.0
#include "tests/support/cuda/settings.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace kvt::standin {
namespace {

[[noreturn]] void wrong(const char* variable, const std::string& text) {
  std::fprintf(stderr, "cuda-standin: %s=%s cannot be read\n", variable, text.c_str());
  std::abort();
}

std::string text_of(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? "" : text;
}

uint64_t number(const char* variable, const std::string& text) {
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') wrong(variable, text);
  return value;
}

template <typename T>
void set_number(const char* variable, T& value) {
  if (const std::string text = text_of(variable); !text.empty())
    value = static_cast<T>(number(variable, text));
}

std::vector<std::string> list(const char* variable) {
  std::vector<std::string> items;
  std::istringstream text(text_of(variable));
  for (std::string item; std::getline(text, item, ',');)
    if (!item.empty()) items.push_back(item);
  return items;
}

std::vector<Fault> fault_list(const char* variable) {
  std::vector<Fault> found;
  for (const std::string& item : list(variable)) {
    const size_t colon = item.find(':');
    const size_t equals = item.find('=');
    if (colon == std::string::npos || equals == std::string::npos || equals < colon) wrong(variable, item);
    found.push_back({item.substr(0, colon), number(variable, item.substr(colon + 1, equals - colon - 1)),
                     static_cast<CUresult>(number(variable, item.substr(equals + 1)))});
  }
  return found;
}

/// "1:0,0:1", or "none".
std::optional<std::vector<std::pair<int, int>>> pairs(const char* variable) {
  const std::vector<std::string> items = list(variable);
  if (items.empty()) return std::nullopt;
  std::vector<std::pair<int, int>> found;
  for (const std::string& item : items) {
    if (item == "none") continue;
    const size_t colon = item.find(':');
    if (colon == std::string::npos) wrong(variable, item);
    found.emplace_back(static_cast<int>(number(variable, item.substr(0, colon))),
                       static_cast<int>(number(variable, item.substr(colon + 1))));
  }
  return found;
}

}  // namespace

bool Settings::can_access(int device, int peer) const {
  return device != peer &&
         (!peers || std::find(peers->begin(), peers->end(), std::pair(device, peer)) != peers->end());
}

Settings Settings::from_environment() {
  Settings made;
  set_number("KVT_STANDIN_DEVICES", made.devices);
  set_number("KVT_STANDIN_BYTES", made.device_bytes);
  set_number("KVT_STANDIN_VERSION", made.version);
  set_number("KVT_STANDIN_DELAY_US", made.delay_us);
  set_number("KVT_STANDIN_SEED", made.seed);
  if (const std::string text = text_of("KVT_STANDIN_CAPABILITY"); !text.empty()) {
    const size_t dot = text.find('.');
    if (dot == std::string::npos) wrong("KVT_STANDIN_CAPABILITY", text);
    made.capability_major = static_cast<int>(number("KVT_STANDIN_CAPABILITY", text.substr(0, dot)));
    made.capability_minor = static_cast<int>(number("KVT_STANDIN_CAPABILITY", text.substr(dot + 1)));
  }
  const struct {
    const char* name;
    bool* has;
  } features[] = {{"vmm", &made.vmm},
                  {"posix-handles", &made.posix_handles},
                  {"stream-write-64", &made.stream_write_64},
                  {"read-only-register", &made.read_only_register},
                  {"host-numa", &made.host_numa},
                  {"batch", &made.batch},
                  {"host-pointer", &made.host_pointer}};
  for (const std::string& item : list("KVT_STANDIN_WITHOUT")) {
    bool known = false;
    for (const auto& feature : features)
      if (item == feature.name) {
        *feature.has = false;
        known = true;
      }
    if (!known) wrong("KVT_STANDIN_WITHOUT", item);
  }
  made.faults = fault_list("KVT_STANDIN_FAIL");
  made.async_faults = fault_list("KVT_STANDIN_FAIL_ASYNC");
  made.lost_file = text_of("KVT_STANDIN_LOST_FILE");
  set_number("KVT_STANDIN_LOST_DEVICE", made.lost_device);
  made.counts_file = text_of("KVT_STANDIN_COUNTS_FILE");
  made.peers = pairs("KVT_STANDIN_PEERS");
  return made;
}

}  // namespace kvt::standin
