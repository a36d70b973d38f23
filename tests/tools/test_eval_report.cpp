// Summaries, lm-eval's layout, reports: of runs in memory.
#include "formats/json.h"
#include "support/has.h"
#include "support/test.h"
#include "tools/eval/published.h"
#include "tools/eval/report.h"
#include "tools/eval/report_text.h"
#include "tools/eval_runs.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

// Three subjects: 3 of 5, 1 of 3 and 4 of 6 right, and two failures.
RunFile small_run(const std::string& model = "Llama-4-Scout") {
  RunFile run;
  run.header = mmlu_pro_header(model, 16);
  const auto add = [&](const std::string& group, int right, int wrong) {
    for (int i = 0; i < right + wrong; ++i)
      run.records.push_back(answered(cat(run.records.size()), group, i < right ? "A" : "B", "A"));
  };
  add("computer science", 3, 2);
  add("law", 1, 2);
  add("math", 4, 2);
  run.records[4] = answered("4", "computer science", "", "A");
  run.records[5].reply.finish_reason = "length";
  run.records.push_back(failed("14", "math", "HTTP 500 from the endpoint"));
  run.records.push_back(failed("15", "math", "HTTP 500 from the endpoint"));
  return run;
}

}  // namespace

TEST_CASE("eval report: counts and scores of a run") {
  const Summary s = summarise(small_run());
  CHECK(s.counts.asked == 16);
  CHECK(s.counts.answered == 14);
  CHECK(s.counts.failed == 2);
  CHECK(s.counts.right == 8);
  CHECK(s.counts.wrong == 6);
  CHECK(s.counts.without_answer == 1);
  CHECK(s.counts.cut_off == 1);
  CHECK(s.counts.prompt_tokens == 1400);
  CHECK(s.not_asked() == 0);
  REQUIRE(s.metrics.size() == 1);
  CHECK(s.metrics[0].name == "exact_match");
  CHECK(s.metrics[0].mean.n == 14);  // what failed is in no score
  CHECK(s.metrics[0].mean.value == doctest::Approx(8.0 / 14));
  CHECK(s.plain.value == doctest::Approx((3.0 / 5 + 1.0 / 3 + 4.0 / 6) / 3));
  // lm-eval's pooled_sample_stderr and unweighted_mean_stderr of [3/5, 1/3, 4/6]
  CHECK(*s.metrics[0].mean.standard_error == doctest::Approx(0.14414999403128945).epsilon(1e-12));
  CHECK(*s.plain.standard_error == doctest::Approx(0.15475986974649023).epsilon(1e-12));
  REQUIRE(s.groups.size() == 3);
  CHECK(s.groups[0].name == "computer science");
  CHECK(s.groups[2].counts.failed == 2);
  CHECK(s.groups[2].means[0].n == 6);
  using Counted = std::vector<std::pair<std::string, int64_t>>;
  CHECK(s.rules == Counted{{"answer is", 13}, {"", 1}});
  CHECK(s.errors == Counted{{"HTTP 500 from the endpoint", 2}});
  CHECK(s.wrong_answers.size() == 6);

  // A task that is the mean of its groups.
  RunFile plain = small_run();
  plain.header.groups_weigh_by_size = false;
  CHECK(summarise(plain).metrics[0].mean.value == s.plain.value);
  CHECK(summarise(plain).by_size.value == s.by_size.value);

  // The order in which questions were answered says nothing.
  RunFile backwards = small_run();
  std::reverse(backwards.records.begin(), backwards.records.end());
  CHECK(dump_json(to_lm_eval_json(summarise(backwards))) == dump_json(to_lm_eval_json(s)));
  CHECK(to_markdown(std::vector{summarise(backwards)}) == to_markdown(std::vector{s}));
}

