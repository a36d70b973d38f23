// The chat: on a pseudo-terminal, and with its lines from a pipe.
#include <fstream>

#include "tools/pseudo_terminal.h"
#include "tools/run_tool.h"

using namespace l4::test;
using l4::Json;

namespace {

using Words = std::vector<std::string>;

struct Chat {
  explicit Chat(Words words = {}, const Words& env = {})
      : terminal(tool("l4-run",
                      Words{"--temp", "0", "-n", "12", "--history", (dir / "history").string()} + std::move(words)),
                 env) {}
  TempDir dir;
  PseudoTerminal terminal;
};

constexpr const char* kEndless = "--ignore-eos";

std::string last_color(const std::string& screen) {
  std::string last;
  for (size_t at = screen.find("\x1b["); at != std::string::npos; at = screen.find("\x1b[", at + 1)) {
    const size_t end = screen.find_first_not_of("0123456789;", at + 2);
    if (end != std::string::npos && screen[end] == 'm') last = screen.substr(at, end + 1 - at);
  }
  return last;
}

Json saved(const std::filesystem::path& path) {
  return *l4::parse_json(l4::read_file(path, 1 << 20), "saved").find("messages");
}

}  // namespace

TEST_CASE("chat: an answer, a statistics line, Ctrl+D leaves, history is kept") {
  Chat chat;
  PseudoTerminal& t = chat.terminal;
  REQUIRE(t.wait_for("/help lists commands"));
  REQUIRE(t.wait_for(">"));
  t.type("Hello there\r");
  REQUIRE(t.wait_for("prompt tokens"));
  CHECK(t.wait_for("tokens/s"));
  CHECK(t.wait_for("context "));
  t.type("/stats\r");
  CHECK(t.wait_for("1 answers"));
  t.type("/quit\r");
  CHECK(t.wait() == 0);
  CHECK(last_color(t.screen()) == "\x1b[0m");
  CHECK(l4::read_file(chat.dir / "history", 1 << 16).find("Hello\\040there") != std::string::npos);
}

TEST_CASE("chat: what is typed during an answer is the next line, unseen until then") {
  Chat chat({kEndless, "-n", "60"});
  PseudoTerminal& t = chat.terminal;
  REQUIRE(t.wait_for(">"));
  t.type("Count.\r");
  REQUIRE(t.wait_for("\x1b[?2004l"));
  REQUIRE(t.wait_for(" "));  // behind the answer's first word
  t.type("/statz\x7fs\r\x04");
  REQUIRE(t.wait_for("prompt tokens"));
  CHECK(t.screen().find("/stat") > t.screen().find("prompt tokens"));
  CHECK(t.wait_for("1 answers"));
  CHECK(t.wait() == 0);
}

TEST_CASE("chat: Ctrl+C stops the answer, once more leaves with 130, the terminal is as before") {
  Chat chat({kEndless, "-n", "-1"});
  PseudoTerminal& t = chat.terminal;
  REQUIRE(t.wait_for(">"));
  t.type("Count.\r");
  REQUIRE(t.wait_for("Count."));
  REQUIRE(t.wait_for("\n"));
  t.type("\x03");
  REQUIRE(t.wait_for("(stopped"));
  t.type("\x03");
  CHECK(t.wait() == 130);
  CHECK(last_color(t.screen()) == "\x1b[0m");
  CHECK(t.screen().rfind("\x1b[?2004l") > t.screen().rfind("\x1b[?2004h"));
  CHECK(t.echoes());
}

TEST_CASE("chat: Ctrl+C clears what is typed, on an empty line it asks first") {
  Chat chat;
  PseudoTerminal& t = chat.terminal;
  REQUIRE(t.wait_for(">"));
  t.type("some words");
  REQUIRE(t.wait_for("words"));
  t.type("\x03");
  REQUIRE(t.wait_for(">"));
  t.type("/stats\r");
  REQUIRE(t.wait_for("0 answers"));
  t.type("\x03");
  REQUIRE(t.wait_for("once more leaves"));
  t.type("\x03");
  CHECK(t.wait() == 130);
}

