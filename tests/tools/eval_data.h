// Small data sets in a folder of their own, and the golden files of tests/golden/eval.
#pragma once

#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "formats/json.h"
#include "support/test.h"
#include "tools/eval/task.h"
#include "vision/sha256.h"

namespace l4::eval::testing {

inline void write_file(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

// A line of MMLU-Pro with three options.
inline std::string mmlu_pro_line(int id, const std::string& subject, const std::string& more = {}) {
  return cat(R"({"question_id": )", id, R"(, "question": "Q)", id, R"(?", "options": ["one", " two", "three"], )",
             R"("answer": "B", "category": ")", subject, "\"", more, "}\n");
}

// The same with the reasoning of an example.
inline std::string example_line(int id, const std::string& subject) {
  return mmlu_pro_line(id, subject, R"(, "cot_content": "A: Let's think step by step. It is so. The answer is (B).")");
}

inline std::vector<std::string> ids_of(const Task& task) {
  std::vector<std::string> ids;
  for (const Item& item : task.items) ids.push_back(item.id);
  return ids;
}

// ---- golden files: a first line that says what wrote them, then one case a line

inline std::vector<Json> golden_cases(const std::string& name) {
  std::ifstream in(l4::test::golden("eval/" + name));
  std::vector<Json> cases;
  std::string line;
  std::getline(in, line);
  while (std::getline(in, line)) cases.push_back(parse_json(line, name));
  REQUIRE(cases.size() == 200);
  return cases;
}

inline std::string sha256_of(const std::string& text) {
  Sha256 sha;
  sha.update(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  std::string out;
  for (const uint8_t byte : sha.finish()) out += cat("0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]);
  return out;
}

// As scripts/eval/golden_lm_eval.py: the text of a prompt without turns, else role, NUL, text, NUL of each.
inline std::string sha256_of(const Query& query) {
  std::string text = query.text;
  for (const Query::Turn& turn : query.turns) text += turn.role + '\0' + turn.text + '\0';
  return sha256_of(text);
}

inline double metric_of(const Score& score, const std::string& name) {
  for (const Metric& metric : score.metrics)
    if (metric.name == name) return metric.value;
  FAIL("no metric " << name);
  return -1;
}

}  // namespace l4::eval::testing
