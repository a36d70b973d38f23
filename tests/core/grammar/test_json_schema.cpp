#include "grammar/json_schema.h"

#include "base/error.h"
#include "core/grammar/small_vocab.h"
#include "core/text/official.h"

using namespace l4;
using namespace l4::test;

namespace {

const SmallVocab& vocab() {
  static SmallVocab made = json_vocab();
  return made;
}

void check(const char* schema, const std::vector<std::string>& right, const std::vector<std::string>& wrong) {
  INFO(schema);
  GrammarPtr grammar;
  REQUIRE_NOTHROW(grammar = compile_json_schema(vocab().vocab, parse_json(schema, "schema")));
  for (const std::string& text : right) {
    INFO("right: ", text);
    CHECK(matches(grammar, text));
  }
  for (const std::string& text : wrong) {
    INFO("wrong: ", text);
    CHECK(!matches(grammar, text));
  }
}

std::string error(const std::string& schema) {
  return error_of([&] { compile_json_schema(vocab().vocab, parse_json(schema, "schema")); });
}

}  // namespace

TEST_CASE("json_schema: types") {
  check(R"({"type": "string"})", {R"("")", R"("a é 日 \n \u00e9 \ud83d\ude42 \/ \"")"},
        {R"(")", "a", "\"\n\"", R"("\x")", R"("\ud83d")", R"("\ude42")", "\"\xC3\"", R"("a"b")", " \"\"", "\"\" "});
  check(R"({"type": "integer"})", {"0", "-1", "42", "999999999999999999"},
        {"", "-", "01", "1.0", "1e3", "+1", "-0", "1000000000000000000"});
  check(R"({"type": "number"})", {"0", "-1", "4.25", "1e5", "-0.5E-10", "0.000000000000000001"},
        {"", ".5", "5.", "01", "1e", "1e100", "--1", "NaN"});
  check(R"({"type": "boolean"})", {"true", "false"}, {"True", "tru", "null", "1"});
  check(R"({"type": "null"})", {"null"}, {"None", "0", "nul"});
  check(R"({"type": "object"})", {"{}", "{ }", R"({"a": 1})", R"({"a":[1,{"b":null}], "c":""})", R"({ "a": 1 })"},
        {"[]", "{", "{\"a\"}", "{\"a\":1,}", "{a:1}", "{  }", "{\n}", "{\"a\":  1}", "{\"a\" :1}"});
  check(R"({"type": "array"})", {"[]", "[ ]", "[1, \"a\", [], {}]", "[ 1 ]"},
        {"{}", "[1,]", "[,1]", "[1 2]", "[", "[1] "});
  check(R"({"type": ["string", "null"]})", {"\"x\"", "null"}, {"1"});
  check(R"({"type": "string", "nullable": true})", {"\"x\"", "null"}, {"1"});
  check("{}", {"1", "\"a\"", "[]", "{}", "null", "true"}, {"", "x"});
  check("true", {"1", "{\"a\": [true]}"}, {"x"});
  check(R"({"title": "T", "description": "D", "default": 5, "examples": [1], "x-note": 1})", {"{}"}, {});
}

TEST_CASE("json_schema: enum and const") {
  check(R"({"enum": ["red", "redder", 1, null, true, {"a": [1, "x"]}, "q\"\n"]})",
        {"\"red\"", "\"redder\"", "1", "null", "true", R"({"a": [1, "x"]})", R"({"a":[1,"x"]})", R"("q\"\n")"},
        {"\"redd\"", "red", "2", "false", R"({"a": [1]})"});
  check(R"({"const": {"k": []}})", {R"({"k": []})", R"({ "k":[] })"}, {"{}", R"({"k": [1]})"});
  check(R"({"type": "string", "enum": ["a", 1]})", {"\"a\""}, {"1"});
  check(R"({"enum": ["a", "b"], "const": "b"})", {"\"b\""}, {"\"a\""});
  check(R"({"type": "integer", "enum": [1, 2.5]})", {"1"}, {"2.5"});
}

