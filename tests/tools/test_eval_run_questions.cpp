// l4-eval's own questions: what a line may say, and which answers are right.
#include "tools/eval/questions.h"

#include "formats/json.h"
#include "support/test.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

Task task_of(const TempDir& dir, const std::string& lines, QuestionsOptions options = {}) {
  options.data = dir / "questions.jsonl";
  write_file_atomic(options.data, lines);
  return questions_task(options);
}

// "right 16", "wrong 17", "wrong -" (nothing was found).
std::string scored(const std::string& match, const std::string& target, const std::string& answer) {
  TempDir dir;
  const Task task = task_of(dir, dump_json(Json(Json::Object{{"prompt", "?"}, {"answer", target}, {"match", match}})));
  REQUIRE(task.items.size() == 1);
  const Score score = task.score(task.items[0], answer);
  REQUIRE(score.metrics.size() == 1);
  CHECK(score.rule == (score.extracted ? match : ""));
  return cat(score.metrics[0].value == 1 ? "right " : "wrong ", score.extracted.value_or("-"));
}

}  // namespace

TEST_CASE("eval questions: which answers are right") {
  CHECK(scored("exact", "New York", " new  york.\n") == "right new  york.");
  CHECK(scored("exact", "New York", "New York City") == "wrong New York City");
  CHECK(scored("exact", "x", " \n") == "wrong -");
  CHECK(scored("contains", "Chad", "It is CHAD's flag") == "right It is CHAD's flag");
  CHECK(scored("contains", "Chad", "Romania") == "wrong Romania");
  CHECK(scored("number", "16", "8 * 2 = 16") == "right 16");
  CHECK(scored("number", "16", "16 is 8 * 2") == "wrong 2");
  CHECK(scored("number", "1,234.50", "That is $1,234.5.") == "right 1234.5");
  CHECK(scored("number", "-3", "It is -3") == "right -3");
  CHECK(scored("number", "3", "It is -3") == "wrong -3");
  CHECK(scored("number", "3", "three") == "wrong -");
  CHECK(scored("letter", "B", "B") == "right B");
  CHECK(scored("letter", "B", "(B).") == "right B");
  CHECK(scored("letter", "B", "I think the answer is (B)") == "right B");
  CHECK(scored("letter", "B", "the answer is (C), not the answer is (B)") == "wrong C");
  CHECK(scored("letter", "B", "I do not know.") == "wrong -");
  CHECK(scored("relaxed", "100", "Answer: 104") == "right 104");
  CHECK(scored("relaxed", "100", "Answer: 106") == "wrong 106");
  CHECK(scored("relaxed", "100", "104") == "right 104");
  CHECK(scored("relaxed", "Chad", "chad") == "right chad");
  CHECK(scored("relaxed", "Chad", "") == "wrong -");
}

TEST_CASE("eval questions: the last number of a text") {
  CHECK(last_number("1 and 2.5") == "2.5");
  CHECK(last_number("1.2.3") == "2.3");
  CHECK(last_number("v.5") == "5");
  CHECK(last_number("-7%") == "-7");
  CHECK(last_number("12,000,000 people.") == "12000000");
  CHECK(!last_number(""));
  CHECK(!last_number("-.,"));
}

