// The test program: doctest's runner, run-time skips, and the closing line "N passed, N failed, N skipped".
#define DOCTEST_CONFIG_IMPLEMENT
#include "support/test.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include <stdlib.h>

namespace l4::test {

namespace {
std::mutex g_mutex;
std::string g_current_skip;  // set by the exception translator, read by the reporter

struct Tally {
  int passed = 0, failed = 0, skipped = 0;
  std::vector<std::string> skips;
} g_tally;
}  // namespace

// Counts test cases. A case that threw Skipped arrives here as one that failed by exception: told apart by the text.
struct Counter : doctest::IReporter {
  explicit Counter(const doctest::ContextOptions&) {}
  const doctest::TestCaseData* current = nullptr;
  bool skipped = false, unexpected = false;

  void test_case_start(const doctest::TestCaseData& data) override {
    current = &data;
    skipped = unexpected = false;
  }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_exception(const doctest::TestCaseException& e) override {
    std::string text = e.error_string.c_str();
    const std::string mark = "SKIPPED: ";
    if (text.rfind(mark, 0) == 0) {
      skipped = true;
      g_tally.skips.push_back(std::string(current->m_name) + ": " + text.substr(mark.size()));
    } else {
      unexpected = true;
    }
  }
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    bool failed = unexpected || stats.numAssertsFailedCurrentTest > 0 ||
                  (stats.failure_flags & ~doctest::TestCaseFailureReason::Exception) != 0;
    if (failed) {
      ++g_tally.failed;
      std::printf("FAILED: %s\n", current->m_name);
    } else if (skipped) {
      ++g_tally.skipped;
    } else {
      ++g_tally.passed;
    }
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

std::filesystem::path source_dir() {
  return L4_SOURCE_DIR;
}

std::filesystem::path golden(const std::string& relative) {
  return source_dir() / "tests" / "golden" / relative;
}

std::filesystem::path shared_data(const std::string& relative) {
  const char* given = std::getenv("L4_SHARED");
  std::filesystem::path root = given ? std::filesystem::path(given) : source_dir().parent_path() / "shared";
  std::filesystem::path path = root / "data" / relative;
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) L4_SKIP("shared/data/" + relative + " is not here");
  return path;
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "l4-test-XXXXXX").string();
  if (!mkdtemp(pattern.data())) L4_SKIP("cannot make a temporary directory");
  path_ = pattern;
}
TempDir::~TempDir() {
  std::error_code ec;
  std::filesystem::remove_all(path_, ec);
}

}  // namespace l4::test

REGISTER_EXCEPTION_TRANSLATOR(const l4::test::Skipped& skip) {
  return doctest::String(("SKIPPED: " + skip.reason).c_str());
}
REGISTER_EXCEPTION_TRANSLATOR(const l4::Error& error) {
  return doctest::String(("l4::Error: " + error.message()).c_str());
}
REGISTER_LISTENER("l4-counter", 1, l4::test::Counter);

int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  context.setOption("no-intro", true);
  context.setOption("no-version", true);
  context.run();
  if (context.shouldExit()) return 0;
  const auto& tally = l4::test::g_tally;
  for (const std::string& skip : tally.skips) std::printf("SKIPPED %s\n", skip.c_str());
  std::printf("%d passed, %d failed, %d skipped\n", tally.passed, tally.failed, tally.skipped);
  if (tally.passed + tally.failed + tally.skipped == 0) return 1;
  return tally.failed ? 1 : 0;
}
