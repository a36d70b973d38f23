// l4-serve as a program: what it prints, its status, real clients, requests at chunk edges and with pictures, alone and
// together.
#include <fstream>

#include "base/base64.h"
#include "base/file.h"
#include "tools/python.h"
#include "tools/serve_process.h"

using namespace l4::test;
using l4::Json;
using l4::tools::HttpAnswer;
using l4::tools::HttpCall;
using l4::tools::HttpClient;

namespace {

using Words = std::vector<std::string>;
const std::string kChat = R"({"model":"demo","messages":[{"role":"user","content":"What is 3 + 4?"}],"temperature":0})";

// All at once; the answers in order.
std::vector<HttpAnswer> ask_together(const ServeProcess& server, const std::string& path, const Words& bodies) {
  HttpClient client(client_of(server));
  std::vector<HttpAnswer> out(bodies.size());
  for (size_t i = 0; i < bodies.size(); ++i) {
    HttpCall call;
    call.path = path;
    call.body = bodies[i];
    call.on_done = [&out, i](HttpAnswer& answer) { out[i] = answer; };
    client.start(std::move(call));
  }
  client.run();
  return out;
}

std::string text_of(const HttpAnswer& answer) {
  CHECK_MESSAGE(answer.status == 200, answer.problem());
  if (answer.status != 200) return answer.problem();
  const Json body = l4::parse_json(answer.body, "answer");
  const Json& choice = body.find("choices")->as_array()[0];
  return choice.find("text") ? choice.find("text")->as_string() : choice.find("message")->find("content")->as_string();
}

// The text with the log-probabilities of its tokens: equal only where every logit was.
std::string bits_of(const HttpAnswer& answer) {
  std::string text = text_of(answer);
  if (answer.status != 200) return text;
  const Json body = l4::parse_json(answer.body, "answer");
  return text + dump_json(*body.find("choices")->as_array()[0].find("logprobs"));
}

void check_clients(const std::string& python, const Words& more) {
  const ServeProcess server;
  const Result r = run(Words{python, (source_dir() / "scripts/serve/test_clients.py").string(), server.url(),
                             golden("vision/files/rgb8.png").string()} +
                           more,
                       {.timeout_s = 400});
  CHECK_MESSAGE(r.status == 0, r.out, r.err);
  CHECK(r.out.find("ok ") != std::string::npos);
}

}  // namespace

TEST_CASE("l4-serve: says what it serves, answers, ends with 0 when asked to") {
  ServeProcess server;
  const std::string log = server.log();
  for (const char* part : {"listens at http://127.0.0.1:", "as demo", "KV cache", "KV pages of",
                           "sequences of 8,192 tokens", "text and pictures (10 a request)"})
    CHECK_MESSAGE(log.find(part) != std::string::npos, log);
  CHECK(log.find("pages of 128 tokens: 0 global") == std::string::npos);
  CHECK(text_of(server.ask("/v1/chat/completions", kChat)).find("7") != std::string::npos);
  for (const char* path : {"/health", "/ready", "/version", "/metrics", "/v1/models"})
    CHECK(server.ask(path, "", "GET").status == 200);
  CHECK(server.ask("/v1/chat/completions", "{}").status == 400);
  CHECK(server.ask("/v1/nothing", "{}").status == 404);
  CHECK(server.metric("l4:generation_tokens_total") > 0);
  CHECK(server.metric("l4:request_success_total") == 1);
  CHECK(server.log().find("3 + 4") == std::string::npos);  // no texts
  CHECK(server.stop() == 0);
}

TEST_CASE("l4-serve: keys, and texts in the log where asked for") {
  const ServeProcess server({"--api-key", "secret", "--log-prompts", "--log-format", "json"});
  CHECK(server.ask("/health", "", "GET").status == 200);
  CHECK(server.ask("/v1/models", "", "GET").status == 401);
  CHECK(server.ask("/v1/chat/completions", kChat).status == 401);
  CHECK(server.ask("/tokenize", R"({"prompt":"a"})").status == 401);
  CHECK(server.ask("/v1/chat/completions", kChat, "POST", {{"Authorization", "Bearer secret"}}).status == 200);
  const HttpAnswer refused = server.ask("/v1/messages", "{}");
  CHECK(l4::parse_json(refused.body, "answer").find("type")->as_string() == "error");
  const HttpAnswer message =
      server.ask("/v1/messages", R"({"max_tokens":4,"messages":[{"role":"user","content":"Hi"}]})", "POST",
                 {{"x-api-key", "secret"}});
  CHECK(message.status == 200);
  CHECK(server.log().find("3 + 4") != std::string::npos);
}

TEST_CASE("l4-serve: what cannot be served is said in one line") {
  const auto serve = [](const Words& words) { return run(tool("l4-serve", words), {.timeout_s = 30}); };
  const Result no_model = serve({"-m", "/no/such/model"});
  CHECK(no_model.status == 1);
  CHECK(no_model.err.find("/no/such/model") != std::string::npos);
  const ServeProcess server;
  const Result taken = serve({"--port", server.url().substr(server.url().rfind(':') + 1)});
  CHECK(taken.status == 1);
  CHECK(taken.err.find("l4-serve: error: ") != std::string::npos);
  CHECK(serve({"--no-such-flag"}).status == 2);
}

TEST_CASE("l4-serve: the openai and anthropic packages") {
  check_clients(python_with("openai, anthropic, pydantic"), {});
}

