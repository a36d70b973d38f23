#include "vision/resize.h"

#include "vision_golden.h"

using namespace l4;
using namespace l4::test;

// torchvision's bytes, exactly.
TEST_CASE("resize: equal to torchvision's antialiased bilinear on uint8") {
  for (const Json& one : golden_cases("resized.json")) {
    const auto& from = one.find("from")->as_array();
    const auto& to = one.find("to")->as_array();
    CAPTURE(dump_json(one));
    const Image out =
        resize_bilinear(pattern(from[0].as_integer(), from[1].as_integer()), to[0].as_integer(), to[1].as_integer());
    CHECK(out.height == to[0].as_integer());
    CHECK(out.width == to[1].as_integer());
    const auto& head = one.find("head")->as_array();
    for (size_t i = 0; i < head.size(); ++i) CHECK(out.rgb[i] == head[i].as_integer());
    CHECK(sha256_hex(out.rgb.data(), out.rgb.size()) == one.find("sha256")->as_string());
  }
}

TEST_CASE("resize: the same size is the same picture, one colour stays one colour") {
  const Image image = pattern(9, 14);
  CHECK(resize_bilinear(image, 9, 14).rgb == image.rgb);
  const Image grey{50, 70, std::vector<uint8_t>(50 * 70 * 3, 255)};
  for (auto [height, width] : {std::pair{1, 1}, {3, 200}, {336, 336}, {49, 71}}) {
    for (uint8_t level : resize_bilinear(grey, height, width).rgb) REQUIRE(level == 255);
  }
}