TEST_CASE("eval report: empty runs, all failed, one question, no groups") {
  RunFile run;
  run.header = mmlu_pro_header("m", 3);
  const auto reports = [](const Summary& s) {
    CHECK(parse_json(dump_json(to_lm_eval_json(s)), "json").find("results"));
    CHECK(has(to_html(std::vector{s}), "</html>"));
    return to_table(s) + to_markdown(std::vector{s});
  };
  Summary s = summarise(run);
  CHECK(!s.has_score());
  CHECK(has(reports(s), "0 of 3 questions were asked"));

  run.records = {failed("0", "law", "timed out"), failed("1", "law", "timed out"), failed("2", "math", "no such host")};
  s = summarise(run);
  CHECK(!s.has_score());
  CHECK(s.counts.failed == 3);
  CHECK(has(reports(s), "timed out (2); no such host (1)"));
  const Json json = to_lm_eval_json(s);
  CHECK(!json.find("results")->find("mmlu_pro")->find("exact_match,custom-extract"));
  CHECK(json.find("results")->find("mmlu_pro")->find("sample_len")->as_integer() == 0);
  CHECK(json.find("l4")->find("counts")->find("failed")->as_integer() == 3);

  run.records = {answered("0", "", "A", "A")};
  run.header.n_items = 1;
  s = summarise(run);
  CHECK(s.groups.empty());
  CHECK(s.metrics[0].mean.value == 1);
  CHECK(!s.metrics[0].mean.standard_error);
  CHECK(has(reports(s), "100.00"));
  const Json one = to_lm_eval_json(s);
  CHECK(one.find("results")->find("mmlu_pro")->find("exact_match_stderr,custom-extract")->as_string() == "N/A");
  CHECK(!one.find("groups"));
  CHECK(to_markdown({}) == "# l4-eval: no runs\n");

  run.records = {answered("0", "", "A", "A"), answered("1", "", "A", "A")};
  run.records[1].score.metrics[0].name = "relaxed_accuracy";
  CHECK(has(error_of([&] { summarise(run); }), "question \"1\""));
  run.records[1].score.metrics.clear();
  CHECK(has(error_of([&] { summarise(run); }), "found none"));
}

TEST_CASE("eval report: lm-eval's names and layout") {
  const Json json = to_lm_eval_json(summarise(small_run()));
  const Json& results = *json.find("results");
  const Json& law = *results.find("mmlu_pro_law");
  CHECK(law.find("alias")->as_string() == "law");
  CHECK(law.find("sample_len")->as_integer() == 3);
  CHECK(law.find("exact_match,custom-extract")->as_number() == doctest::Approx(1.0 / 3));
  CHECK(law.find("exact_match_stderr,custom-extract")->as_number() == doctest::Approx(1.0 / 3));
  CHECK(results.find("mmlu_pro_computer_science")->find("alias")->as_string() == "computer_science");
  const Json& group = *json.find("groups")->find("mmlu_pro");
  CHECK(group.find("exact_match,custom-extract")->as_number() == doctest::Approx(8.0 / 14));
  CHECK(group.find("sample_count")->find("exact_match,custom-extract")->as_integer() == 14);
  CHECK(json.find("group_subtasks")->find("mmlu_pro")->as_array().size() == 3);
  CHECK(json.find("versions")->find("mmlu_pro_math")->as_number() == 3.1);
  CHECK(json.find("n-shot")->find("mmlu_pro")->as_integer() == 5);
  CHECK(json.find("higher_is_better")->find("mmlu_pro_law")->find("exact_match")->as_bool());
  CHECK(json.find("n-samples")->find("mmlu_pro_math")->find("original")->as_integer() == 8);
  CHECK(json.find("n-samples")->find("mmlu_pro_math")->find("effective")->as_integer() == 6);
  CHECK(json.find("config")->find("model_args")->as_string() == "Llama-4-Scout");

  RunHeader h = mmlu_pro_header("m", 1);
  const auto name = [&](const char* task, const char* recipe) {
    h.task = task, h.recipe = recipe;
    const LmEvalTask t = lm_eval_task(h);
    return cat(t.name, ",", t.filter);
  };
  CHECK(name("mmlu_pro", "llama") == "mmlu_pro_llama,strict_match");
  CHECK(name("chartqa", "lm-eval") == "chartqa,none");
  CHECK(name("chartqa", "lmms-eval") == "chartqa_lmms_eval,none");
  CHECK(name("my own", "") == "my_own,none");

  RunFile clash = small_run();  // two groups of one name there
  clash.records[0].group = "computer_science";
  CHECK(to_lm_eval_json(summarise(clash)).find("results")->as_object().size() == 5);
}

TEST_CASE("eval report: lm-eval itself prints our results") {
  const std::string python = std::getenv("L4_PYTHON") ? std::getenv("L4_PYTHON") : "python3";
  if (run({python, "-c", "import lm_eval.utils, lm_eval.api.metrics"}, {.timeout_s = 120}).status != 0)
    L4_SKIP("no Python with lm_eval ($L4_PYTHON names one)");
  const TempDir dir;
  write_file_atomic(dir / "results.json", dump_json(to_lm_eval_json(summarise(small_run()))));
  const Result r = run({python, "-c", R"(
import json, sys
from lm_eval.api.metrics import mean_stderr, pooled_sample_stderr
from lm_eval.utils import make_table
r = json.load(open(sys.argv[1]))
print(make_table(r))
print(make_table(r, "groups"))
parts = [[1] * right + [0] * wrong for right, wrong in ((3, 2), (1, 2), (4, 2))]
errors = [mean_stderr(x) for x in parts]
got = [r["results"]["mmlu_pro_" + s]["exact_match_stderr,custom-extract"] for s in ("computer_science", "law", "math")]
assert all(abs(a - b) < 1e-15 for a, b in zip(errors, got)), (errors, got)
all_error = r["groups"]["mmlu_pro"]["exact_match_stderr,custom-extract"]
assert abs(pooled_sample_stderr(errors, [5, 3, 6]) - all_error) < 1e-15, all_error
)",
                        (dir / "results.json").string()},
                       {.timeout_s = 120});
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK_MESSAGE(has(r.out, "|mmlu_pro           |    3.1|custom-extract|     5|exact_match|↑  |0.5714|±  |0.1441|"),
                r.out);
  CHECK(has(r.out, "| - computer_science|    3.1|custom-extract|     5|exact_match|↑  |0.6000|±  |0.2449|"));
}

