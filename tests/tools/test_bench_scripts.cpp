// The scripts that read l4-bench's results.
#include <fstream>

#include "tools/run_tool.h"

using namespace l4::test;

namespace {

Result script(const std::string& name, std::vector<std::string> words) {
  words.insert(words.begin(), {"python3", (source_dir() / "scripts" / name).string()});
  const Result r = run(words);
  if (r.status == 127) L4_SKIP("python3 is not here");
  return r;
}

std::string line_of(const std::string& test, double median_ts, double stddev_ns) {
  const l4::Json result = l4::Json::Object{{"test", test},
                                           {"model_name", "m"},
                                           {"build_commit", "abc"},
                                           {"median_ts", median_ts},
                                           {"avg_ns", 1e9 / median_ts},
                                           {"stddev_ns", stddev_ns},
                                           {"limit_share", 0.25},
                                           {"samples_ns", l4::Json::Array{1.0, 1.0, 1.0, 1.0}}};
  return dump_json(result) + "\n";
}

}  // namespace

TEST_CASE("bench scripts: compare tells what is faster from noise") {
  CHECK_MESSAGE(script("bench_compare.py", {"--check"}).status == 0, "its own check");
  TempDir dir;
  const std::string before = (dir / "before").string(), after = (dir / "after").string();
  std::ofstream(before) << line_of("quiet", 100, 1e5) << line_of("noisy", 100, 5e6) << "{\"test\": \"ceilings\"}\n";
  std::ofstream(after) << line_of("quiet", 90, 1e5) << line_of("noisy", 90, 5e6) << line_of("new", 1, 0);
  const Result r = script("bench_compare.py", {before, after});
  CHECK(r.status == 0);
  CHECK(r.out.find("| 0.900 |") != std::string::npos);
  CHECK(r.out.find("25.0 -> 25.0 | slower |") != std::string::npos);
  CHECK(r.out.find("only after: new") != std::string::npos);
  CHECK(l4::split(r.out, '\n')[3].find("slower") == std::string::npos);  // noisy
  CHECK(script("bench_compare.py", {before, after, "--fail-below", "0.95"}).status == 1);
  CHECK(script("bench_compare.py", {before, after, "--fail-below", "0.85"}).status == 0);
  std::ofstream(after) << "no JSON\n";
  CHECK(script("bench_compare.py", {before, after}).status == 1);
}

TEST_CASE("bench scripts: plots") {
  const Result r = script("bench_plot.py", {"--check"});
  if (r.err.find("No module named 'matplotlib'") != std::string::npos) L4_SKIP("matplotlib is not here");
  CHECK_MESSAGE(r.status == 0, r.err);
}
