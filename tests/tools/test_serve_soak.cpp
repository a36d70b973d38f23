// Many streaming clients at once, some of which leave: every answer that ends is the one that is given alone, and what
// was taken is given back. A short form runs with the other tests; `make soak` runs it with 1,000 clients for 2 minutes
// (L4_SOAK_CLIENTS, L4_SOAK_SECONDS).
#include <chrono>
#include <random>
#include <thread>

#include "tools/serve_process.h"

using namespace l4::test;
using l4::Json;
using l4::tools::HttpAnswer;
using l4::tools::HttpCall;
using l4::tools::HttpClient;
using Clock = std::chrono::steady_clock;

namespace {

int from_env(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? int(l4::parse_int(text).value_or(otherwise)) : otherwise;
}

std::vector<std::string> request_bodies() {
  std::vector<std::string> out;
  const auto add = [&](const std::string& question, const std::string& members) {
    out.push_back(l4::cat(
        R"({"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":)",
        l4::json_quote(question), "}],", members, "}"));
  };
  for (int i = 0; i < 12; ++i) {
    const std::string sum = l4::cat("What is ", i, " + ", 3 * i + 1, "?");
    add(sum, R"("temperature":0,"max_tokens":24)");
    add(sum, l4::cat(R"("temperature":1.5,"seed":)", i, R"(,"max_tokens":32,"ignore_eos":true)"));
  }
  const std::string words = [] {
    std::string text = "Repeat after me: ";
    for (int i = 0; i < 150; ++i) text += l4::cat("number ", i, ", ");
    return text;
  }();
  add(words, R"("temperature":0,"max_tokens":16)");  // more than a chunk
  add("Tell me a story.", R"("temperature":0.8,"seed":3,"n":3,"max_tokens":20)");
  add("Say something.",
      R"("temperature":1,"seed":4,"max_tokens":60,"response_format":{"type":"json_schema","json_schema":{"name":"x",
       "schema":{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"}},"required":["a","b"],"additionalProperties":false}}})");
  add("What is the weather in Paris?",
      R"("temperature":0,"max_tokens":60,"tools":[{"type":"function","function":{"name":"get_weather",
       "parameters":{"type":"object","properties":{"city":{"type":"string"}}}}}])");
  return out;
}

struct Load {
  HttpClient& client;
  const std::vector<std::string>& bodies;
  const std::vector<std::string>& expected;
  Clock::time_point end;
  std::mt19937 random{1};
  int64_t n_finished = 0, n_left = 0, n_wrong = 0;
  std::string first_problem = {};

  void start_one() {
    if (Clock::now() >= end) return;
    const size_t which = random() % bodies.size();
    const bool leaves = random() % 10 == 0;
    auto stream = std::make_shared<StreamedChat>();
    auto id = std::make_shared<int64_t>(-1);
    const int leaves_after = int(random() % 12);
    HttpCall call;
    call.path = "/v1/chat/completions";
    call.body = bodies[which];
    call.on_event = [=, this](const l4::tools::SseEvent& event, Clock::time_point) {
      stream->add(event.data);
      if (!leaves || stream->n_events() <= leaves_after || stream->is_done()) return;
      client.cancel(*id);
      ++n_left;
      start_one();
    };
    call.on_done = [=, this](HttpAnswer& answer) {
      ++n_finished;
      std::string problem;
      if (!answer.ok())
        problem = answer.problem();
      else if (!stream->is_done() || stream->failed())
        problem = "the stream broke: " + stream->text();
      else if (stream->text() != expected[which])
        problem = l4::cat("expected\n", expected[which], "\nfound\n", stream->text());
      if (!problem.empty() && n_wrong++ == 0) first_problem = problem;
      start_one();
    };
    *id = client.start(std::move(call));
  }
};

// Until nothing runs and all pages are free; what does not end is found by the checks that follow.
void wait_idle(const ServeProcess& server) {
  for (const Clock::time_point end = Clock::now() + std::chrono::seconds(20); Clock::now() < end;) {
    if (server.metric("l4:num_requests_running") + server.metric("l4:num_requests_waiting") == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace

TEST_CASE("serve soak: many streams at once, each as alone, and nothing stays behind") {
  const int n_clients = from_env("L4_SOAK_CLIENTS", 200), seconds = from_env("L4_SOAK_SECONDS", 4);
  if (l4::tools::raise_descriptor_limit() < n_clients + 100)
    L4_SKIP("too few descriptors for " + std::to_string(n_clients) + " clients");
  const ServeProcess server({"--max-num-seqs", "32", "--no-access-log"});
  const std::vector<std::string> bodies = request_bodies();
  std::vector<std::string> expected;
  for (const std::string& body : bodies) {
    HttpClient client(client_of(server));
    StreamedChat stream;
    HttpCall call;
    call.path = "/v1/chat/completions";
    call.body = body;
    call.on_event = [&](const l4::tools::SseEvent& event, Clock::time_point) { stream.add(event.data); };
    const HttpAnswer answer = client.ask(std::move(call));
    REQUIRE_MESSAGE(answer.ok(), answer.problem());
    REQUIRE(stream.is_done());
    expected.push_back(stream.text());
  }

  int64_t memory = 0;
  const int64_t descriptors = server.n_descriptors();
  for (const bool warm_up : {true, false}) {
    HttpClient client(client_of(server));
    Load load{client, bodies, expected,
              Clock::now() + std::chrono::milliseconds(warm_up ? seconds * 250 : seconds * 1000)};
    for (int i = 0; i < n_clients; ++i) load.start_one();
    client.run();
    MESSAGE(n_clients, " clients: ", load.n_finished, " streams ended, ", load.n_left, " were left");
    CHECK_MESSAGE(load.n_wrong == 0, load.n_wrong, " went wrong: ", load.first_problem);
    CHECK(load.n_finished >= n_clients / 2);
    CHECK(load.n_left > 0);
    wait_idle(server);
    if (warm_up) memory = server.memory_bytes();
  }
  CHECK(server.metric("l4:num_requests_running") == 0);
  CHECK(server.metric("l4:num_requests_waiting") == 0);
  CHECK(server.metric("l4:kv_cache_usage_perc") == 0);
  CHECK(server.metric("l4:request_success_total") > 0);
  // Connections close a moment after their clients.
  for (int i = 0; i < 200 && server.n_descriptors() > descriptors + 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(server.n_descriptors() <= descriptors + 2);
  CHECK_MESSAGE(server.memory_bytes() < memory + (32 << 20), "memory grew from ", memory, " to ",
                server.memory_bytes());
}