TEST_CASE("l4-serve: lm-eval's local-chat-completions") {
  check_clients(python_with("openai, anthropic, lm_eval, tenacity, aiohttp"), {"--lm-eval"});
}

TEST_CASE("l4-serve: prompts at a chunk's edge are answered alike alone and together") {
  const ServeProcess server;
  constexpr int kChunk = 512;  // the demo's
  Words bodies;
  for (const int n : {kChunk - 1, kChunk, kChunk + 1, 2 * kChunk - 1, 2 * kChunk, 2 * kChunk + 1}) {
    std::string ids = "2029";
    for (int i = 1; i < n; ++i) ids += l4::cat(",", 300 + i * i * 7 % 1500);
    bodies.push_back(l4::cat(
        R"({"model":"demo","temperature":0,"max_tokens":8,"ignore_eos":true,"logprobs":3,"prompt":[)", ids, "]}"));
  }
  Words alone;
  for (const std::string& body : bodies) alone.push_back(bits_of(server.ask("/v1/completions", body)));
  for (int round = 0; round < 2; ++round) {  // the second finds all of them in the prefix cache
    const std::vector<HttpAnswer> together = ask_together(server, "/v1/completions", bodies);
    for (size_t i = 0; i < bodies.size(); ++i) CHECK(bits_of(together[i]) == alone[i]);
  }
  // None of it from the cache: another salt for each.
  Words salted = bodies;
  for (size_t i = 0; i < salted.size(); ++i) salted[i].insert(1, l4::cat("\"cache_salt\":\"", i, "\","));
  const std::vector<HttpAnswer> together = ask_together(server, "/v1/completions", salted);
  for (size_t i = 0; i < bodies.size(); ++i) CHECK(bits_of(together[i]) == alone[i]);
}

TEST_CASE("l4-serve: pictures, many requests at once") {
  const bool all = std::getenv("L4_SOAK_SECONDS") != nullptr;
  const ServeProcess server;
  const std::string pictures[] = {l4::to_base64(l4::read_file(golden("vision/files/rgb8.png"), 1 << 20)),
                                  l4::to_base64(l4::read_file(golden("vision/files/grey8.png"), 1 << 20))};
  const auto body = [&](int n, int first) {
    std::string parts;
    for (int i = 0; i < n; ++i)
      parts += l4::cat(R"({"type":"image_url","image_url":{"url":"data:image/png;base64,)", pictures[(first + i) % 2],
                       "\"}},");
    return l4::cat(
        R"({"model":"demo","temperature":0,"max_tokens":6,"logprobs":true,"messages":[{"role":"user","content":[)",
        parts, R"({"type":"text","text":"What is this?"}]}]})");
  };
  Words bodies, alone;
  for (int n = 1; n <= 10; n += all ? 1 : 3)
    for (int first = 0; first < 2; ++first) bodies.push_back(body(n, first));
  for (const std::string& one : bodies) alone.push_back(bits_of(server.ask("/v1/chat/completions", one)));
  CHECK(alone[0] != alone[1]);  // or nothing is shown by what follows
  constexpr size_t kAtOnce = 16;
  Words many;
  for (size_t i = 0; i < std::max(kAtOnce, bodies.size()); ++i) many.push_back(bodies[i % bodies.size()]);
  const std::vector<HttpAnswer> together = ask_together(server, "/v1/chat/completions", many);
  for (size_t i = 0; i < many.size(); ++i) CHECK(bits_of(together[i]) == alone[i % bodies.size()]);
  CHECK(server.ask("/v1/chat/completions", body(11, 0)).status == 400);
  CHECK(server.ask("/health", "", "GET").status == 200);
}

TEST_CASE("l4-serve: beside tools a form is kept or a tool is called, whatever the model would rather say") {
  const ServeProcess server;
  const std::string tools =
      R"("tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":
         {"a":{"type":"integer","maximum":9,"minimum":0}},"required":["a"]}}}])";
  const std::string schema =
      R"("response_format":{"type":"json_schema","json_schema":{"schema":{"enum":[{"sum":7},"seven"]}}})";
  const std::string digits = R"("guided_regex":"[0-9a-z ]{1,20}")";
  int n_calls = 0, n_forms = 0;
  for (int seed = 0; seed < 32; ++seed) {
    const Json answer = server.ask_json(
        "/v1/chat/completions",
        l4::cat(R"({"messages":[{"role":"user","content":"What is 3 + 4?"}],"temperature":1.5,"max_tokens":60,"seed":)",
                seed, ",", seed % 2 ? digits : schema, ",", tools, "}"));
    const Json& choice = answer.find("choices")->as_array()[0];
    const Json& message = *choice.find("message");
    const std::string reason = choice.find("finish_reason")->as_string();
    if (reason == "length") continue;
    if (const Json* calls = message.find("tool_calls")) {
      ++n_calls;
      CHECK(reason == "tool_calls");
      const Json& call = *calls->as_array()[0].find("function");
      CHECK(call.find("name")->as_string() == "add");
      CHECK(l4::parse_json(call.find("arguments")->as_string(), "arguments").find("a")->is_integer());
      continue;
    }
    ++n_forms;
    const std::string said = message.find("content")->as_string();
    if (seed % 2)
      CHECK(said.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz ") == std::string::npos);
    else
      CHECK((said == "\"seven\"" || l4::parse_json(said, "content").find("sum")->as_integer() == 7));
  }
  CHECK(n_calls > 0);
  CHECK(n_forms > 0);
}
