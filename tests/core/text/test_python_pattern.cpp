#include "text/python_pattern.h"

#include "support/test.h"

using l4::PythonPattern;

TEST_CASE("python pattern: $ and . as in Python, code points, groups") {
  CHECK(PythonPattern("b$").first("ab\n")->begin == 1);
  CHECK(!PythonPattern("b$").first("ab\n\n"));
  CHECK(!PythonPattern("b$").first("ab\nc"));
  CHECK(PythonPattern("a.b").first("a\rb"));
  CHECK(!PythonPattern("a.b").first("a\nb"));
  CHECK(PythonPattern("^.$").first("\u00e9"));
  CHECK(!PythonPattern(R"(\bb\b)").first("\u00e9b"));
  CHECK(PythonPattern("x(.)").first("_xy")->group == "y");
  CHECK(PythonPattern("x.").first("_xy")->group == "xy");
  CHECK(PythonPattern("\u00c9", PythonPattern::ignore_case).first("\u00e9"));
  CHECK(PythonPattern("a(.)").last("a1 a2 a3")->group == "3");
  CHECK(PythonPattern("a(.)").all("a1 a2 a3").size() == 3);
  CHECK(!PythonPattern("z").last("a1"));
  // Long answers are no trouble: what steps back far has no limit.
  CHECK(PythonPattern(R"(.*[aA]nswer:[\s\x1c-\x1f]*([A-J]))").first(std::string(1 << 20, 'x') + "\nAnswer: B")->group ==
        "B");
}
