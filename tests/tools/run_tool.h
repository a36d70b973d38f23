// Starts l4-run and l4-eval as people do.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "formats/json.h"
#include "support/test.h"

namespace l4::test {

// The built-in demo: text and pictures, small and quick.
inline std::string demo_model() {
  return (source_dir() / "core" / "demo").string();
}

inline std::vector<std::string> tool(const std::string& name, std::vector<std::string> words) {
  words.insert(words.begin(), (binary_dir() / name).string());
  return words;
}

inline Result l4_run(const std::vector<std::string>& words, const RunOptions& options = {}) {
  return run(tool("l4-run", words), options);
}

// Its standard output where it must succeed.
inline std::string output_of(const std::vector<std::string>& words, const RunOptions& options = {}) {
  const Result r = l4_run(words, options);
  CHECK_MESSAGE(r.status == 0, r.err);
  return r.out;
}

inline Json json_of(const std::vector<std::string>& words, const RunOptions& options = {}) {
  return parse_json(output_of(words, options), "output");
}

// What must fail: nothing on standard output, one line on standard error that begins with the program's name.
inline std::string one_line_error(const Result& r, int status) {
  CHECK_MESSAGE(r.status == status, r.err);
  CHECK(r.out == "");
  CHECK_MESSAGE(r.err.starts_with("l4-"), r.err);
  CHECK_MESSAGE(r.err.find(": error: ") < 12, r.err);
  CHECK_MESSAGE(r.err.find('\n') == r.err.size() - 1, r.err);
  return r.err;
}

inline std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace l4::test
