#include "engine/encoder_cache.h"

#include "core/engine/simulated_runner.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

EngineLimits limits_of(int64_t tiles, int64_t max_step_tiles) {
  EngineLimits l;
  l.vocab = 10;
  l.tokens_per_tile = 4;
  l.tile_elements = 3;
  l.encoder_rows = tiles * 4 + 3;  // 3 rows are of no use
  l.max_step_tiles = max_step_tiles;
  return l;
}

ImageInput image_of(int64_t n_tiles) {
  ImageInput image;
  image.n_tiles = n_tiles;
  image.pixels = std::make_shared<const std::vector<BFloat16>>(size_t(n_tiles * 3));
  return image;
}

bool encode(EncoderCache& cache, SimulatedRunner& runner, const ImageInput& image, int64_t first,
            std::span<TileSlot> slots) {
  std::vector<EncoderPass> passes;
  const bool taken = cache.take(image, first, slots, passes);
  for (const EncoderPass& pass : passes) runner.encode_tiles(pass.pixels, pass.n_tiles, pass.row);
  return taken;
}

}  // namespace

TEST_CASE("encoder_cache: images go in passes of at most max_step_tiles") {
  EngineLimits limits = limits_of(7, 3);
  SimulatedRunner runner(limits, 4);
  EncoderCache cache(limits.encoder_rows, 4, 3);
  CHECK(cache.n_slots() == 7);
  std::vector<TileSlot> slots(7);
  CHECK(encode(cache, runner, image_of(7), 0, slots));
  CHECK(runner.encoded_tiles == std::vector<int64_t>{3, 3, 1});
  for (int32_t i = 0; i < 7; ++i) CHECK(*slots[size_t(i)] == 4 * i);
  CHECK(cache.n_free() == 0);
}

TEST_CASE("encoder_cache: no room is an answer; freed slots are used again, apart from each other in separate passes") {
  EngineLimits limits = limits_of(4, 4);
  SimulatedRunner runner(limits, 4);
  EncoderCache cache(limits.encoder_rows, 4, 4);
  std::vector<TileSlot> a(3), b(2);
  CHECK(encode(cache, runner, image_of(3), 0, a));
  CHECK(!encode(cache, runner, image_of(2), 0, b));
  CHECK(cache.n_free() == 1);
  CHECK(runner.encoded_tiles.size() == 1);
  TileSlot second_holder = a[0];
  a[0].reset();
  CHECK(cache.n_free() == 1);
  a[1].reset();
  CHECK(cache.n_free() == 2);
  CHECK(encode(cache, runner, image_of(2), 0, b));
  CHECK(*b[0] == 4);
  CHECK(*b[1] == 12);
  CHECK(runner.encoded_tiles == std::vector<int64_t>{3, 1, 1});
}

TEST_CASE("encoder_cache: only the tiles that are still needed are encoded") {
  EngineLimits limits = limits_of(4, 4);
  SimulatedRunner runner(limits, 4);
  EncoderCache cache(limits.encoder_rows, 4, 4);
  std::vector<TileSlot> slots(5);
  CHECK(encode(cache, runner, image_of(5), 2, slots));
  CHECK(!slots[1]);
  CHECK(*slots[2] == 0);
  CHECK(runner.encoded_tiles == std::vector<int64_t>{3});
}

TEST_CASE("encoder_cache: slots may outlive the cache") {
  std::vector<TileSlot> slots(1);
  {
    EngineLimits limits = limits_of(1, 1);
    SimulatedRunner runner(limits, 4);
    EncoderCache cache(limits.encoder_rows, 4, 1);
    CHECK(encode(cache, runner, image_of(1), 0, slots));
  }
  CHECK(*slots[0] == 0);
}
