// Bars that lie, one row for each thing that is compared, with intervals: as SVG and as text.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace l4::tools {

struct BarPlot {
  struct Bar {
    double value = 0, low = 0, high = 0;  // the interval contains the value
  };
  struct Row {
    std::string name;
    std::vector<std::optional<Bar>> bars;  // one for each series; none: there is no number
  };
  struct Mark {
    std::string name;
    double value = 0;
  };

  std::string title, subtitle;
  std::vector<std::string> series;  // at most 4; named where there are several
  std::vector<Row> rows;
  std::vector<Mark> marks;  // lines across all rows: what else the bars are measured by
  double top = 100;         // where the axis ends; it begins at 0
};

constexpr size_t kMostBarSeries = 4;

std::string to_svg(const BarPlot& plot);
// A line a bar, for terminals and plain text; marks below.
std::string to_text(const BarPlot& plot);

}  // namespace l4::tools
