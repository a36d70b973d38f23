// A file of flags, for --config: one JSON object, or lines of YAML's plainest kind:
//
//   # a comment
//   model: Llama-4-Scout-17B-16E-Instruct
//   max-model-len: 32K
//   enable-prefix-caching: true
//   served-model-name: [scout, llama-4]
//   api-key:
//     - "first one"
//     - second
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace l4::tools {

struct ConfigEntry {
  std::string key;                  // as a long flag's name without "--"; "_" became "-"
  std::vector<std::string> values;  // one, or a list's; numbers and truths as their text, objects as JSON
  std::string where;                // "FILE, line 3" or "FILE"
};

// Error{input} beginning with the source, and the line where there are lines. No key twice.
std::vector<ConfigEntry> parse_config(std::string_view text, const std::string& source);

}  // namespace l4::tools
