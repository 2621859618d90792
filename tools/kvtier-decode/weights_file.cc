// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/weights_file.h"

#include <fmt/format.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tools/kvtier-decode/errors.h"

namespace kvt::decode {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is read and written as memory has it");

constexpr char kMagic[8] = {'K', 'V', 'T', 'D', 'E', 'C', 'O', 'D'};
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t vocabulary;
  uint32_t layers;
  uint32_t width;
  uint32_t heads;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t hidden;
  uint64_t floats;
  uint64_t digest[2];
};
static_assert(sizeof(Header) == 64);

}  // namespace

void save_weights(const Model& model, const std::string& path) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.vocabulary = kVocabulary;
  header.layers = model.shape.layers;
  header.width = model.shape.width;
  header.heads = model.shape.heads;
  header.kv_heads = model.shape.kv_heads;
  header.head_dim = model.shape.head_dim;
  header.hidden = model.shape.hidden;
  header.floats = model.weights.size();
  const auto digest = model.digest();
  std::memcpy(header.digest, digest.data(), sizeof header.digest);

  const std::string partial = path + ".part";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.write(reinterpret_cast<const char*>(model.weights.data()),
             static_cast<std::streamsize>(model.weights.size() * sizeof(float)));
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    const std::string why = std::strerror(errno);
    std::remove(partial.c_str());
    throw std::runtime_error(fmt::format("{}: the weights cannot be written: {}", path, why));
  }
}

Model load_weights(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw MissingError(fmt::format("{}: there is no such weights file, or it cannot be read", path));
  Header header{};
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  if (!file || std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    throw UsageError(fmt::format("{}: not a weights file: expected it to begin with \"KVTDECOD\"", path));
  if (header.version != kVersion)
    throw UsageError(fmt::format("{}: version {}: expected {}", path, header.version, kVersion));
  if (header.vocabulary != kVocabulary)
    throw UsageError(
        fmt::format("{}: a vocabulary of {} tokens: expected {}", path, header.vocabulary, kVocabulary));
  const Shape shape{header.layers,   header.width,    header.heads,
                    header.kv_heads, header.head_dim, header.hidden};
  if (const std::string wrong = check_shape(shape); !wrong.empty())
    throw UsageError(fmt::format("{}: {}", path, wrong));
  const uint64_t expected = WeightPlaces(shape).count;
  std::error_code ignored;
  const uint64_t bytes = std::filesystem::file_size(path, ignored);
  if (header.floats != expected || bytes != sizeof header + expected * sizeof(float))
    throw UsageError(fmt::format("{}: {} bytes for {} weights: expected {} bytes for {} ({})", path, bytes,
                                 header.floats, sizeof header + expected * sizeof(float), expected,
                                 shape_text(shape)));
  Model model(shape, 0);
  file.read(reinterpret_cast<char*>(model.weights.data()),
            static_cast<std::streamsize>(expected * sizeof(float)));
  if (!file) throw std::runtime_error(fmt::format("{}: cannot be read to its end", path));
  const auto digest = model.digest();
  if (std::memcmp(header.digest, digest.data(), sizeof header.digest) != 0)
    throw UsageError(fmt::format("{}: damaged: the digest of the weights is not the one in the file", path));
  return model;
}

}  // namespace kvt::decode
