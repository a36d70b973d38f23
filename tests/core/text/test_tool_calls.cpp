#include "text/tool_calls.h"

#include <random>

#include "base/strings.h"
#include "core/text/official.h"

using namespace l4;

namespace {

// What a stream's deltas say together. The order of the deltas is checked too.
ParsedReply streamed(const std::vector<std::string_view>& pieces, const std::vector<std::string>& tool_names) {
  ToolCallStream stream(tool_names);
  ParsedReply out;
  auto take = [&](const std::vector<ToolCallDelta>& deltas) {
    for (const ToolCallDelta& delta : deltas) {
      switch (delta.kind) {
        case ToolCallDelta::Kind::content:
          CHECK(!delta.text.empty());
          out.content += delta.text;
          break;
        case ToolCallDelta::Kind::call:
          CHECK(delta.index == int(out.calls.size()));
          out.calls.push_back({delta.text});
          break;
        case ToolCallDelta::Kind::arguments:
          CHECK(delta.index + 1 == int(out.calls.size()));
          out.calls.back().arguments = parse_json(delta.text, "arguments");
      }
    }
  };
  for (std::string_view piece : pieces) take(stream.push(piece));
  take(stream.finish());
  CHECK(stream.n_calls() == int(out.calls.size()));
  return out;
}

void check_every_split(std::string_view reply, const std::vector<std::string>& tool_names) {
  ParsedReply whole = parse_tool_calls(reply, tool_names);
  auto check = [&](const std::vector<std::string_view>& pieces) {
    ParsedReply result = streamed(pieces, tool_names);
    CHECK(result.content == whole.content);
    CHECK(result.calls == whole.calls);
  };
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < reply.size(); ++i) bytes.push_back(reply.substr(i, 1));
  check(bytes);
  for (size_t i = 0; i <= reply.size(); ++i) check({reply.substr(0, i), reply.substr(i)});
}

// "name{arguments as JSON}" for each call, then the content in bars.
std::string parsed(std::string_view reply, std::vector<std::string> tool_names = {}) {
  ParsedReply result = parse_tool_calls(reply, tool_names);
  check_every_split(reply, tool_names);
  std::string out;
  for (const ToolCall& call : result.calls) out += cat(call.name, dump_json(call.arguments), " ");
  return cat(out, "|", result.content, "|");
}

}  // namespace

TEST_CASE("tool_calls: pythonic") {
  CHECK(parsed(R"([f(a=1, g="x")])") == R"(f{"a": 1, "g": "x"} ||)");
  CHECK(parsed("[get_time()]") == "get_time{} ||");
  CHECK(parsed("[a(x=1), b(y='z'),]") == R"(a{"x": 1} b{"y": "z"} ||)");
  CHECK(parsed(" [ a.b-c ( x = -1.5e3 , y = None,z=True, w=false, v=null ) ] ") ==
        R"(a.b-c{"x": -1500.0, "y": null, "z": true, "w": false, "v": null} ||)");
  CHECK(parsed("[f(a=[[1, 2], [3, [4]]], b={'k': {'l': [(), (1,)]}, \"m\": []})]") ==
        R"(f{"a": [[1, 2], [3, [4]]], "b": {"k": {"l": [[], [1]]}, "m": []}} ||)");
  CHECK(parsed(R"([f(a="q\"uo\\te\n\u00e9\x41\ud83d\ude42\d", b='it\'s "so"', c="two
lines", d="""th"ree""", e='''x''')])") ==
        R"(f{"a": "q\"uo\\te\né)"
        "A🙂"
        R"(\\d", "b": "it's \"so\"", "c": "two\nlines", "d": "th\"ree", "e": "x"} ||)");
  CHECK(parsed("[f(a=1, a=2)]") == R"(f{"a": 2} ||)");
}