TEST_CASE("json_schema: objects") {
  const char* schema = R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"},
      "c": {"type": "boolean"}}, "required": ["b"]})";
  check(schema, {R"({"b": ""})", R"({"a": 1, "b": ""})", R"({"a":1,"b":"","c":true})", R"({"b": "x", "c": false})"},
        {"{}", R"({"a": 1})", R"({"b": "", "a": 1})", R"({"b": "", "d": 1})", R"({"a": 1, "b": "",})", R"({, "b": ""})",
         R"({"a": "1", "b": ""})", R"({"b": "", "b": ""})", R"({"a": 1 "b": ""})"});
  check(R"({"properties": {"a": {"type": "null"}, "b": {"type": "null"}}})",
        {"{}", "{ }", R"({"a": null})", R"({"b": null})", R"({"a": null, "b": null})"},
        {R"({"c": null})", "{  }", R"({,"b": null})"});
  check(R"({"type": "object", "properties": {}})", {"{}"}, {R"({"a": 1})"});
  check(R"({"type": "object", "additionalProperties": false})", {"{}", "{ }"}, {R"({"a": 1})"});
  check(R"({"type": "object", "additionalProperties": {"type": "integer"}})", {"{}", R"({"a": 1, "": 2})"},
        {R"({"a": "x"})"});
  check(
      R"({"properties": {"a": {"type": "null"}, "ab": {"type": "null"}}, "required": ["ab"], "additionalProperties": {"type": "integer"}})",
      {R"({"ab": null})", R"({"a": null, "ab": null, "abc": 1})", R"({"ab": null, "": 1, "b": 2, "x\n": 3})"},
      {R"({"a": 1, "ab": null})", R"({"ab": null, "a": 1})", R"({"ab": null, "x": null})", R"({"ab": null, "ab": 1})"});
  check(R"({"properties": {"é\"": {"type": "null"}}, "additionalProperties": true})",
        {R"({"é\"": null})", R"({"é": 1})", R"({"\"": 1})", R"({"é\"x": 1})"}, {R"({"é\"": 1})"});
  check(R"({"type": "object", "required": ["x", "y"]})", {R"({"x": 1, "y": []})"}, {"{}", R"({"x": 1})"});
  check(R"({"type": "object", "minProperties": 1, "maxProperties": 2})", {R"({"a": 1})", R"({"a": 1, "b": 2})"},
        {"{}", R"({"a": 1, "b": 2, "c": 3})"});
  check(R"({"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "additionalProperties": {"type": "null"}})",
        {"{}", R"({"ab": null})"}, {R"({"a": null})", R"({"ab": 1})"});
  check(R"({"type": "object", "patternProperties": {"^n_": {"type": "integer"}}, "additionalProperties": false})",
        {"{}", R"({"n_a": 1, "n_": 2})"}, {R"({"a": 1})", R"({"n_": "x"})"});
  check(R"({"properties": {"a": false, "b": {"type": "null"}}})", {"{}", R"({"b": null})"}, {R"({"a": 1})"});
}

TEST_CASE("json_schema: arrays") {
  check(R"({"type": "array", "items": {"type": "integer"}})", {"[]", "[1]", "[1, 2,3]"}, {"[\"a\"]"});
  check(R"({"items": {"type": "integer"}, "minItems": 2, "maxItems": 3})", {"[1, 2]", "[1,2,3]"},
        {"[]", "[1]", "[1,2,3,4]"});
  check(R"({"items": {"enum": [1]}, "minItems": 10, "maxItems": 12})",
        {"[1,1,1,1,1,1,1,1,1,1]", "[1,1,1,1,1,1,1,1,1,1,1,1]"}, {"[1,1,1,1,1,1,1,1,1]", "[1,1,1,1,1,1,1,1,1,1,1,1,1]"});
  check(R"({"type": "array", "maxItems": 0})", {"[]", "[ ]"}, {"[1]"});
  check(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}]})", {"[1, \"a\"]"},
        {"[]", "[1]", "[1, \"a\", 2]", "[\"a\", 1]"});
  check(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "null"}})",
        {"[1, \"a\"]", "[1, \"a\", null, null]"}, {"[1]", "[1, \"a\", 2]"});
  check(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}, {"type": "null"}], "minItems": 1})",
        {"[1]", "[1, \"a\"]", "[1, \"a\", null]"}, {"[]", "[1, null]", "[1, \"a\", null, 1]"});
  check(R"({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 0, "maxItems": 2})",
        {"[]", "[1]", "[1, null]"}, {"[null]", "[1, null, null]"});
  check(R"({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 3})", {"[1, null, null]"},
        {"[1, null]"});
  check(R"({"prefixItems": [{"const": 1}, {"const": 2}], "maxItems": 1})", {"[1]"}, {"[1, 2]", "[]"});
  check(R"({"items": {"items": {"const": 0}, "minItems": 5, "maxItems": 6}, "minItems": 5})",
        {"[[0,0,0,0,0],[0,0,0,0,0],[0,0,0,0,0],[0,0,0,0,0],[0,0,0,0,0,0]]"},
        {"[[0,0,0,0,0],[0,0,0,0,0],[0,0,0,0,0],[0,0,0,0,0]]"});
}