TEST_CASE("chat: pasted lines are one message, Alt+Enter and a backslash add lines") {
  Chat chat;
  PseudoTerminal& t = chat.terminal;
  REQUIRE(t.wait_for(">"));
  t.type("\x1b[200~first line\nsecond \xc3\xa9\n\x1b[201~");
  REQUIRE(t.wait_for("second"));
  t.type(" end\r");
  REQUIRE(t.wait_for("prompt tokens"));
  t.type("one\x1b\rtwo\\\r");
  REQUIRE(t.wait_for("\x1b[2m."));
  t.type("three\r");
  REQUIRE(t.wait_for("prompt tokens"));
  t.type("\"\"\"four\r");
  t.type("five\"\"\"\r");
  REQUIRE(t.wait_for("prompt tokens"));
  const std::string file = (chat.dir / "s.json").string();
  t.type("/save " + file + "\r");
  REQUIRE(t.wait_for("messages written"));
  t.type("/quit\r");
  CHECK(t.wait() == 0);
  const Json messages = saved(file);
  REQUIRE(messages.as_array().size() == 6);
  CHECK(messages.as_array()[0].find("content")->as_string() == "first line\nsecond \xc3\xa9 end");
  CHECK(messages.as_array()[2].find("content")->as_string() == "one\ntwo\nthree");
  CHECK(messages.as_array()[4].find("content")->as_string() == "four\nfive");
}

TEST_CASE("chat: Tab completes commands and paths, Up brings lines back") {
  Chat chat;
  PseudoTerminal& t = chat.terminal;
  std::ofstream(chat.dir / "a file.txt") << "x";
  std::ofstream(chat.dir / "unique_name.txt") << "some text of the file";
  REQUIRE(t.wait_for(">"));
  t.type("/rea\t" + (chat.dir / "uniq").string() + "\t\r");
  REQUIRE(t.wait_for("unique_name.txt: 21 B, goes with the next message"));
  t.type("\x1b[A\r");
  REQUIRE(t.wait_for("goes with the next message"));
  t.type("/re\t");
  REQUIRE(t.wait_for("/regen"));
  t.type("\x15\x04");
  CHECK(t.wait() == 0);
}

TEST_CASE("chat: no colours where they are not wanted") {
  Chat plain({}, {"NO_COLOR=1"});
  REQUIRE(plain.terminal.wait_for(">"));
  plain.terminal.type("Hi\r");
  REQUIRE(plain.terminal.wait_for("prompt tokens"));
  plain.terminal.type("/quit\r");
  CHECK(plain.terminal.wait() == 0);
  CHECK(last_color(plain.terminal.screen()) == "");
}

TEST_CASE("chat: what is no history is left as it is") {
  TempDir dir;
  std::ofstream(dir / "notes") << "not a history\n";
  std::ofstream(dir / "empty");
  REQUIRE(run({"mkfifo", "-m", "644", (dir / "fifo").string()}).status == 0);
  for (const std::string name : {"notes", "fifo", "empty"}) {
    CAPTURE(name);
    PseudoTerminal t(tool("l4-run", {"--history", (dir / name).string()}));
    if (name != "empty") REQUIRE(t.wait_for(name + ": cannot be read as history"));
    REQUIRE(t.wait_for(">"));
    t.type("/stats\r");
    REQUIRE(t.wait_for("0 answers"));
    REQUIRE(t.wait_for(">"));
    t.type("/quit\r");
    CHECK(t.wait() == 0);
    CHECK((t.screen().find("cannot be read") == std::string::npos) == (name == "empty"));
  }
  CHECK(l4::read_file(dir / "notes", 100) == "not a history\n");
  CHECK(l4::read_file(dir / "empty", 1000).find("/stats") != std::string::npos);
  CHECK((std::filesystem::status(dir / "fifo").permissions() & std::filesystem::perms::others_read) !=
        std::filesystem::perms::none);
}

TEST_CASE("chat: a dumb terminal gets no escape sequences and no progress bar") {
  PseudoTerminal t(tool("l4-run", {"-p", "Hello", "--temp", "0", "-n", "4"}), {"TERM=dumb"});
  CHECK(t.wait() == 0);
  CHECK(t.screen().find('\x1b') == std::string::npos);
  CHECK(t.screen().find("loading") == std::string::npos);
}

TEST_CASE("chat: a bad model is one line, also on a terminal") {
  PseudoTerminal t(tool("l4-run", {"-m", "/no/such/model"}));
  CHECK(t.wait() == 1);
  CHECK(t.screen() == "l4-run: error: /no/such/model: no such folder\r\n");
}

TEST_CASE("chat: SIGTERM puts the terminal in order and ends with 143") {
  Chat chat;
  REQUIRE(chat.terminal.wait_for(">"));
  chat.terminal.signal(15);
  CHECK(chat.terminal.wait() == 143);
  CHECK(chat.terminal.echoes());
}

TEST_CASE("chat: Ctrl+C ends a one-shot answer with 130") {
  for (int i = 0; i < 5; ++i) {  // several: a signal in the middle of a write once ended it with an error
    PseudoTerminal t(tool("l4-run", {"-p", "Count.", kEndless, "--temp", "0", "-v"}));
    REQUIRE(t.wait_for("info: seed "));
    REQUIRE(t.wait_for("\n"));
    REQUIRE(t.wait_for(" "));  // behind the answer's first word
    t.type("\x03");
    CHECK(t.wait() == 130);
    CHECK(t.screen().find("tokens/s") != std::string::npos);
  }
}

