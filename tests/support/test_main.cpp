// The test program's own promises, checked on selftest.cpp.
#include <sstream>

#include "support/test.h"

namespace {

using l4::test::Result;

Result selftest(const std::string& cases) {
  // With sanitizers built in, a segmentation fault stays a signal.
  return l4::test::run(
      {"env", "ASAN_OPTIONS=handle_segv=0", (l4::test::binary_dir() / "l4-selftest").string(), "-tc=" + cases});
}

std::string last_line(const std::string& text) {
  std::istringstream lines(text);
  std::string line, last;
  while (std::getline(lines, line)) last = line;
  return last;
}

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("main: passes, skips and failures are counted apart, on the last line") {
  Result r = selftest("pass:*,skip:*,fail:*");
  CHECK(last_line(r.out) == "2 passed, 8 failed, 3 skipped");
  CHECK(r.status == 1);
}

TEST_CASE("main: skips alone do not fail, are named with their reason, and raise no alarm") {
  Result r = selftest("pass:*,skip:*");
  CHECK(last_line(r.out) == "2 passed, 0 failed, 3 skipped");
  CHECK(r.status == 0);
  CHECK(r.out.find("SKIPPED skip: plain: no reason at all\n") != std::string::npos);
  CHECK(r.out.find("SKIPPED skip: one subcase of three: only b\n") != std::string::npos);
  CHECK(r.out.find("threw") == std::string::npos);
  CHECK(r.out.find("FAIL") == std::string::npos);
}

TEST_CASE("main: every kind of failure counts once and by name") {
  for (const char* name : {"check", "require", "check, then skip", "failure in one subcase, skip in the next",
                           "exception", "l4 error", "no throw where one must be", "should fail and does not"}) {
    CAPTURE(std::string(name));
    std::string filter = std::string("fail: ") + name;
    for (char& c : filter)
      if (c == ',') c = '*';  // doctest's separator
    Result r = selftest(filter);
    CHECK(last_line(r.out) == "0 passed, 1 failed, 0 skipped");
    CHECK(count(r.out, std::string("FAILED fail: ") + name + "\n") == 2);  // where it happened, and at the end
    CHECK(r.status == 1);
  }
}

TEST_CASE("main: a test that kills the process is a failure with a closing line") {
  for (const char* name : {"segmentation fault", "abort", "kill", "exit"}) {
    CAPTURE(std::string(name));
    Result r = selftest(std::string("pass: plain,crash: ") + name);
    const std::string line = last_line(r.out);
    // Which of the two ran first is the linker's choice.
    CHECK((line == "1 passed, 1 failed, 0 skipped" || line == "0 passed, 1 failed, 0 skipped"));
    CHECK(r.out.find(std::string("FAILED crash: ") + name) != std::string::npos);
    CHECK(r.status == 1);
  }
}

TEST_CASE("main: a bad end after the tests is a failure") {
  Result r = selftest("late:*");
  CHECK(last_line(r.out) == "1 passed, 1 failed, 0 skipped");
  CHECK(r.status == 1);
}

TEST_CASE("main: a filter that matches nothing is not a success") {
  Result r = selftest("no such case");
  CHECK(last_line(r.out) == "0 passed, 0 failed, 0 skipped");
  CHECK(r.status == 1);
}

TEST_CASE("main: queries print no closing line") {
  Result r = l4::test::run({(l4::test::binary_dir() / "l4-selftest").string(), "-ltc"});
  CHECK(r.status == 0);
  CHECK(r.out.find("pass: plain") != std::string::npos);
  CHECK(r.out.find(" passed, ") == std::string::npos);
}
