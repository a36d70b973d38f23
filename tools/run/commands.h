// The commands of a chat: one table gives /help, completion and what a line means.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace l4::run {

enum class CommandId { help, image, read, clear, regen, undo, system, set, save, load, stats, quit };

struct Command {
  CommandId id;
  std::string_view name;      // "/image"
  std::string_view argument;  // "PATH [QUESTION]"; empty: takes none
  std::string_view help;
  bool takes_path = false;
};

std::span<const Command> commands();
std::string commands_help();

// A line that names a command: "/image dog.jpg". A text that only begins with a slash ("/usr/bin is ...") and one of
// several lines is none; "//x" is the text "/x".
struct CommandLine {
  std::string name;             // as typed
  std::optional<CommandId> id;  // nothing: there is no such command
  std::string argument;         // trimmed
};
std::optional<CommandLine> parse_command(std::string_view line);

// "dog.jpg", "'my dog.jpg' What is it?", "my\ dog.jpg", "~/dog.jpg": a path, and the text after it. A path with bare
// spaces counts as a whole where such a file exists.
struct PathArgument {
  std::string path, rest;
};
PathArgument parse_path_argument(std::string_view argument);

// What Tab could put in place of the text from `begin` to the cursor.
struct Completion {
  size_t begin = 0;
  std::vector<std::string> words;  // sorted; folders end with '/'
};
Completion complete_line(std::string_view up_to_cursor);

}  // namespace l4::run
