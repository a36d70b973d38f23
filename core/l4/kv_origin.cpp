#include "l4/kv_origin.h"

#include <algorithm>

#include "base/hex.h"
#include "formats/hf_checkpoint.h"
#include "model/kv_cache.h"
#include "vision/sha256.h"

namespace l4 {

namespace {

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string digest_of_config(const fs::path& file) {
  constexpr uint64_t kMaxBytes = 64 << 20;
  Sha256 hash;
  hash.update(bytes_of(read_file(file, kMaxBytes)));
  return to_hex(hash.finish());
}

// Every tensor's name, type and shape, and some bytes from its middle.
std::string digest_of_weights(const HfCheckpoint& checkpoint) {
  constexpr uint64_t kSample = 64;
  Sha256 hash;
  std::array<std::byte, kSample> sample;
  std::vector<std::string> names = checkpoint.names();
  std::sort(names.begin(), names.end());  // however they are spread over files
  for (const std::string& name : names) {
    const TensorInfo& info = *checkpoint.find(name);
    hash.update(bytes_of(cat(name, " ", dtype_name(info.dtype), " ", info.shape.str(), "\n")));
    const std::span<std::byte> part = std::span(sample).first(size_t(std::min(kSample, info.bytes)));
    checkpoint.read(info, (info.bytes - part.size()) / 2, part);
    hash.update({reinterpret_cast<const uint8_t*>(part.data()), part.size()});
  }
  return to_hex(hash.finish());
}

}  // namespace

KvOrigin kv_origin(const fs::path& model_dir, const ModelConfig& config, const ExecutorOptions& options) {
  const Topology& t = options.topology;
  return {
      {"config", digest_of_config(model_dir / "config.json")},
      {"weights", digest_of_weights(HfCheckpoint(model_dir))},
      {"device", options.gpus.empty() ? "cpu" : "cuda"},
      {"activations", dtype_name(options.dtype)},
      {"fp8_at_load", cat("attention ", options.quantize.attention, ", head ", options.quantize.head)},
      {"kv_dtype", cat(dtype_name(options.kv_type()), has_fixed_kv_scales(config, options) ? ", fixed scales" : "")},
      {"page_tokens", cat(kv_page_tokens(config.text))},
      {"ranks", cat("tp ", t.tp, ", pp ", t.pp, ", ep ", t.ep)},
  };
}

}  // namespace l4
