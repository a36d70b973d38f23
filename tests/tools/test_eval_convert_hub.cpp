// scripts/eval/convert_hub.py: the hub's Parquet files become what the recipes read.
#include "tools/eval/chartqa.h"
#include "tools/eval/mmlu_pro.h"
#include "tools/eval_data.h"
#include "tools/python.h"

using namespace l4;
using namespace l4::eval::testing;
using namespace l4::test;

namespace {

// Writes a table from Python literals as the hub's files have it.
void write_parquet(const std::string& python, const std::filesystem::path& file, const std::string& columns) {
  std::filesystem::create_directories(file.parent_path());
  const Result r = run({python, "-c",
                        "import pyarrow, pyarrow.parquet\n"
                        "pyarrow.parquet.write_table(pyarrow.table(" +
                            columns + "), " + json_quote(file.string()) + ", row_group_size=2)"});
  REQUIRE_MESSAGE(r.status == 0, r.err);
}

Result convert(const std::string& python, const std::filesystem::path& from, const std::filesystem::path& to,
               const std::vector<std::string>& more = {}) {
  std::vector<std::string> words = {python, (source_dir() / "scripts/eval/convert_hub.py").string(), from.string(),
                                    to.string()};
  words.insert(words.end(), more.begin(), more.end());
  return run(words);
}

std::string questions(const std::string& first, const std::string& n) {
  return "{k: [f(i) for i in range(" + first + ", " + first + " + " + n +
         ")] for k, f in {'question_id': lambda i: i, 'question': lambda i: f'Quelle n\u00b0 {i}?', "
         "'options': lambda i: ['a', 'b', 'c'], 'answer': lambda i: 'C', 'answer_index': lambda i: 2, "
         "'cot_content': lambda i: 'A: Let\\'s think step by step. The answer is (C).', "
         "'category': lambda i: 'law', 'src': lambda i: 'x'}.items()}";
}

}  // namespace

TEST_CASE("eval convert_hub: MMLU-Pro's shards in their order, both splits") {
  const std::string python = python_with("pyarrow");
  TempDir dir;
  write_parquet(python, dir / "hub/data/test-00001-of-00002.parquet", questions("3", "2"));
  write_parquet(python, dir / "hub/data/test-00000-of-00002.parquet", questions("0", "3"));
  write_parquet(python, dir / "hub/data/validation-00000-of-00001.parquet", questions("70", "1"));
  const Result r = convert(python, dir / "hub", dir / "out");
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.out.find("test.jsonl: 5 questions\n") != std::string::npos);
  const eval::Task task = eval::mmlu_pro_task({.data = dir / "out", .shots = 1});
  CHECK(task.bad_lines.empty());
  CHECK(ids_of(task) == std::vector<std::string>{"0", "1", "2", "3", "4"});
  CHECK(task.items[4].query.turns.back().text.find("Quelle n\u00b0 4?") != std::string::npos);
  CHECK(task.items[0].target == "C");
}

TEST_CASE("eval convert_hub: ChartQA's pictures become files, each once") {
  const std::string python = python_with("pyarrow");
  TempDir dir;
  const std::string pictures =
      "'image': [{'bytes': b, 'path': None} for b in (b'\\x89PNG one', b'\\xff\\xd8\\xff two', b'\\x89PNG one', None)]";
  SUBCASE("HuggingFaceM4") {
    write_parquet(python, dir / "hub/data/test-00000-of-00001-e2cd0b7a0f9eb20d.parquet",
                  "{" + pictures +
                      ", 'query': ['a?', 'b?', 'c?', 'd?'], 'label': [['1'], ['2'], ['3'], ['4']], "
                      "'human_or_machine': [0, 0, 1, 1]}");
  }
  SUBCASE("lmms-lab") {
    write_parquet(python, dir / "hub/data/test-00000-of-00001.parquet",
                  "{" + pictures +
                      ", 'question': ['a?', 'b?', 'c?', 'd?'], 'answer': ['1', '2', '3', '4'], "
                      "'type': ['human_test', 'human_test', 'augmented_test', 'augmented_test']}");
  }
  const Result r = convert(python, dir / "hub", dir / "out");
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.out.find("4 questions, 1 without a picture") != std::string::npos);
  const eval::Task task = eval::chartqa_task({.data = dir / "out/test.jsonl", .recipe = "lmms-eval"});
  REQUIRE(task.items.size() == 3);
  CHECK(task.bad_lines.size() == 1);
  CHECK(task.items[0].query.images == task.items[2].query.images);
  CHECK(read_file(task.items[0].query.images[0], 100) == "\x89PNG one");
  CHECK(task.items[1].query.images[0].extension() == ".jpg");
  CHECK(task.items[1].target == "2");
  CHECK(task.items[1].group == "human");
  CHECK(task.items[2].group == "augmented");
  CHECK(task.items[2].query.turns[0].text.starts_with("c?"));
}

TEST_CASE("eval convert_hub: what is no such data set is said in one line") {
  const std::string python = python_with("pyarrow");
  TempDir dir;
  write_parquet(python, dir / "other/test.parquet", "{'a': [1]}");
  write_file(dir / "damaged/test.parquet", "PAR1 or not");
  for (const auto& [folder, expected] :
       {std::pair("other", "expected the columns of MMLU-Pro or ChartQA, found a\n"), {"damaged", "test.parquet: "}}) {
    const Result r = convert(python, dir / folder, dir / "out");
    CHECK(r.status == 1);
    CHECK_MESSAGE(r.err.find(expected) != std::string::npos, r.err);
    CHECK(r.err.find('\n') == r.err.size() - 1);
  }
  const Result r = convert(python, dir / "other", dir / "out", {"--split", "train"});
  CHECK(r.status == 1);
  CHECK(r.err == "convert_hub.py: " + (dir / "other").string() + ": expected train-*.parquet, found none\n");
}
