#include "tools/run/commands.h"

#include <algorithm>
#include <cstdlib>

#include "base/file.h"
#include "base/strings.h"

namespace l4::run {

namespace {

constexpr Command kCommands[] = {
    {CommandId::help, "/help", "", "this list"},
    {CommandId::image, "/image", "PATH [QUESTION]", "add a picture to the next message (or ask about it at once)",
     true},
    {CommandId::read, "/read", "PATH [QUESTION]", "add a file's text to the next message", true},
    {CommandId::regen, "/regen", "", "answer the last message anew"},
    {CommandId::undo, "/undo", "", "take back the last message and its answer"},
    {CommandId::clear, "/clear", "", "forget the conversation; the system message stays"},
    {CommandId::system, "/system", "[TEXT|-]", "show the system message, change it, or remove it (-)"},
    {CommandId::set, "/set", "[NAME VALUE]", "show or change sampling: /set temp 0.7, /set max-tokens 200"},
    {CommandId::save, "/save", "PATH", "write the conversation as JSON, in the form of OpenAI's messages", true},
    {CommandId::load, "/load", "PATH", "go on with such a file", true},
    {CommandId::stats, "/stats", "", "tokens, speed and context of this chat"},
    {CommandId::quit, "/quit", "", "leave (also Ctrl+D)"},
};

constexpr std::string_view kKeys =
    "  Ctrl+C             stop the answer; once more: leave\n"
    "  Alt+Enter          new line in a message; so does \\ at a line's end\n"
    "  \"\"\"                begins and ends a message of many lines; pasted lines stay together\n"
    "  Tab, Up, Ctrl+R    complete, earlier lines, search in them\n";

std::string home() {
  const char* path = std::getenv("HOME");
  return path ? path : "";
}

std::string expand_home(std::string path) {
  return path == "~" || path.starts_with("~/") ? home() + path.substr(1) : path;
}

// One word of a shell-like line: quotes, and backslashes before spaces and quotes.
std::string take_word(std::string_view text, size_t& pos) {
  std::string word;
  char quote = 0;
  for (; pos < text.size(); ++pos) {
    const char c = text[pos];
    if (quote ? c == quote : c == '\'' || c == '"')
      quote = quote ? 0 : c;
    else if (c == '\\' && quote != '\'' && pos + 1 < text.size())
      word.push_back(text[++pos]);
    else if (!quote && (c == ' ' || c == '\t'))
      break;
    else
      word.push_back(c);
  }
  return word;
}

std::vector<std::string> paths_like(const std::string& typed) {
  const size_t slash = typed.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : typed.substr(0, slash + 1);
  const std::string begin = slash == std::string::npos ? typed : typed.substr(slash + 1);
  std::vector<std::string> out;
  std::error_code ec;
  for (fs::directory_iterator it(folder.empty() ? "." : expand_home(folder), ec), end; !ec && it != end;
       it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(begin) || (begin.empty() && name[0] == '.') || !is_valid_utf8(name)) continue;
    std::error_code unreadable;
    out.push_back(folder + name + (it->is_directory(unreadable) ? "/" : ""));
  }
  std::sort(out.begin(), out.end());
  return out;
}

const Command* find_command(std::string_view name) {
  for (const Command& command : kCommands)
    if (command.name == name) return &command;
  return nullptr;
}

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

std::string commands_help() {
  std::string out;
  for (const Command& command : kCommands) {
    std::string line = cat("  ", command.name, " ", command.argument);
    line.resize(std::max<size_t>(line.size() + 1, 26), ' ');
    out += cat(line, command.help, "\n");
  }
  return cat(out, "\n", kKeys);
}

std::optional<CommandLine> parse_command(std::string_view line) {
  line = trim(line);
  if (line.size() < 2 || line[0] != '/' || line.find('\n') != std::string_view::npos) return std::nullopt;
  const std::string_view name = line.substr(0, line.find_first_of(" \t"));
  if (name.find('/', 1) != std::string_view::npos || name.size() < 2) return std::nullopt;
  CommandLine out{std::string(name), std::nullopt, std::string(trim(line.substr(name.size())))};
  const std::string_view known = name == "/exit" || name == "/bye" ? "/quit" : name == "/?" ? "/help" : name;
  if (const Command* command = find_command(known)) out.id = command->id;
  return out;
}

PathArgument parse_path_argument(std::string_view argument) {
  std::error_code ec;
  const std::string whole = expand_home(std::string(argument));
  if (fs::is_regular_file(whole, ec)) return {whole, ""};
  size_t pos = 0;
  std::string word = take_word(argument, pos);
  return {expand_home(std::move(word)), std::string(trim(argument.substr(pos)))};
}

Completion complete_line(std::string_view line) {
  Completion out;
  if (line.empty() || line[0] != '/') return out;
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) {
    for (const Command& command : kCommands)
      if (command.name.starts_with(line)) out.words.emplace_back(command.name);
    std::sort(out.words.begin(), out.words.end());
    return out;
  }
  const Command* command = find_command(line.substr(0, space));
  if (!command || !command->takes_path) return out;
  out.begin = line.find_first_not_of(' ', space);
  if (out.begin == std::string_view::npos) out.begin = line.size();
  out.words = paths_like(std::string(line.substr(out.begin)));
  return out;
}

}  // namespace l4::run
