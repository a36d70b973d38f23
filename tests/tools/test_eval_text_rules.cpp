// Values as Python has them, on which the recipes' rules rest, and which questions are drawn.
#include <cmath>

#include "tools/eval/dataset.h"
#include "tools/eval/python_values.h"
#include "tools/python.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

// What a line of Python prints for each of these.
std::vector<std::string> python_says(const std::string& expression, const std::vector<std::string>& texts) {
  const std::string python = python_with("json, sys");
  Json list(Json::Array{});
  for (const std::string& text : texts) list.push_back(text);
  const Result r = run({python, "-c",
                        "import json, sys\nsys.stdout.reconfigure(encoding='utf-8')\n"
                        "def f(s):\n  try: return " +
                            expression +
                            "\n  except ValueError: return 'no'\n"
                            "for s in json.loads(sys.stdin.buffer.read()): print(f(s))"},
                       {.stdin_text = dump_json(list)});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  std::vector<std::string> lines = split(r.out, '\n');
  lines.pop_back();
  REQUIRE(lines.size() == texts.size());
  return lines;
}

std::vector<std::string> characters(std::initializer_list<std::pair<char32_t, char32_t>> blocks) {
  std::vector<std::string> out;
  for (const auto& [first, last] : blocks)
    for (char32_t c = first; c <= last; ++c) append_utf8(out.emplace_back(), c);
  return out;
}

}  // namespace

TEST_CASE("eval values: numbers that Python's float reads") {
  const std::vector<std::string> texts = {"1",
                                          "-1",
                                          "+1",
                                          "1.",
                                          ".5",
                                          "1.5",
                                          "1e3",
                                          "1E-3",
                                          "1e",
                                          "e1",
                                          "",
                                          " 7\n",
                                          "\u00a07",
                                          "7 8",
                                          "1_000",
                                          "_1",
                                          "1_",
                                          "1__0",
                                          "1_0.5_0",
                                          "1_.5",
                                          "0x10",
                                          "1,000",
                                          "inf",
                                          "-Infinity",
                                          "infin",
                                          "nan",
                                          "NaN",
                                          "1e999",
                                          "-1e999",
                                          "1e-999",
                                          "007",
                                          "--1",
                                          "+-1",
                                          "1 %",
                                          "0.1",
                                          "123456789012345678901234567890",
                                          ".",
                                          "+",
                                          "1f",
                                          "1d",
                                          "1\u00b2",
                                          "5e-324",
                                          "1.7976931348623157e308"};
  const std::vector<std::string> expected = python_says("repr(float(s))", texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::optional<double> value = python_float_of(texts[i]);
    const std::string ours = !value               ? "no"
                             : std::isnan(*value) ? "nan"
                             : std::isinf(*value) ? (*value < 0 ? "-inf" : "inf")
                                                  : python_float(*value);
    CHECK_MESSAGE(ours == expected[i], texts[i]);
  }
}

TEST_CASE("eval values: small letters and digits as Python's, all over the blocks that are promised") {
  const std::vector<std::string> letters = characters({{1, 0x12F},
                                                       {0x131, 0x17F},
                                                       {0x1CD, 0x1DC},
                                                       {0x1DE, 0x1EF},
                                                       {0x1F8, 0x21F},
                                                       {0x222, 0x233},
                                                       {0x386, 0x3CE},
                                                       {0x400, 0x52F},
                                                       {0x1E00, 0x1E95},
                                                       {0x1E9E, 0x1EFF},
                                                       {0x2126, 0x212B},
                                                       {0xFF21, 0xFF5A}});
  const std::vector<std::string> small = python_says("ascii(s.lower())", letters);
  const std::vector<std::string> ours = python_says("ascii(s)", [&] {
    std::vector<std::string> out;
    for (const std::string& letter : letters) out.push_back(python_lower(letter));
    return out;
  }());
  for (size_t i = 0; i < letters.size(); ++i) CHECK_MESSAGE(ours[i] == small[i], letters[i]);
  CHECK(python_lower("C\u00d4TE d'\u0130") == "c\u00f4te d'\u0130");

  const std::vector<std::string> all =
      characters({{1, 0x333F}, {0xFF00, 0xFFEF}, {0x10A40, 0x10A47}, {0x1F100, 0x1F10C}});
  const std::vector<std::string> digits = python_says("s.isdigit()", all);
  int n = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    n += has_digit(all[i]);
    CHECK_MESSAGE(has_digit(all[i]) == (digits[i] == "True"), all[i]);
  }
  CHECK(n > 300);
}

TEST_CASE("eval values: whole numbers without a point, thousands apart") {
  const std::vector<std::string> texts = {"0",      "-0.0",        "7",    "999",  "1000", "-1000", "1234567",   "0.5",
                                          "1234.5", "-1234567.25", "1e15", "1e22", "1e23", "1e-7",  "123456.789"};
  const std::string number = "(lambda v: int(v) if int(v) == v else v)(float(s))";
  const std::vector<std::string> apart = python_says("format(" + number + ", ',')", texts);
  const std::vector<std::string> plain = python_says("str(" + number + ")", texts);
  for (size_t i = 0; i < texts.size(); ++i) {
    CHECK_MESSAGE(with_thousands(*python_float_of(texts[i])) == apart[i], texts[i]);
    CHECK_MESSAGE(shortest(*python_float_of(texts[i])) == plain[i], texts[i]);
  }
}

TEST_CASE("eval data: a sample has the size asked for, ascending and without doubles, and seeds differ") {
  CHECK(chosen(5, 0, 0) == std::vector<size_t>{0, 1, 2, 3, 4});
  CHECK(chosen(5, 9, 3).size() == 5);
  CHECK(chosen(5, 2, 0) == std::vector<size_t>{0, 1});
  CHECK(chosen(0, 2, 1).empty());
  std::vector<int> drawn(20);
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    const std::vector<size_t> sample = chosen(20, 5, seed);
    REQUIRE(sample.size() == 5);
    for (size_t i = 1; i < 5; ++i) REQUIRE(sample[i] > sample[i - 1]);
    for (const size_t i : sample) ++drawn[i];
  }
  for (const int n : drawn) CHECK_MESSAGE((n > 400 && n < 600), n);  // 500 each, standard deviation 19
}
