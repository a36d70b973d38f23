#include "tools/common/completion.h"

#include <algorithm>

#include "base/error.h"

namespace l4::tools {

namespace {

// ---- help -----------------------------------------------------------------------------------------------------------

// Lines of at most `width` letters, broken between words.
std::vector<std::string> wrapped(const std::string& text, size_t width) {
  std::vector<std::string> lines{""};
  for (const std::string& word : split(text, ' ')) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    lines.back() += cat(lines.back().empty() ? "" : " ", word);
  }
  return lines;
}

std::string names_column(const FlagInfo& flag) {
  std::string out;
  for (size_t i = 0; i < flag.names.size(); ++i) out += cat(i ? ", " : "", flag.names[i]);
  return flag.value.empty() || flag.is_positional ? out : cat(out, " ", flag.value);
}

std::string indented(const std::string& lines) {
  std::string out;
  for (const std::string& line : split(lines, '\n')) out += line.empty() ? std::string("\n") : cat("  ", line, "\n");
  return out;
}

}  // namespace

std::string format_help(const CommandInfo& command, int width) {
  constexpr size_t kColumn = 34;
  const size_t columns = size_t(std::clamp(width, 60, 110));
  std::string out = join(wrapped(command.about, columns), "\n") + "\n\nUsage:\n" + indented(command.usage);
  std::vector<std::string> groups;
  for (const FlagInfo& flag : command.flags)
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  for (const std::string& group : groups) {
    out += cat("\n", group, ":\n");
    for (const FlagInfo& flag : command.flags) {
      if (flag.group != group) continue;
      std::string line = cat("  ", names_column(flag));
      for (const std::string& help : wrapped(flag.help, columns - kColumn)) {
        if (line.size() + 2 > kColumn) {
          out += line + "\n";
          line.clear();
        }
        line.resize(kColumn, ' ');
        out += line + help + "\n";
        line.clear();
      }
    }
  }
  const std::string variables = "Every flag can be given as a variable, --ctx-size as L4_ARG_CTX_SIZE. The flag wins.";
  out += cat("\n", join(wrapped(variables, columns), "\n"), "\n");
  if (!command.examples.empty()) out += cat("\nExamples:\n", indented(command.examples));
  return out;
}

// ---- shells ---------------------------------------------------------------------------------------------------------

namespace {

// Single quotes of sh, bash, zsh and fish alike, for texts without backslashes.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

bool wants_file(const FlagInfo& flag) {
  return flag.value.find("FILE") != std::string::npos;
}
bool wants_directory(const FlagInfo& flag) {
  return flag.value == "DIR";
}
bool is_choice(const FlagInfo& flag) {
  return flag.value.find('|') != std::string::npos;
}
std::string choices(const FlagInfo& flag) {
  return join(split(flag.value, '|'), " ");
}
std::string function_of(const CommandInfo& command) {
  return cat("_", join(split(join(split(command.program, '-'), "_"), ' '), "_"));
}

std::string bash_script(const CommandInfo& command) {
  const std::string function = function_of(command);
  std::string words, cases;
  for (const FlagInfo& flag : command.flags) {
    if (flag.is_positional) continue;
    words += cat(words.empty() ? "" : " ", join(flag.names, " "));
    if (flag.value.empty()) continue;
    std::string reply = "return";
    if (is_choice(flag)) reply = cat("COMPREPLY=($(compgen -W ", quoted(choices(flag)), " -- \"$cur\")); return");
    if (wants_file(flag)) reply = "compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return";
    if (wants_directory(flag)) reply = "compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\")); return";
    cases += cat("    ", join(flag.names, "|"), ") ", reply, " ;;\n");
  }
  return cat("# bash completion of ", command.program, ": source this file, or put it in /etc/bash_completion.d\n",
             function, "() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n",
             "  COMPREPLY=()\n  case $prev in\n", cases, "  esac\n  if [[ $cur == -* ]]; then\n",
             "    COMPREPLY=($(compgen -W ", quoted(words), " -- \"$cur\"))\n  else\n",
             "    compopt -o filenames; COMPREPLY=($(compgen -d -- \"$cur\"))\n  fi\n}\ncomplete -F ", function, " ",
             command.program, "\n");
}

std::string zsh_escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '[' || c == ']' || c == ':') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

std::string zsh_script(const CommandInfo& command) {
  const std::string function = function_of(command);
  std::string specs;
  for (const FlagInfo& flag : command.flags) {
    std::string action = ":value:";
    if (is_choice(flag)) action = cat(":value:(", choices(flag), ")");
    if (wants_file(flag)) action = ":file:_files";
    if (wants_directory(flag)) action = ":folder:_files -/";
    if (flag.is_positional) {
      specs += cat(" \\\n    ", quoted(cat("1", action)));
      continue;
    }
    for (const std::string& name : flag.names)
      specs +=
          cat(" \\\n    ", quoted(cat("*", name, "[", zsh_escaped(flag.help), "]", flag.value.empty() ? "" : action)));
  }
  return cat("#compdef ", command.program, "\n# zsh completion of ", command.program,
             ": put it in a folder of $fpath as ", function, "\n", function, "() {\n  _arguments -s", specs,
             "\n}\ncompdef ", function, " ", command.program, "\n");
}

std::string fish_script(const CommandInfo& command) {
  const std::string complete = cat("complete -c ", command.program);
  std::string out = cat("# fish completion of ", command.program, ": put it in ~/.config/fish/completions/",
                        command.program, ".fish\n", complete, " -f -a '(__fish_complete_directories)'\n");
  for (const FlagInfo& flag : command.flags) {
    if (flag.is_positional) continue;
    out += complete;
    for (const std::string& name : flag.names) {
      if (name.starts_with("--"))
        out += cat(" -l ", name.substr(2));
      else
        out += cat(name.size() == 2 ? " -s " : " -o ", name.substr(1));
    }
    if (!flag.value.empty()) out += " -r";
    if (is_choice(flag)) out += cat(" -f -a ", quoted(choices(flag)));
    if (wants_file(flag)) out += " -F";
    if (wants_directory(flag)) out += " -f -a '(__fish_complete_directories)'";
    out += cat(" -d ", quoted(flag.help), "\n");
  }
  return out;
}

}  // namespace

std::string format_completion(const CommandInfo& command, const std::string& shell) {
  if (shell == "bash") return bash_script(command);
  if (shell == "zsh") return zsh_script(command);
  if (shell == "fish") return fish_script(command);
  fail(ErrorKind::usage, "--completion: expected bash, zsh or fish, found ", shown(shell));
}

}  // namespace l4::tools
