// What every test file includes: doctest, run-time skips, and where test data lies.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace l4::test {

// doctest has no skip at run time. `L4_SKIP("what is missing")` ends the test case at once; the reporter counts it as
// skipped, not passed, and prints the reason. (In a subcase too it may end the whole case: doctest 2.4.9 runs no further
// subcase after an exception. What can be skipped alone is a test case of its own.)
struct Skipped {
  std::string reason;
};

#define L4_SKIP(reason) throw ::l4::test::Skipped{reason}

// ../shared/data beside the checkout (or $L4_SHARED/data). Skips the test by name where `relative` is absent.
std::filesystem::path shared_data(const std::string& relative);
// tests/golden in the source tree.
std::filesystem::path golden(const std::string& relative);
// The source tree itself, and where the programs under test were built (binary_dir() / "l4-run").
std::filesystem::path source_dir();
std::filesystem::path binary_dir();

// An empty directory of its own, removed with the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Runs a program to its end, with all it printed. env: "NAME=value" sets, "NAME" unsets. A status of 124 is a time-out,
// 128 + n death by signal n (127: no such program).
struct RunOptions {
  std::string stdin_text = {};
  std::vector<std::string> env = {};
  int timeout_s = 60;
};
struct Result {
  int status = -1;
  std::string out, err;
};
Result run(const std::vector<std::string>& command, const RunOptions& options = {});

// Runs `body` and returns the message of the l4::Error it must throw; fails the test when it throws nothing.
template <class Body>
std::string error_of(Body&& body);

}  // namespace l4::test

#include "base/error.h"

template <class Body>
std::string l4::test::error_of(Body&& body) {
  try {
    body();
  } catch (const l4::Error& e) {
    return e.message();
  }
  FAIL("expected an l4::Error, nothing was thrown");
  return {};
}
