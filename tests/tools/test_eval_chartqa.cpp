// ChartQA's recipes: prompts, both harnesses' rules of relaxed accuracy, pictures, and lm-eval's own prompts and
// scores.
#include "tools/eval/chartqa.h"

#include <map>

#include "tools/eval/relaxed_accuracy.h"
#include "tools/eval_data.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::eval::testing;
using namespace l4::test;

namespace {

std::string chart_line(const std::string& query, const std::string& more, const std::string& image = "png/a.png") {
  return cat(R"({"image": ")", image, R"(", "query": ")", query, "\", ", more, "}\n");
}

struct Data {
  TempDir dir;
  explicit Data(const std::string& lines) {
    write_file(dir / "test.jsonl", lines);
    write_file(dir / "png/a.png", "picture");
  }
  Task task(ChartQaOptions options = {}) const {
    options.data = dir / "test.jsonl";
    return chartqa_task(options);
  }
};

const std::string kTwo = chart_line("How many?", R"("label": "7", "human_or_machine": 0)") +
                         chart_line("Which?", R"("label": ["Yes", "no"], "human_or_machine": 1)");

}  // namespace

TEST_CASE("chartqa: the final answer is the first line with text after the last \"answer:\", without markdown") {
  for (const auto& [answer, expected] : std::map<std::string, std::string>{
           {"Final Answer: 7", "7"},
           {"FINAL ANSWER: 7\nreally", "7"},
           {"Answer: 3. Final answer: 7", "7"},
           {"answer:\n\n  7 \n8", "7"},
           {"**Final Answer:** 7", "7"},
           {"**Final Answer**: 7", "7"},
           {"Final Answer***:** 7", "7"},
           {"final ANSWER: 7", "7"},
           {"FINAL ANSWER**: 7", ""},  // stars are looked for after "answer" and "Answer" only
           {"Final Answer: **7**", "7"},
           {"Final Answer: [a_b](c)", "abc"},
           {"Final Answer: ** 7 **", " 7 "},
           {"Final Answer: **", ""},
           {"the answer is 7", ""},
           {"Final Answer:", ""},
           {"Final Answer: 7\nAnswer:", ""},
           {"Final Answer:\u00a07\u2003", "7"},
           {"", ""}})
    CHECK_MESSAGE(final_answer(answer) == expected, answer);
}

TEST_CASE("chartqa: lm-eval's comparison, rule for rule") {
  struct Case {
    const char *prediction, *target;
    bool right;
  };
  for (const Case& c :
       std::vector<Case>{{"100", "100", true},
                         {"105", "100", true},  // 5 % of the target belongs to it
                         {"106", "100", false},
                         {"95", "100", true},
                         {"94.9", "100", false},
                         {"-10", "10", false},
                         {"-10.4", "-10", true},
                         {"0", "0", true},
                         {"0.000001", "0", false},
                         {"1,234", "1234", true},
                         {"$1,234.", "1234", true},
                         {"7!?.", "7", true},
                         {"7 million", "7", false},
                         {"about 7", "7", false},
                         {"7%", "7", true},     // as they stand
                         {"7%", "0.07", true},  // the answer's percent
                         {"0.07", "7%", true},  // the target's percent
                         {"7", "0.07", false},  // neither has one
                         {"7%.", "7%", true},
                         {"7 %", "7%", true},
                         {"7%%", "7", true},
                         {"1e2", "100", true},
                         {"+100", "100", true},
                         {"inf", "100", false},
                         {"nan", "nan", false},
                         {"2010-2015", "2010-2015", true},
                         {"Yes", "yes", true},
                         {"Yes.", "Yes", true},
                         {"Yes!)", "Yes", true},
                         {"Yes ", "Yes", false},
                         {"\"Yes\"", "Yes", true},
                         {"'Yes'", "Yes", true},
                         {"\"Yes'", "Yes", false},
                         {"\"", "Yes", false},
                         {"Yes", "Yes.", false},  // the target keeps its punctuation, the answer loses it
                         {"U.S.", "U.S.", false},
                         {"C\u00d4TE", "c\u00f4te", true},
                         {"\u0391\u0412", "\u03b1\u0432", true},
                         {"Bananas", "b", true},  // a letter is met by the first letter
                         {"abc", "B", false},
                         {"(B)", "B", false},
                         {"\u00c5land", "\u00e5", true},
                         {"", "B", false},
                         {"[2003, 2009]", "[2003, 2009]", true},
                         {"[2003 2009", "[2003, 2009]", true},  // both lose commas and what ends them
                         {"2003, 2009", "[2003, 2009]", false}})
    CHECK_MESSAGE(relaxed_equal(c.prediction, c.target) == c.right, c.prediction, " against ", c.target);
}

