#include "tools/common/plot.h"

#include <cmath>

#include "support/test.h"

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
