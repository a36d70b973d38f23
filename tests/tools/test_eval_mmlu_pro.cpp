// MMLU-Pro's recipes: prompts, rules of extraction, which questions are asked, and lm-eval's own prompts and scores.
#include "tools/eval/mmlu_pro.h"

#include <map>

#include "tools/eval/letter_answer.h"
#include "tools/eval_data.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::eval::testing;
using namespace l4::test;

namespace {

struct Data {
  TempDir dir;
  explicit Data(const std::string& test, const std::string& validation = {}) {
    write_file(dir / "test.jsonl", test);
    if (!validation.empty()) write_file(dir / "validation.jsonl", validation);
  }
  Task task(MmluProOptions options = {}) const {
    options.data = dir.path();
    return mmlu_pro_task(options);
  }
};

std::string said(const LetterAnswer& answer) {
  return answer.letter ? cat(*answer.letter, " by ", answer.rule) : "nothing" + answer.rule;
}

const std::string kInstruction =
    "The following are multiple choice questions (with answers) about math. Think step by step and then finish your "
    "answer with \"the answer is (X)\" where X is the correct letter choice.\n";
const std::string kShot = "Question:\nQ70?\nOptions:\nA. one\nB. two\nC. three\nAnswer: Let's think step by step.";
const std::string kAsked = "Question:\nQ7?\nOptions:\nA. one\nB. two\nC. three\nAnswer: Let's think step by step.";

}  // namespace

TEST_CASE("mmlu-pro: lm-eval takes the first \"answer is\" with a capital letter from A to J") {
  for (const auto& [answer, expected] :
       std::map<std::string, std::string>{{"So the answer is (C).", "C by answer is"},
                                          {"the answer is C", "C by answer is"},
                                          {"the answer is (C", "C by answer is"},
                                          {"The answer is (B). No, the answer is (C).", "B by answer is"},
                                          {"the answer is K, so the answer is (J)", "J by answer is"},
                                          {"the answer is Because", "B by answer is"},  // no word need end there
                                          {"the answer is (c)", "nothing"},
                                          {"the answer is **C**", "nothing"},
                                          {"the answer is: C", "nothing"},
                                          {"the answer is  C", "nothing"},
                                          {"the Answer Is C", "nothing"},
                                          {"the answer is ((C))", "nothing"},
                                          {"Answer: C", "nothing"},
                                          {"", "nothing"}})
    CHECK_MESSAGE(said(letter_lm_eval(answer)) == expected, answer);
}

TEST_CASE("mmlu-pro: Meta's rule takes the last \"best answer is\" with any capital letter") {
  for (const auto& [answer, expected] :
       std::map<std::string, std::string>{{"The best answer is C.", "C by best answer is"},
                                          {"the best answer is C", "C by best answer is"},
                                          {"The best answer is B. Then: The best answer is C.", "C by best answer is"},
                                          {"The best answer is C. The best answer is not known", "C by best answer is"},
                                          {"The best answer is Z", "Z by best answer is"},
                                          {"The best answer is (C)", "nothing"},
                                          {"THE best answer is C", "nothing"},
                                          {"Best answer is C", "nothing"},
                                          {"The answer is C", "nothing"}})
    CHECK_MESSAGE(said(letter_llama(answer)) == expected, answer);
}

TEST_CASE("mmlu-pro: the authors' rules fall back, one after another") {
  for (const auto& [answer, expected] : std::map<std::string, std::string>{
           {"Answer: A. I mean the answer is (C).", "C by answer is"},
           {"Answer: C", "C by answer:"},
           {"final answer:C", "C by answer:"},
           {"Answer:\n\n  C", "C by answer:"},
           {"Answer: A, or Answer: B\nAnswer: C", "B by answer:"},  // of its first line the last
           {"ANSWER: C", "C by last letter"},
           {"Answer: none. A or B? C!", "C by last letter"},
           {"It is C\nfor sure", "C by last letter"},
           {"C or KD or \u00c9D or D_ or D1", "C by last letter"},  // only the first stands alone
           {"D\u00e9, (C), ^K^", "C by last letter"},
           {"I think so", "I by last letter"},
           {"a b c", "nothing"},
           {"42", "nothing"}})
    CHECK_MESSAGE(said(letter_tiger(answer)) == expected, answer);
}

