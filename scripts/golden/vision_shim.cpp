// C entry points of core/vision for vision_golden.py's comparison mode, which compiles this against libl4core.a.
#include <cstring>
#include <string>

#include "base/error.h"
#include "vision/image.h"
#include "vision/resize.h"
#include "vision/tiling.h"

namespace {
thread_local std::string g_error;

l4::Image image_of(const uint8_t* rgb, int64_t height, int64_t width) {
  return {height, width, std::vector<uint8_t>(rgb, rgb + height * width * 3)};
}
}  // namespace

extern "C" {

const char* l4_error() {
  return g_error.c_str();
}

// Size of the decoded picture in sides[0..1]; pixels into rgb where it is not null. 0, or 1 with l4_error().
int l4_decode(const void* bytes, int64_t n_bytes, int64_t* sides, uint8_t* rgb) {
  try {
    const std::span file(static_cast<const std::byte*>(bytes), size_t(n_bytes));
    if (!rgb) {
      const l4::ImageInfo info = l4::read_image_info(file, "image");
      sides[0] = info.height, sides[1] = info.width;
      return 0;
    }
    const l4::Image image = l4::decode_image(file, "image");
    sides[0] = image.height, sides[1] = image.width;
    std::memcpy(rgb, image.rgb.data(), image.rgb.size());
    return 0;
  } catch (const l4::Error& e) {
    g_error = e.message();
    return 1;
  }
}

void l4_resize(const uint8_t* rgb, int64_t height, int64_t width, int64_t to_height, int64_t to_width, uint8_t* out) {
  const l4::Image resized = l4::resize_bilinear(image_of(rgb, height, width), to_height, to_width);
  std::memcpy(out, resized.rgb.data(), resized.rgb.size());
}

// plan: rows, cols, resized height, resized width, n_tiles.
void l4_plan(int64_t height, int64_t width, int64_t tile, int64_t max_tiles, int fill, int64_t* plan) {
  const l4::TilePlan p = l4::plan_tiles(height, width, {tile, max_tiles, fill != 0});
  plan[0] = p.rows, plan[1] = p.cols, plan[2] = p.resized_height, plan[3] = p.resized_width, plan[4] = p.n_tiles;
}

// out: [n_tiles, 3, tile, tile] bf16 bits, n_tiles from l4_plan.
void l4_preprocess(const uint8_t* rgb, int64_t height, int64_t width, int64_t tile, int64_t max_tiles, int fill,
                   uint16_t* out) {
  const l4::ImageTiles tiles = l4::preprocess(image_of(rgb, height, width), {tile, max_tiles, fill != 0});
  std::memcpy(out, tiles.pixels.data(), tiles.pixels.size() * 2);
}
}
