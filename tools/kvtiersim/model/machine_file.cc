// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtiersim/model/machine_file.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace kvt::sim {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kBytesMax = 1 << 20;  // of a file: some hundred bytes are usual

/// A field of an object, and how it is called in messages: tiers[1].read_bytes_per_second.
class Fields {
 public:
  Fields(const std::string& path, std::string name, const Json& object)
      : path_(path), name_(std::move(name)), object_(object) {
    if (!object.is_object()) fail("", "an object");
  }

  void only(const std::set<std::string>& known) const {
    for (const auto& [key, value] : object_.items()) {
      if (known.count(key) != 0) continue;
      std::string names;
      for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
      fail(key, "no such field, but " + names);
    }
  }
  [[nodiscard]] bool has(const char* key) const { return object_.contains(key); }
  [[nodiscard]] std::string text(const char* key) const {
    const auto field = object_.find(key);
    if (field == object_.end() || !field->is_string() || field->get<std::string>().empty())
      fail(key, "a name");
    return field->get<std::string>();
  }
  [[nodiscard]] double speed(const char* key) const {
    const auto field = object_.find(key);
    if (field == object_.end() || !field->is_number() || !(field->get<double>() > 0) ||
        !std::isfinite(field->get<double>()))
      fail(key, "bytes per second, more than 0");
    return field->get<double>();
  }
  [[nodiscard]] double share(const char* key) const {
    const Json& field = object_.at(key);
    if (!field.is_number() || !(field.get<double>() >= 0 && field.get<double>() <= 1))
      fail(key, "a number from 0 to 1");
    return field.get<double>();
  }
  [[nodiscard]] uint64_t pages(const char* key) const {
    const auto field = object_.find(key);
    if (field == object_.end() || !field->is_number_unsigned()) fail(key, "a number of pages");
    return field->get<uint64_t>();
  }
  [[nodiscard]] std::vector<Fields> objects(const char* key) const {
    const auto field = object_.find(key);
    if (field == object_.end() || !field->is_array()) fail(key, "a list");
    std::vector<Fields> list;
    for (const Json& object : *field)
      list.emplace_back(path_, fmt::format("{}{}[{}].", name_, key, list.size()), object);
    return list;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& expected) const {
    std::string name = name_ + key;
    if (!name.empty() && name.back() == '.') name.pop_back();
    throw std::invalid_argument(
        fmt::format("{}: {}: expected {}", path_, name.empty() ? "the file" : name, expected));
  }

 private:
  const std::string& path_;
  std::string name_;
  const Json& object_;
};

}  // namespace

Machine read_machine(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::invalid_argument(path + ": cannot be read");
  std::string text(kBytesMax + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kBytesMax) throw std::invalid_argument(path + ": expected a JSON file of 1 MiB at most");
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw std::invalid_argument(path + ": expected JSON");

  const Fields top(path, "", json);
  top.only({"name", "kappa", "links", "tiers"});
  Machine machine;
  machine.name = top.text("name");
  if (top.has("kappa")) machine.kappa = top.share("kappa");
  if (top.has("links")) {
    for (const Fields& fields : top.objects("links")) {
      fields.only({"name", "in_bytes_per_second", "out_bytes_per_second"});
      Link link;
      link.name = fields.text("name");
      for (const Link& other : machine.links)
        if (other.name == link.name) fields.fail("name", "another name than that of a link before it");
      link.in_bytes_per_second = fields.speed("in_bytes_per_second");
      link.out_bytes_per_second = fields.speed("out_bytes_per_second");
      machine.links.push_back(link);
    }
  }
  const std::vector<Fields> tiers = top.objects("tiers");
  if (tiers.size() < 2 || tiers.size() > kTiersMax)
    top.fail("tiers", fmt::format("2 to {} tiers", kTiersMax));
  for (const Fields& fields : tiers) {
    fields.only({"name", "read_bytes_per_second", "write_bytes_per_second", "capacity_pages", "link"});
    const size_t index = machine.tiers.size();
    Tier tier;
    tier.name = fields.text("name");
    tier.read_bytes_per_second = fields.speed("read_bytes_per_second");
    tier.write_bytes_per_second = fields.has("write_bytes_per_second")
                                      ? fields.speed("write_bytes_per_second")
                                      : tier.read_bytes_per_second;
    if (index == 0 || index + 1 == tiers.size()) {
      if (fields.has("capacity_pages"))
        fields.fail("capacity_pages", index == 0 ? "none: --hbm sets that of the first tier"
                                                 : "none: the last tier has all pages");
      if (index == 0) tier.capacity_pages = 0;
    } else {
      tier.capacity_pages = fields.pages("capacity_pages");
    }
    if (fields.has("link")) {
      if (index == 0) fields.fail("link", "none: the first tier is the consumer's own");
      const std::string link = fields.text("link");
      for (size_t i = 0; i < machine.links.size(); ++i)
        if (machine.links[i].name == link) tier.link = static_cast<int32_t>(i);
      if (tier.link < 0) fields.fail("link", fmt::format("the name of one of the links, not \"{}\"", link));
    }
    machine.tiers.push_back(tier);
  }
  return machine;
}

}  // namespace kvt::sim