TEST_CASE("mmlu-pro: the die depends on the question and the seed, not on order, and has as many sides as options") {
  std::map<char, int> thrown;
  for (int id = 0; id < 3000; ++id) ++thrown[guessed_letter(cat(id), 3, 0)];
  CHECK(thrown.size() == 3);
  for (const auto& [letter, count] : thrown) CHECK_MESSAGE((count > 880 && count < 1120), letter, " ", count);
  CHECK(guessed_letter("17", 10, 0) == guessed_letter("17", 10, 12345));
  int differ = 0;
  for (int id = 0; id < 100; ++id) differ += guessed_letter(cat(id), 10, 1) != guessed_letter(cat(id), 10, 2);
  CHECK(differ > 70);

  const Data data(mmlu_pro_line(7, "math"), example_line(70, "math"));
  const Task task = data.task({.recipe = "tiger", .shots = 1});
  const Score score = task.score(task.items[0], "no idea");
  CHECK(!score.extracted);
  CHECK(score.rule == "random guess");
  CHECK(metric_of(score, "exact_match") == (guessed_letter("7", 3, 0) == 'B'));
}

TEST_CASE("mmlu-pro: a score is the letter against the target") {
  const Data data(mmlu_pro_line(7, "math"), example_line(70, "math"));
  const Task task = data.task({.shots = 1});
  CHECK(task.score(task.items[0], "the answer is (B)").metrics[0].value == 1);
  CHECK(task.score(task.items[0], "the answer is (C)").metrics[0].value == 0);
  CHECK(*task.score(task.items[0], "the answer is (C)").extracted == "C");
  const Score none = task.score(task.items[0], "the answer is \xff");
  CHECK(!none.extracted);
  CHECK(none.rule.empty());
  CHECK(none.metrics[0].value == 0);
}

TEST_CASE("mmlu-pro: lm-eval's prompt with turns, in one turn, and without a chat template") {
  const Data data(mmlu_pro_line(7, "math"), example_line(70, "math"));
  const std::vector<Query::Turn> turns = {
      {"system", kInstruction}, {"user", kShot}, {"assistant", "It is so. The answer is (B)."}, {"user", kAsked}};
  CHECK(data.task({.shots = 1}).items[0].query.turns == turns);
  const std::vector<Query::Turn> one = {{"system", kInstruction},
                                        {"user", kShot + " It is so. The answer is (B).\n\n" + kAsked}};
  CHECK(data.task({.shots = 1, .fewshot_as_multiturn = false}).items[0].query.turns == one);
  const Task text = data.task({.shots = 1, .chat = false});
  CHECK(text.items[0].query.turns.empty());
  CHECK(text.items[0].query.text == kInstruction + one[1].text);
  CHECK(text.items[0].query.stop == std::vector<std::string>{"Question:"});
  CHECK(text.items[0].query.max_tokens == 2048);
  CHECK(data.task({.shots = 0, .max_tokens = 9}).items[0].query.max_tokens == 9);
}

TEST_CASE("mmlu-pro: Meta's prompt strips the question, not the options, and says which answer is best") {
  const Data data(mmlu_pro_line(7, "math"), example_line(70, "math"));
  const Task task = data.task({.recipe = "llama"});
  CHECK(task.shots == 0);
  CHECK(!task.groups_weigh_by_size);
  const std::string end =
      "A. one\nB.  two\nC. three\n\nYour response should end with \"The best answer is [the_answer_letter].\" where "
      "the "
      "[the_answer_letter] is a letter from the provided choices.\n\nLet's think step by step.";
  const std::string begin = "Given the following question and candidate answers, choose the best answer.\nQuestion: ";
  CHECK(task.items[0].query.turns == std::vector<Query::Turn>{{"user", begin + "Q7?\n" + end}});
  CHECK(task.items[0].query.stop.empty());
  CHECK(task.items[0].query.max_tokens == 1024);
  CHECK(data.task({.recipe = "llama", .shots = 1}).items[0].query.turns[1].text == "It is so. The best answer is B.");
}

