// Two runs question by question: of runs in memory, and of files through the command.
#include "support/has.h"
#include "support/test.h"
#include "tools/eval/compare.h"
#include "tools/eval_runs.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

// n questions, of which those for which `right` says so are.
RunFile run_of(const std::string& model, int64_t n, const std::function<bool(int64_t)>& right) {
  RunFile run;
  run.header = mmlu_pro_header(model, n);
  for (int64_t i = 0; i < n; ++i)
    run.records.push_back(answered(cat(i), i % 2 ? "law" : "math", right(i) ? "A" : "B", "A"));
  return run;
}

RunComparison compare(const RunFile& a, const RunFile& b, bool allow = false) {
  return compare_runs(a, b, allow, "a.jsonl", "b.jsonl");
}

std::string write_run(const fs::path& path, const RunFile& run) {
  std::string lines = to_line(run.header) + "\n";
  for (const Record& r : run.records) lines += to_line(r) + "\n";
  write_file_atomic(path, lines);
  return path.string();
}

}  // namespace

TEST_CASE("eval compare: flips, difference and test, over all and by group") {
  // 0 to 7 right in the first; 0 to 4 and 8 to 11 in the second: 3 lost, 4 gained.
  const RunFile a = run_of("bf16", 20, [](int64_t i) { return i < 8; });
  const RunFile b = run_of("int4", 20, [](int64_t i) { return i < 5 || (i >= 8 && i < 12); });
  const RunComparison c = compare(a, b);
  CHECK(c.metric == "exact_match");
  CHECK(c.all.n() == 20);
  CHECK(c.all.both_right == 5);
  CHECK(c.all.both_wrong == 8);
  CHECK(c.all.only_first == 3);
  CHECK(c.all.only_second == 4);
  CHECK(c.all.first == 0.4);
  CHECK(c.all.second == 0.45);
  CHECK(c.all.difference.value == doctest::Approx(0.05));
  CHECK(c.all.p == doctest::Approx(1));  // binomtest(3, 7)
  REQUIRE(c.groups.size() == 2);
  CHECK(c.groups[0].first == "law");  // 5 and 7 lost, 9 and 11 gained
  CHECK(c.groups[0].second.only_first == 2);
  CHECK(c.groups[0].second.only_second == 2);
  CHECK(c.groups[1].second.only_first == 1);
  CHECK(c.flips.size() == 7);
  CHECK(c.same_text == 13);
  const auto five = std::find_if(c.flips.begin(), c.flips.end(), [](const Flip& f) { return f.id == "5"; });
  REQUIRE(five != c.flips.end());
  CHECK(five->group == "law");
  CHECK(five->first == "A");
  CHECK(five->second == "B");
  CHECK(!five->second_is_right);

  const RunComparison back = compare(b, a);
  CHECK(back.all.only_first == 4);
  CHECK(back.all.difference.value == doctest::Approx(-0.05));
  const RunComparison same = compare(a, a);
  CHECK(same.flips.empty());
  CHECK(same.all.p == 1);
  CHECK(same.all.difference.value == 0);
  CHECK(same.all.difference.interval.low < 0);  // none in 20 may be some in 12,032
  CHECK(has(to_document(same).to_terminal(), "No question is right in one run and wrong in the other"));
}

TEST_CASE("eval compare: what is in no pair is counted and named") {
  RunFile a = run_of("a", 6, [](int64_t) { return true; }), b = a;
  b.header.model = "b";
  a.records.erase(a.records.begin());  // 0 in the second only
  b.records.pop_back();                // 5 in the first only
  b.records[2] = failed("2", "math", "timed out");
  b.records[2].prompt_sha256 = a.records[1].prompt_sha256;
  b.records[2].target = "A";
  const RunComparison c = compare(a, b);
  using Ids = std::vector<std::string>;
  CHECK(c.only_in_first == Ids{"5"});
  CHECK(c.only_in_second == Ids{"0"});
  CHECK(c.failed == Ids{"2"});
  CHECK(c.all.n() == 3);
  const std::string text = to_document(c).to_terminal();
  CHECK(has(text, "1 question asked in the first run only: \"5\""));
  CHECK(has(text, "1 question failed in one of the runs and in no pair: \"2\""));

  b.records[3].prompt_sha256 = std::string(64, 'f');
  CHECK(has(error_of([&] { compare(a, b); }),
            "a.jsonl and b.jsonl: 1 of 4 questions do not have the same prompt and target: \"3\"; "
            "--allow-different-prompts"));
  CHECK(compare(a, b, true).different == Ids{"3"});
  CHECK(compare(a, b, true).all.n() == 3);
  CHECK(has(to_document(compare(a, b, true)).to_terminal(),
            "do not have the same prompt and target in both runs: \"3\""));
}

