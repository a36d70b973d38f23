#include "formats/json.h"

#include "support/test.h"

using namespace l4;
using l4::test::error_of;

TEST_CASE("json: order, kinds and numbers survive a round trip") {
  Json v = parse_json(R"({"b":1,"a":[true,null,-2,1.5,"x\u00e9\n"],"c":{}})", "t");
  CHECK(dump_json(v) == R"({"b": 1, "a": [true, null, -2, 1.5, "xé\n"], "c": {}})");
  CHECK(dump_json(v, JsonStyle::compact) == R"({"b":1,"a":[true,null,-2,1.5,"xé\n"],"c":{}})");
  CHECK(dump_json(parse_json(R"({"a":[1,2],"b":[]})", "t"), JsonStyle::python, 4) ==
        "{\n    \"a\": [\n        1,\n        2\n    ],\n    \"b\": []\n}");
  CHECK(v.find("a")->as_array().size() == 5);
  CHECK(v.find("zzz") == nullptr);
}

TEST_CASE("json: floats are written as Python writes them") {
  for (auto [value, text] : std::initializer_list<std::pair<double, const char*>>{{1.0, "1.0"},
                                                                                 {1e-5, "1e-05"},
                                                                                 {0.0001, "0.0001"},
                                                                                 {0.1, "0.1"},
                                                                                 {1e16, "1e+16"},
                                                                                 {1e15, "1000000000000000.0"},
                                                                                 {123.456, "123.456"},
                                                                                 {-2.5e-10, "-2.5e-10"},
                                                                                 {0.0, "0.0"}})
    CHECK(python_float(value) == text);
}

TEST_CASE("json: hostile documents are refused with one line that names the source") {
  for (std::string bad : {"", "{", "[1,]", "{\"a\":1,\"a\":2}", "nul", "\"\xFF\"", "1e999", "[1] x", "{\"a\":}", "'a'"}) {
    std::string message = error_of([&] { parse_json(bad, "some/file.json"); });
    CHECK(message.rfind("some/file.json: not valid JSON", 0) == 0);
    CHECK(message.find('\n') == std::string::npos);
  }
  CHECK(error_of([] { parse_json(std::string(100000, '['), "f"); }).find("nested deeper") != std::string::npos);
  CHECK(error_of([] { parse_json(std::string("{}\0 {", 5), "f"); }) == "f: not valid JSON at byte 3");
  CHECK(error_of([] { parse_json("[1, 2, 3, 4]", "f", {.max_values = 4}); }) == "f: not valid JSON: more than 4 values");
  CHECK(parse_json("[1, 2, 3, 4]", "f", {.max_values = 5}).as_array().size() == 4);
}