TEST_CASE("json_schema: strings") {
  check(R"({"type": "string", "minLength": 2, "maxLength": 3})",
        {"\"ab\"", "\"日é本\"", R"("\ud83d\ude42\n")", R"("a\u00e9")"}, {"\"a\"", "\"abcd\"", R"("\n")"});
  check(R"({"minLength": 20})", {"\"" + std::string(20, 'x') + "\"", "\"" + std::string(2000, 'x') + "\""},
        {"\"" + std::string(19, 'x') + "\""});
  check(R"({"pattern": "^[a-c]+\\d{2}$"})", {"\"abc12\""}, {"\"abc1\"", "\"xabc12\"", "\"12\""});
  check(R"({"pattern": "b+"})", {"\"b\"", "\"aabbc\"", R"("\nb\"")"}, {"\"a\"", "\"\""});
  check(R"({"pattern": "^a|z$"})", {"\"a\"", "\"abc\"", "\"xz\""}, {"\"bz.\"", "\"ba\""});
  check(R"({"pattern": "^(x|y)$"})", {"\"x\""}, {"\"xy\"", "\"ax\""});
  check(R"({"pattern": "^[\"\\\\\\n\\x01/]*$"})", {R"("")", R"("\"\\\n\u0001/")"},
        {R"("\/")", "\"\n\"", R"("\x01")", R"("a")"});
  check(R"({"pattern": "^.$"})", {R"("\"")", R"("é")", R"("\t")"}, {R"("\n")", R"("\u0041")", "\"\"\""});
  check(R"({"pattern": "^[A-Z]{3}$", "minLength": 3, "maxLength": 3})", {"\"ABC\""}, {"\"AB\""});
  check(R"({"format": "date"})", {"\"2024-02-29\"", "\"1999-12-31\""},
        {"\"2024-13-01\"", "\"2024-04-31\"", "\"24-01-01\"", "\"2024-02-30\""});
  check(R"({"format": "time"})", {"\"23:59:59Z\"", "\"00:00:00.123+05:30\""},
        {"\"24:00:00Z\"", "\"12:00Z\"", "\"12:00:00\""});
  check(R"({"format": "date-time"})", {"\"2024-05-06T07:08:09Z\"", "\"2024-05-06T07:08:09.5-08:00\""},
        {"\"2024-05-06 07:08:09Z\"", "\"2024-05-06\""});
  check(R"({"format": "duration"})", {"\"P1Y2M3DT4H5M6S\"", "\"PT1S\"", "\"P2W\"", "\"P1D\""},
        {"\"P\"", "\"PT\"", "\"1D\"", "\"P1Y1D2M\""});
  check(R"({"format": "email"})", {"\"a.b+c@ex-ample.co.uk\""}, {"\"a@b\"", "\"@x.y\"", "\"a b@c.d\"", "\"a@-x.y\""});
  check(R"({"format": "hostname"})", {"\"localhost\"", "\"a-b.c1.org\""}, {"\"-a\"", "\"a..b\"", "\"a_b\""});
  check(R"({"format": "ipv4"})", {"\"0.0.0.0\"", "\"255.249.199.9\""}, {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""});
  check(
      R"({"format": "ipv6"})",
      {"\"::\"", "\"::1\"", "\"2001:db8::8a2e:370:7334\"", "\"1:2:3:4:5:6:7:8\"", "\"1::\"", "\"::ffff:1.2.3.4\"",
       "\"1:2:3:4:5:6:1.2.3.4\"", "\"1:2:3:4:5:6:7::\""},
      {"\"1:2:3:4:5:6:7\"", "\"1::2::3\"", "\"12345::\"", "\"1:2:3:4:5:6:7:8:9\"", "\":1\"", "\"1:2:3:4:5:6:7:8::\""});
  check(R"({"format": "uri"})", {"\"https://a.b/c?d=%20#e\"", "\"mailto:x@y\""},
        {"\"//a\"", "\"http://a b\"", "\"a:%2\""});
  check(R"({"type": "string", "format": "password", "minLength": 1})", {"\"x\""}, {"\"\""});
  check(R"({"format": "uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""},
        {"\"123e4567e89b12d3a456426614174000\""});
}

