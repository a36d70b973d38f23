// Small tasks for tests of l4-eval's runs, and their run files read back.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "tools/eval/record.h"
#include "tools/run_tool.h"

namespace l4::test {

// A dozen sums that the demo answers in a few tokens each.
inline std::string sums(int n) {
  std::string lines;
  for (int i = 0; i < n; ++i)
    lines += cat(R"({"id": "s)", i, R"(", "group": ")", i % 2 ? "odd" : "even", R"(", "prompt": "What is )", i % 10,
                 " plus ", 2 * i, R"(?", "answer": ")", i % 10 + 2 * i, R"(", "match": "number"})", "\n");
  return lines;
}

inline Result l4_eval(const std::vector<std::string>& words, const RunOptions& options = {}) {
  return run(tool("l4-eval", words), options);
}

// The lines of its records, in the order of their ids: who answered first does not matter.
inline std::vector<std::string> sorted_lines(const eval::RunFile& file) {
  std::vector<std::string> lines;
  for (const eval::Record& record : file.records) lines.push_back(to_line(record));
  std::sort(lines.begin(), lines.end());
  return lines;
}
inline std::vector<std::string> sorted_lines(const fs::path& path) {
  return sorted_lines(eval::read_run_file(path));
}

}  // namespace l4::test
