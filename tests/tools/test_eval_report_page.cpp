// Reports in a browser: what is hostile in them does nothing, what is long breaks no page.
#include "support/test.h"
#include "tools/browser.h"
#include "tools/eval/report.h"
#include "tools/eval_runs.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

RunFile hostile_run() {
  RunFile run;
  run.header = mmlu_pro_header(cat("Llama-4-Scout ", kHostile), 60);
  run.header.settings.set("note", std::string(3000, 'x'));
  run.header.bad_lines = {{3, cat("<img src=x onerror=\"window.hacked = 1\">", kHostile)}};
  for (int i = 0; i < 60; ++i) {
    run.records.push_back(answered(cat(i), i % 3 ? kHostile : "law", i % 2 ? "A" : "B", "A"));
    run.records.back().reply.text = cat("<script>window.hacked = 1</script>", kHostile, std::string(5000, 'w'));
  }
  return run;
}

}  // namespace

TEST_CASE("eval report: in a browser") {
  if (Browser::program().empty()) L4_SKIP("chromium");
  const TempDir dir;
  const std::vector<Summary> all = {summarise(hostile_run()), summarise(hostile_run())};
  write_file_atomic(dir / "report.html", to_html(all));
  for (const bool dark : {false, true}) {
    CAPTURE(dark);
    Browser browser(1180, 900, dark);
    browser.open(cat("file://", (dir / "report.html").string()));
    const auto is = [&](const char* expression) { return browser.evaluate(expression).as_bool(); };
    CHECK(is("window.hacked === undefined && document.scripts.length === 0 && document.images.length === 0"));
    CHECK(is("document.querySelectorAll('a, iframe, link').length === 0"));
    CHECK(is("[...document.querySelectorAll('pre')].every(e => e.textContent.startsWith('<script>window.hacked'))"));
    CHECK(is("document.querySelectorAll('details').length === 24 && document.querySelectorAll('svg').length === 2"));
    CHECK(is("document.documentElement.scrollWidth <= innerWidth"));
    CHECK(browser.evaluate("getComputedStyle(document.body).backgroundColor").as_string() ==
          (dark ? "rgb(20, 23, 27)" : "rgb(255, 255, 255)"));
    // The drawing's ground is the page's.
    CHECK(
        is("getComputedStyle(document.querySelector('svg .ground')).fill === "
           "getComputedStyle(document.body).backgroundColor"));
    CHECK(browser.problems() == std::vector<std::string>{});
    browser.screenshot(dark ? "report-dark" : "report-light");
  }
}
