#include "tools/common/bar_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "tools/common/plot.h"
#include "tools/common/svg.h"

namespace l4::tools {

using svg::escaped;
using svg::line_at;
using svg::px;
using svg::text_at;

namespace {

constexpr double kWidth = 960, kMargin = 28, kRight = 60, kBar = 15, kRowGap = 9, kMarkLine = 17, kLegendLine = 20;
constexpr double kLetter = 6.6, kLongestName = 260;  // of the names at the left, at their size
constexpr size_t kTextWidth = 40, kLongestSeries = 48;

// No longer than `most` characters: what tells names apart is often at their end.
std::string cut(const std::string& name, size_t most) {
  std::string clean = utf8_replace_invalid(name);
  std::vector<size_t> begins;  // of each character
  for (size_t pos = 0; pos < clean.size(); next_code_point(clean, pos)) begins.push_back(pos);
  if (begins.size() <= most) return clean;
  const size_t head = most / 3, tail = most - head - 1;
  return cat(clean.substr(0, begins[head]), "…", clean.substr(begins[begins.size() - tail]));
}

size_t length_of(const std::string& text) {
  size_t n = 0;
  for (const char c : utf8_replace_invalid(text)) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

bool has_number(const std::optional<BarPlot::Bar>& bar) {
  return bar && std::isfinite(bar->value) && std::isfinite(bar->low) && std::isfinite(bar->high);
}

class Drawing {
 public:
  explicit Drawing(const BarPlot& plot) : plot_(plot), n_series_(plot.series.size()) {
    size_t longest = 0;
    for (const BarPlot::Row& row : plot.rows) longest = std::max(longest, length_of(row.name));
    left_ = kMargin + std::min(kLongestName, kLetter * double(longest)) + 12;
    place_legend();
    top_ = 74 + kLegendLine * double(n_legend_lines_) + kMarkLine * double(plot.marks.size());
    row_height_ = kBar * double(n_series_) + kRowGap;
    bottom_ = top_ + row_height_ * double(plot.rows.size()) + 4;
  }

  std::string draw() {
    std::string out = svg::begin(kWidth, bottom_ + 34, plot_.title);
    out += text_at(kMargin, 36, "title", "start", plot_.title);
    out += text_at(kMargin, 57, "subtitle", "start", plot_.subtitle);
    out += legend();
    for (const double x : round_ticks(plot_.top, 5)) {
      if (x > plot_.top * 1.0001) break;
      out += line_at(x_at(x), top_, x_at(x), bottom_, x == 0 ? "axis" : "grid");
      out += text_at(x_at(x), bottom_ + 17, "tick", "middle", cat(x));
    }
    for (size_t i = 0; i < plot_.rows.size(); ++i) out += row(plot_.rows[i], top_ + row_height_ * double(i));
    for (size_t i = 0; i < plot_.marks.size(); ++i) out += mark(plot_.marks[i], i);
    return out + "</svg>\n";
  }

 private:
  double x_at(double value) const {
    return left_ + std::clamp(value / plot_.top, 0.0, 1.0) * (kWidth - kMargin - kRight - left_);
  }

  // Names beside each other while they fit.
  void place_legend() {
    if (n_series_ < 2) return;
    double x = left_;
    n_legend_lines_ = 1;
    for (const std::string& series : plot_.series) {
      const std::string name = cut(series, kLongestSeries);
      const double width = 42 + 6.4 * double(length_of(name));
      if (x > left_ && x + width > kWidth - kMargin) x = left_, ++n_legend_lines_;
      legend_.push_back({name, x, 82 + kLegendLine * double(n_legend_lines_ - 1)});
      x += width;
    }
  }

  std::string legend() const {
    std::string out;
    for (size_t s = 0; s < legend_.size(); ++s) {
      const auto& [name, x, y] = legend_[s];
      out += cat("<rect x=\"", px(x), "\" y=\"", px(y - 10), "\" width=\"12\" height=\"12\" rx=\"2\" class=\"bar f", s,
                 "\"/>\n");
      out += text_at(x + 18, y, "label", "start", name);
    }
    return out;
  }

  std::string row(const BarPlot::Row& row, double y) const {
    const size_t most = size_t(kLongestName / kLetter);
    std::string out = text_at(left_ - 10, y + row_height_ / 2 + 4, "label", "end", cut(row.name, most));
    for (size_t s = 0; s < row.bars.size(); ++s) {
      const double bar_y = y + kRowGap / 2 + kBar * double(s), middle = bar_y + kBar / 2 - 0.5;
      if (!has_number(row.bars[s])) {
        out += text_at(left_ + 6, middle + 4, "label", "start", "–");
        continue;
      }
      const BarPlot::Bar& bar = *row.bars[s];
      const double low = x_at(bar.low), high = x_at(bar.high), to = x_at(bar.value);
      out += cat("<rect x=\"", px(left_), "\" y=\"", px(bar_y), "\" width=\"", px(to - left_), "\" height=\"",
                 px(kBar - 1), "\" class=\"bar f", s, "\"><title>",
                 escaped(cat(row.name, n_series_ > 1 ? ", " + plot_.series[s] : "", ": ", number(bar.value), ", ",
                             number(bar.low), " to ", number(bar.high))),
                 "</title></rect>\n");
      if (bar.high > bar.low) {
        out += line_at(low, middle, high, middle, "whisker");
        for (const double x : {low, high}) out += line_at(x, middle - 3, x, middle + 3, "whisker");
      }
      out += text_at(std::max(to, high) + 7, middle + 4, "value", "start", number(bar.value));
    }
    return out;
  }

  // Each mark's name has a line of its own above the bars, on the side where there is room.
  std::string mark(const BarPlot::Mark& m, size_t i) const {
    if (!std::isfinite(m.value)) return {};
    const double x = x_at(m.value), y = top_ - 6 - kMarkLine * double(plot_.marks.size() - 1 - i);
    const bool to_the_left = m.value > plot_.top / 2;
    return line_at(x, y - 9, x, bottom_, "mark") + text_at(x + (to_the_left ? -6 : 6), y, "label",
                                                           to_the_left ? "end" : "start",
                                                           cat(cut(m.name, 90), ": ", number(m.value)));
  }

  const BarPlot& plot_;
  const size_t n_series_;
  double left_ = 0, top_ = 0, row_height_ = 0, bottom_ = 0;
  struct LegendEntry {
    std::string name;
    double x, y;
  };
  std::vector<LegendEntry> legend_;
  size_t n_legend_lines_ = 0;
};

}  // namespace

std::string to_svg(const BarPlot& plot) {
  L4_CHECK(plot.series.size() <= kMostBarSeries);
  for (const BarPlot::Row& row : plot.rows) L4_CHECK(row.bars.size() == plot.series.size());
  return Drawing(plot).draw();
}

std::string to_text(const BarPlot& plot) {
  std::string out;
  size_t name_width = 0;
  const auto name_of = [&](const BarPlot::Row& row, size_t s) {
    std::string name = row.name;
    if (plot.series.size() > 1) name += ", " + plot.series[s];
    for (char& c : name)
      if (static_cast<unsigned char>(c) < ' ') c = ' ';
    return cut(name, 44);
  };
  for (const BarPlot::Row& row : plot.rows)
    for (size_t s = 0; s < row.bars.size(); ++s) name_width = std::max(name_width, length_of(name_of(row, s)));
  for (const BarPlot::Row& row : plot.rows)
    for (size_t s = 0; s < row.bars.size(); ++s) {
      const std::string name = name_of(row, s);
      out += name + std::string(name_width - length_of(name) + 2, ' ');
      if (!has_number(row.bars[s])) {
        out += "no number\n";
        continue;
      }
      const BarPlot::Bar& bar = *row.bars[s];
      const size_t n = size_t(std::lround(std::clamp(bar.value / plot.top, 0.0, 1.0) * double(kTextWidth)));
      for (size_t i = 0; i < kTextWidth; ++i) out += i < n ? "█" : "·";
      out += cat("  ", number(bar.value), "  (", number(bar.low), " to ", number(bar.high), ")\n");
    }
  for (const BarPlot::Mark& m : plot.marks)
    if (std::isfinite(m.value)) out += cat(cut(m.name, 90), ": ", number(m.value), "\n");
  return out;
}

}  // namespace l4::tools
