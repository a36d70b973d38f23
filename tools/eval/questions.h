// Questions of one's own, a JSON object a line:
//
//   {"id": "q1", "group": "sums", "prompt": "8*2 =", "answer": "16", "match": "number"}
//   {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Whose flag is it?"}],
//    "images": ["flag.png"], "answers": ["Chad", "Romania"], "match": "contains"}
//
// id      a text or an integer, in one line only; without it the line's number
// prompt  the user's only message; or "messages", of which the last is the user's
// images  files, seen from the folder of this one; they stand before the last message's text
// match   exact     the answer is one of those, but for case, white space and a full stop at its end (the default)
//         contains  one of those occurs in it, whatever its case
//         number    the last number in it is one of those ("1,234.50" is one)
//         letter    it is that letter from A to J, alone, or the first "answer is (X)" in it says so
//         relaxed   ChartQA's relaxed accuracy: what follows the last "answer:", else all of it, numbers within 5 %
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/eval/task.h"

namespace l4::eval {

struct QuestionsOptions {
  fs::path data;
  int64_t limit = 0;                    // questions of each group, 0: all
  std::vector<std::string> categories;  // groups; empty: all
  uint64_t seed = 0;                    // 0: the first `limit`, else a sample
  bool chat = true;                     // else a "prompt" is a text to go on with, and "messages" are bad lines
  int64_t max_tokens = 512;             // of an answer
};

// Error{io}; Error{usage} for a category that is none. A line that is wrong in any way is counted as bad.
Task questions_task(const QuestionsOptions& options);

// The last number in a text, commas left out.
std::optional<std::string> last_number(std::string_view text);

}  // namespace l4::eval
