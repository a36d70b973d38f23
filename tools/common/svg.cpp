#include "tools/common/svg.h"

#include <cmath>
#include <cstdio>

#include "base/strings.h"

namespace l4::tools::svg {

namespace {

// Colours stand in classes, not in variables: some viewers know no variables. Both sets keep 3:1 against their ground
// and differ in lightness too, for those who do not see their hues.
constexpr const char* kStyle = R"(
svg { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.ground { fill: #ffffff; } .title { fill: #1a1d21; font-size: 19px; font-weight: 650; }
.subtitle { fill: #5c6470; font-size: 12.5px; } .name { fill: #1a1d21; font-size: 13.5px; font-weight: 600; }
.label, .tick { fill: #5c6470; font-size: 11.5px; } .tick { font-variant-numeric: tabular-nums; }
.grid { stroke: #e6e8ec; stroke-width: 1; } .axis { stroke: #aab1bb; stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: #2563c9; } .f0 { fill: #2563c9; } .s1 { stroke: #c2710c; } .f1 { fill: #c2710c; }
.s2 { stroke: #a3195b; } .f2 { fill: #a3195b; } .s3 { stroke: #0f766e; } .f3 { fill: #0f766e; }
.dot { fill-opacity: 0.28; } .bar { fill-opacity: 0.82; } .value { fill: #1a1d21; font-size: 11.5px; font-variant-numeric: tabular-nums; }
.whisker { stroke: #1a1d21; stroke-width: 1.3; } .mark { stroke: #5c6470; stroke-width: 1.2; stroke-dasharray: 4 3; }
@media (prefers-color-scheme: dark) {
.ground { fill: #14171b; } .title, .name { fill: #e9ebee; } .subtitle, .label, .tick { fill: #98a1ad; }
.value { fill: #e9ebee; } .whisker { stroke: #e9ebee; } .mark { stroke: #98a1ad; }
.grid { stroke: #262b32; } .axis { stroke: #4b535f; }
.s0 { stroke: #6ea8ff; } .f0 { fill: #6ea8ff; } .s1 { stroke: #f0a848; } .f1 { fill: #f0a848; }
.s2 { stroke: #f472a8; } .f2 { fill: #f472a8; } .s3 { stroke: #4fd1c0; } .f3 { fill: #4fd1c0; }
}
)";

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : utf8_replace_invalid(text)) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else if ((static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t') || c == 0x7f)
      out += ' ';
    else
      out += c;
  }
  return out;
}

std::string px(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

std::string tick_text(double value, double step) {
  char text[40];
  if (step >= 1e5)
    std::snprintf(text, sizeof text, "%gM", value / 1e6);
  else if (step >= 1e3 && value >= 1e4)
    std::snprintf(text, sizeof text, "%gk", value / 1e3);
  else if (value >= 1e3 && value == std::floor(value))
    return human_count(uint64_t(value));
  else
    std::snprintf(text, sizeof text, "%g", value);
  return value == 0 ? "0" : text;
}

std::string text_at(double x, double y, const char* style, const char* anchor, std::string_view text) {
  return cat("<text x=\"", px(x), "\" y=\"", px(y), "\" class=\"", style, "\" text-anchor=\"", anchor, "\">",
             escaped(text), "</text>\n");
}

std::string line_at(double x0, double y0, double x1, double y1, const char* style) {
  return cat("<line x1=\"", px(x0), "\" y1=\"", px(y0), "\" x2=\"", px(x1), "\" y2=\"", px(y1), "\" class=\"", style,
             "\"/>\n");
}

std::string begin(double width, double height, std::string_view title) {
  return cat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", px(width), " ", px(height), "\" width=\"",
             px(width), "\" height=\"", px(height), "\" role=\"img\">\n<title>", escaped(title), "</title>\n<style>",
             kStyle, "</style>\n<rect width=\"100%\" height=\"100%\" class=\"ground\"/>\n");
}

}  // namespace l4::tools::svg
