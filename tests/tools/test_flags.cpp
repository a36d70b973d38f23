// The table of flags: reading, variables, help, completion scripts.
#include <cstdlib>
#include <limits>

#include "support/test.h"
#include "tools/common/completion.h"
#include "tools/common/flags.h"
#include "tools/common/model_flags.h"
#include "tools/common/sampling_flags.h"

using l4::test::error_of;
using l4::tools::Flags;

namespace {

struct Values {
  std::optional<std::string> text;
  std::optional<int> n;
  std::optional<float> x;
  std::vector<std::string> list;
  std::string positional;
  bool on = false;
  int verbose = 0;
  int64_t size = 0;
};

Values parsed(std::vector<std::string> words) {
  Values v;
  Flags flags("prog", "About.");
  flags.text("-p,--prompt", "TEXT", "help", &v.text);
  flags.number<int>("-tp,--tensor-parallel-size", "N", "help", &v.n, 1, 8);
  flags.number<float>("--temp,--temperature", "T", "help", &v.x, 0.0f, 10.0f);
  flags.list("--image", "FILE", "help", [&](const std::string& s) { v.list.push_back(s); });
  flags.positional("DIR", "help", [&](const std::string& s) { v.positional = s; });
  flags.toggle("--cache,!--no-cache", "help", &v.on);
  flags.count("-v,--verbose", "help", [&](int n) { v.verbose = n; });
  flags.size("-c,--ctx-size", "help", &v.size, 1);
  words.insert(words.begin(), "prog");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  if (flags.parse(int(argv.size()), argv.data())) FAIL("nothing was asked for");
  return v;
}

}  // namespace

TEST_CASE("flags: every spelling") {
  CHECK(parsed({"-p", "x"}).text == "x");
  CHECK(parsed({"--prompt=x=y"}).text == "x=y");
  CHECK(parsed({"--prompt", ""}).text == "");
  CHECK(parsed({"-p", "--help me"}).text == "--help me");
  CHECK(parsed({"-p", "[a, b]"}).text == "[a, b]");
  CHECK(parsed({"-tp", "4"}).n == 4);
  CHECK(parsed({"-tp=4"}).n == 4);
  CHECK(parsed({"--temp", "0"}).x == 0.0f);
  CHECK(parsed({"--temperature", "0.5", "--temp", "0.25"}).x == 0.25f);  // the last one counts
  CHECK(parsed({"--image", "a", "folder", "--image", "[b]"}).list == std::vector<std::string>{"a", "[b]"});
  CHECK(parsed({"--image", "a", "folder"}).positional == "folder");
  CHECK(parsed({"-vv", "-v"}).verbose == 3);
  CHECK(parsed({"--cache"}).on);
  CHECK(!parsed({"--cache", "--no-cache"}).on);
  CHECK(parsed({"-c", "8K"}).size == 8192);
  CHECK(parsed({"-c", "1.5k"}).size == 1500);
}

