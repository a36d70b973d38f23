// Small line and point plots as SVG: a grid of panels that share a title. Readable on light and on dark ground, without
// scripts, fonts or files of elsewhere.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace l4::tools {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending where they are joined
  bool joined = true;                             // else each is a faint dot
  int color = 0;                                  // 0 to 3
};

struct PlotPanel {
  std::string title;  // what y is, with its unit
  std::string x_label;
  std::vector<PlotSeries> series;
  bool log2_x = false;  // ticks at the points' own x: sizes of a sweep
};

struct Plot {
  std::string title, subtitle;
  std::vector<PlotPanel> panels;  // two in a row
};

// y begins at 0. A panel without points says so.
std::string to_svg(const Plot& plot);

// About `n` round numbers (1, 2 or 5 times a power of ten apart) from 0 to `top` or the first beyond it.
std::vector<double> round_ticks(double top, int n);

}  // namespace l4::tools