TEST_CASE("json_schema: ranges of integers are exact") {
  for (auto [low, high] : std::vector<std::pair<int, int>>{{0, 0},
                                                           {0, 9},
                                                           {1, 10},
                                                           {-5, 5},
                                                           {7, 123},
                                                           {99, 101},
                                                           {-120, -13},
                                                           {-1, 0},
                                                           {10, 99},
                                                           {0, 255},
                                                           {-100, 1000},
                                                           {109, 191}}) {
    GrammarPtr grammar = compile_json_schema(
        vocab().vocab, Json(Json::Object{{"type", "integer"}, {"minimum", Json(low)}, {"maximum", Json(high)}}));
    for (int i = -1300; i <= 1300; ++i) {
      bool expected = low <= i && i <= high;
      if (matches(grammar, cat(i)) != expected) {
        INFO(low, "..", high, ": ", i);
        CHECK(matches(grammar, cat(i)) == expected);
      }
    }
    CHECK(!matches(grammar, "-0"));
    CHECK(!matches(grammar, "007"));
  }
  check(R"({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6})", {"4", "5"}, {"3", "6"});
  check(R"({"type": "integer", "minimum": 2.5, "maximum": 4.5})", {"3", "4"}, {"2", "5", "3.5"});
  check(R"({"type": "integer", "minimum": 5, "exclusiveMinimum": 3})", {"5"}, {"4"});
}

TEST_CASE("json_schema: ranges of numbers are exact") {
  struct Range {
    const char *low, *high;
    bool low_open, high_open;
  };
  for (Range range : std::vector<Range>{{"0", "1", false, false},
                                        {"0.5", "2.25", false, false},
                                        {"-1.5", "0.125", true, true},
                                        {"-3", "-2.05", false, true},
                                        {"1.23", "1.27", true, false},
                                        {"10", nullptr, false, false},
                                        {nullptr, "-0.4", false, false},
                                        {"0", nullptr, true, false},
                                        {"-0.01", "0.01", false, false}}) {
    Json schema{Json::Object{{"type", "number"}}};
    if (range.low) schema.set(range.low_open ? "exclusiveMinimum" : "minimum", parse_json(range.low, "low"));
    if (range.high) schema.set(range.high_open ? "exclusiveMaximum" : "maximum", parse_json(range.high, "high"));
    GrammarPtr grammar = compile_json_schema(vocab().vocab, schema);
    double low = range.low ? *parse_double(range.low) : -1e300, high = range.high ? *parse_double(range.high) : 1e300;
    for (int thousandths = -4000; thousandths <= 12000; ++thousandths) {
      int size = std::abs(thousandths);
      std::string digits = cat(size % 1000);
      std::string text = cat(thousandths < 0 ? "-" : "", size / 1000, ".", std::string(3 - digits.size(), '0'), digits);
      double value = *parse_double(text);
      bool expected = (range.low_open ? value > low : value >= low) && (range.high_open ? value < high : value <= high);
      for (std::string shape : {text, text + "0", text.substr(0, text.size() - 1), text.substr(0, text.size() - 4)}) {
        if (shape.size() != text.size() + 1 && *parse_double(shape) != value) continue;
        if (shape.ends_with(".") || shape == "-0") continue;
        if (matches(grammar, shape) != expected) {
          INFO(dump_json(schema), ": ", shape);
          CHECK(matches(grammar, shape) == expected);
        }
      }
    }
  }
}