// ---- lines from a pipe ----------------------------------------------------------------------------------------------

TEST_CASE("chat: answers go to standard output, all else to standard error") {
  const Result r = l4_run({"-i", "--temp", "0", "-n", "8"}, {.stdin_text = "/help\nHello!\n\n/nonsense\n"});
  CHECK(r.status == 0);
  CHECK(r.out == output_of({"--temp", "0", "-n", "8", "-p", "Hello!"}));
  CHECK(r.err.find("/regen") != std::string::npos);
  CHECK(r.err.find("no command /nonsense") != std::string::npos);
  CHECK(r.err.find('\x1b') == std::string::npos);
}

TEST_CASE("chat: going back, saving and loading") {
  TempDir dir;
  const std::string first = (dir / "first.json").string(), second = (dir / "second.json").string();
  const Words words = {"-i", "--temp", "0", "-n", "8", "--system", "Be brief."};
  Result r = l4_run(words, {.stdin_text = "Hello!\nWhat is red?\n/undo\n/regen\n/save " + first +
                                          "\n/system -\n/clear\n/load " + first + "\n/save " + second + "\n"});
  CHECK(r.status == 0);
  CHECK(l4::read_file(first, 1 << 20) == l4::read_file(second, 1 << 20));
  const Json messages = saved(first);
  REQUIRE(messages.as_array().size() == 3);
  CHECK(messages.as_array()[0].find("content")->as_string() == "Be brief.");
  CHECK(messages.as_array()[1].find("content")->as_string() == "Hello!");
  const std::string answer = messages.as_array()[2].find("content")->as_string();
  const std::vector<std::string> lines = l4::split(r.out, '\n');
  CHECK(lines.front() == lines[lines.size() - 2]);  // greedy: the answer given anew is the same
  CHECK(answer == lines.front());
}

TEST_CASE("chat: pictures and files") {
  const std::string picture = golden("vision/files/rgb8.png").string();
  TempDir dir;
  std::ofstream(dir / "notes.txt") << "red\n";
  const std::string file = (dir / "s.json").string();
  Result r = l4_run(
      {"-i", "--temp", "0", "-n", "6"},
      {.stdin_text = "/image " + picture + "\n/read " + (dir / "notes.txt").string() + "\nWhat is this?\n/image " +
                     picture + " And this?\n/save " + file + "\n/load " + file + "\n/regen\n"});
  CHECK(r.status == 0);
  CHECK_MESSAGE(r.err.find("error") == std::string::npos, r.err);
  const Json messages = saved(file);
  REQUIRE(messages.as_array().size() == 4);
  const auto& parts = messages.as_array()[0].find("content")->as_array();
  REQUIRE(parts.size() == 2);
  CHECK(parts[0].find("image_url")->find("url")->as_string() == "file://" + picture);
  CHECK(parts[1].find("text")->as_string() == "red\n\nWhat is this?");
}

TEST_CASE("chat: what fails is said in a line, and the chat goes on") {
  TempDir dir;
  std::ofstream(dir / "no.png") << "no picture";
  std::string many;
  for (int i = 0; i < 300; ++i) many += " word";
  const Result r =
      l4_run({"-i", "--temp", "0", "-n", "6", "-c", "128"},
             {.stdin_text = "/image " + (dir / "no.png").string() +
                            "\n/undo\n/regen\n/load /no/such/file\n/save\n/set temp hot\n/set nothing 1\n" + many +
                            "\nHello!\n"});
  CHECK(r.status == 0);
  for (const char* part : {"no.png", "nothing to take back", "nothing to answer anew", "/no/such/file",
                           "expected a path", "error: temp: expected a finite number", "no setting", "context of 128"})
    CHECK_MESSAGE(r.err.find(part) != std::string::npos, part);
  CHECK(r.out == output_of({"--temp", "0", "-n", "6", "-p", "Hello!"}));
}

TEST_CASE("chat: sampling is changed on the way") {
  const Result r = l4_run({"-i", "--temp", "0", "-n", "8", "--logit-bias", "300=1000", "--special"},
                          {.stdin_text = "/set max-tokens 2\nHello!\n/set max_tokens=3\nHello!\n/set\n"});
  CHECK(r.status == 0);
  const std::string once = output_of({"--detokenize", "--special", "--ids", "300"});
  CHECK(r.out == once + once + "\n" + once + once + once + "\n");
  CHECK(r.err.find("max-tokens 3") != std::string::npos);
}
