// Data sets as JSONL files, and which of their questions a run asks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json_fields.h"
#include "tools/eval/task.h"

namespace l4::eval {

// Calls `use` for every line that is a JSON object, with its number from 1. A line that is none, or of which `use`
// throws Error{input}, becomes a BadLine ("question: expected text, found 5"); empty lines are passed over. Error{io}.
// `use` throws before it keeps anything: a bad line leaves nothing behind.
std::vector<BadLine> read_jsonl(const fs::path& file,
                                const std::function<void(int64_t line, const JsonFields& fields)>& use);

// A member that is a text and not empty, or a list of 1 to `most` texts.
std::string text_of(const JsonFields& fields, std::string_view key);
std::vector<std::string> texts_of(const JsonFields& fields, std::string_view key, size_t most);

// Positions of the questions that are asked among n, ascending: the first `limit`, as lm-eval's --limit takes them, or
// with a seed a sample of that many. limit 0: all.
std::vector<size_t> chosen(size_t n, int64_t limit, uint64_t seed);

// Whether a group is asked for: `wanted` is empty or has it ("computer_science" is "computer science" as well).
bool is_wanted(const std::vector<std::string>& wanted, std::string_view group);
// Error{usage} naming --categories where a wanted group is none of those that `file` has.
void check_wanted(const std::vector<std::string>& wanted, const std::vector<std::string>& groups, const fs::path& file);

}  // namespace l4::eval