TEST_CASE("chartqa: without a final answer relaxed accuracy is 0, and anywhere accuracy looks for the target") {
  CHECK(relaxed_accuracy("Final Answer: 7", "7"));
  CHECK_FALSE(relaxed_accuracy("7", "7"));
  CHECK(anywhere_accuracy("Final Answer: 7", "7"));
  CHECK_FALSE(anywhere_accuracy("7 it is. Final Answer: 8", "7"));  // a final answer counts alone
  CHECK(anywhere_accuracy("it is 7", "7"));
  CHECK(anywhere_accuracy("it is 1,234,567", "1234567"));
  CHECK(anywhere_accuracy("it is 1234567", "1234567.0"));
  CHECK(anywhere_accuracy("it is 1,234.5", "1234.5"));
  CHECK(anywhere_accuracy("it is 1234.5", "1234.5"));
  CHECK(anywhere_accuracy("it is -12,345", "-12345"));
  CHECK_FALSE(anywhere_accuracy("it is 8", "7"));
  CHECK(anywhere_accuracy("sums to 17", "7"));  // as generous as its authors say
  CHECK(anywhere_accuracy("the colour is green", "Green"));
  CHECK_FALSE(anywhere_accuracy("the colour is Green", "Green"));  // only the target is put in lower case
  CHECK(anywhere_accuracy("they are green", "green"));
  CHECK(anywhere_accuracy("it was green", "green"));
  CHECK(anywhere_accuracy("all green.", "green"));
  CHECK(anywhere_accuracy("\n\ngreen", "green"));
  CHECK_FALSE(anywhere_accuracy("green", "green"));
  CHECK_FALSE(anywhere_accuracy("inf", "inf"));
}

TEST_CASE("chartqa: exact match wants \"Final Answer: X\" at the end of the text") {
  CHECK(exact_final_answer("Reasons.\nFinal Answer: Yes", "yes"));
  CHECK(exact_final_answer("FINAL ANSWER: Yes.", "Yes"));
  CHECK(exact_final_answer("Final Answer:  Yes \n", " Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer: Yes..", "Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer: Yes\n\n", "Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer: Yes\nSure.", "Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer:\nYes", "Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer: Final Answer: Yes", "Yes"));
  CHECK_FALSE(exact_final_answer("Answer: Yes", "Yes"));
  CHECK_FALSE(exact_final_answer("Final Answer: 7.0", "7"));
}

TEST_CASE("chartqa: lm-eval reads a label that is a list of numbers as Python") {
  for (const auto& [label, target] : std::map<std::string, std::string>{{"[2003,2009]", "[2003, 2009]"},
                                                                        {"[1.50, .5,-3]", "[1.5, 0.5, -3]"},
                                                                        {"[2017, 2023]", "[2017, 2023]"},
                                                                        {"[07,1]", "[07,1]"},  // no Python
                                                                        {"[5%,6%]", "[5%,6%]"},
                                                                        {"[Yes,No]", "[Yes,No]"},
                                                                        {"[1,2", "[1,2"},
                                                                        {"[]", "[]"}})
    CHECK_MESSAGE(lm_eval_target(label) == target, label);
}

TEST_CASE("chartqa: lmms-eval compares the whole answer") {
  CHECK(relaxed_equal_lmms("7", "7.2"));
  CHECK(relaxed_equal_lmms(" 7\n", "7"));
  CHECK_FALSE(relaxed_equal_lmms("7.", "8"));
  CHECK(relaxed_equal_lmms("7.", "7"));  // a number to Python
  CHECK_FALSE(relaxed_equal_lmms("7!", "7"));
  CHECK(relaxed_equal_lmms("7%", "0.07"));
  CHECK_FALSE(relaxed_equal_lmms("7%", "7"));
  CHECK_FALSE(relaxed_equal_lmms("7% ", "7%"));  // the sign is not at the end: no number
  CHECK_FALSE(relaxed_equal_lmms("1,234", "1234"));
  CHECK(relaxed_equal_lmms("0", "0"));
  CHECK_FALSE(relaxed_equal_lmms("0.0", "0"));  // zero is compared as text
  CHECK(relaxed_equal_lmms("YES", "Yes"));
  CHECK_FALSE(relaxed_equal_lmms("Yes.", "Yes"));
}