TEST_CASE("eval compare: runs that cannot be compared") {
  const RunFile a = run_of("a", 3, [](int64_t) { return true; });
  RunFile b = a;
  b.header.task = "chartqa";
  CHECK(error_of([&] { compare(a, b); }) == "a.jsonl is of task \"mmlu_pro\", b.jsonl of \"chartqa\"");
  b = a;
  for (Record& r : b.records) r.id = cat("x", r.id);
  CHECK(has(error_of([&] { compare(a, b, true); }), "no question is in both"));
  b = a;
  b.records[1].score.metrics[0].name = "acc";
  CHECK(has(error_of([&] { compare(a, b); }), "b.jsonl: question \"1\": expected the metric \"exact_match\""));
  b.records[1].score.metrics.clear();
  CHECK(has(error_of([&] { compare(a, b); }), "b.jsonl: question \"1\": has no metrics"));
  b = a;
  for (Record& r : b.records) {
    const std::string hash = r.prompt_sha256;
    r = failed(r.id, r.group, "timed out");
    r.prompt_sha256 = hash;
  }
  const RunComparison none = compare(a, b);
  CHECK(none.all.n() == 0);
  CHECK(has(to_document(none).to_html(), "nothing to compare"));
  CHECK(to_json(none).find("all")->find("pairs")->as_integer() == 0);
}

TEST_CASE("eval compare: 12,032 questions") {
  const RunFile a = run_of("a", 12032, [](int64_t i) { return i % 4 != 0; });
  const RunFile b = run_of("b", 12032, [](int64_t i) { return i % 4 != 0 ? i % 20 != 1 : i % 24 == 0; });
  const RunComparison c = compare(a, b);
  CHECK(c.all.n() == 12032);
  CHECK(c.all.only_first == 602);
  CHECK(c.all.only_second == 502);
  CHECK(c.all.p == doctest::Approx(0.00287002).epsilon(1e-4));  // scipy's binomtest(502, 1104)
  const Document d = to_document(c);
  CHECK(has(d.to_markdown(), "and 904 more, in the JSON"));
  CHECK(to_json(c).find("flips")->as_array().size() == 1104);
}

TEST_CASE("eval compare: hostile names and answers") {
  RunFile a = run_of("<img src=x onerror=alert(1)>", 4, [](int64_t) { return true; });
  RunFile b = run_of("b|`[x](http://evil)", 4, [](int64_t) { return false; });
  a.records[0].group = b.records[0].group = "</td><script>";
  b.records[1].score.extracted = "\x1b[2J</script>";
  const Document d = to_document(compare(a, b));
  CHECK(!has(d.to_html(), "<img"));
  CHECK(!has(d.to_html(), "<script"));
  CHECK(!has(d.to_html(), "\x1b"));
  CHECK(!has(d.to_terminal(), "\x1b"));
  CHECK(!has(d.to_markdown(), "\x1b"));
  CHECK(!has(d.to_markdown(), " [x]("));
}

