// What a tool's table of flags looks like to people (--help) and to shells (--completion).
#pragma once

#include <string>
#include <vector>

namespace l4::tools {

struct FlagInfo {
  std::vector<std::string> names;  // "-c", "--ctx-size"; a positional's one name
  std::vector<bool> negated;       // of each name: it turns the flag off
  std::string value;               // "N", "FILE", "DIR", "a|b|c"; empty: takes none
  std::string help, group;
  bool is_positional = false;
};

struct CommandInfo {
  std::string program, about, usage, examples;
  std::vector<FlagInfo> flags;
};

// At most `width` columns, where words allow it.
std::string format_help(const CommandInfo& command, int width);
// shell: bash, zsh or fish; Error{usage} otherwise.
std::string format_completion(const CommandInfo& command, const std::string& shell);

}  // namespace l4::tools
