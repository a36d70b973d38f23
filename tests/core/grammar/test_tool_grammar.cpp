#include "base/error.h"
#include "core/grammar/small_vocab.h"
#include "text/tool_calls.h"

using namespace l4;
using namespace l4::test;

namespace {

const char* kTools = R"([
  {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {
      "city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14},
      "detail": {"type": "object", "properties": {"wind": {"type": "boolean"}, "note": {"type": ["string", "null"]}}}},
      "required": ["city"]}}},
  {"type": "function", "function": {"name": "get_time"}},
  {"type": "function", "function": {"name": "odd name", "parameters": {"type": "object", "properties": {"a b": {"type": "integer"}}}}}])";

SmallVocab& vocab() {
  static SmallVocab made = json_vocab();
  return made;
}

GrammarPtr compile(std::string_view name, bool parallel, ToolCallForm form = ToolCallForm::any) {
  return compile_tool_calls(vocab().vocab, parse_json(kTools, "tools"), name, parallel, form);
}

}  // namespace

TEST_CASE("tool grammar: what may be written") {
  GrammarPtr any = compile("", true);
  for (const char* text : {R"({"name": "get_weather", "parameters": {"city": "Paris", "days": 14}})",
                           R"({"name":"get_time","parameters":{}})", R"([get_time()])",
                           R"([get_weather(city="Paris", detail={"wind": True, "note": None}), get_time()])",
                           R"({"name": "get_time", "parameters": {}}; {"name": "get_time", "parameters": {}})",
                           R"({"name": "odd name", "parameters": {"a b": 1}})", R"([get_weather(city="x",days=3)])"}) {
    INFO(text);
    CHECK(matches(any, text));
    CHECK(parse_tool_calls(text).content.empty());
    CHECK(!parse_tool_calls(text).calls.empty());
  }
  for (const char* text :
       {"", "Sure! [get_time()]", R"([get_weather()])", R"([get_weather(city="x", days=15)])", "[]", "[get_time(), ]",
        R"([get_weather(days=1, city="x")])", R"([get_time(a=1)])", R"({"name": "get_time"})", "get_time()",
        R"([get_weather(city="x", detail={"wind": true})])", R"({"name": "other", "parameters": {}})",
        R"({"name": "get_time", "parameters": {}})"
        " ",
        R"([odd name()])", R"([get_weather(city="\/")])"}) {
    INFO(text);
    CHECK(!matches(any, text));
  }
  GrammarPtr one = compile("get_time", false);
  CHECK(matches(one, "[get_time()]"));
  CHECK(!matches(one, "[get_time(), get_time()]"));
  CHECK(!matches(one, R"([get_weather(city="x")])"));
  CHECK(!matches(compile("", true, ToolCallForm::json), "[get_time()]"));
  CHECK(!matches(compile("get_time", true, ToolCallForm::pythonic), R"({"name": "get_time", "parameters": {}})"));
}

TEST_CASE("tool grammar: no parameters are no arguments, no listed properties are any") {
  const auto compiled = [&](const char* tool) {
    return compile_tool_calls(vocab().vocab, parse_json(cat("[", tool, "]"), "tools"), "", false);
  };
  const char *none = R"({"name": "f", "parameters": {}})",
             *some = R"({"name": "f", "parameters": {"a": [1, {"b": null}]}})";
  for (const char* tool : {R"({"name": "f"})", R"({"name": "f", "parameters": null})",
                           R"({"name": "f", "parameters": {"type": "object", "properties": {}}})",
                           R"({"name": "f", "parameters": {"type": "object", "additionalProperties": false}})"}) {
    CAPTURE(tool);
    CHECK(matches(compiled(tool), none));
    CHECK(matches(compiled(tool), "[f()]"));
    CHECK(!matches(compiled(tool), some));
    CHECK(!matches(compiled(tool), "[f(a=1)]"));
  }
  for (const char* tool : {R"({"name": "f", "parameters": {}})", R"({"name": "f", "parameters": {"type": "object"}})",
                           R"({"name": "f", "parameters": {"type": "object", "description": "whatever"}})"}) {
    CAPTURE(tool);
    CHECK(matches(compiled(tool), none));
    CHECK(matches(compiled(tool), some));
    CHECK(!matches(compiled(tool), R"({"name": "f", "parameters": [1]})"));
    CHECK(!matches(compiled(tool), "[f()]"));  // no way to write any argument
    CHECK(parse_tool_calls(some).calls[0].arguments == parse_json(R"({"a": [1, {"b": null}]})", "arguments"));
  }
}

