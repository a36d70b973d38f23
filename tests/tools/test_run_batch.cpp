// l4-run --batch as people start it, with the demo model.
#include <set>

#include "tools/run_tool.h"

using namespace l4;
using namespace l4::test;

namespace {

std::string line(const std::string& id, const std::string& url, const std::string& body) {
  return cat(R"({"custom_id": ")", id, R"(", "method": "POST", "url": ")", url, R"(", "body": )", body, "}\n");
}
std::string chat(const std::string& text, int max_tokens) {
  return cat(R"({"model": "any", "temperature": 0, "max_tokens": )", max_tokens,
             R"(, "messages": [{"role": "user", "content": )", json_quote(text), "}]}");
}

std::vector<Json> answers(const fs::path& path) {
  std::vector<Json> out;
  for (const std::string& text : split(trim(read_file(path, 1 << 24)), '\n')) out.push_back(parse_json(text, "answer"));
  return out;
}
const Json& at(const Json& json, const std::string& path) {
  const Json* found = &json;
  for (const std::string& key : split(path, '.')) {
    found = found->is_array() ? &found->as_array().at(0) : found->find(key);
    REQUIRE_MESSAGE(found, path);
  }
  return *found;
}
std::string text_of(const Json& answer) {
  return at(answer, "response.body.choices.0.message.content").as_string();
}

}  // namespace

TEST_CASE("run --batch: each answer is the one that its request gets alone") {
  TempDir dir;
  const std::string image = (source_dir() / "tests/golden/vision/files/rgb8.png").string();
  const std::string about_image = cat(
      R"({"temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file://)",
      image, R"("}}, {"type": "text", "text": "What is this?"}]}]})");
  write_file_atomic(
      dir / "in.jsonl",
      line("hello", "/v1/chat/completions", chat("Hello!", 12)) + line("image", "/v1/chat/completions", about_image) +
          line("raw", "/v1/completions", R"({"prompt": "Once upon", "temperature": 0, "max_tokens": 12})") +
          line("wrong", "/v1/chat/completions", R"({"messages": [], "temperature": "hot"})") +
          line("elsewhere", "/v1/embeddings", "{}") + line("seven", "/v1/chat/completions", chat("Count to 7", 12)));
  const std::string out = (dir / "out.jsonl").string();
  const std::vector<std::string> command = {
      "--batch", (dir / "in.jsonl").string(),  "-o",
      out,       "--allowed-local-media-path", (source_dir() / "tests/golden/vision").string()};
  CHECK(output_of(command) == "");
  const std::vector<Json> lines = answers(out);
  REQUIRE(lines.size() == 6);
  const auto alone = [](const std::vector<std::string>& words) {
    return json_of(words + std::vector<std::string>{"--json", "--temp", "0", "-n", "12"}).find("text")->as_string();
  };
  CHECK(text_of(lines[0]) == alone({"-p", "Hello!"}));
  CHECK(text_of(lines[1]) == alone({"-p", "What is this?", "--image", image}));
  CHECK(at(lines[2], "response.body.choices.0.text").as_string() == alone({"--raw", "-p", "Once upon"}));
  CHECK(at(lines[3], "response.status_code") == Json(400));
  CHECK(at(lines[3], "response.body.error.type") == Json("invalid_request_error"));
  CHECK(at(lines[4], "error.code") == Json("invalid_line"));
  CHECK(text_of(lines[5]) == alone({"-p", "Count to 7"}));
  CHECK(one_line_error(l4_run(command), 2).find("is there already") != std::string::npos);
}