TEST_CASE("json_schema: alternatives, combinations and references") {
  check(R"({"anyOf": [{"type": "integer"}, {"type": "null"}]})", {"1", "null"}, {"\"x\""});
  check(R"({"oneOf": [{"const": "a"}, {"const": "b"}]})", {"\"a\"", "\"b\""}, {"\"c\""});
  check(R"({"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"],
            "anyOf": [{"properties": {"k": {"const": "a"}}}, {"properties": {"n": {"type": "integer"}}, "required": ["n"]}]})",
        {R"({"k": "a"})", R"({"k": "zz", "n": 1})"}, {R"({"k": "zz"})", R"({"n": 1})"});
  check(R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string"}, "a": {"minimum": 5}}, "required": ["b"]}]})",
        {R"({"a": 5, "b": ""})"}, {R"({"a": 4, "b": ""})", R"({"a": 5})"});
  check(
      R"({"allOf": [{"type": ["number", "string"]}, {"type": ["integer", "null"]}, {"minimum": 1}, {"minimum": 3, "maximum": 9}]})",
      {"3", "9"}, {"2", "null", "\"x\"", "3.5"});
  check(R"({"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]})", {"2", "3"}, {"1", "4"});
  check(
      R"({"allOf": [{"anyOf": [{"minimum": 1}, {"maximum": -5}]}, {"anyOf": [{"maximum": 3}, {"minimum": 100}]}], "type": "integer"})",
      {"1", "3", "100", "-5"}, {"0", "4", "-4"});
  check(R"({"allOf": [{"properties": {"a": {"type": "null"}}, "additionalProperties": false},
            {"properties": {"b": {"type": "null"}}}], "type": "object"})",
        {"{}", R"({"a": null})"}, {R"({"b": null})"});
  check(R"({"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"type": "integer"}}})", {"1"}, {"\"a\""});
  check(R"({"properties": {"a": {"$ref": "#/$defs/n", "description": "d"}, "b": {"allOf": [{"$ref": "#/$defs/n"}]}},
            "$defs": {"n": {"type": ["integer", "null"]}}})",
        {R"({"a": 1, "b": null})"}, {R"({"a": "x"})"});
  check(R"({"$defs": {"tree": {"type": "object", "properties": {"v": {"type": "integer"},
            "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["v"]}}, "$ref": "#/$defs/tree"})",
        {R"({"v": 1})", R"({"v": 1, "kids": [{"v": 2}, {"v": 3, "kids": []}]})"}, {R"({"v": 1, "kids": [{}]})"});
  check(R"({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}})",
        {R"({"next": {"next": null}})", "{}"}, {R"({"next": 1})"});
  check(
      R"({"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n", "minProperties": 0}}}}, "$ref": "#/$defs/n"})",
      {R"({"next": {"next": {}}})"}, {R"({"next": 1})"});
}

