// SPDX-License-Identifier: Apache-2.0
#include "tools/kvtier-decode/run.h"

#include "tools/kvtier-decode/connector_cache.h"
#include "tools/kvtier-decode/device.h"
#include "tools/kvtier-decode/keys.h"
#include "tools/kvtier-decode/native_cache.h"
#include "tools/kvtier-decode/private_cache.h"

namespace kvt::decode {

std::string_view name_of(Place place) {
  switch (place) {
    case Place::kPrivate: return "private";
    case Place::kNative: return "native";
    case Place::kConnector: return "connector";
  }
  return "";
}

std::unique_ptr<KvCache> make_cache(const Model& model, const RunOptions& options, size_t tokens_max) {
  if (options.device != nullptr) return make_device_cache(model, options, tokens_max);
  const KvLayout layout(model.shape, options.block_tokens);
  if (options.place == Place::kPrivate) return std::make_unique<PrivateCache>(layout);
  ArenaOptions arena = options.arena;
  arena.fingerprint = fingerprint_of(model, layout);
  KeyChain keys(options.attention, options.block_tokens, options.salt);
  if (options.place == Place::kNative) return std::make_unique<NativeCache>(arena, layout, std::move(keys));
  return std::make_unique<ConnectorCache>(arena, layout, std::move(keys), tokens_max);
}

Run run_once(const Model& model, const std::vector<Token>& prompt, const RunOptions& options,
             const std::function<void(const StepEvent&)>& on_step) {
  Run run;
  run.place = options.place;
  run.mass.pages = options.mass_pages;
  DecodeOptions decode_options;
  decode_options.attention = options.attention;
  decode_options.count = options.tokens;
  decode_options.on_step = on_step;
  if (options.mass_pages != 0) decode_options.mass = &run.mass;
  const auto cache = make_cache(model, options, prompt.size() + options.tokens);
  run.result = decode(model, KvLayout(model.shape, options.block_tokens), *cache, prompt, decode_options);
  run.counts = cache->counts();
  return run;
}

Run run_reference(const Model& model, const std::vector<Token>& prompt, RunOptions options,
                  Reference& reference) {
  options.place = Place::kPrivate;
  return run_once(model, prompt, options, [&](const StepEvent& event) { reference.remember(event); });
}

}  // namespace kvt::decode
