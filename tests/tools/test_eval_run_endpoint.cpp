// l4-eval against endpoints: ones that answer, fail, stall, talk nonsense or leave, and l4-serve itself.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "support/has.h"
#include "tools/eval/endpoint_respondent.h"
#include "tools/eval_questions.h"
#include "tools/fake_endpoint.h"
#include "tools/serve_process.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

std::string chat_answer(const std::string& text) {
  return cat(R"({"choices": [{"message": {"role": "assistant", "content": )", json_quote(text),
             R"(}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})");
}

// What is asked by an endpoint's tests: the prompt says what the endpoint does.
std::string question(const std::string& prompt) {
  return cat("{\"id\": ", json_quote(prompt), ", \"prompt\": ", json_quote(prompt), ", \"answer\": \"yes\"}\n");
}

std::string prompt_of(const FakeRequest& r) {
  const Json body = parse_json(r.body, "request");
  return body.find("messages")->as_array().back().find("content")->as_string();
}

void models(FakeConnection& c) {
  c.answer(200, R"({"data": [{"id": "fake"}]})");
}

std::vector<std::string> command(const TempDir& dir, const std::string& url,
                                 const std::vector<std::string>& more = {}) {
  return std::vector<std::string>{
             "questions", "--url", url, "--data", (dir / "in.jsonl").string(), "-o", (dir / "out.jsonl").string()} +
         more;
}

Record record_of(const TempDir& dir, const std::string& id) {
  for (const Record& record : read_run_file(dir / "out.jsonl").records)
    if (record.id == id) return record;
  FAIL("no record of ", id);
  return {};
}

}  // namespace

TEST_CASE("eval endpoint: what fails is tried again, then counted as failed and never as wrong") {
  TempDir dir;
  std::mutex mutex;
  std::map<std::string, int> n_asked;
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    if (r.path == "/v1/models") return models(c);
    const std::string prompt = prompt_of(r);
    int n;
    {
      const std::lock_guard lock(mutex);
      n = ++n_asked[prompt];
    }
    if (prompt == "fails") return c.answer(500, R"({"error": {"message": "no luck"}})");
    if (prompt == "recovers" && n < 3) return c.answer(n == 1 ? 500 : 429, "{}");
    if (prompt == "garbage") return c.answer(200, "<html>");
    if (prompt == "no choices") return c.answer(200, R"({"choices": []})");
    if (prompt == "garbage once" && n < 2) return c.answer(200, "<html>");
    if (prompt == "refused") return c.answer(400, R"({"error": {"message": "too long"}})");
    if (prompt == "stalls" || (prompt == "stalls once" && n < 2)) {
      for (int i = 0; i < 200 && !c.client_left(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return c.close();
    }
    if (prompt == "half") {
      c.send("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"choi");
      return c.close();
    }
    c.answer(200, prompt == "empty" ? R"({"choices": [{"message": {"content": null}, "finish_reason": "stop"}]})"
                                    : chat_answer(prompt == "wrong" ? "no" : "yes"));
  });
  std::string lines;
  for (const char* prompt : {"fails", "recovers", "garbage", "no choices", "garbage once", "refused", "stalls",
                             "stalls once", "half", "empty", "wrong", "good"})
    lines += question(prompt);
  write_file_atomic(dir / "in.jsonl", lines);
  const Result r = l4_eval(command(dir, server.url() + "/v1", {"--timeout", "0.3", "--max-attempts", "3"}));
  CHECK(r.status == 1);
  CHECK_MESSAGE(
      has(r.out, "12 questions: 6 answered (4 right, 2 wrong, of these 1 without an answer in them), 6 failed;"),
      r.out);
  const auto error = [&](const std::string& id) {
    const Record record = record_of(dir, id);
    CHECK(!record.answered());
    CHECK(!record.right());
    CHECK(record.reply.attempts == (id == "refused" ? 1 : 3));
    CHECK(n_asked[id] == record.reply.attempts);
    return record.reply.error;
  };
  CHECK(error("fails") == "HTTP 500: \"no luck\"");
  CHECK(has(error("garbage"), "the answer: not valid JSON"));
  CHECK(has(error("no choices"), "no choices in the answer"));
  CHECK(error("refused") == "HTTP 400: \"too long\"");
  CHECK(has(error("stalls"), "nothing came for 0.3 s"));
  CHECK(has(error("half"), "the connection was closed before the answer's end"));
  CHECK(record_of(dir, "recovers").reply.attempts == 3);
  CHECK(record_of(dir, "garbage once").reply.attempts == 2);
  CHECK(record_of(dir, "stalls once").right());
  CHECK(record_of(dir, "good").reply.prompt_tokens == 5);
  CHECK(read_run_file(dir / "out.jsonl").header.model == "fake");

  // Those and no others are asked again.
  n_asked.clear();
  l4_eval(command(dir, server.url() + "/v1", {"--timeout", "0.3", "--max-attempts", "1", "--resume"}));
  CHECK(n_asked.size() == 6);
  CHECK(!n_asked.count("good"));
}

TEST_CASE("eval endpoint: what is sent") {
  TempDir dir;
  const std::string picture = read_file(golden("vision/files/rgb8.png"), 1 << 20);
  write_file_atomic(dir / "p.png", picture);
  Query q;
  q.turns = {{"system", "s"}, {"user", "u"}};
  q.images = {dir / "p.png"};
  q.max_tokens = 7;
  q.stop = {"Question:"};
  const Json body = parse_json(request_body(q, "m"), "body");
  CHECK(*body.find("model") == Json("m"));
  CHECK(*body.find("max_completion_tokens") == Json(7));
  CHECK(body.find("temperature")->as_number() == 0);
  CHECK(*body.find("stop") == Json(Json::Array{"Question:"}));
  const Json::Array& messages = body.find("messages")->as_array();
  REQUIRE(messages.size() == 2);
  CHECK(*messages[0].find("content") == Json("s"));
  const Json::Array& parts = messages[1].find("content")->as_array();
  REQUIRE(parts.size() == 2);
  CHECK(parts[0].find("image_url")->find("url")->as_string().starts_with("data:image/png;base64,iVBORw0KGgo"));
  CHECK(*parts[1].find("text") == Json("u"));
  Query text;
  text.text = "Once";
  text.max_tokens = 3;
  CHECK(request_body(text, "m") == R"({"model":"m","prompt":"Once","max_tokens":3,"temperature":0})");
  q.images = {dir / "none.png"};
  CHECK(has(error_of([&] { request_body(q, "m"); }), "none.png"));
  CHECK(read_reply(R"({"choices": [{"text": "x", "finish_reason": "length"}]})", false).finish_reason == "length");
  CHECK(has(error_of([] { read_reply(R"({"choices": [{"text": "x"}]})", true); }), "no choices[0].message.content"));
}

TEST_CASE("eval endpoint: nobody there is one line, and so is a key that is not good") {
  TempDir dir;
  write_file_atomic(dir / "in.jsonl", question("good"));
  int port;
  {
    const FakeEndpoint gone([](const FakeRequest&, FakeConnection&) {});
    port = gone.port();
  }
  const auto error = [&](const std::string& url) { return one_line_error(l4_eval(command(dir, url)), 1); };
  CHECK(has(error(cat("http://127.0.0.1:", port)), "--url: nobody answers there: "));
  const FakeEndpoint locked(
      [](const FakeRequest&, FakeConnection& c) { c.answer(401, R"({"error": {"message": "wrong key"}})"); });
  CHECK(has(error(locked.url()), "HTTP 401: \"wrong key\""));
  const FakeEndpoint nameless([](const FakeRequest&, FakeConnection& c) { c.answer(404, "{}"); });
  CHECK(has(error(nameless.url()), "--model NAME says it"));
  CHECK(!fs::exists(dir / "out.jsonl"));
}

TEST_CASE("eval endpoint: one that is gone for good ends the run, which can go on") {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += question(cat("q", i));
  write_file_atomic(dir / "in.jsonl", lines);
  std::atomic<int> n{0};
  std::atomic<bool> back{false};
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    if (r.path == "/v1/models") return models(c);
    if (back || ++n <= 10) return c.answer(200, chat_answer("yes"));
    c.close();
  });
  const std::vector<std::string> words = command(dir, server.url(), {"--concurrency", "2", "--max-attempts", "1"});
  const std::string error = one_line_error(l4_eval(words), 1);
  CHECK_MESSAGE(has(error, "the endpoint is gone: the last 54 questions got no answer"), error);
  CHECK_MESSAGE(has(error, "of 200 questions are done, --resume goes on from there"), error);
  back = true;
  const Result r = l4_eval(words + std::vector<std::string>{"--resume"});
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.out, "200 questions: 200 answered (200 right"));
  CHECK(has(r.out, "10 answers are of the run before"));
}

