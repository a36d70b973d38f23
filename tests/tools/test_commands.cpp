#include <fstream>
#include <set>

#include "support/test.h"
#include "tools/run/commands.h"

using l4::run::CommandId;
using l4::run::complete_line;
using l4::run::parse_command;
using l4::run::parse_path_argument;

TEST_CASE("commands: what is a command and what is text") {
  CHECK(parse_command("/help")->id == CommandId::help);
  CHECK(parse_command("  /image a b.jpg  ")->argument == "a b.jpg");
  CHECK(parse_command("/exit")->id == CommandId::quit);
  CHECK(!parse_command("/nonsense")->id);
  for (const char* text : {"", "/", "help", "//help", "/usr/bin is a folder", "/a\n/b", "what is /help?"}) {
    CAPTURE(std::string(text));
    CHECK(!parse_command(text));
  }
}

TEST_CASE("commands: each has help and a name of its own") {
  std::set<std::string> names;
  for (const auto& command : l4::run::commands()) {
    CHECK(names.insert(std::string(command.name)).second);
    CHECK(parse_command(command.name)->id == command.id);
    CHECK(l4::run::commands_help().find(std::string(command.help)) != std::string::npos);
  }
}

TEST_CASE("commands: paths are quoted as in a shell, what follows is a question") {
  l4::test::TempDir dir;
  std::ofstream(dir / "my dog.jpg") << "x";
  const std::string bare = (dir / "my dog.jpg").string();
  CHECK(parse_path_argument(bare).path == bare);  // such a file exists
  const struct {
    const char *argument, *path, *rest;
  } rows[] = {
      {"dog.jpg", "dog.jpg", ""},
      {"dog.jpg What is it?", "dog.jpg", "What is it?"},
      {"'my dog.jpg' What?", "my dog.jpg", "What?"},
      {"\"my dog.jpg\"", "my dog.jpg", ""},
      {"my\\ dog.jpg  x y ", "my dog.jpg", "x y"},
      {"it\\'s.png", "it's.png", ""},
      {"'a\\b'", "a\\b", ""},
      {"", "", ""},
  };
  for (const auto& row : rows) {
    CAPTURE(std::string(row.argument));
    CHECK(parse_path_argument(row.argument).path == row.path);
    CHECK(parse_path_argument(row.argument).rest == row.rest);
  }
  setenv("HOME", "/home/someone", 1);
  CHECK(parse_path_argument("~/a.png").path == "/home/someone/a.png");
}

TEST_CASE("commands: completion of names and paths") {
  using Words = std::vector<std::string>;
  CHECK(complete_line("/re").words == Words{"/read", "/regen"});
  CHECK(complete_line("/re").begin == 0);
  CHECK(complete_line("/zz").words.empty());
  CHECK(complete_line("re").words.empty());
  l4::test::TempDir dir;
  std::filesystem::create_directory(dir / "folder");
  std::ofstream(dir / "file.txt") << "x";
  std::ofstream(dir / ".hidden") << "x";
  const std::string root = dir.path().string() + "/";
  CHECK(complete_line("/image " + root).words == Words{root + "file.txt", root + "folder/"});
  CHECK(complete_line("/image " + root + "fi").words == Words{root + "file.txt"});
  CHECK(complete_line("/image " + root + ".h").words == Words{root + ".hidden"});
  CHECK(complete_line("/image  " + root).begin == 8);
  CHECK(complete_line("/undo " + root).words.empty());
  CHECK(complete_line("/image /no/such/folder/").words.empty());
}
