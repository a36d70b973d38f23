#include "tools/common/heat_map.h"

#include <cmath>
#include <cstring>

#include "support/test.h"
#include "vision/image.h"

using namespace l4;
using namespace l4::tools;

namespace {

HeatMap small_map() {
  return {"title <b>", "subtitle", "x", "y", "share, %", {"1K", "4K"}, {"0", "100"}, {1.0, 0.5, std::nullopt, 0.0}};
}

size_t occurrences(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// How bright the eye sees it: linear light, weighted.
double luminance(Rgb c) {
  const auto linear = [](uint8_t v) { return std::pow(v / 255.0, 2.2); };
  return 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b);
}

}  // namespace

TEST_CASE("heat map: lightness rises with the value, and text on every colour is readable") {
  double last = -1;
  for (int i = 0; i <= 200; ++i) {
    const Rgb color = heat_color(i / 200.0);
    const double bright = luminance(color);
    CHECK_MESSAGE(bright > last, i);
    last = bright;
    const double text = is_bright(color) ? luminance({0x1a, 0x1d, 0x21}) : 1;
    CHECK_MESSAGE((std::max(text, bright) + 0.05) / (std::min(text, bright) + 0.05) > 4.0, i);
  }
  CHECK(heat_color(-1) == heat_color(0));
  CHECK(heat_color(2) == heat_color(1));
  CHECK(heat_color(NAN) == heat_color(0));
}

TEST_CASE("heat map: percents are 0 and 100 only where they are") {
  CHECK(percent_text(0) == "0");
  CHECK(percent_text(1) == "100");
  CHECK(percent_text(0.99999) == "99.9");
  CHECK(percent_text(0.00001) == "0.1");
  CHECK(percent_text(0.5) == "50");
  CHECK(percent_text(1.0 / 3) == "33.3");
}

TEST_CASE("heat map: SVG has a cell for each value, in its colour, and says where nothing was measured") {
  const std::string svg = to_svg(small_map());
  CHECK(svg.find("title &lt;b&gt;") != std::string::npos);
  CHECK(svg.find("<b>") == std::string::npos);
  CHECK(occurrences(svg, "class=\"empty\"") == 1);
  for (const char* text : {">100</text>", ">50</text>", ">-</text>", ">0</text>", ">1K</text>", ">4K</text>"})
    CHECK_MESSAGE(svg.find(text) != std::string::npos, text);
  CHECK(svg.find("prefers-color-scheme: dark") != std::string::npos);
  HeatMap empty;
  CHECK(to_svg(empty).find("</svg>") != std::string::npos);
  HeatMap wrong = small_map();
  wrong.values.pop_back();
  CHECK_THROWS(to_svg(wrong));
}

TEST_CASE("heat map: PNG has the cells' colours where the cells are") {
  const std::string png = to_png(small_map());
  const Image image = decode_image(std::as_bytes(std::span(png)), "png");
  const auto count = [&](Rgb color) {
    int64_t n = 0;
    for (size_t i = 0; i + 2 < image.rgb.size(); i += 3)
      n += image.rgb[i] == color.r && image.rgb[i + 1] == color.g && image.rgb[i + 2] == color.b;
    return n;
  };
  // A cell is 164 by 60 pixels, of which a few are text; four have the same size, one of them is grey.
  for (const Rgb color : {heat_color(1), heat_color(0.5), heat_color(0), Rgb{0xe6, 0xe8, 0xec}}) {
    CHECK(count(color) > 164 * 60 - 400);
    CHECK(count(color) < 164 * 60 + 400);  // the scale has some
  }
  // The glyphs' dots: "TITLE ?B?" of 3 by 3 pixels; of 2 by 2 "100" and, on a bright cell too, "50".
  CHECK(count({0x1a, 0x1d, 0x21}) == 9 * (11 + 11 + 11 + 11 + 18 + 9 + 20 + 9) + 4 * (10 + 19 + 19) + 4 * (17 + 19));
  CHECK(count({255, 255, 255}) > int64_t(image.rgb.size()) / 3 / 4);
  HeatMap foreign = small_map();
  foreign.title = "\xff\xc3\xa4\n\x01";  // no glyphs
  CHECK_NOTHROW(to_png(foreign));
}
