// Picture files: an l4::Error or a picture of the size that its header says. Small limits keep every file quick.
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "vision/image.h"
#include "vision/tiling.h"

using namespace l4;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const ImageLimits limits{1 << 16, 1 << 18};
  const auto require = [](bool holds) {
    if (!holds) std::abort();
  };
  try {
    const ImageInfo info = read_image_info(bytes, "image", limits);
    require(info.height >= 1 && info.width >= 1 && uint64_t(info.height * info.width) <= limits.max_pixels);
    const TilePlan plan = plan_tiles(info.height, info.width, {});
    require(plan.n_tiles >= 1 && plan.n_tiles <= 17);
    const Image image = decode_image(bytes, "image", limits);
    require(image.height == info.height && image.width == info.width);
    require(int64_t(image.rgb.size()) == 3 * image.height * image.width);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::input || error.kind() == ErrorKind::unsupported);
    require(error.message().find('\n') == std::string::npos);
  }
  return 0;
}