TEST_CASE("eval endpoint: as many at once as were asked for") {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 24; ++i) lines += question(cat("q", i));
  write_file_atomic(dir / "in.jsonl", lines);
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    if (r.path == "/v1/models") return models(c);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    c.answer(200, chat_answer("yes"));
  });
  CHECK(l4_eval(command(dir, server.url(), {"--concurrency", "6"})).status == 0);
  CHECK(server.most_at_once() == 6);
}

TEST_CASE("eval endpoint: l4-serve's answers are the engine's") {
  TempDir dir;
  fs::copy(golden("vision/files/rgb8.png"), dir / "p.png");
  write_file_atomic(dir / "in.jsonl",
                    sums(12) + "{\"prompt\": \"What is it?\", \"images\": [\"p.png\"], \"answer\": \"x\"}\n");
  write_file_atomic(dir / "texts.jsonl", "{\"prompt\": \"Once upon\", \"answer\": \"x\"}\n");
  const ServeProcess server;
  const auto lines = [&](const std::string& data, std::vector<std::string> words) {
    const Result r = l4_eval(std::vector<std::string>{"questions", "--data", (dir / data).string(), "-n", "24",
                                                      "--force", "-o", (dir / "out.jsonl").string()} +
                             words);
    CHECK_MESSAGE(r.status == 0, r.err);
    return sorted_lines(dir / "out.jsonl");
  };
  const std::vector<std::string> here = {"-m", demo_model()}, there = {"--url", server.url() + "/v1", "-m", "demo"};
  CHECK(lines("in.jsonl", here) == lines("in.jsonl", there));
  const std::vector<std::string> raw = {"--no-chat-template"};
  CHECK(lines("texts.jsonl", here + raw) == lines("texts.jsonl", there + raw));
}