TEST_CASE("run --batch: how many at once and with which drafts changes no answer; pictures have a limit of tiles") {
  TempDir dir;
  const std::string folder = (source_dir() / "tests/golden/vision").string();
  const std::string image =
      cat(R"({"type": "image_url", "image_url": {"url": "file://)", folder, R"(/files/rgb8.png"}})");  // one tile
  const std::string about_image = cat(R"({"messages": [{"role": "user", "content": [)", image, ",", image, "]}]}");
  std::string lines = line("image", "/v1/chat/completions", about_image);
  for (int i = 0; i < 6; ++i) lines += line(cat(i), "/v1/chat/completions", chat(cat("Count to ", i), 30));
  write_file_atomic(dir / "in.jsonl", lines);
  int n_outputs = 0;
  const auto answered = [&](const std::vector<std::string>& words) {
    const fs::path out = dir / cat(++n_outputs);
    output_of(std::vector<std::string>{"--batch", (dir / "in.jsonl").string(), "-o", out.string(),
                                       "--allowed-local-media-path", folder} +
              words);
    return answers(out);
  };
  const std::vector<Json> usual = answered({});
  const std::vector<Json> other = answered({"-np", "1", "--speculative", "ngram", "--num-speculative-tokens", "3",
                                            "--no-enable-prefix-caching", "--limit-tiles-per-prompt", "1"});
  for (size_t i = 1; i < usual.size(); ++i) CHECK(text_of(usual[i]) == text_of(other[i]));
  CHECK(at(usual[0], "response.status_code").as_integer() == 200);
  CHECK(at(other[0], "response.status_code").as_integer() == 400);
  CHECK(at(other[0], "response.body.error.message").as_string().find("at most 1 in one request") != std::string::npos);
}

TEST_CASE("run --batch: killed again and again, it ends with the same answers") {
  TempDir dir;
  std::string input;
  for (int i = 0; i < 150; ++i)
    input += line(cat("r", i), "/v1/chat/completions", chat(cat("What is ", i, " plus ", 3 * i, "?"), 8 + i % 40));
  write_file_atomic(dir / "in.jsonl", input);
  const auto command = [&](const std::string& out) {
    return tool("l4-run", {"--batch", (dir / "in.jsonl").string(), "-o", (dir / out).string()});
  };
  REQUIRE(run(command("whole.jsonl")).status == 0);

  int n_killed = 0;
  // Later each time, so that it ends on any machine.
  for (double seconds = 0.15; !fs::exists(dir / "out.jsonl") && seconds < 60; seconds *= 1.15) {
    const Result r = run(std::vector<std::string>{"timeout", "-s", "KILL", cat(seconds)} + command("out.jsonl"));
    n_killed += r.status != 0;
  }
  CHECK(n_killed > 0);
  const std::vector<Json> whole = answers(dir / "whole.jsonl"), pieced = answers(dir / "out.jsonl");
  REQUIRE(pieced.size() == 150);
  REQUIRE(whole.size() == 150);
  for (size_t i = 0; i < 150; ++i) {
    CHECK(at(pieced[i], "custom_id") == Json(cat("r", i)));
    CHECK(at(pieced[i], "id") == at(whole[i], "id"));
    CHECK(text_of(pieced[i]) == text_of(whole[i]));
  }
  CHECK(!fs::exists(dir / "out.jsonl.partial"));
}

TEST_CASE("run --batch: command lines that are wrong") {
  TempDir dir;
  write_file_atomic(dir / "in.jsonl", line("a", "/v1/chat/completions", chat("Hi", 1)));
  const std::string in = (dir / "in.jsonl").string(), out = (dir / "out.jsonl").string();
  one_line_error(l4_run({"--batch", in}), 2);
  one_line_error(l4_run({"-o", out, "-p", "Hi"}), 2);
  one_line_error(l4_run({"--batch", in, "-o", out, "-p", "Hi"}), 2);
  one_line_error(l4_run({"--batch", in, "-o", out, "--json"}), 2);
  one_line_error(l4_run({"--batch", in, "-o", out, "--dry-run"}), 2);
  one_line_error(l4_run({"--batch", (dir / "none").string(), "-o", out}), 1);
  one_line_error(l4_run({"--batch", in, "-o", (dir / "no/such/dir").string()}), 1);
  one_line_error(l4_run({"--batch", dir.path().string(), "-o", out}), 1);
  CHECK(!fs::exists(out));
}