TEST_CASE("mmlu-pro: the authors' prompt is one text, leaves out N/A and strips nothing") {
  const Data data(
      R"({"question_id": 7, "question": "Q?", "options": ["N/A", " x"], "answer": "A", "category": "math"})",
      example_line(70, "math"));
  const Task task = data.task({.recipe = "tiger", .shots = 1});
  CHECK(
      task.items[0].query.turns ==
      std::vector<Query::Turn>{
          {"user", kInstruction +
                       "\n\n\nQuestion:\nQ70?\nOptions:\nA. one\nB.  two\nC. three\nAnswer: Let's think step by step. "
                       "It is so. The answer is (B).\n\n"
                       "Question:\nQ?\nOptions:\nA.  x\nAnswer: Let's think step by step."}});
}

TEST_CASE("mmlu-pro: the limit counts each subject, a seed draws a sample, categories are asked by name") {
  std::string test, examples;
  for (int id = 0; id < 40; ++id) test += mmlu_pro_line(id, id % 2 ? "math" : "computer science");
  const Data data(test);
  CHECK(ids_of(data.task({.shots = 0, .limit = 2})) == std::vector<std::string>{"0", "2", "1", "3"});
  const std::vector<std::string> sample = ids_of(data.task({.shots = 0, .limit = 5, .seed = 3}));
  CHECK(sample.size() == 10);
  CHECK(sample == ids_of(data.task({.shots = 0, .limit = 5, .seed = 3})));
  CHECK(sample != ids_of(data.task({.shots = 0, .limit = 5, .seed = 4})));
  CHECK(sample != ids_of(data.task({.shots = 0, .limit = 5})));
  CHECK(data.task({.shots = 0}).items.size() == 40);
  const Task one = data.task({.shots = 0, .categories = {"computer_science"}});
  CHECK(one.items.size() == 20);
  CHECK(one.items[3].group == "computer science");
  CHECK(error_of([&] { data.task({.shots = 0, .categories = {"maths"}}); }) ==
        cat("--categories: ", (data.dir / "test.jsonl").string(),
            " has no questions of \"maths\"; it has computer science, math"));
  CHECK(error_of([&] { data.task({.recipe = "gpt"}); }) == "--recipe: expected lm-eval, llama or tiger, found \"gpt\"");
}

TEST_CASE("mmlu-pro: bad lines are counted with what is wrong, and leave the others in") {
  const Data data(mmlu_pro_line(1, "math") + "{\"question_id\": 2\n\n" + mmlu_pro_line(1, "math") + "[1]\n" +
                  R"({"question_id": 3, "question": "", "options": ["a"], "answer": "A", "category": "math"})"
                  "\n"
                  R"({"question_id": 4, "question": "q", "options": ["a", 5], "answer": "A", "category": "math"})"
                  "\n"
                  R"({"question_id": 5, "question": "q", "options": ["a"], "answer": "B", "category": "math"})"
                  "\n" +
                  mmlu_pro_line(6, "math"));
  const Task task = data.task({.shots = 0});
  CHECK(ids_of(task) == std::vector<std::string>{"1", "6"});
  REQUIRE(task.bad_lines.size() == 6);
  CHECK(task.bad_lines[0].line == 2);
  CHECK(task.bad_lines[0].why.starts_with("not valid JSON"));
  CHECK(task.bad_lines[1].line == 4);
  CHECK(task.bad_lines[1].why == "question_id: expected an id of its own, found 1");
  CHECK(task.bad_lines[2].why == "expected an object, found array");
  CHECK(task.bad_lines[3].why == "question: expected a string that is not empty, found \"\"");
  CHECK(task.bad_lines[4].why == "options: expected a list of 1 to 10 strings, found array");
  CHECK(task.bad_lines[5].why == "answer: expected a letter from A to A, found \"B\"");
}

