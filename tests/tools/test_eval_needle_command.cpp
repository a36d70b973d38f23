// l4-eval needle from end to end: the demo model in the process and behind an endpoint.
#include <fstream>

#include "tools/eval/record.h"
#include "tools/fake_endpoint.h"
#include "tools/run_tool.h"
#include "tools/serve_process.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

Result needle(std::vector<std::string> words) {
  words.insert(words.begin(), "needle");
  return run(tool("l4-eval", words), {.timeout_s = 200});
}

const std::vector<std::string> kSmall{"--lengths", "1K,2K", "--depths", "0,50,100"};

}  // namespace

TEST_CASE("l4-eval needle: the demo model finds its pass keys at 1K to 4K") {
  TempDir dir;
  const std::string out = (dir / "n.jsonl").string();
  const Result r = needle({"-m", demo_model(), "--lengths", "1K,4K", "--depths", "0,50,100", "-o", out, "--plot",
                           (dir / "n.svg").string(), "--plot", (dir / "n.png").string()});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.out.find("6 questions: 6 answered") != std::string::npos);
  CHECK(r.out.find("Recall in long texts: demo") != std::string::npos);
  const RunFile file = read_run_file(out);
  REQUIRE(file.records.size() == 6);
  int right = 0;
  for (const Record& record : file.records) {
    CHECK(record.reply.prompt_tokens == (record.group.starts_with("1K") ? 1024 : 4096));  // as the engine counts
    CHECK(record.score.extracted);
    right += record.right();
  }
  CHECK(right >= 5);  // 97.5 % of many
  CHECK(read_file(dir / "n.svg", 1 << 20).find("</svg>") != std::string::npos);
  CHECK(read_file(dir / "n.png", 1 << 20).starts_with("\x89PNG"));
}

TEST_CASE("l4-eval needle: two runs are equal, and a run goes on where it was") {
  TempDir dir;
  const auto path = [&](const char* name) { return (dir / name).string(); };
  for (const char* name : {"a.jsonl", "b.jsonl"})
    REQUIRE(
        needle(std::vector<std::string>{"-m", demo_model(), "-o", path(name), "--filler", "essay"} + kSmall).status ==
        0);
  const std::string whole = read_file(path("a.jsonl"), 1 << 20);
  CHECK(read_file(path("b.jsonl"), 1 << 20) == whole);
  // A killed run: the header, two answers, half a line.
  size_t cut = 0;
  for (int i = 0; i < 3; ++i) cut = whole.find('\n', cut) + 1;
  std::ofstream(path("c.jsonl")) << whole.substr(0, cut + 20);
  const Result r = needle(
      std::vector<std::string>{"-m", demo_model(), "-o", path("c.jsonl"), "--filler", "essay", "--resume"} + kSmall);
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(r.out.find("2 answers are of the run before") != std::string::npos);
  CHECK(read_file(path("c.jsonl"), 1 << 20) == whole);
  CHECK(one_line_error(needle(std::vector<std::string>{"-m", demo_model(), "-o", path("c.jsonl"), "--filler", "essay",
                                                       "--resume", "--seed", "1"} +
                              kSmall),
                       2)
            .find("seed") != std::string::npos);
}

TEST_CASE("l4-eval needle: an endpoint gets the same prompts as the checkpoint") {
  TempDir dir;
  const std::string local = (dir / "l.jsonl").string(), served = (dir / "s.jsonl").string();
  const ServeProcess server;
  REQUIRE(needle(std::vector<std::string>{"-m", demo_model(), "-o", local} + kSmall).status == 0);
  const Result r = needle(std::vector<std::string>{"--url", server.url(), "-o", served} + kSmall);
  REQUIRE_MESSAGE(r.status == 0, r.err);
  const RunFile a = read_run_file(local), b = read_run_file(served);
  REQUIRE(a.records.size() == b.records.size());
  for (size_t i = 0; i < a.records.size(); ++i) {
    CHECK(a.records[i].prompt_sha256 == b.records[i].prompt_sha256);
    CHECK(a.records[i].reply.text == b.records[i].reply.text);
    CHECK(a.records[i].reply.prompt_tokens == b.records[i].reply.prompt_tokens);
  }
  CHECK(one_line_error(needle({"--url", server.url(), "-o", (dir / "x.jsonl").string(), "--lengths", "32K"}), 2)
            .find("longer than the context") != std::string::npos);
}

TEST_CASE("l4-eval needle: where an endpoint cannot count, bytes do, and what it counted is kept") {
  TempDir dir;
  FakeEndpoint endpoint([](const FakeRequest& request, FakeConnection& connection) {
    if (request.path == "/v1/models") return connection.answer(200, R"({"data": [{"id": "m"}]})");
    if (request.path == "/tokenize") return connection.answer(200, R"({"tokens": []})");  // of another kind
    const size_t at = request.body.find("The pass key is ") + 16;
    connection.answer(200, R"({"choices": [{"message": {"content": ")" + request.body.substr(at, 5) +
                               R"("}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 777}})");
  });
  const std::string out = (dir / "n.jsonl").string();
  const Result r = needle({"--url", endpoint.url(), "--lengths", "1K", "--depths", "50", "-o", out});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.err.find("no /tokenize") != std::string::npos);
  const RunFile file = read_run_file(out);
  REQUIRE(file.records.size() == 1);
  CHECK(file.records[0].right());
  CHECK(file.records[0].reply.prompt_tokens == 777);
  CHECK(file.header.settings.find("lengths_counted_by")->as_string() == "bytes");
}

TEST_CASE("l4-eval needle: what is wrong is said before weights are read") {
  TempDir model;  // without weights
  for (const auto& entry : std::filesystem::directory_iterator(demo_model()))
    if (entry.path().extension() != ".safetensors")
      std::filesystem::copy(entry.path(), model.path() / entry.path().filename());
  TempDir dir;
  const std::string out = (dir / "n.jsonl").string();
  const auto error = [&](std::vector<std::string> words, int status = 2) {
    return one_line_error(needle(std::vector<std::string>{"-m", model.path().string(), "-o", out} + words), status);
  };
  CHECK(error({"--lengths", "1K"}, 1).find("safetensors") != std::string::npos);  // all else is well
  CHECK(error({"--lengths", "1K,1M"}).find("--lengths: 1048576 tokens and 32 of the answer are longer") !=
        std::string::npos);
  CHECK(error({"--lengths", "32K"}).find("longer than the context") != std::string::npos);
  CHECK(error({"--lengths", "4K", "-c", "4K"}).find("longer than the context") != std::string::npos);
  CHECK(error({"--lengths", "50"}).find("--lengths: 50 tokens are too few") != std::string::npos);
  CHECK(error({"--lengths", "1K,x"}).find("--lengths") != std::string::npos);
  CHECK(error({"--lengths", "0"}).find("--lengths") != std::string::npos);
  CHECK(error({"--depths", "0,101"}).find("--depths") != std::string::npos);
  CHECK(error({"--depths", "a"}).find("--depths") != std::string::npos);
  CHECK(error({"--keys", "0"}).find("--keys") != std::string::npos);
  CHECK(error({"--filler", "novel"}).find("--filler") != std::string::npos);
  CHECK(error({"--plot", "x.jpg"}).find("--plot") != std::string::npos);
  CHECK(error({"--plot", "/no/such/folder/x.svg"}).find("--plot") != std::string::npos);
  CHECK(!std::filesystem::exists(out));
  CHECK(one_line_error(needle({"-m", demo_model()}), 2).find("-o: ") != std::string::npos);
  CHECK(needle({"--help"}).status == 0);
}
