// l4-run's flags for what an answer may be, with the demo model.
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::test;

namespace {

const char* const kSchema =
    R"({"type": "object", "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"type": "integer", "maximum": 99, "minimum": 0}}, "required": ["name", "age"], "additionalProperties": false})";

std::string answer(const std::vector<std::string>& flags) {
  std::string text =
      output_of(std::vector<std::string>{"-p", "Who are you?", "-n", "60", "--temp", "2", "--seed", "3"} + flags);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace

TEST_CASE("run --grammar: nothing else is said") {
  TempDir dir;
  write_file_atomic(dir / "g.gbnf", "root ::= \"yes\" | \"no\" (\" \" [0-9]){3}\n");
  write_file_atomic(dir / "s.json", kSchema);
  for (const int seed : {1, 2, 3}) {
    const std::vector<std::string> more = {"--seed", cat(seed)};
    for (const std::vector<std::string>& flags :
         {std::vector<std::string>{"--grammar", "root ::= \"yes\" | \"no\""},
          std::vector<std::string>{"--grammar", "root ::= \"yes\" | \"no\"", "--raw"}}) {
      const std::string text = answer(flags + more);
      CHECK_MESSAGE((text == "yes" || text == "no"), text);
    }
    const std::string text = answer(std::vector<std::string>{"--grammar-file", (dir / "g.gbnf").string()} + more);
    CHECK_MESSAGE((text == "yes" || (text.size() == 8 && text.starts_with("no "))), text);
    for (const std::vector<std::string>& flags :
         {std::vector<std::string>{"-j", kSchema}, std::vector<std::string>{"-jf", (dir / "s.json").string()}}) {
      const Json person = parse_json(answer(flags + more), "answer");
      CHECK((*person.find("name") == Json("Ada") || *person.find("name") == Json("Bob")));
      const int64_t age = person.find("age")->as_integer();
      CHECK(age >= 0);
      CHECK(age <= 99);
      CHECK(person.as_object().size() == 2);
    }
  }
  CHECK(answer({"--json-schema", "{}", "-n", "1"}).starts_with("{"));
}

TEST_CASE("run --grammar: what is wrong is said before the weights are read") {
  TempDir dir;
  const auto wrong = [&](std::vector<std::string> flags) {
    return one_line_error(l4_run(std::vector<std::string>{"-p", "Hi"} + flags), 2);
  };
  CHECK(wrong({"--grammar", "root ::= x"}).find("--grammar: ") != std::string::npos);
  CHECK(wrong({"--json-schema", R"({"type": "nonsense"})"}).find("--json-schema: ") != std::string::npos);
  CHECK(wrong({"--grammar", "root ::= \"a\"", "-j", "{}"}).find("one of them") != std::string::npos);
  one_line_error(l4_run({"-p", "Hi", "--json-schema", "{"}), 1);
  one_line_error(l4_run({"-p", "Hi", "--grammar-file", (dir / "none").string()}), 1);
  CHECK(one_line_error(l4_run({"--batch", "in", "-o", "out", "-j", "{}"}), 2).find("--json-schema") !=
        std::string::npos);
}
