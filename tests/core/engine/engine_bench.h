// An engine over a simulated model, and what its answers must be.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "core/engine/simulated_runner.h"
#include "engine/engine_loop.h"
#include "engine/sequence.h"

namespace l4::test {

constexpr int32_t kPatch = 96, kEos = 97;

inline EngineLimits small_limits(int64_t chunk = 16, int64_t max_step_rows = 12, int64_t max_context = 200) {
  EngineLimits l;
  l.vocab = 100;
  l.max_context = max_context;
  l.attention_chunk = chunk;
  l.kv_pages = kv_pages_needed(max_context, max_step_rows, 4, chunk);
  l.max_step_rows = max_step_rows;
  l.max_out_rows = 5;
  l.eos_ids = {kEos};
  l.image_token_id = kPatch;
  l.tokens_per_tile = 3;
  l.tile_elements = 6;
  l.max_step_tiles = 2;
  l.encoder_rows = 4 * 3;
  return l;
}

struct Loop {
  explicit Loop(const EngineLimits& the_limits = small_limits(), const EngineOptions& options = {})
      : limits(the_limits) {
    auto owned = std::make_unique<SimulatedRunner>(limits, 4);
    runner = owned.get();
    engine = std::make_unique<EngineLoop>(std::move(owned), limits, options);
  }
  EngineLimits limits;
  SimulatedRunner* runner;  // looked at while the engine is idle
  std::unique_ptr<EngineLoop> engine;
};

struct Answer {
  std::vector<int32_t> ids;
  std::vector<PromptProgress> progress;
  Finished finished;
};

inline Answer collect(RequestHandle handle) {
  Answer answer;
  int n_finished = 0;
  while (auto event = handle.next()) {
    CHECK(n_finished == 0);
    if (auto* progress = std::get_if<PromptProgress>(&*event)) answer.progress.push_back(*progress);
    if (auto* token = std::get_if<TokenChoice>(&*event)) answer.ids.push_back(token->id);
    if (auto* finished = std::get_if<Finished>(&*event)) {
      answer.finished = *finished;
      ++n_finished;
    }
  }
  CHECK(n_finished == 1);
  CHECK(answer.finished.usage.completion_tokens == int64_t(answer.ids.size()));
  return answer;
}

inline std::vector<int32_t> random_ids(uint32_t seed, int64_t n) {  // neither patch nor eos
  std::mt19937 random(seed);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t(random() % 90));
  return ids;
}

inline ImageInput random_image(uint32_t seed, int64_t n_tiles) {
  std::mt19937 random(seed);
  std::vector<BFloat16> pixels;
  for (int64_t i = 0; i < n_tiles * 6; ++i) pixels.push_back({uint16_t(random())});
  ImageInput image;
  image.n_tiles = n_tiles;
  image.pixels = std::make_shared<const std::vector<BFloat16>>(std::move(pixels));
  image.digest[3] = uint8_t(seed);
  return image;
}

// Inputs of a prompt with pictures: the rule, not the code.
inline std::vector<uint64_t> inputs_of(const std::vector<int32_t>& ids, const std::vector<ImageInput>& images) {
  std::vector<uint64_t> inputs = token_inputs(ids);
  size_t p = 0;
  for (const ImageInput& image : images)
    for (int64_t tile = 0; tile < image.n_tiles; ++tile)
      for (int64_t row = 0; row < 3; ++row) {
        while (ids[p] != kPatch) ++p;
        inputs[p++] = feature_input(std::span(*image.pixels).subspan(size_t(tile * 6), 6), row);
      }
  return inputs;
}

inline std::vector<int32_t> reference_answer(std::vector<int32_t> ids, const std::vector<ImageInput>& images, int64_t n,
                                             int64_t chunk, int64_t vocab = 100) {
  std::vector<uint64_t> inputs = inputs_of(ids, images);
  std::vector<int32_t> answer;
  for (int64_t i = 0; i < n; ++i) {
    answer.push_back(greedy_choice(reference_tags(inputs, chunk).back(), vocab));
    inputs.push_back(token_input(answer.back()));
    if (answer.back() == kEos) break;
  }
  return answer;
}

inline Request request_of(std::vector<int32_t> ids, int64_t max_tokens, std::vector<ImageInput> images = {}) {
  Request request;
  request.ids = std::move(ids);
  request.images = std::move(images);
  request.max_tokens = max_tokens;
  return request;
}

inline void append(std::vector<int32_t>& to, const std::vector<int32_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

}  // namespace l4::test
