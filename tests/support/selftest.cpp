// Cases that pass, skip, fail and crash on purpose: a program of its own, run by test_main.cpp.
#include <csignal>
#include <cstdlib>

#include "support/test.h"

TEST_CASE("pass: plain") { CHECK(1 + 1 == 2); }
TEST_CASE("pass: should fail and does" * doctest::should_fail()) { CHECK(false); }

TEST_CASE("skip: plain") { L4_SKIP("no reason at all"); }
TEST_CASE("skip: after checks that held") {
  CHECK(true);
  L4_SKIP("later");
}
TEST_CASE("skip: one subcase of three") {
  SUBCASE("a") { CHECK(true); }
  SUBCASE("b") { L4_SKIP("only b"); }
  SUBCASE("c") { CHECK(true); }
}

TEST_CASE("fail: check") { CHECK(false); }
TEST_CASE("fail: require") { REQUIRE(false); }
TEST_CASE("fail: check, then skip") {
  CHECK(false);
  L4_SKIP("too late");
}
TEST_CASE("fail: failure in one subcase, skip in the next") {
  SUBCASE("a") { CHECK(false); }
  SUBCASE("b") { L4_SKIP("b"); }
}
TEST_CASE("fail: exception") { throw std::runtime_error("thrown on purpose"); }
TEST_CASE("fail: l4 error") { l4::fail_input("an error on purpose"); }
TEST_CASE("fail: no throw where one must be") { l4::test::error_of([] {}); }
TEST_CASE("fail: should fail and does not" * doctest::should_fail()) { CHECK(true); }

TEST_CASE("crash: segmentation fault") { std::raise(SIGSEGV); }
TEST_CASE("crash: abort") { std::abort(); }
TEST_CASE("crash: kill") { std::raise(SIGKILL); }
TEST_CASE("crash: exit") { std::_Exit(0); }
TEST_CASE("late: exit status after the tests") {
  std::atexit([] { std::_Exit(23); });
}
