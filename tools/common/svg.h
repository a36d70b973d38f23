// What pictures as SVG are made of: readable on light and on dark ground, without scripts, fonts or files of elsewhere.
// Coordinates are pixels at the size it was drawn for. Classes: title, subtitle, name, label, tick (texts), grid, axis,
// whisker, mark (lines), line, and s0 to s3, f0 to f3 (the stroke and the fill of a series).
#pragma once

#include <string>
#include <string_view>

namespace l4::tools::svg {

// Markup's text and values in double quotes, here and in HTML: <, >, &, ", and as U+FFFD what is not UTF-8. Control
// characters become spaces; line feeds and tabs stay.
std::string escaped(std::string_view text);

std::string px(double value);
// 0.25, 40, 2,500, 12k, 1.5M: beside others that are `step` apart.
std::string tick_text(double value, double step);

// The open <svg> with its title, style and ground.
std::string begin(double width, double height, std::string_view title);
std::string text_at(double x, double y, const char* style, const char* anchor, std::string_view text);
std::string line_at(double x0, double y0, double x1, double y1, const char* style);

}  // namespace l4::tools::svg
