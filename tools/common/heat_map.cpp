#include "tools/common/heat_map.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "tools/common/svg.h"

namespace l4::tools {

namespace {

// In pixels at the size it was drawn for.
constexpr double kMargin = 28, kTop = 96, kLeft = 92, kRight = 104, kBottom = 62, kRowHeight = 32, kMostWide = 640;

constexpr Rgb kText{0x1a, 0x1d, 0x21}, kFaint{0x5c, 0x64, 0x70}, kEmpty{0xe6, 0xe8, 0xec}, kWhite{255, 255, 255};

// What a picture is drawn on: the same calls give SVG and pixels.
enum class Style { title, subtitle, label };
class Canvas {
 public:
  virtual ~Canvas() = default;
  virtual void cell(double x, double y, double width, double height, std::optional<double> value) = 0;
  virtual void cell_text(double x, double y, std::optional<double> value, const std::string& text) = 0;  // middle
  virtual void text(double x, double y, Style style, TextAnchor anchor, const std::string& text) = 0;
};

int64_t n_characters(const std::string& utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

struct Layout {
  explicit Layout(const HeatMap& map) {
    const double n = double(std::max<size_t>(1, map.columns.size()));
    cell = std::clamp(kMostWide / n, 46.0, 84.0);
    // Letters of a title are about so wide in any font.
    width = std::max({kLeft + cell * n + kRight, 2 * kMargin + 11.2 * double(n_characters(map.title)),
                      2 * kMargin + 6.9 * double(n_characters(map.subtitle))});
    grid_height = kRowHeight * double(map.rows.size());
    height = kTop + grid_height + kBottom;
  }
  double cell = 0, width = 0, height = 0, grid_height = 0;
};

void draw(const HeatMap& map, const Layout& at, Canvas& canvas) {
  L4_CHECK(map.values.size() == map.rows.size() * map.columns.size());
  canvas.text(kMargin, 36, Style::title, TextAnchor::start, map.title);
  canvas.text(kMargin, 57, Style::subtitle, TextAnchor::start, map.subtitle);
  const double end = kLeft + at.cell * double(map.columns.size()), bottom = kTop + at.grid_height;
  canvas.text(kLeft - 12, kTop - 10, Style::label, TextAnchor::end, map.y_label);
  for (size_t y = 0; y < map.rows.size(); ++y) {
    const double top = kTop + kRowHeight * double(y);
    canvas.text(kLeft - 12, top + kRowHeight / 2 + 4, Style::label, TextAnchor::end, map.rows[y]);
    for (size_t x = 0; x < map.columns.size(); ++x) {
      const double left = kLeft + at.cell * double(x);
      const std::optional<double> value = map.values[y * map.columns.size() + x];
      canvas.cell(left + 1, top + 1, at.cell - 2, kRowHeight - 2, value);
      canvas.cell_text(left + at.cell / 2, top + kRowHeight / 2 + 4, value, value ? percent_text(*value) : "-");
    }
  }
  for (size_t x = 0; x < map.columns.size(); ++x)
    canvas.text(kLeft + at.cell * (double(x) + 0.5), bottom + 20, Style::label, TextAnchor::middle, map.columns[x]);
  canvas.text((kLeft + end) / 2, bottom + 42, Style::label, TextAnchor::middle, map.x_label);
  // The scale, in steps: 100 % above.
  constexpr int kSteps = 40;
  const double step = std::max(at.grid_height, 3 * kRowHeight) / kSteps;
  canvas.text(end + 24, kTop - 10, Style::label, TextAnchor::start, map.value_label);
  for (int i = 0; i < kSteps; ++i) canvas.cell(end + 24, kTop + step * i, 14, step + 0.5, 1 - (i + 0.5) / kSteps);
  for (const int percent : {0, 50, 100})
    canvas.text(end + 46,
                kTop + step * kSteps * (100 - percent) / 100 +
                    (percent == 100 ? 9
                     : percent == 0 ? 0
                                    : 4),
                Style::label, TextAnchor::start, std::to_string(percent));
}

std::string hex(Rgb c) {
  char text[8];
  std::snprintf(text, sizeof text, "#%02x%02x%02x", c.r, c.g, c.b);
  return text;
}

class SvgCanvas : public Canvas {
 public:
  void cell(double x, double y, double width, double height, std::optional<double> value) override {
    out += cat("<rect x=\"", svg::px(x), "\" y=\"", svg::px(y), "\" width=\"", svg::px(width), "\" height=\"",
               svg::px(height), value ? "\" fill=\"" + hex(heat_color(*value)) : "\" class=\"empty", "\"/>\n");
  }
  void cell_text(double x, double y, std::optional<double> value, const std::string& text) override {
    out += svg::text_at(x, y, !value ? "tick" : is_bright(heat_color(*value)) ? "dark" : "bright", "middle", text);
  }
  void text(double x, double y, Style style, TextAnchor anchor, const std::string& text) override {
    constexpr const char* kStyles[] = {"title", "subtitle", "tick"};
    constexpr const char* kAnchors[] = {"start", "middle", "end"};
    out += svg::text_at(x, y, kStyles[int(style)], kAnchors[int(anchor)], text);
  }
  std::string out;
};

class PixelCanvas : public Canvas {
 public:
  PixelCanvas(double width, double height) : pixels(int(width * kScale), int(height * kScale), kWhite) {}
  void cell(double x, double y, double width, double height, std::optional<double> value) override {
    const auto edge = [](double v) { return int(std::lround(v * kScale)); };
    pixels.rect(edge(x), edge(y), edge(x + width), edge(y + height), value ? heat_color(*value) : kEmpty);
  }
  void cell_text(double x, double y, std::optional<double> value, const std::string& text) override {
    const Rgb color = !value ? kFaint : is_bright(heat_color(*value)) ? kText : kWhite;
    write(x, y, 2, TextAnchor::middle, color, text);
  }
  void text(double x, double y, Style style, TextAnchor anchor, const std::string& text) override {
    write(x, y, style == Style::title ? 3 : 2, anchor, style == Style::title ? kText : kFaint, text);
  }
  PngCanvas pixels;

 private:
  static constexpr int kScale = 2;
  void write(double x, double y, int size, TextAnchor anchor, Rgb color, const std::string& text) {
    pixels.text(int(x * kScale), int(y * kScale), size, anchor, color, text);
  }
};

}  // namespace

Rgb heat_color(double value) {
  // Violet, blue, green and yellow of evenly rising lightness.
  constexpr std::array<Rgb, 6> kStops{{{0x2d, 0x10, 0x4e},
                                       {0x3b, 0x40, 0x86},
                                       {0x2f, 0x6f, 0x8e},
                                       {0x2c, 0x9c, 0x86},
                                       {0x86, 0xc6, 0x5c},
                                       {0xf7, 0xe3, 0x6b}}};
  const double at = (std::isnan(value) ? 0 : std::clamp(value, 0.0, 1.0)) * (kStops.size() - 1);
  const size_t below = std::min(size_t(at), kStops.size() - 2);
  const double share = at - double(below);
  const auto mixed = [&](uint8_t a, uint8_t b) { return uint8_t(std::lround(a + (double(b) - a) * share)); };
  const Rgb &a = kStops[below], &b = kStops[below + 1];
  return {mixed(a.r, b.r), mixed(a.g, b.g), mixed(a.b, b.b)};
}

bool is_bright(Rgb c) {
  return 0.299 * c.r + 0.587 * c.g + 0.114 * c.b > 108;
}

std::string percent_text(double share) {
  const double percent = share * 100;
  char text[40];
  std::snprintf(text, sizeof text, "%.1f", percent > 0 && percent < 100 ? std::clamp(percent, 0.1, 99.9) : percent);
  std::string out = text;
  if (out.ends_with(".0")) out.resize(out.size() - 2);
  return out;
}

std::string to_svg(const HeatMap& map) {
  const Layout layout(map);
  SvgCanvas canvas;
  draw(map, layout, canvas);
  return cat(svg::begin(layout.width, layout.height, map.title),
             "<style>.dark, .bright { font-size: 12px; font-variant-numeric: tabular-nums; } .dark { fill: ",
             hex(kText), "; } .bright { fill: #ffffff; }\n.empty { fill: ", hex(kEmpty),
             "; } @media (prefers-color-scheme: dark) { .empty { fill: #262b32; } }</style>\n", canvas.out, "</svg>\n");
}

std::string to_png(const HeatMap& map) {
  const Layout layout(map);
  PixelCanvas canvas(layout.width, layout.height);
  draw(map, layout, canvas);
  return canvas.pixels.png();
}

}  // namespace l4::tools