TEST_CASE("mmlu-pro: shots that are not there or damaged end the run, an empty file too") {
  const Data data(mmlu_pro_line(7, "math"), example_line(70, "math") + example_line(71, "law"));
  CHECK(error_of([&] { data.task({.shots = 2}); }) ==
        cat((data.dir / "validation.jsonl").string(), ": expected 2 examples of \"math\" for --shots, found 1"));
  write_file(data.dir / "validation.jsonl", example_line(70, "math") + mmlu_pro_line(71, "math"));
  CHECK(error_of([&] { data.task({.shots = 1}); }) ==
        cat((data.dir / "validation.jsonl").string(), ": line 2: cot_content: expected a string, found nothing"));
  write_file(data.dir / "test.jsonl", "oops\n");
  CHECK(error_of([&] {
          data.task({.shots = 0});
        }).starts_with(cat((data.dir / "test.jsonl").string(), ": expected questions, found none; line 1: not valid")));
  std::filesystem::remove(data.dir / "test.jsonl");
  CHECK(error_of([&] { data.task({.shots = 0}); }).find("test.jsonl") != std::string::npos);
}

TEST_CASE("mmlu-pro: 200 recorded answers score as in lm-eval") {
  const Data data(mmlu_pro_line(7, "math"));
  const std::map<std::string, Task> tasks = {{"mmlu_pro", data.task({.shots = 0})},
                                             {"mmlu_pro_llama", data.task({.recipe = "llama"})}};
  int right = 0;
  for (const Json& c : golden_cases("mmlu_pro.jsonl"))
    for (const auto& [name, task] : tasks) {
      const std::string& answer = c.find("answer")->as_string();
      CAPTURE(name);
      CAPTURE(answer);
      const Score score =
          task.score({.id = "7", .group = {}, .query = {}, .target = c.find("target")->as_string()}, answer);
      const Json* extracted = c.find(name)->find("extracted");
      CHECK(score.extracted.has_value() == !extracted->is_null());
      if (score.extracted && !extracted->is_null()) CHECK(*score.extracted == extracted->as_string());
      const double expected = c.find(name)->find("metrics")->find("exact_match")->as_number();
      CHECK(metric_of(score, "exact_match") == expected);
      right += expected == 1;
    }
  CHECK(right > 60);
  CHECK(right < 200);
}

TEST_CASE("mmlu-pro: prompts are lm-eval's to the byte: text, one turn, many turns, no shots") {
  const fs::path data = shared_data("mmlu_pro");
  const std::vector<Json> cases = golden_cases("mmlu_pro.jsonl");
  for (const auto& [name, recipe] : {std::pair("mmlu_pro", "lm-eval"), {"mmlu_pro_llama", "llama"}}) {
    MmluProOptions options{.data = data, .recipe = recipe, .shots = 5};
    const auto check = [&](const std::string& kind) {
      std::map<std::string, std::string> hashes;
      for (const Item& item : mmlu_pro_task(options).items) hashes[item.id] = sha256_of(item.query);
      CHECK(hashes.size() == 12032);
      for (const Json& c : cases) {
        const std::string& id = c.find("id")->as_string();
        CHECK_MESSAGE(hashes[id] == c.find(name)->find(kind)->as_string(), name, " ", kind, " ", id);
      }
    };
    check("turns");
    options.fewshot_as_multiturn = false;
    check("chat");
    options.shots = 0;
    check("chat_0_shots");
    options.shots = 5;
    options.chat = false;
    check("text");
  }
}