TEST_CASE("eval report: the recipe and what is missing stand beside the score") {
  RunFile run = small_run();
  run.header.bad_lines = {{7, "not valid JSON"}, {9, "no question"}};
  run.header.n_items = 20;
  const std::string table = to_table(summarise(run));
  for (const char* part : {"lm-eval 3.1, 5-shot", "57.14 ± 14.41 (!)", "not complete: 16 of 20", "HTTP 500",
                           "2 lines of the data could not be used: line 7: not valid JSON; line 9: no question",
                           "1 (7.14 %) answers were cut off", "computer science", "mean of the 3"}) {
    CAPTURE(part);
    CHECK(has(table, part));
  }
  CHECK(!has(table, "guessing"));
  CHECK(has(to_table(summarise(small_run())), "14.41 (!)"));

  RunFile guess;
  guess.header = mmlu_pro_header("demo", 40);
  for (int i = 0; i < 40; ++i) guess.records.push_back(answered(cat(i), "law", i % 8 ? "B" : "A", "A"));
  CHECK(has(to_table(summarise(guess)), "no better than guessing"));
  CHECK(!has(to_table(summarise(guess)), "(!)"));
}

TEST_CASE("eval report: what a run is of, in words") {
  RunHeader h = mmlu_pro_header("m", 1);
  CHECK(variant_of(h) == "lm-eval 3.1, 5-shot");
  h.settings.set("chat", false);
  h.settings.set("limit", 20);
  h.settings.set("categories", "law,math");
  CHECK(variant_of(h) == "lm-eval 3.1, 5-shot, no chat template, limit 20, only law,math");
  h.settings.set("limit", 0);  // all
  h.version = h.recipe = "";
  h.settings = Json();
  CHECK(variant_of(h) == "5-shot");
  CHECK(setting_text(Json::Object{{"test.jsonl", std::string(64, 'a')}, {"n", 3}}) == "test.jsonl aaaaaaaaaaaa…, n 3");
  CHECK(percent(Mean{}) == "0.00");
  CHECK(share_of(0, 0) == "0");
}

TEST_CASE("eval report: published scores only beside the same recipe") {
  const auto values = [](const char* model, const char* recipe, int64_t shots, bool chat) {
    RunFile run = small_run(model);
    run.header.recipe = recipe, run.header.shots = shots;
    run.header.settings.set("chat", chat);
    std::vector<double> found;
    for (const Published& p : published_for(summarise(run))) found.push_back(p.value);
    return found;
  };
  using Values = std::vector<double>;
  CHECK(values("Llama-4-Scout-17B-16E-Instruct", "llama", 0, true) == Values{0.743});
  CHECK(values("llama-4-MAVERICK", "llama", 0, true) == Values{0.805});
  CHECK(values("scout", "lm-eval", 0, true) == Values{0.752});
  CHECK(values("scout", "lm-eval", 0, false) == Values{});
  CHECK(values("maverick", "lm-eval", 5, false) == Values{0.80});
  CHECK(values("maverick", "lm-eval", 5, true) == Values{});
  CHECK(values("scout", "llama", 5, true) == Values{});
  CHECK(values("demo", "llama", 0, true) == Values{});
  RunFile run = small_run("Scout");
  run.header.recipe = "llama", run.header.shots = 0;
  const std::string html = to_html(std::vector{summarise(run)});
  CHECK(has(html, "Meta&#39;s model card") + has(html, "Meta's model card") == 1);
  CHECK(has(html, "macro_avg/acc"));
  CHECK(has(html, ">74.30<"));
}

