#include "tools/common/plot.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/strings.h"
#include "tools/common/svg.h"

namespace l4::tools {

using svg::escaped;
using svg::line_at;
using svg::px;
using svg::text_at;
using svg::tick_text;

namespace {

// In pixels at the size it was drawn for.
constexpr double kWidth = 960, kMargin = 28, kHeader = 78, kPanelHeight = 262, kGap = 36;
constexpr double kPanelWidth = (kWidth - 2 * kMargin - kGap) / 2;
// The frame of the axes within a panel.
constexpr double kLeft = 50, kRight = 10, kTop = 52, kBottom = 42;

class PanelDrawing {
 public:
  PanelDrawing(const PlotPanel& panel, double left, double top) : panel_(panel), left_(left), top_(top) {
    for (const PlotSeries& s : panel.series)
      for (const auto& [x, y] : s.points) {
        if (!std::isfinite(x) || !std::isfinite(y)) continue;
        xs_.insert(scaled(x));
        values_.insert(x);
        top_y_ = std::max(top_y_, y);
      }
  }

  std::string draw() {
    std::string out = text_at(left_, top_ + 14, "name", "start", panel_.title);
    if (xs_.empty())
      return out + text_at(left_ + kPanelWidth / 2, (y0() + y1()) / 2, "label", "middle", "nothing to show");
    out += axes() + legend();
    for (const PlotSeries& s : panel_.series)
      if (!s.joined) out += dots(s);
    for (const PlotSeries& s : panel_.series)
      if (s.joined) out += line(s);
    return out;
  }

 private:
  double x0() const { return left_ + kLeft; }
  double x1() const { return left_ + kPanelWidth - kRight; }
  double y0() const { return top_ + kPanelHeight - kBottom; }  // below
  double y1() const { return top_ + kTop; }
  double scaled(double x) const { return panel_.log2_x ? std::log2(std::max(x, 1e-9)) : x; }

  // A sweep keeps a little room at its sides; time begins at the axis.
  double x_at(double x) const {
    const double low = panel_.log2_x ? *xs_.begin() : 0, high = *xs_.rbegin();
    const double pad = panel_.log2_x ? 16 : 0;
    const double share = high > low ? (scaled(x) - low) / (high - low) : 0.5;
    return x0() + pad + share * (x1() - x0() - 2 * pad);
  }
  double y_at(double y) const { return y0() - y / scale_ * (y0() - y1()); }

  std::string axes() {
    std::string out;
    const std::vector<double> ticks = round_ticks(top_y_, 5);
    scale_ = ticks.back();
    for (const double y : ticks) {
      out += line_at(x0(), y_at(y), x1(), y_at(y), y == 0 ? "axis" : "grid");
      out += text_at(x0() - 8, y_at(y) + 4, "tick", "end", tick_text(y, ticks[1]));
    }
    if (panel_.log2_x) {
      double last = -1e9;
      for (const double x : values_) {
        if (x_at(x) - last < 30) continue;  // would run into the one before
        out += text_at(last = x_at(x), y0() + 17, "tick", "middle", tick_text(x, 1));
      }
    } else {
      const std::vector<double> marks = round_ticks(*xs_.rbegin(), 6);
      for (const double x : marks)
        if (x <= *xs_.rbegin() * 1.0001) out += text_at(x_at(x), y0() + 17, "tick", "middle", tick_text(x, marks[1]));
    }
    return out + text_at((x0() + x1()) / 2, y0() + 35, "label", "middle", panel_.x_label);
  }

  std::string legend() const {
    std::string out;
    if (panel_.series.size() < 2) return out;
    double x = x0();
    for (const PlotSeries& s : panel_.series) {
      if (s.joined)
        out += cat("<line x1=\"", px(x), "\" y1=\"", px(top_ + 30), "\" x2=\"", px(x + 16), "\" y2=\"", px(top_ + 30),
                   "\" class=\"line s", s.color, "\"/>\n");
      else
        out +=
            cat("<circle cx=\"", px(x + 8), "\" cy=\"", px(top_ + 30), "\" r=\"3\" class=\"dot f", s.color, "\"/>\n");
      out += text_at(x + 21, top_ + 34, "label", "start", s.name);
      x += 38 + 6.4 * double(s.name.size());
    }
    return out;
  }

  std::string dots(const PlotSeries& s) const {
    std::string out;
    for (const auto& [x, y] : s.points)
      if (std::isfinite(x) && std::isfinite(y))
        out +=
            cat("<circle cx=\"", px(x_at(x)), "\" cy=\"", px(y_at(y)), "\" r=\"2\" class=\"dot f", s.color, "\"/>\n");
    return out;
  }

  std::string line(const PlotSeries& s) const {
    std::string path;
    for (const auto& [x, y] : s.points)
      if (std::isfinite(x) && std::isfinite(y)) path += cat(path.empty() ? "M" : "L", px(x_at(x)), " ", px(y_at(y)));
    std::string out = cat("<path d=\"", path, "\" class=\"line s", s.color, "\"/>\n");
    if (!panel_.log2_x && s.points.size() > 1) return out;
    for (const auto& [x, y] : s.points)
      if (std::isfinite(x) && std::isfinite(y))
        out += cat("<circle cx=\"", px(x_at(x)), "\" cy=\"", px(y_at(y)), "\" r=\"3.2\" class=\"f", s.color,
                   "\"><title>", escaped(cat(s.name, ": ", y)), "</title></circle>\n");
    return out;
  }

  const PlotPanel& panel_;
  const double left_, top_;
  std::set<double> xs_, values_;  // scaled, and as they are
  double top_y_ = 0, scale_ = 1;
};

}  // namespace

std::vector<double> round_ticks(double top, int n) {
  if (!(top > 0) || !std::isfinite(top)) return {0, 1};
  const double rough = top / n, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power >= rough * (1 - 1e-9)) step = factor * power;
  std::vector<double> ticks;
  for (int i = 0; ticks.empty() || ticks.back() < top * (1 - 1e-9); ++i) ticks.push_back(i * step);
  return ticks;
}

std::string to_svg(const Plot& plot) {
  const size_t rows = (plot.panels.size() + 1) / 2;
  const double height = kHeader + double(rows) * kPanelHeight + double(rows - (rows > 0)) * 12 + 16;
  std::string out = svg::begin(kWidth, height, plot.title);
  out += text_at(kMargin, 36, "title", "start", plot.title);
  out += text_at(kMargin, 57, "subtitle", "start", plot.subtitle);
  for (size_t i = 0; i < plot.panels.size(); ++i) {
    const size_t row = i / 2, column = i % 2;
    out += PanelDrawing(plot.panels[i], kMargin + double(column) * (kPanelWidth + kGap),
                        kHeader + double(row) * (kPanelHeight + 12))
               .draw();
  }
  return out + "</svg>\n";
}

}  // namespace l4::tools
