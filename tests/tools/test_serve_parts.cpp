// What the server is made of, without sockets: routes, errors, metrics, log lines, the request reader, heads of
// answers.
#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"
#include "support/test.h"
#include "tools/serve/api_error.h"
#include "tools/serve/http/exchange_core.h"
#include "tools/serve/http/keys.h"
#include "tools/serve/http/request_reader.h"
#include "tools/serve/http/response_head.h"
#include "tools/serve/log.h"
#include "tools/serve/metrics.h"
#include "tools/serve/router.h"

using namespace l4;
using namespace l4::serve;

TEST_CASE("serve router: paths, methods, what a star stands for") {
  Router router;
  const Handler none = [](const std::shared_ptr<Exchange>&) {};
  router.add("GET", "/", none);
  router.add("GET", "/v1/models", none);
  router.add("GET", "/v1/models/*", none);
  router.add("POST", "/v1/models/*", none);
  const auto pattern = [&](const char* method, const char* path) {
    const Router::Match match = router.find(method, path);
    return match.route ? match.route->pattern : "";
  };
  CHECK(pattern("GET", "/") == "/");
  CHECK(pattern("HEAD", "/") == "/");
  CHECK(pattern("POST", "/") == "");
  CHECK(pattern("GET", "//") == "");
  CHECK(pattern("GET", "/v1/models") == "/v1/models");
  CHECK(pattern("GET", "/v1/models/") == "");  // a star stands for something
  CHECK(pattern("GET", "/v1/models/x/y") == "/v1/models/*");
  CHECK(pattern("GET", "/V1/models") == "");
  CHECK(router.find("GET", "/v1/models/a%2fb%20c").wildcard == "a/b c");
  CHECK(router.find("PUT", "/v1/models/x").allowed == "GET, HEAD, POST, OPTIONS");
  CHECK(router.find("PUT", "/nothing").allowed.empty());
  for (const char* bad : {"/v1/models/%", "/v1/models/%4", "/v1/models/%zz", "/v1/models/%ff", "/v1/models/%00"})
    CHECK(router.find("GET", bad).bad_path);
}

TEST_CASE("serve errors: OpenAI's shape with codes that are strings") {
  CHECK(
      dump_json(error_json(api_error(400, "no", "", "temperature"))) ==
      R"({"error": {"message": "no", "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}})");
  CHECK(dump_json(error_json(api_error(404, "no", "t", "", "c"))) ==
        R"({"error": {"message": "no", "type": "t", "param": null, "code": "c"}})");
  CHECK(error_response(api_error(429, "later")).headers == HeaderList{{"Retry-After", "1"}});
  CHECK(api_error_of(Error(ErrorKind::usage, "m")).message == "m");
  CHECK(api_error_of(Error(ErrorKind::unsupported, "m")).status == 400);
  for (ErrorKind kind : {ErrorKind::io, ErrorKind::memory, ErrorKind::device, ErrorKind::internal}) {
    CHECK(api_error_of(Error(kind, "/secret")).status == 500);
    CHECK(api_error_of(Error(kind, "/secret")).message.find("secret") == std::string::npos);
  }
  CHECK(error_response(api_error(400, "bad \xff byte")).body.find("bad \xEF\xBF\xBD byte") != std::string::npos);
}