TEST_CASE("eval questions: a line is whole or left out, and says why") {
  const struct {
    const char* line;
    const char* why;
  } rows[] = {
      {"[]", "expected an object, found array"},
      {"{}", "expected \"prompt\" or \"messages\", found neither"},
      {R"({"prompt": "a", "messages": [], "answer": "x"})", "expected \"prompt\" or \"messages\", found both"},
      {R"({"prompt": "", "answer": "x"})", "prompt: expected a string that is not empty"},
      {R"({"prompt": 3, "answer": "x"})", "prompt: expected a string, found 3"},
      {R"({"prompt": "a"})", "expected \"answer\" or \"answers\", found neither"},
      {R"({"prompt": "a", "answer": "x", "answers": ["x"]})", "expected \"answer\" or \"answers\", found both"},
      {R"({"prompt": "a", "answer": ""})", "answer: expected text that is not empty, or a number"},
      {R"({"prompt": "a", "answers": []})", "answers: expected a list of texts, found array"},
      {R"({"prompt": "a", "answers": ["x", {}]})", "answers: expected text"},
      {R"({"prompt": "a", "answer": "x", "match": "regex"})", "match: expected exact, contains, number, letter or"},
      {R"({"prompt": "a", "answer": "x", "match": "number"})", "answer: expected a number for match \"number\", found"},
      {R"({"prompt": "a", "answers": ["A", "K"], "match": "letter"})", "answers: expected a letter from A to J"},
      {R"({"prompt": "a", "answer": "x", "id": []})", "id: expected text that is not empty, or a number"},
      {R"({"prompt": "a", "answer": "x", "group": 3})", "group: expected a string"},
      {R"({"prompt": "a", "answer": "x", "images": "a.png"})", "images: expected a list of 1 to"},
      {R"({"messages": [], "answer": "x"})", "messages: expected a list of messages"},
      {R"({"messages": [3], "answer": "x"})", "messages[0]: expected an object"},
      {R"({"messages": [{"role": "tool", "content": "a"}], "answer": "x"})",
       "messages[0]: role: expected system, user or assistant, found \"tool\""},
      {R"({"messages": [{"role": "user"}], "answer": "x"})", "messages[0]: content: expected a string"},
      {R"({"messages": [{"role": "assistant", "content": "a"}], "answer": "x"})",
       "messages: expected the user's message as the last one"},
  };
  for (const auto& row : rows) {
    CAPTURE(std::string(row.line));
    TempDir dir;
    const Task task = task_of(dir, cat("\n", row.line, "\n{\"prompt\": \"good\", \"answer\": 7}\n"));
    REQUIRE(task.bad_lines.size() == 1);
    CHECK(task.bad_lines[0].line == 2);
    CHECK_MESSAGE(task.bad_lines[0].why.starts_with(row.why), task.bad_lines[0].why);
    REQUIRE(task.items.size() == 1);
    CHECK(task.items[0].id == "3");
    CHECK(task.items[0].target == "7");
  }
}

TEST_CASE("eval questions: what is sent, and which lines") {
  TempDir dir;
  const std::string lines =
      R"({"id": 1, "group": "a", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],)"
      R"( "images": ["p.png"], "answers": ["x", "y"]})"
      "\n"
      R"({"id": "two", "group": "b", "prompt": "p", "answer": "x"})"
      "\n"
      R"({"id": "three", "group": "a", "prompt": "p", "answer": "x"})"
      "\n";
  const Task task = task_of(dir, lines);
  REQUIRE(task.items.size() == 3);
  CHECK(task.items[0].query.turns == std::vector<Query::Turn>{{"system", "s"}, {"user", "u"}});
  CHECK(task.items[0].query.images == std::vector<fs::path>{dir / "p.png"});
  CHECK(task.items[0].query.max_tokens == 512);
  CHECK(task.items[0].target == "x | y");
  CHECK(task.items[1].query.turns == std::vector<Query::Turn>{{"user", "p"}});
  QuestionsOptions raw;
  raw.chat = false;
  const Task text = task_of(dir, lines, raw);
  REQUIRE(text.items.size() == 2);
  CHECK(text.items[0].query.turns.empty());
  CHECK(text.items[0].query.text == "p");
  CHECK(text.bad_lines.size() == 1);
  QuestionsOptions one;
  one.limit = 1;
  const Task limited = task_of(dir, lines, one);
  REQUIRE(limited.items.size() == 2);  // of each group
  CHECK(limited.items[0].id == "1");
  CHECK(limited.items[1].id == "two");
  one.categories = {"c"};
  CHECK(error_of([&] { task_of(dir, lines, one); }).find("--categories") == 0);
}