TEST_CASE("tool grammar: beside a form the answer has it or is calls") {
  const Json tools = parse_json(kTools, "tools");
  const auto either = [&](const AnswerForm& form, bool parallel = true) {
    return compile_form_or_tool_calls(vocab().vocab, form, tools, parallel);
  };
  using Kind = AnswerForm::Kind;
  const Json schema =
      parse_json(R"({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})", "");
  struct Row {
    AnswerForm form;
    std::vector<const char*> good, bad;
  };
  for (const Row& row :
       {Row{{.schema = schema}, {R"({"age": 3})"}, {R"({"age": 3.5})", R"({"name": "Ann"})", R"([{"age": 3}])"}},
        Row{AnswerForm::any_object(), {"{}", R"({"name": "Ann", "parameters": 3})"}, {"[]", "3"}},
        Row{{.kind = Kind::regex, .text = "a+b"}, {"aab"}, {"aa", "[aab()]"}},
        Row{{.kind = Kind::choice, .choices = {"yes", "[no]"}}, {"yes", "[no]"}, {"no", "[yes]"}},
        Row{{.kind = Kind::gbnf, .text = "root ::= \"x\" root | \"y\""}, {"xxy"}, {"xx"}}}) {
    const GrammarPtr grammar = either(row.form);
    for (const char* text : row.good) CHECK_MESSAGE(matches(grammar, text), text);
    for (const char* text : row.bad) CHECK_MESSAGE(!matches(grammar, text), text);
    for (const char* text : {R"({"name": "get_time", "parameters": {}})", "[get_time(), get_time()]"})
      CHECK_MESSAGE(matches(grammar, text), text);
    for (const char* text : {"", "Sure! [get_time()]", R"([get_weather(days=1)])", R"({"age": 3}[get_time()])"})
      CHECK_MESSAGE(!matches(grammar, text), text);
  }
  CHECK(!matches(either({.schema = schema}, false), "[get_time(), get_time()]"));
  CHECK(error_of([&] { either({.kind = Kind::regex, .text = "("}); }).starts_with("regex"));
}

TEST_CASE("tool grammar: what is refused") {
  auto error = [&](const char* tools, const char* name, ToolCallForm form = ToolCallForm::any) {
    return error_of([&] { compile_tool_calls(vocab().vocab, parse_json(tools, "tools"), name, true, form); });
  };
  CHECK(error(kTools, "nope") == "tool_choice: no tool is named \"nope\"");
  CHECK(error("[]", "") == "tool_choice: there are no tools");
  CHECK(error("{}", "") == "tools: expected a list");
  CHECK(error(R"([{"type": "function"}])", "") == "tools[0].name: expected a string");
  CHECK(error(R"([{"function": {"name": "f", "parameters": 5}}])", "") ==
        "tools[0].function.parameters: expected an object");
  CHECK(error(R"([{"function": {"name": "f", "parameters": {"properties": {"x": {"type": "wat"}}}}}])", "") ==
        "tools[0].function.parameters#/properties/x/type: unknown type \"wat\"");
  CHECK(error(kTools, "odd name", ToolCallForm::pythonic) ==
        "tools[2].function.parameters: a call of \"odd name\" cannot be written as f(a=1)");
}

TEST_CASE("tool grammar: whatever it lets pass, the parser reads as calls of the tools, in JSON and in Python") {
  std::mt19937 random(11);
  Json tools = parse_json(R"([{"name": "f", "parameters": {"type": "object", "properties": {
      "s": {"type": "string", "maxLength": 12}, "n": {"type": "number"}, "l": {"type": "array", "items": {"enum": ["a", 1, null, true]}, "maxItems": 3},
      "o": {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 1}}, "required": ["s", "l"]}},
      {"name": "g"}])",
                          "tools");
  for (ToolCallForm form : {ToolCallForm::json, ToolCallForm::pythonic, ToolCallForm::any}) {
    GrammarPtr grammar = compile_tool_calls(vocab().vocab, tools, "", true, form);
    int n_ended = 0;
    for (int round = 0; round < 60; ++round) {
      Walk walk = random_walk(grammar, vocab(), random, 40, round < 3);
      if (!walk.ended) continue;
      ++n_ended;
      INFO(walk.text);
      std::vector<std::string> names = {"f", "g"};
      ParsedReply reply = parse_tool_calls(walk.text, names);
      CHECK(reply.content.empty());
      REQUIRE(!reply.calls.empty());
      for (const ToolCall& call : reply.calls) {
        CHECK((call.name == "f" ? call.arguments.find("s") && call.arguments.find("l")
                                : call.arguments == Json(Json::Object{})));
      }
    }
    CHECK(n_ended > 20);
  }
}
