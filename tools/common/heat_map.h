// A table of shares as a picture: SVG for light and dark ground, PNG where only pixels are taken.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tools/common/png_canvas.h"

namespace l4::tools {

struct HeatMap {
  std::string title, subtitle;
  std::string x_label, y_label, value_label;
  std::vector<std::string> columns, rows;
  std::vector<std::optional<double>> values;  // [rows, columns], 0 to 1; nothing: was not measured
};

std::string to_svg(const HeatMap& map);
// On light ground. Its letters are capitals of a small font of our own, which knows ASCII only; others are "?".
std::string to_png(const HeatMap& map);

// Of a value from 0 (dark) to 1 (bright). Lightness rises all the way: it reads without its hues, too.
Rgb heat_color(double value);
bool is_bright(Rgb color);               // dark text reads on it
std::string percent_text(double share);  // "100", "99.5", "7.1": 100 and 0 are nothing but these

}  // namespace l4::tools