TEST_CASE("json_schema: as pydantic writes them") {
  check(
      R"({"$defs": {"Cat": {"properties": {"kind": {"const": "cat", "title": "Kind", "type": "string"}, "lives": {"title": "Lives",
            "type": "integer", "default": 9}}, "required": ["kind"], "title": "Cat", "type": "object"},
            "Dog": {"properties": {"kind": {"const": "dog", "enum": ["dog"], "type": "string"}, "friend": {"anyOf": [{"$ref": "#/$defs/Cat"},
            {"type": "null"}], "default": null}}, "required": ["kind"], "type": "object"}},
            "properties": {"pet": {"discriminator": {"mapping": {"cat": "#/$defs/Cat"}, "propertyName": "kind"},
            "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "title": "Pet"},
            "home": {"format": "uri", "maxLength": 2083, "minLength": 1, "title": "Home", "type": "string"},
            "scores": {"additionalProperties": {"type": "number"}, "type": "object"},
            "pair": {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "integer"}, {"format": "uuid4", "type": "string"}], "type": "array"}},
            "required": ["pet"], "title": "Owner", "type": "object"})",
      {R"({"pet": {"kind": "dog", "friend": {"kind": "cat", "lives": 3}}, "home": "https://x.y/z"})",
       R"({"pet": {"kind": "cat"}, "scores": {"a": 1.5}, "pair": [1, "123e4567-e89b-42d3-a456-426614174000"]})"},
      {R"({"pet": {"kind": "cat", "friend": null}})", R"({"pet": {"kind": "fox"}})",
       R"({"pet": {"kind": "cat"}, "pair": [1]})", R"({"home": "https://x.y/z"})",
       R"({"pet": {"kind": "cat"}, "pair": [1, "123e4567-e89b-12d3-a456-426614174000"]})"});
}