TEST_CASE("chartqa: prompts, pictures, groups and metrics of each recipe") {
  const Data data(kTwo);
  const Task lm = data.task();
  REQUIRE(ids_of(lm) == std::vector<std::string>{"0", "1"});
  const Query& query = lm.items[0].query;
  REQUIRE(query.turns.size() == 1);
  CHECK(query.turns[0].role == "user");
  CHECK(query.turns[0].text.starts_with("How many?\nAnalyze the image and question carefully, using step-by-step"));
  CHECK(query.turns[0].text.ends_with("IMPORTANT: Remember, to end your answer with Final Answer: <answer>.\n"));
  CHECK(query.images == std::vector<fs::path>{data.dir / "png/a.png"});
  CHECK(query.max_tokens == 512);
  CHECK(query.stop.empty());
  CHECK(lm.items[0].group == "human");
  CHECK(lm.items[1].group == "augmented");
  CHECK(lm.items[1].target == "Yes");
  CHECK(lm.metrics == std::vector<std::string>{"relaxed_accuracy", "exact_match", "anywhere_accuracy"});
  const Score score = lm.score(lm.items[0], "I see.\nFinal Answer: 7.1");
  CHECK(*score.extracted == "7.1");
  REQUIRE(score.metrics.size() == 3);
  CHECK(score.metrics[0].name == "relaxed_accuracy");
  CHECK(score.metrics[0].value == 1);
  CHECK(score.metrics[1].value == 0);
  CHECK(score.metrics[2].value == 1);
  CHECK(!lm.score(lm.items[0], "it is 7").extracted);

  const Task lmms = data.task({.recipe = "lmms-eval", .max_tokens = 20});
  CHECK(lmms.items[0].query.turns[0].text == "How many?\nAnswer the question with a single word.");
  CHECK(lmms.items[0].query.max_tokens == 20);
  CHECK(data.task({.recipe = "lmms-eval"}).items[0].query.max_tokens == 16);
  CHECK(lmms.score(lmms.items[0], "7").metrics.size() == 1);
  CHECK(metric_of(lmms.score(lmms.items[0], "7"), "relaxed_overall") == 1);
  CHECK(!lmms.score(lmms.items[0], " \n").extracted);
  CHECK(error_of([&] { data.task({.recipe = "x"}); }) == "--recipe: expected lm-eval, llama or lmms-eval, found \"x\"");
}

TEST_CASE("chartqa: pictures that are not there and damaged lines are counted by name") {
  const Data data(kTwo + chart_line("?", R"("label": "1")", "png/b.png") + chart_line("?", R"("label": 5)") + "{\n" +
                  chart_line("", R"("label": "1")") + chart_line("?", R"("label": "1", "human_or_machine": 2)"));
  const Task task = data.task();
  CHECK(task.items.size() == 2);
  REQUIRE(task.bad_lines.size() == 5);
  CHECK(task.bad_lines[0].line == 3);
  CHECK(task.bad_lines[0].why == cat("item 2: image: ", (data.dir / "png/b.png").string(), " is not there"));
  CHECK(task.bad_lines[1].why == "label: expected a string, found 5");
  CHECK(task.bad_lines[2].why.starts_with("not valid JSON"));
  CHECK(task.bad_lines[3].why == "query: expected a string that is not empty, found \"\"");
  CHECK(task.bad_lines[4].why == "human_or_machine: expected an integer from 0 to 1, found 2");
  CHECK(ids_of(data.task({.categories = {"augmented"}})) == std::vector<std::string>{"1"});
  CHECK(ids_of(data.task({.limit = 1})) == std::vector<std::string>{"0"});
  CHECK(error_of([&] {
          data.task({.categories = {"machine"}});
        }).ends_with(" has no questions of \"machine\"; it has human, augmented"));
  const Data none(chart_line("?", R"("label": "1")", "png/b.png"));
  CHECK(error_of([&] { none.task(); }).find("expected questions, found none; line 1: item 0: image:") !=
        std::string::npos);
}

TEST_CASE("chartqa: 200 recorded answers score as in lm-eval") {
  const Data data(kTwo);
  std::map<std::string, int> right;
  for (const std::string recipe : {"lm-eval", "llama"}) {
    const Task task = data.task({.recipe = recipe});
    for (const Json& c : golden_cases("chartqa.jsonl")) {
      const std::string &answer = c.find("answer")->as_string(), &target = c.find("target")->as_string();
      CAPTURE(answer);
      CAPTURE(target);
      const Score score = task.score({.id = "0", .group = {}, .query = {}, .target = target}, answer);
      CHECK(score.extracted.value_or("") == (c.find("extracted")->is_null() ? "" : c.find("extracted")->as_string()));
      for (const auto& [name, value] : c.find("metrics")->as_object()) {
        CHECK_MESSAGE(metric_of(score, name) == value.as_number(), name);
        right[name] += value.as_number() == 1;
      }
    }
  }
  for (const auto& [name, count] : right) CHECK_MESSAGE((count > 30 && count < 250), name, " ", count);
}

TEST_CASE("chartqa: prompts are lm-eval's to the byte") {
  const fs::path data = shared_data("chartqa/sample.jsonl");
  for (const auto& [name, recipe] : {std::pair("chartqa", "lm-eval"), {"chartqa_llama", "llama"}}) {
    std::map<std::string, std::string> hashes;
    for (const Item& item : chartqa_task({.data = data, .recipe = recipe}).items)
      hashes[item.id] = sha256_of(item.query);
    CHECK(hashes.size() == 579);
    for (const Json& c : golden_cases("chartqa.jsonl")) {
      const std::string& id = c.find("id")->as_string();
      CHECK_MESSAGE(hashes[id] == c.find(name)->as_string(), name, " ", id);
    }
  }
}