TEST_CASE("flags: several words without a flag, among flags") {
  std::vector<std::string> files;
  std::optional<int> n;
  Flags flags("prog", "About.");
  flags.positionals("FILE", "help", [&](const std::string& s) { files.push_back(s); });
  flags.number<int>("-n,--number", "N", "help", &n, 0, 9);
  std::vector<std::string> words = {"prog", "a", "b", "-n", "3", "c"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  CHECK(!flags.parse(int(argv.size()), argv.data()));
  CHECK(files == std::vector<std::string>{"a", "b", "c"});
  CHECK(n == 3);
}

TEST_CASE("flags: what is wrong is said with the flag's name, what was expected and found") {
  const struct {
    std::vector<std::string> words;
    const char* message;
  } rows[] = {
      {{"-tp", "9"}, "--tensor-parallel-size: expected a whole number from 1 to 8, found \"9\""},
      {{"-tp", "1.5"}, "--tensor-parallel-size: expected a whole number from 1 to 8, found \"1.5\""},
      {{"--temp", "nan"}, "--temp: expected a number from 0 to 10, found \"nan\""},
      {{"--temp", ""}, "--temp: expected a number from 0 to 10, found \"\""},
      {{"-c", "many"}, "--ctx-size: expected a number >= 1 like 4096, 8K or 1M, found \"many\""},
      {{"--tmep", "1"}, "unknown flag \"--tmep\"; did you mean --temp?"},
      {{"--zzzzzzzz"}, "unknown flag \"--zzzzzzzz\"; prog --help lists all flags"},
      {{"-q"}, "unknown flag \"-q\"; prog --help lists all flags"},
      {{"a", "b"}, "unexpected argument \"b\""},
  };
  for (const auto& row : rows) CHECK(error_of([&] { parsed(row.words); }) == row.message);
  CHECK(error_of([&] { parsed({"-p", "caf\xe9"}); }).find("--prompt: expected UTF-8 text, found ") == 0);
  CHECK(error_of([&] { parsed({"-p"}); }) == "--prompt: expected a value");
}

TEST_CASE("flags: variables, which flags beat") {
  setenv("L4_ARG_TEMP", "2", 1);
  setenv("L4_ARG_TENSOR_PARALLEL_SIZE", "3", 1);
  setenv("L4_ARG_CACHE", "on", 1);
  CHECK(parsed({}).x == 2.0f);
  CHECK(parsed({}).n == 3);
  CHECK(parsed({}).on);
  CHECK(!parsed({"--no-cache"}).on);
  CHECK(parsed({"--temperature", "1"}).x == 1.0f);
  setenv("L4_ARG_TEMPERATURE", "3", 1);  // each long name has one
  CHECK(parsed({}).x == 2.0f);
  unsetenv("L4_ARG_TEMP");
  CHECK(parsed({}).x == 3.0f);
  setenv("L4_ARG_TEMPERATURE", "hot", 1);
  CHECK(error_of([&] { parsed({}); }) == "L4_ARG_TEMPERATURE: expected a number from 0 to 10, found \"hot\"");
  unsetenv("L4_ARG_TEMPERATURE");
  setenv("L4_ARG_NO_CACHE", "off", 1);
  unsetenv("L4_ARG_CACHE");
  CHECK(parsed({}).on);
  unsetenv("L4_ARG_NO_CACHE");
  setenv("L4_ARG_TEMP", "warm", 1);
  CHECK(error_of([&] { parsed({}); }) == "L4_ARG_TEMP: expected a number from 0 to 10, found \"warm\"");
  setenv("L4_ARG_TEMP", "1", 1);
  setenv("L4_ARG_CACHE", "perhaps", 1);
  CHECK(error_of([&] { parsed({}); }) == "L4_ARG_CACHE: expected true or false, found \"perhaps\"");
  for (const char* name : {"L4_ARG_TEMP", "L4_ARG_TENSOR_PARALLEL_SIZE", "L4_ARG_CACHE"}) unsetenv(name);
}

TEST_CASE("flags: help keeps to the width and shows every flag") {
  l4::tools::CommandInfo command{"prog", "About.", "prog", "prog x", {}};
  const std::string help =
      "a long explanation of what this flag does that needs more than a line of the screen to be said";
  command.flags.push_back({{"-a", "--alpha"}, {false, false}, "N", help, "First", false});
  command.flags.push_back({{"--a-very-long-name", "--and-another-one-too"}, {false, false}, "", help, "Second", false});
  for (int width : {60, 80, 100}) {
    const std::string text = format_help(command, width);
    for (const std::string& line : l4::split(text, '\n')) CHECK(line.size() <= size_t(width));
    for (const char* part : {"First:", "Second:", "  -a, --alpha N", "Examples:\n  prog x"})
      CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("flags: sampling flags change what the checkpoint asks for, and nothing else") {
  l4::tools::SamplingFlags sampling;
  Flags flags("prog", "");
  add_sampling_flags(flags, sampling);
  std::vector<std::string> words = {
      "prog", "--logit-bias",     "5=-inf", "-l", "7-1.5", "-l", "8+2", "-l",          "9:3", "--stop", "a,b", "--stop",
      "c",    "--stop-token-ids", "[1, 2]", "-n", "-1",    "-s", "-1",  "--ignore-eos"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  CHECK(!flags.parse(int(argv.size()), argv.data()));
  REQUIRE(sampling.logit_bias.size() == 4);
  CHECK(sampling.logit_bias[0] == std::pair<int32_t, float>{5, -std::numeric_limits<float>::infinity()});
  CHECK(sampling.logit_bias[1] == std::pair<int32_t, float>{7, -1.5f});
  CHECK(sampling.logit_bias[2] == std::pair<int32_t, float>{8, 2.0f});
  CHECK(sampling.logit_bias[3] == std::pair<int32_t, float>{9, 3.0f});
  CHECK(sampling.stop == std::vector<std::string>{"a,b", "c"});
  CHECK(sampling.stop_ids == std::vector<int32_t>{1, 2});
  CHECK(sampling.max_tokens == -1);
  CHECK(sampling.ignore_eos);
  CHECK(!sampling.temperature);
  CHECK(l4::tools::random_seed() != l4::tools::random_seed());
}

TEST_CASE("flags: token ids") {
  using l4::tools::read_ids;
  using Ids = std::vector<int32_t>;
  CHECK(read_ids("1,2,3") == Ids{1, 2, 3});
  CHECK(read_ids(" [1, 2,\n3] ") == Ids{1, 2, 3});
  l4::test::TempDir dir;
  l4::write_file_atomic(dir / "ids", "[4,\n5]\n");
  CHECK(read_ids(l4::cat("@", (dir / "ids").string())) == Ids{4, 5});
  for (const char* bad : {"", "[]", "1,x", "-1", "99999999999", "1.5"}) {
    CAPTURE(std::string(bad));
    CHECK(error_of([&] { read_ids(bad); }).find("--ids: expected token ids like 1,2,3, found ") == 0);
    CHECK(error_of([&] { read_ids(bad, ""); }).find("expected token ids like 1,2,3, found ") == 0);
  }
}