TEST_CASE("l4-eval compare and report: files of runs") {
  const TempDir dir;
  const std::string a = write_run(dir / "a.jsonl", run_of("bf16", 40, [](int64_t i) { return i < 30; }));
  const std::string b = write_run(dir / "b.jsonl", run_of("int4", 40, [](int64_t i) { return i < 28; }));
  const auto file = [&](const char* name) { return (dir / name).string(); };
  Result r = run(tool("l4-eval", {"compare", a, b, "-o", file("c.json"), "-o", file("c.md"), "-o", file("c.html")}));
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.out, "mmlu_pro: bf16 and int4"));
  CHECK(has(r.out, "-5.00"));
  CHECK(parse_json(read_file(file("c.json"), 1 << 20), "c.json").find("all")->find("only_first")->as_integer() == 2);
  CHECK(has(read_file(file("c.md"), 1 << 20), "| law | 20 | 75.00 | 70.00 |"));
  CHECK(has(read_file(file("c.html"), 1 << 20), "</html>"));

  r = run(tool("l4-eval", {"report", a, b, "-o", file("r.md"), "-o", file("r.html")}));
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.out, "2 runs side by side"));
  CHECK(has(read_file(file("r.md"), 1 << 20), "| subject | bf16 | int4 |"));
  write_file_atomic(dir / "gate.json", R"({"mmlu_pro": 0.75})");
  r = run(tool("l4-eval", {"report", a, "--gate", file("gate.json"), "-o", file("a.json")}));
  CHECK(r.status == 0);
  CHECK(has(r.out, "gate: passed"));
  CHECK(parse_json(read_file(file("a.json"), 1 << 20), "a.json").find("results")->find("mmlu_pro_law"));
  r = run(tool("l4-eval", {"report", a, b, "--gate", file("gate.json")}));
  CHECK(r.status == 1);
  CHECK(r.err == cat("l4-eval: gate: ", b, ": mmlu_pro: exact_match 0.7000 is below the gate's 0.7500\n"));

  const auto wrong = [&](std::vector<std::string> words, int status) {
    return one_line_error(run(tool("l4-eval", std::move(words))), status);
  };
  CHECK(has(wrong({"compare", a}, 2), "expected two runs or two models to compare, found 1"));
  CHECK(has(wrong({"compare", a, dir.path().string()}, 2), "expected two files or two folders"));
  CHECK(has(wrong({"compare", a, b, "-o", "x.txt"}, 2), "a file that ends in .json, .md or .html, found \"x.txt\""));
  CHECK(has(wrong({"compare", a, b, "--ids", "1"}, 2), "--ids: expected two folders"));
  CHECK(has(wrong({"compare", a, b, "--max-kl", "1"}, 2), "--max-kl: expected two models"));
  CHECK(has(wrong({"compare", a, file("none.jsonl")}, 1), "none.jsonl"));
  CHECK(has(wrong({"report"}, 2), "expected the file of a run, found none"));
  CHECK(has(wrong({"report", a, b, "-o", file("x.json")}, 2), "JSON is of one run, found 2"));
  CHECK(has(wrong({"report", file("gate.json")}, 1), "gate.json"));
  CHECK(has(wrong({"report", a, "--gate", a}, 1), "not valid JSON"));
  CHECK(run(tool("l4-eval", {"compare", "--help"})).status == 0);
  CHECK(run(tool("l4-eval", {"report", "--help"})).status == 0);

  // Files that are no runs, or are damaged: one line that names file and line.
  const std::string whole = read_file(a, 1 << 20);
  const struct {
    std::string bytes;
    const char* said;
  } rows[] = {
      {"", "line 1"},
      {"{}\n", "line 1: l4_eval: expected 1"},
      {"[1]\n", "line 1: expected an object"},
      {whole + "{\"id\": 5}\n", "line 42: id"},
      {whole + "\xff\n", "line 42"},
      {whole + "{\"id\": \"x\", \"answer\": \"\", \"metrics\": {\"exact_match\": 2}}\n",
       "line 42: metrics.exact_match"},
  };
  for (const auto& row : rows) {
    write_file_atomic(dir / "bad.jsonl", row.bytes);
    const std::string line = wrong({"report", file("bad.jsonl")}, 1);
    CHECK_MESSAGE(has(line, "bad.jsonl: "), line);
    CHECK_MESSAGE(has(line, row.said), line);
  }
  write_file_atomic(dir / "cut.jsonl", whole.substr(0, whole.size() - 10));  // a kill: the last line is not there
  CHECK(has(run(tool("l4-eval", {"report", file("cut.jsonl")})).out, "not complete: 39 of 40"));
}