TEST_CASE("eval report: hostile text stays text") {
  RunFile run = small_run();
  run.header.model = kHostile;
  run.header.settings.set(kHostile, kHostile);
  run.header.bad_lines = {{1, kHostile}};
  for (Record& r : run.records) {
    r.group = r.group == "law" ? kHostile : r.group;
    r.reply.text = kHostile;
    r.target = kHostile;
    if (!r.reply.error.empty()) r.reply.error = kHostile;
    if (r.score.extracted) r.score.extracted = kHostile, r.score.rule = kHostile;
  }
  run.records[4].reply.text = std::string(100000, '<') + "\xff\xfe";
  const Summary s = summarise(run);
  const std::string html = to_html(std::vector{s, s});
  CHECK(!has(html, "<script"));
  CHECK(!has(html,
             "</pre><"
             "script"));
  CHECK(!has(html, "\x1b"));
  CHECK(has(html, "&lt;script&gt;alert(1)"));
  CHECK(has(html, "default-src 'none'"));
  CHECK(is_valid_utf8(html));
  CHECK(html.size() < 400000);  // long answers are cut
  CHECK(has(html, "more bytes"));
  // Every tag is one of ours.
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const std::string name = html.substr(at + 1, html.find_first_of(" >\n", at) - at - 1);
    static const std::string known =
        " !doctype html head meta title style body main h1 h2 p div table thead tbody tr th td figure svg rect text "
        "line "
        "details summary pre ";
    const std::string bare = name.starts_with('/') ? name.substr(1) : name;
    CHECK_MESSAGE(has(known, " " + bare + " "), name);
  }

  const std::string markdown = to_markdown(std::vector{s});
  CHECK(!has(markdown, "\x1b"));
  CHECK(!has(markdown, "\n# head\n![x](http://evil/x.png) | a"));
  // Outside of fences neither tags nor links nor a heading of theirs; a fence is only closed by its own.
  std::string fence;
  int n_fences = 0;
  for (const std::string& line : split(markdown, '\n')) {
    if (fence.empty() && line.starts_with("```")) {
      fence = line.substr(0, line.find_first_not_of('`')), ++n_fences;
    } else if (!fence.empty()) {
      if (line == fence) fence.clear();
    } else {
      CHECK_MESSAGE(!has(line, "<script"), line);
      CHECK_MESSAGE(!has(line, "![x]("), line);
      CHECK_MESSAGE(!line.starts_with("# head"), line);
    }
  }
  CHECK(fence.empty());
  CHECK(n_fences == 1 + 6);  // a chart and six answers

  const std::string table = to_table(s);
  CHECK(!has(table, "\x1b"));
  CHECK(is_valid_utf8(table));
}

TEST_CASE("eval report: several runs side by side") {
  std::vector<Summary> all = {summarise(small_run("demo")), summarise(small_run("demo")),
                              summarise(small_run("demo-INT4"))};
  all[1].header.settings.set("kv_dtype", "fp8");
  CHECK(labels_of(all) == std::vector<std::string>{"demo, kv_dtype bf16", "demo, kv_dtype fp8", "demo-INT4"});
  const std::string markdown = to_markdown(all);
  CHECK(has(markdown, "| subject | demo, kv_dtype bf16 | demo, kv_dtype fp8 | demo-INT4 |"));
  CHECK(has(markdown, "| law | 33.33 ± 33.33 | 33.33 ± 33.33 | 33.33 ± 33.33 |"));
  all.push_back(summarise(small_run("demo-INT4")));  // nothing tells it apart
  CHECK(labels_of(all)[3] == "demo-INT4 (2)");
  // Scores of other recipes are not in one chart.
  all[3].header.recipe = "llama";
  CHECK(labels_of(all)[3] == "demo-INT4");
  const std::string html = to_html(all);
  CHECK(has(html, "<h2>mmlu_pro, lm-eval 3.1, 5-shot</h2>"));
  CHECK(has(html, "<h2>mmlu_pro, llama 3.1, 5-shot</h2>"));
  for (int i = 0; i < 3; ++i) all.push_back(all[0]);  // more than a chart has colours for
  CHECK(has(to_html(all), "</html>"));
}

TEST_CASE("eval report: MMLU-Pro's 12,032 questions, and as many groups") {
  RunFile run;
  run.header = mmlu_pro_header("m", 12032);
  for (int i = 0; i < 12032; ++i) {
    run.records.push_back(answered(cat(i), cat("subject ", i % 14), i % 4 ? "A" : "B", "A"));
    if (i % 100 == 0) run.records.back() = failed(cat(i), "subject 0", cat("error number ", i));
  }
  Summary s = summarise(run);
  CHECK(s.counts.answered + s.counts.failed == 12032);
  CHECK(s.wrong_answers.size() == kWrongAnswersKept);
  CHECK(s.errors.size() == 11);
  CHECK(s.errors.back() == std::pair<std::string, int64_t>{"(others)", s.counts.failed - 10});
  CHECK(to_html(std::vector{s}).size() < 100000);
  for (Record& r : run.records) r.group = r.id;
  s = summarise(run);
  CHECK(s.groups.size() == 12032);
  CHECK(has(to_markdown(std::vector{s}), "and 11832 more"));
}
