// The test program: doctest's runner, run-time skips, and the closing line "N passed, N failed, N skipped".
//
// The tests run in a child process, and the tally lies in memory shared with the parent, so that the closing line is printed
// and true even when a test kills the process. (In gdb: set follow-fork-mode child.)
#define DOCTEST_CONFIG_IMPLEMENT
#include "support/test.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace l4::test {

namespace {

struct Tally {
  int passed, failed, skipped;
  bool query_only;       // --help, --list-test-cases: no test was asked for
  char running[256];     // the test case in progress, empty between two
  char report[1 << 16];  // FAILED and SKIPPED lines, shown again before the closing line

  void add_line(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    const size_t used = strnlen(report, sizeof report);
    std::snprintf(report + used, sizeof report - used, "%s\n", line.c_str());
  }
};
Tally* g_tally;

const std::string kSkipMark = "SKIPPED: ";

// An exception that leaves a subcase is announced once without its text, then again with it.
const std::string kAnnounced = "exception thrown in subcase - will translate later";

bool starts_with(const doctest::String& text, const std::string& start) {
  return std::string(text.c_str()).rfind(start, 0) == 0;
}
bool is_failure(const doctest::TestCaseException& e) {
  return !starts_with(e.error_string, kSkipMark) && !starts_with(e.error_string, kAnnounced);
}

// Counts test cases, whatever reporter prints them. A case is failed if any run of its subcases failed, else skipped if any
// was skipped, else passed.
struct Counter : doctest::IReporter {
  explicit Counter(const doctest::ContextOptions&) {}
  const doctest::TestCaseData* current = nullptr;
  std::string skip_reason;
  bool skipped = false, threw = false;
  inline static bool only_skipped = false;  // the last case, once it ended

  void test_case_start(const doctest::TestCaseData& data) override {
    current = &data;
    skipped = threw = false;
    std::snprintf(g_tally->running, sizeof g_tally->running, "%s", data.m_name);
  }
  void test_case_exception(const doctest::TestCaseException& e) override {
    threw |= is_failure(e);
    if (starts_with(e.error_string, kSkipMark)) {
      skipped = true;
      skip_reason = e.error_string.c_str() + kSkipMark.size();
    }
  }
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    only_skipped = skipped && !threw && stats.numAssertsFailedCurrentTest == 0 &&
                   (stats.failure_flags & ~doctest::TestCaseFailureReason::Exception) == 0;
    if (only_skipped) {
      ++g_tally->skipped;
      g_tally->add_line(std::string("SKIPPED ") + current->m_name + ": " + skip_reason);
    } else if (!stats.testCaseSuccess) {
      ++g_tally->failed;
      g_tally->add_line(std::string("FAILED ") + current->m_name);
    } else {
      ++g_tally->passed;
    }
    g_tally->running[0] = 0;
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};

// doctest's console output without its alarm about skips (to doctest they are exceptions) and without its totals.
struct Console : doctest::ConsoleReporter {
  explicit Console(const doctest::ContextOptions& options) : ConsoleReporter(options) {}
  void test_case_exception(const doctest::TestCaseException& e) override {
    if (is_failure(e)) ConsoleReporter::test_case_exception(e);
  }
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    if (!Counter::only_skipped) ConsoleReporter::test_case_end(stats);  // the counter, a listener, is called first
  }
  void test_run_end(const doctest::TestRunStats&) override {}
};

int run_tests(int argc, char** argv) {
  doctest::Context context;
  context.setOption("reporters", "l4");
  context.setOption("no-intro", true);
  context.setOption("no-version", true);
  context.applyCommandLine(argc, argv);
  const int status = context.run();
  g_tally->query_only = context.shouldExit() && g_tally->passed + g_tally->failed + g_tally->skipped == 0;
  return g_tally->query_only ? status : 0;
}

// What ended the child, if it did not end by itself in good order: counted as one failure.
std::string broken_end(int wait_status) {
  if (WIFSIGNALED(wait_status)) return std::string("died: ") + strsignal(WTERMSIG(wait_status));
  if (g_tally->running[0]) return "the process ended in the middle of it";
  if (WEXITSTATUS(wait_status)) return "exit status " + std::to_string(WEXITSTATUS(wait_status)) + " after the tests";
  return {};
}

}  // namespace

}  // namespace l4::test

REGISTER_EXCEPTION_TRANSLATOR(const l4::test::Skipped& skip) {
  return doctest::String((l4::test::kSkipMark + skip.reason).c_str());
}
REGISTER_EXCEPTION_TRANSLATOR(const l4::Error& error) {
  return doctest::String(("l4::Error: " + error.message()).c_str());
}
REGISTER_LISTENER("l4-counter", 1, l4::test::Counter);
REGISTER_REPORTER("l4", 1, l4::test::Console);

int main(int argc, char** argv) {
  using l4::test::g_tally;
  void* shared = mmap(nullptr, sizeof(l4::test::Tally), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) {
    std::perror("mmap");
    return 1;
  }
  g_tally = static_cast<l4::test::Tally*>(shared);  // zeroed by the kernel
  const pid_t child = fork();
  if (child == 0) return l4::test::run_tests(argc, argv);
  int wait_status = 0;
  if (child < 0 || waitpid(child, &wait_status, 0) < 0) {
    std::perror("fork");
    return 1;
  }
  if (g_tally->query_only) return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;

  if (const std::string how = l4::test::broken_end(wait_status); !how.empty()) {
    const bool counted = WIFSIGNALED(wait_status) && !g_tally->running[0] && g_tally->failed > 0;  // by doctest's handler
    if (!counted) ++g_tally->failed;
    std::string line = "FAILED " + std::string(g_tally->running[0] ? g_tally->running : "test program") + ": " + how;
    if (WIFSIGNALED(wait_status)) line += "; the test cases after it were not run";
    g_tally->add_line(line);
  }
  std::printf("%s%s%d passed, %d failed, %d skipped\n", g_tally->report[0] ? "\n" : "", g_tally->report, g_tally->passed,
              g_tally->failed, g_tally->skipped);
  const bool none = g_tally->passed + g_tally->failed + g_tally->skipped == 0;
  return g_tally->failed || none ? 1 : 0;
}
