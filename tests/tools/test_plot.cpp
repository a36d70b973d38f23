#include "tools/common/plot.h"

#include <cmath>
#include <cstdio>

#include "support/test.h"
#include "tools/common/bar_plot.h"

using namespace l4;
using namespace l4::tools;

TEST_CASE("plot: round ticks reach beyond the top") {
  CHECK(round_ticks(10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  CHECK(round_ticks(11, 5) == std::vector<double>{0, 5, 10, 15});
  CHECK(round_ticks(0.9, 5) == std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1});
  for (const double nothing : {0.0, -1.0, double(NAN), double(INFINITY)})
    CHECK(round_ticks(nothing, 5) == std::vector<double>{0, 1});
  for (double top = 1e-7; top < 1e12; top *= 1.37) {
    const std::vector<double> ticks = round_ticks(top, 5);
    CHECK(ticks.size() >= 3);
    CHECK(ticks.size() <= 7);
    CHECK(ticks.back() >= top * 0.999999);
    CHECK(ticks[ticks.size() - 2] < top);
  }
}

TEST_CASE("plot: text is escaped, points that are no numbers are left out, an empty panel says so") {
  const double nan = NAN;
  const PlotSeries hostile{"a<b>&\"\x01", {{0, 1}, {1, nan}, {INFINITY, 2}, {2, 3}}, true, 0};
  const std::string svg =
      to_svg({"<script>", "&", {PlotPanel{"p", "x", {hostile, hostile}}, PlotPanel{"empty", "x", {}}}});
  CHECK(svg.find("<script") == std::string::npos);
  CHECK(svg.find("&lt;script&gt;") != std::string::npos);
  CHECK(svg.find("a&lt;b&gt;&amp;&quot; ") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find("inf") == std::string::npos);
  CHECK(svg.find("nothing to show") != std::string::npos);
  CHECK(svg.find("prefers-color-scheme: dark") != std::string::npos);
  // Two points are left of each line; y grows upwards: 3 at the top tick, 1 at a third of the height.
  const size_t path = svg.find("<path d=\"M");
  REQUIRE(path != std::string::npos);
  const std::string d = svg.substr(path + 10, svg.find('"', path + 10) - path - 10);
  double x0, y0, x1, y1;
  REQUIRE(std::sscanf(d.c_str(), "%lf %lfL%lf %lf", &x0, &y0, &x1, &y1) == 4);
  CHECK(x0 < x1);
  CHECK(y0 > y1);
}

TEST_CASE("bar plot: bars as long as their values, intervals, what has no number") {
  BarPlot plot{"<t>", "s", {"first", "second"}, {}, {{"line", 50}}, 100};
  plot.rows = {{"a<b", {BarPlot::Bar{80, 70, 90}, BarPlot::Bar{40, 40, 40}}},
               {"none", {std::nullopt, BarPlot::Bar{NAN, 0, 1}}}};
  const std::string svg = to_svg(plot);
  CHECK(svg.find("<t>") == std::string::npos);
  CHECK(svg.find("a&lt;b, first: 80.0, 70.0 to 90.0") != std::string::npos);
  CHECK(svg.find("nan") == std::string::npos);
  CHECK(svg.find(">line: 50.0<") != std::string::npos);
  const auto width_of = [&](const char* style) {
    const size_t at = svg.rfind("<rect", svg.find(cat("class=\"bar ", style, "\"><title>")));
    double x, y, width, height;
    REQUIRE(std::sscanf(svg.c_str() + at, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &x, &y, &width,
                        &height) == 4);
    return width;
  };
  CHECK(width_of("f0") == doctest::Approx(2 * width_of("f1")).epsilon(1e-3));
  size_t whiskers = 0;
  for (size_t at = svg.find("class=\"whisker\""); at != std::string::npos; at = svg.find("class=\"whisker\"", at + 1))
    ++whiskers;
  CHECK(whiskers == 3);  // of the first alone: the second's interval has no length

  const std::string text = to_text(plot);
  CHECK(text.find("a<b, first ") == 0);
  CHECK(text.find("80.0  (70.0 to 90.0)\n") != std::string::npos);
  CHECK(text.find("none, second  no number\n") != std::string::npos);
  size_t blocks = 0;
  for (size_t at = text.find("█"); at != std::string::npos; at = text.find("█", at + 1)) ++blocks;
  CHECK(blocks == 32 + 16);  // of 40 each

  // Names of any length; what tells them apart, at their end, stays.
  BarPlot names{"t", "s", std::vector<std::string>(4), {}, {}, 100};
  for (int i = 0; i < 4; ++i) names.series[size_t(i)] = std::string(300, 'x') + cat(" number ", i);
  names.rows = {{std::string(300, 'y') + " end", std::vector<std::optional<BarPlot::Bar>>(4)}};
  CHECK(to_svg(names).find("xx number 3</text>") != std::string::npos);
  CHECK(to_svg(names).find("yy end</text>") != std::string::npos);
  CHECK(to_svg(BarPlot{"t", "s", {"one"}, {}, {}, 100}).find("</svg>") != std::string::npos);
}
