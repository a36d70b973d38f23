// Lists of numbers on a command line, as llama-bench takes them: "512", "1K,8K", "0-64+16", "128-4096*2".
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace l4::bench {

// Numbers in [low, high]; at most 1000 in all. Error{usage} saying what was expected and found.
std::vector<int64_t> parse_numbers(const std::string& text, int64_t low, int64_t high);
// "512,128": a prompt and an answer; at least one of them above 0.
std::pair<int64_t, int64_t> parse_pair(const std::string& text, int64_t high);

}  // namespace l4::bench