TEST_CASE("tool_calls: JSON") {
  CHECK(parsed(R"({"name": "f", "parameters": {"city": "SF", "n": [1, {"x": null}]}})") ==
        R"(f{"city": "SF", "n": [1, {"x": null}]} ||)");
  CHECK(parsed(R"({"name":"f","parameters":{}}; {"name":"g","arguments":{"a":"b\/c\u0041"}})") ==
        R"(f{} g{"a": "b/cA"} ||)");
  CHECK(parsed("{\"name\":\"f\",\"parameters\":{}}\n\n{\"name\":\"g\",\"parameters\":{}}") == "f{} g{} ||");
  CHECK(parsed(R"([{"name":"f","parameters":{}}, {"name":"g","parameters":{"x":1}}])") == R"(f{} g{"x": 1} ||)");
  CHECK(parsed(R"({"name":"f","parameters":"{\"x\": 1}"})") == R"(f{"x": 1} ||)");
  CHECK(parsed(R"({"type":"function","function":{"name":"f","arguments":{"x":1}}})") == R"(f{"x": 1} ||)");
  CHECK(parsed(R"({"type":"function","name":"f","parameters":{"x":1}})") == R"(f{"x": 1} ||)");
}

TEST_CASE("tool_calls: python_start and python_end, whole and alone") {
  CHECK(parsed("<|python_start|>[f(a=1)]<|python_end|>") == R"(f{"a": 1} ||)");
  CHECK(parsed(R"(<|python_start|>{"name":"f","parameters":{}}<|python_end|>)") == "f{} ||");
  CHECK(parsed(R"(<|python_start|><|python_end|>{"name":"f","parameters":{}}{"name":"g","parameters":{}})") ==
        "f{} g{} ||");
  CHECK(parsed("<|python_start|>\nf(a=1)<|python_end|>") == R"(f{"a": 1} ||)");
  CHECK(parsed("<|python_start|>f(a=1); g()\n") == R"(f{"a": 1} g{} ||)");
  CHECK(parsed("[f()]<|python_end|>") == "f{} ||");
  CHECK(parsed("<|python_start|>Sure.") == "|Sure.|");
  CHECK(parsed("<|python_start|>x = f(1)\nprint(x)<|python_end|>") == "|x = f(1)\nprint(x)|");
  CHECK(parsed("f(a=1)") == "|f(a=1)|");  // without brackets or mark it is prose
}

TEST_CASE("tool_calls: prose around the calls is content") {
  CHECK(parsed("Let me look.\n\n[f(a=1)]") == R"(f{"a": 1} |Let me look.|)");
  CHECK(parsed("Let me look: {\"name\":\"f\",\"parameters\":{}} Done.") == "f{} |Let me look:  Done.|");
  CHECK(parsed("See [1] and {x}: [f()] or [g()]") == "f{} g{} |See [1] and {x}:  or|");
}

TEST_CASE("tool_calls: white space around content") {
  CHECK(parsed(" \n[f()] \n") == "f{} ||");
  CHECK(parsed("  Look: \n[f()] \n") == "f{} |  Look:|");  // what was said is not taken back
  CHECK(parsed("[f()]\n\nDone. ") == "f{} |Done.|");
  CHECK(parsed("  no call \n") == "|  no call \n|");
  CHECK(parsed("Hi \n[f()] there ; [g()] ;\n") == "f{} g{} |Hi \n there ;|");
}

TEST_CASE("tool_calls: a stream holds back what may become a call, and nothing else") {
  struct Step {
    std::string text, content;
  };
  auto contents = [](const std::vector<Step>& steps, std::vector<std::string> names) {
    ToolCallStream stream(std::move(names));
    for (const Step& step : steps) {
      INFO(step.text);
      std::string content;
      for (const ToolCallDelta& delta : stream.push(step.text)) {
        CHECK(delta.kind == ToolCallDelta::Kind::content);
        content += delta.text;
      }
      CHECK(content == step.content);
    }
    return stream.finish();
  };
  CHECK(contents({{"a", "a"}, {" b ", " b"}, {"[1", " [1"}, {", 2] {x", ", 2] {x"}, {"}", "}"}}, {}).empty());
  CHECK(contents({{"[g", "[g"}, {"(", "("}}, {"f"}).empty());  // no such function
  auto rest = contents({{"[f", ""}, {"(a=1), g(", ""}, {"b='x'", ""}, {")", ""}}, {"f", "g"});
  REQUIRE(rest.size() == 4);
  CHECK(rest[0] == ToolCallDelta{ToolCallDelta::Kind::call, 0, "f"});
  CHECK(rest[1] == ToolCallDelta{ToolCallDelta::Kind::arguments, 0, R"({"a": 1})"});
  CHECK(rest[2] == ToolCallDelta{ToolCallDelta::Kind::call, 1, "g"});
  CHECK(contents({{"[f", ""}, {"()", ""}, {" x", "[f() x"}}, {"f"}).empty());
  CHECK(contents({{"5 <", "5"}, {"|python", ""}, {" x", " <|python x"}}, {}).empty());

  ToolCallStream stream;
  CHECK(stream.push("[f()").empty());
  CHECK(stream.push("]").size() == 2);  // not at the end only
  CHECK(stream.push(R"({"name": "g", "parameters": {}})").size() == 2);
  CHECK(stream.n_calls() == 2);
  CHECK(stream.finish().empty());
}

TEST_CASE("tool_calls: long calls in small pieces take little time") {
  std::string call = "[f(text='" + std::string(300000, 'x') + "')] and [f(";
  for (int i = 0; i < 500; ++i) call += cat("k", i, "='", std::string(200, 'y'), "', ");
  call += ")]";
  std::vector<std::string_view> pieces;
  for (size_t i = 0; i < call.size(); i += 3) pieces.push_back(std::string_view(call).substr(i, 3));
  double begin = test::cpu_seconds();
  ParsedReply result = streamed(pieces, {"f"});
  CHECK(result.calls.size() == 2);
  CHECK(result.content == "and");
  CHECK(test::cpu_seconds() - begin < 2 * test::kSlowdown);
}

TEST_CASE("tool_calls: what only resembles a call stays text") {
  for (const char* text : {"",
                           "[",
                           "{",
                           "[]",
                           "{}",
                           "[1, 2]",
                           "[f]",
                           "[f(]",
                           "[f(1)]",
                           "[f(a=)]",
                           "[f(a=b)]",
                           "[f(a=1]",
                           "[f(a='x)]",
                           "[f(a=1.2.3)]",
                           "[f(a='\\ud800')]",
                           "[f(a='\\uZZZZ')]",
                           "[f(a=1)] [",
                           "{\"name\": \"f\"}",
                           "[f(a=--)]",
                           "{\"name\": 1, \"parameters\": {}}",
                           "{\"name\": \"f\", \"parameters\": [1]}",
                           "{\"name\": \"f\", \"parameters\": \"[1]\"}",
                           "{'name': 'f', 'parameters': {}}",
                           "[f(a={1: 2})]",
                           " [link](http://x) ",
                           "array[i](x)",
                           "[f(a=1e999)]"}) {
    INFO(text);
    std::string expected = std::string_view(text) == "[f(a=1)] [" ? R"(f{"a": 1} |[|)" : cat("|", text, "|");
    CHECK(parsed(text) == expected);
  }
}

TEST_CASE("tool_calls: a missing last bracket at the end is forgiven") {
  CHECK(parsed("[f(a=[1, [2]])") == R"(f{"a": [1, [2]]} ||)");
  CHECK(parsed("[f(), g(b=1)\n") == R"(f{} g{"b": 1} ||)");
  CHECK(parsed("[f() and more") == "|[f() and more|");
}

TEST_CASE("tool_calls: only offered tools are called") {
  CHECK(parsed("[f(a=1)]", {"f", "g"}) == R"(f{"a": 1} ||)");
  CHECK(parsed("[h(a=1)]", {"f", "g"}) == "|[h(a=1)]|");
  CHECK(parsed(R"({"name":"h","parameters":{}})", {"f"}) == R"(|{"name":"h","parameters":{}}|)");
  CHECK(parsed("<|python_start|>print()<|python_end|>", {"f"}) == "|print()|");
}

TEST_CASE("tool_calls: depth, size and time are bounded") {
  std::string deep = "[f(a=" + std::string(63, '[') + std::string(63, ']') + ")]";
  CHECK(parse_tool_calls(deep).calls.size() == 1);
  for (size_t depth : {100, 1000000}) {
    std::string too_deep = "[f(a=" + std::string(depth, '[') + std::string(depth, ']') + ")]";
    CHECK(parse_tool_calls(too_deep).calls.empty());
  }
  double begin = test::cpu_seconds();
  for (const char* unit :
       {"[", "{", "[f(a=", "{\"a\":", "[f(a=[{'k':'", "[f(a='", "{\"", "[f(),", "[f(a=1,b=2),", "{\"a\":{\"", "\\",
        "<|python_start|>", "<|python_start|>f(a=1);", "[{\"name\":\"f\",\"parameters\":{}},", "[f(a=[1,1,1,1,",
        "{\"x\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"y\":"}) {
    std::string text;
    while (text.size() < 1 << 20) text += unit;
    parse_tool_calls(text);
  }
  std::string wide = "[f(";
  for (int i = 0; i < 100000; ++i) wide += cat("k", i, "=1,");
  parse_tool_calls(wide + ")]");
  CHECK(test::cpu_seconds() - begin < 4 * test::kSlowdown);
}

TEST_CASE("tool_calls: damaged replies neither crash nor lose text") {
  const std::string good =
      R"(Hi [f(a=[1, 'x'], b={"k": "\u00e9"})] <|python_start|>{"name": "g", "parameters": {"n": -1.5}}<|python_end|>)";
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    std::string text = good;
    for (int edits = int(random() % 4) + 1; edits > 0; --edits) {
      size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text.erase(at, random() % 5 + 1);
          break;
        case 1:
          text[at] = "[]{}()\"'\\,:= <|x\xC3"[random() % 17];
          break;
        default:
          text.insert(at, 1, "[]{}()\"'\\,:= <|x\xC3"[random() % 17]);
      }
      if (text.empty()) text.push_back('[');
    }
    ParsedReply result = parse_tool_calls(text);
    if (round % 50 == 0)
      check_every_split(text, round % 100 == 0 ? std::vector<std::string>{} : std::vector<std::string>{"f"});
    if (result.calls.empty() && text.find("<|python_") == std::string::npos) CHECK(result.content == text);
    for (const ToolCall& call : result.calls) CHECK(call.arguments.is_object());
  }
}