TEST_CASE("json_schema: what is refused, with its place") {
  CHECK(error(R"({"properties": {"a/b": {"not": {}}}})") ==
        "json_schema#/properties/a~1b: keyword \"not\" is not supported");
  CHECK(error(R"({"items": {"multipleOf": 2}})") == "json_schema#/items: keyword \"multipleOf\" is not supported");
  CHECK(error(R"({"type": "array", "uniqueItems": true})") == "json_schema#: keyword \"uniqueItems\" is not supported");
  CHECK(error(R"({"if": {}, "then": {}})") == "json_schema#: keyword \"if\" is not supported");
  CHECK(error(R"({"type": "strin"})") == "json_schema#/type: unknown type \"strin\"");
  CHECK(error(R"({"type": 5})") == "json_schema#/type: expected a string or a list of strings");
  CHECK(error(R"({"properties": []})") == "json_schema#/properties: expected an object");
  CHECK(error(R"({"properties": {"a": 1}})") ==
        "json_schema#/properties/a: expected an object or a boolean, found integer");
  CHECK(error(R"({"required": "a"})") == "json_schema#/required: expected a list of names");
  CHECK(error(R"({"$ref": "http://x/y"})") ==
        "json_schema#: $ref \"http://x/y\" leads outside the schema, which is not supported");
  CHECK(error(R"({"$ref": "#/nowhere"})") == "json_schema#: $ref \"#/nowhere\" leads nowhere");
  CHECK(error(R"({"$ref": "#"})") == "rule \"json_schema#\" refers to itself before anything is read (left recursion)");
  CHECK(error(R"({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})")
            .ends_with("(left recursion)"));
  CHECK(error(R"({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"minimum": 1}]}}, "$ref": "#/$defs/a"})") ==
        "json_schema#: $ref and allOf lead through too many schemas, or in a circle");
  CHECK(error(R"({"pattern": "a("})") == "json_schema#/pattern: expected ) at offset 2 of \"a(\"");
  CHECK(error(R"({"pattern": "a+", "maxLength": 3})")
            .starts_with("json_schema#: minLength or maxLength beside a pattern"));
  CHECK(error(R"({"format": "credit-card"})") == "json_schema#/format: format \"credit-card\" is not supported");
  CHECK(error(R"({"minLength": -1})") == "json_schema#/minLength: expected a whole number, 0 or more");
  CHECK(error(R"({"minItems": 1.5})") == "json_schema#/minItems: expected a whole number, 0 or more");
  CHECK(error(R"({"minItems": 1e10})") == "json_schema#/minItems: more than 1,000,000,000");
  CHECK(error(R"({"minimum": "1"})") == "json_schema#/minimum: expected a number");
  CHECK(error(R"({"type": "integer", "minimum": 5, "maximum": 4})") == "the grammar matches no text at all");
  CHECK(error(R"({"type": "number", "minimum": 1.5, "maximum": 1.25})") == "the grammar matches no text at all");
  CHECK(error("false") == "the grammar matches no text at all");
  CHECK(error(R"({"enum": []})") == "json_schema#/enum: expected a list of values, not empty");
  CHECK(error(R"({"enum": [1], "minimum": 3})") ==
        "json_schema#: keyword \"minimum\" beside enum or const is not supported");
  CHECK(error(R"({"properties": {"a": {}}, "minProperties": 1})")
            .starts_with("json_schema#: minProperties and maxProperties"));
  CHECK(error(R"({"minimum": 1, "minLength": 1})") == "json_schema#: keywords of several types, and no type is given");
  CHECK(error(R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})").find("keyword \"pattern\" differs") !=
        std::string::npos);
  CHECK(
      error(
          R"({"properties": {"x": {"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}, "required": ["x"]}}, "required": ["x"]})") ==
      "the grammar matches no text at all");
  CHECK(error("[]") == "json_schema#: expected an object or a boolean, found array");
  CHECK(error(R"({"properties": {"a\nb": {"type": 1}}})").find('\n') == std::string::npos);
}

TEST_CASE("json_schema: hostile schemas") {
  double begin = cpu_seconds();
  auto survives = [&](const std::string& text) {
    double start = cpu_seconds();
    INFO(text.substr(0, 100));
    try {
      GrammarPtr grammar = compile_json_schema(vocab().vocab, parse_json(text, "schema"));
      std::mt19937 random(1);
      GrammarMatcher matcher(grammar);
      for (int i = 0; i < 30; ++i) mask_of(matcher, vocab());
    } catch (const Error& e) {
      CHECK(e.message().find('\n') == std::string::npos);
      CHECK(e.message().size() < 500);
    }
    CHECK(cpu_seconds() - start < 2 * kSlowdown);
  };
  std::string deep, wide = R"({"properties": {)", names, refs = R"({"$defs": {)", enums;
  for (int i = 0; i < 48; ++i) deep += R"({"items": )";
  survives(deep + "{}" + std::string(48, '}'));
  for (int i = 0; i < 1900; ++i)
    wide += cat(i ? "," : "", "\"property number ", i, "\": {\"type\": \"string\", \"maxLength\": ", i + 10, "}");
  survives(wide + R"(}, "additionalProperties": true})");
  for (int i = 0; i < 60; ++i) {
    refs += cat(i ? "," : "", "\"d", i, R"(": {"anyOf": [{"allOf": [{"$ref": "#/$defs/d)", i + 1, R"("}, {"minimum": )",
                i, R"(}]}, {"allOf": [{"$ref": "#/$defs/d)", i + 1, R"("}, {"maximum": )", i, "}]}]}");
  }
  survives(refs + R"(, "d60": {"type": "integer"}}, "$ref": "#/$defs/d0"})");
  for (int i = 0; i < 40000; ++i) enums += cat(i ? "," : "", "\"value ", i * 7919, "\"");
  survives(cat(R"({"enum": [)", enums, "]}"));
  survives(cat(
      R"({"items": {"items": {"items": {"maxItems": 1000000000}, "maxItems": 1000000000}, "minItems": 999999999}})"));
  survives(cat(R"({"properties": {")", std::string(100000, 'x'), R"(": {}}, "additionalProperties": {}})"));
  std::string some = R"({"anyOf": [{"minimum": 1}, {"maximum": 2}, {"minimum": 3}]})", all;
  for (int i = 0; i < 30; ++i) all += (i ? "," : "") + some;
  survives(cat(R"({"type": "integer", "allOf": [)", all, "]}"));
  survives(R"({"type": "number", "minimum": 1e-300, "maximum": 1e300})");
  survives(R"({"type": "number", "minimum": -1.7976931348623157e308})");
  survives(R"({"patternProperties": {"(((a*)*)*)*": {"$ref": "#"}}})");
  std::string optional = R"({"prefixItems": [)";
  for (int i = 0; i < 1000; ++i) optional += cat(i ? "," : "", "{}");
  survives(optional + R"(], "minItems": 0})");
  std::string many = R"({"anyOf": [)";
  for (int i = 0; i < 3000; ++i)
    many += cat(i ? "," : "", R"({"properties": {"k": {"type": "string"}, "n)", i, R"(": {}}})");
  survives(many + "]}");
  CHECK(cpu_seconds() - begin < 10 * kSlowdown);
}
