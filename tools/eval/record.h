// What is kept of a run, a JSON object a line: first a header that says what was run, then one record for each question,
// in the order in which they were answered. It is the journal (a killed run goes on from it) and the result (reports and
// comparisons read it): a line cut off at the end is what a kill leaves, and is asked again.
//
//   {"l4_eval": 1, "task": "mmlu_pro", "recipe": "lm-eval", "version": "3.1", "shots": 5, "model": "Llama-4-Scout",
//    "device": "...", "n_items": 200, "seed": 0, "settings": {...}, "bad_lines": [{"line": 7, "why": "..."}]}
//   {"id": "0", "group": "math", "prompt_sha256": "...", "answer": "... the answer is (A)", "finish_reason": "stop",
//    "extracted": "A", "rule": "answer is", "target": "A", "right": true, "metrics": {"exact_match": 1.0},
//    "prompt_tokens": 1412, "completion_tokens": 97}
//   {"id": "1", "group": "math", "prompt_sha256": "...", "target": "C", "error": "HTTP 500 ...", "attempts": 5}
#pragma once

#include <string>
#include <vector>

#include "formats/json.h"
#include "tools/eval/respondent.h"
#include "tools/eval/task.h"

namespace l4::eval {

struct RunHeader {
  std::string task, recipe, version, group_name, model, device;
  bool groups_weigh_by_size = true;
  int64_t shots = 0, n_items = 0;
  uint64_t seed = 0;
  Json settings;  // an object: what else decides answers (limit, categories, chat or not, dtype, data file's SHA-256)
  std::vector<BadLine> bad_lines;
};

struct Record {
  std::string id, group, prompt_sha256, target;
  Reply reply;
  Score score;  // of an answer; none where reply.error says why there is no answer

  bool answered() const { return reply.error.empty(); }
  // The main metric says so.
  bool right() const { return answered() && !score.metrics.empty() && score.metrics.front().value >= 1; }
};

std::string to_line(const RunHeader& header);  // without the line's end
std::string to_line(const Record& record);
RunHeader header_from(const Json& line, const std::string& place);  // Error{input} "PLACE: FIELD: ..."
Record record_from(const Json& line, const std::string& place);

struct RunFile {
  RunHeader header;
  std::vector<Record> records;  // one for each id: a later line takes the place of an earlier one
  uint64_t whole_bytes = 0;     // up to the end of the last whole line
};
// Error{io | input} naming file and line. A last line without its end is left out.
RunFile read_run_file(const fs::path& path);

}  // namespace l4::eval