TEST_CASE("serve metrics: Prometheus' text") {
  Metrics m;
  m.counter("c_total", "A counter.", {{"a", "x\"y\\z\nw"}}).add(2);
  m.counter("c_total", "A counter.", {{"a", "x\"y\\z\nw"}}).add();
  m.gauge("g", "A gauge.").set(0.25);
  Histogram& h = m.histogram("h_seconds", "A histogram.", {0.5, 1, 2}, {{"b", "c"}});
  for (double v : {0.25, 0.5, 0.75, 1.5, 100.0}) h.observe(v);
  h.observe(2, 3);
  int collected = 0;
  m.on_collect([&] { m.gauge("at_collection", "Set then.").set(++collected); });
  CHECK(m.text() ==
        "# HELP at_collection Set then.\n# TYPE at_collection gauge\nat_collection 1\n"
        "# HELP c_total A counter.\n# TYPE c_total counter\nc_total{a=\"x\\\"y\\\\z\\nw\"} 3\n"
        "# HELP g A gauge.\n# TYPE g gauge\ng 0.25\n"
        "# HELP h_seconds A histogram.\n# TYPE h_seconds histogram\n"
        "h_seconds_bucket{b=\"c\",le=\"0.5\"} 2\nh_seconds_bucket{b=\"c\",le=\"1\"} 3\n"
        "h_seconds_bucket{b=\"c\",le=\"2\"} 7\nh_seconds_bucket{b=\"c\",le=\"+Inf\"} 8\n"
        "h_seconds_sum{b=\"c\"} 109\nh_seconds_count{b=\"c\"} 8\n");
  Counter& total = m.counter("rising_total", "Of somebody else.");
  total.rise_to(5);
  total.rise_to(3);
  CHECK(total.value() == 5);
  std::vector<std::thread> threads;
  Counter& shared = m.counter("shared_total", "Of many threads.");
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 10'000; ++k) shared.add();
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(shared.value() == 40'000);
}

TEST_CASE("serve metrics: vLLM's names under l4:") {
  Metrics m;
  EngineMetrics e(m, "scout");
  e.prompt_tokens_total.add(7);
  e.request_success("stop").add();
  const std::string text = m.text();
  for (const char* line : {"l4:num_requests_running{model_name=\"scout\"} 0\n",
                           "l4:num_requests_waiting{",
                           "l4:kv_cache_usage_perc{",
                           "l4:prefix_cache_queries_total{",
                           "l4:prefix_cache_hits_total{",
                           "l4:prompt_tokens_total{model_name=\"scout\"} 7\n",
                           "l4:generation_tokens_total{",
                           "l4:request_success_total{finished_reason=\"stop\",model_name=\"scout\"} 1\n",
                           "l4:request_prompt_tokens_bucket{",
                           "l4:request_generation_tokens_bucket{",
                           "l4:time_to_first_token_seconds_bucket{",
                           "l4:inter_token_latency_seconds_bucket{",
                           "l4:request_time_per_output_token_seconds_bucket{",
                           "l4:e2e_request_latency_seconds_bucket{",
                           "l4:request_queue_time_seconds_bucket{",
                           "l4:request_prefill_time_seconds_bucket{",
                           "l4:request_decode_time_seconds_bucket{",
                           "l4:request_inference_time_seconds_bucket{",
                           "l4:iteration_tokens_total_bucket{",
                           "l4:num_preemptions_total{"})
    CHECK_MESSAGE(text.find(line) != std::string::npos, line);
}

TEST_CASE("serve log: text and JSON, whole lines, levels") {
  test::TempDir dir;
  const auto lines = [&](LogFormat format) {
    const fs::path path = dir / "log";
    const int fd = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    const ServeLog log(format, fd);
    set_log_level(LogLevel::info);
    log.write(LogLevel::info, "request", {{"id", "a1"}, {"path", "/a b\n\xff"}, {"n", int64_t(3)}, {"ok", true}});
    log.write(LogLevel::debug, "unseen");
    log.say(LogLevel::warning, "one\nline");
    set_log_level(LogLevel::warning);
    close(fd);
    return read_file(path, 10'000);
  };
  const std::string text = lines(LogFormat::text);
  CHECK(text.substr(23).starts_with("Z info request id=a1 path=\"/a b\\n\xEF\xBF\xBD\" n=3 ok=true\n"));
  CHECK(text.ends_with("Z warning one line\n"));
  const std::vector<std::string> rows = split(lines(LogFormat::json), '\n');
  REQUIRE(rows.size() == 3);
  const Json first = parse_json(rows[0], "log");
  CHECK(first.find("event")->as_string() == "request");
  CHECK(first.find("level")->as_string() == "info");
  CHECK(first.find("path")->as_string() == "/a b\n\xEF\xBF\xBD");
  CHECK(first.find("time")->as_string().size() == 24);
  CHECK(parse_json(rows[1], "log").find("text")->as_string() == "one\nline");
}

TEST_CASE("serve keys: bearer and x-api-key, every key, nothing else") {
  const ApiKeys keys({"first", "second key"});
  const auto accepts = [&](const HeaderList& headers) {
    HttpRequest request;
    request.headers = headers;
    return keys.accept(request);
  };
  CHECK(accepts({{"Authorization", "Bearer first"}}));
  CHECK(accepts({{"authorization", "bearer  second key "}}));
  CHECK(accepts({{"X-API-Key", "first"}}));
  CHECK(accepts({{"X-API-Key", "wrong"}, {"Authorization", "Bearer first"}}));
  CHECK(!accepts({}));
  CHECK(!accepts({{"Authorization", "first"}}));
  CHECK(!accepts({{"Authorization", "Basic first"}}));
  CHECK(!accepts({{"Authorization", "Bearer "}}));
  CHECK(!accepts({{"Authorization", "Bearer firs"}}));
  CHECK(!accepts({{"Authorization", "Bearer first1"}}));
  CHECK(!accepts({{"x-api-key", ""}}));
  CHECK(ApiKeys({}).accept(HttpRequest{}));
}

TEST_CASE("serve reader: cut at every byte and not at all, the same requests") {
  const std::string stream =
      "\r\nPOST /a?q=%20 HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nX-Two:  2 \r\nContent-Length: 4\r\n\r\nbody"
      "POST /b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n1\r\n!\r\n0\r\nHost: "
      "t\r\n\r\n"
      "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
  for (size_t cut = 0; cut < stream.size(); ++cut) {
    RequestReader reader(ReaderLimits{});
    std::vector<HttpRequest> requests;
    std::vector<bool> keeps;
    const auto take = [&](RequestReader::State state) {
      for (;;) {
        if (state == RequestReader::State::decide) state = reader.accept_body(1000);
        if (state != RequestReader::State::whole) return;
        requests.push_back(reader.request());
        keeps.push_back(reader.keep_alive());
        state = reader.next();
      }
    };
    take(reader.add(stream.substr(0, cut)));
    take(reader.add(stream.substr(cut)));
    REQUIRE(requests.size() == 3);
    CHECK(requests[0].method == "POST");
    CHECK(requests[0].path == "/a");
    CHECK(requests[0].query == "q=%20");
    CHECK(requests[0].body == "body");
    CHECK(*requests[0].header("x-two") == "1");
    CHECK(requests[0].headers[2].second == "2");
    CHECK(requests[1].body == "hello!");
    CHECK(requests[1].headers.size() == 2);  // no trailer among them
    CHECK(requests[2].path == "/");
    CHECK(keeps == std::vector<bool>{true, true, false});
    CHECK(reader.state() == RequestReader::State::idle);
    CHECK(reader.waiting_bytes() == 0);
  }
}

TEST_CASE("serve answers: headers that would end a header early do not") {
  const std::string head = response_head({200, "text/plain", 3}, {{"x-a\r\nb:", "c\r\n\r\nd"}});
  CHECK(head.starts_with("HTTP/1.1 200 OK\r\nDate: "));
  CHECK(head.ends_with("Content-Length: 3\r\nx-ab: cd\r\n\r\n"));
  CHECK(http_date().size() == 29);
  std::string event;
  append_event(event, "a\r\rb\n", "n\nx");
  CHECK(event == "event: nx\ndata: a\ndata: \ndata: b\ndata: \n\n");
}

TEST_CASE("serve exchange: from any thread, once, and told when the client goes") {
  int wakes = 0, told = 0;
  const auto core = std::make_shared<ExchangeCore>(HttpRequest{}, error_response, 1000, [&] { ++wakes; });
  auto exchange = make_exchange(core);
  exchange->send_event("before the beginning");
  CHECK(wakes == 0);
  exchange->begin_events();
  exchange->begin_events();
  exchange->reply({});
  exchange->send_event("a");
  CHECK(wakes == 1);  // it is on its way already
  ExchangeCore::Output out = core->take();
  CHECK(!out.response);
  CHECK(out.events == "data: a\n\n");
  CHECK(!out.ended);
  exchange->on_closed([&] { ++told; });
  core->client_gone();
  core->client_gone();
  CHECK(told == 1);
  CHECK(exchange->is_closed());
  exchange->send_event("b");
  CHECK(!core->is_overflowed());
  const int woken = wakes;
  exchange->send_event(std::string(990, 'x'));  // with what is not sent yet more than may wait
  CHECK(core->is_overflowed());
  CHECK(wakes == woken + 1);  // although one is on its way: who waits for a write has seen it and done nothing
  core->close();
  const int before = wakes;
  exchange->end_events();
  exchange = nullptr;
  CHECK(wakes == before);
}
