// Pixels to draw rectangles and small text on, for plots as PNG.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace l4::tools {

struct Rgb {
  uint8_t r = 0, g = 0, b = 0;
  bool operator==(const Rgb&) const = default;
};

enum class TextAnchor { start, middle, end };

class PngCanvas {
 public:
  PngCanvas(int width, int height, Rgb ground);
  void rect(int x0, int y0, int x1, int y1, Rgb color);  // x1 and y1 are outside; what is off the canvas is cut
  // Capitals of 5 by 7 dots, `size` pixels each; y is the base line. Characters without a glyph are "?".
  void text(int x, int y, int size, TextAnchor anchor, Rgb color, std::string_view utf8);
  std::string png() const;

 private:
  int width_, height_;
  std::vector<Rgb> pixels_;
};

}  // namespace l4::tools
