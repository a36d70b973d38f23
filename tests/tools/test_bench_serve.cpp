#include "tools/bench/serve.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "support/test.h"
#include "tools/bench/serve_load.h"
#include "tools/bench/serve_plots.h"
#include "tools/common/statistics.h"
#include "tools/fake_endpoint.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::bench;
using namespace l4::test;
using l4::tools::mean;
using l4::tools::percentile;
using l4::tools::standard_deviation;

namespace {

ServeRecord record(double start, std::vector<double> pieces, double end, int64_t input, int64_t output) {
  return {start, end, std::move(pieces), input, output, ""};
}

// Three requests, times chosen so that sums are exact; one that failed.
std::vector<ServeRecord> three_and_a_failure() {
  std::vector<ServeRecord> r{
      record(1.0, {1.5, 1.75, 2.25, 2.75}, 3.0, 10, 4),  // ttft .5, itl .25 .5 .5, tpot 1.25 / 3, e2el 1.75
      record(1.5, {2.5, 3.5}, 3.5, 20, 5),               // ttft 1, itl 1, tpot 1 / 4 (pieces of several tokens), e2el 2
      record(3.0, {3.25}, 3.5, 30, 1),                   // ttft .25, neither itl nor tpot, e2el .25
      record(3.5, {3.75}, 5.0, 99, 99),
  };
  r[3].error = "broke";
  return r;
}

std::string chunk(const std::string& text, bool chat, bool last) {
  const Json delta(Json::Object{{"content", text}});
  Json choice(Json::Object{{"index", 0}, {"finish_reason", last ? Json("length") : Json()}});
  if (chat)
    choice.set("delta", delta);
  else
    choice.set("text", text);
  return dump_json(Json(Json::Object{{"choices", Json(Json::Array{choice})}, {"usage", Json()}}));
}

// An OpenAI server whose tokens are words: a word a chunk, as many as were asked for.
void openai(const FakeRequest& r, FakeConnection& c) {
  if (r.path == "/v1/models") return c.answer(200, R"({"data": [{"id": "fake"}]})");
  const Json body = parse_json(r.body, "request");
  const auto words = [](const std::string& text) { return int64_t(split(std::string(trim(text)), ' ').size()); };
  if (r.path == "/tokenize") {
    return c.answer(200, cat("{\"count\": ", words(body.find("prompt")->as_string()), ", \"tokens\": []}"));
  }
  const bool chat = r.path == "/v1/chat/completions";
  const std::string prompt =
      chat ? body.find("messages")->as_array()[0].find("content")->as_string() : body.find("prompt")->as_string();
  const int64_t n = body.find(chat ? "max_completion_tokens" : "max_tokens")->as_integer();
  c.begin_events();
  if (chat)
    c.event(R"({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]})");
  for (int64_t i = 0; i < n; ++i) c.event(chunk(" word", chat, i == n - 1));
  c.event(
      cat("{\"choices\": [], \"usage\": {\"prompt_tokens\": ", words(prompt), ", \"completion_tokens\": ", n, "}}"));
  c.event("[DONE]");
  c.end_events();
}

std::optional<std::vector<int64_t>> no_tokenizer(const std::vector<std::string>&) {
  return std::nullopt;
}

Result l4_bench(std::vector<std::string> words, std::vector<std::string> env = {}) {
  words.insert(words.begin(), "serve");
  RunOptions options;
  options.env = std::move(env);
  return run(tool("l4-bench", words), options);
}

double field(const Json& json, const char* name) {
  const Json* value = json.find(name);
  REQUIRE_MESSAGE(value, name);
  return value->as_number();
}

}  // namespace

TEST_CASE("bench serve: the numbers of three requests and a failure") {
  const ServeMetrics m = measure(three_and_a_failure(), parse_goodput({"ttft:500", "e2el:1750"}));
  CHECK(m.n_ok == 3);
  CHECK(m.n_failed == 1);
  CHECK(m.duration_s == 4);
  CHECK(m.input_tokens == 60);
  CHECK(m.output_tokens == 10);
  CHECK(m.requests_per_s == 0.75);
  CHECK(m.output_per_s == 2.5);
  CHECK(m.total_per_s == 17.5);
  CHECK(m.ttft_s == std::vector<double>{0.5, 1, 0.25});
  CHECK(m.tpot_s == std::vector<double>{1.25 / 3, 0.25});
  CHECK(m.itl_s == std::vector<double>{0.25, 0.5, 0.5, 1});
  CHECK(m.e2el_s == std::vector<double>{1.75, 2, 0.25});
  // Seconds from 1: [1, 2) has 2 tokens, [2, 3) 2 + 2.5, [3, 4) 2.5 + 1.
  CHECK(m.peak_output_per_s == 4.5);
  // Together: the first two until 3, the second and third from 3; the fourth begins where both end.
  CHECK(m.peak_concurrency == 2);
  CHECK(m.good_per_s == 0.5);  // the first, just, and the third
  CHECK(measure(three_and_a_failure(), parse_goodput({"tpot:250"})).good_per_s == 0.5);
  CHECK(!measure(three_and_a_failure()).good_per_s);
  CHECK(percentile(m.ttft_s, 0.9) == doctest::Approx(0.9));
}

TEST_CASE("bench serve: nothing, an answer without text, a run shorter than a second") {
  CHECK(measure({}).duration_s == 0);
  ServeMetrics m = measure({record(0, {}, 0.25, 5, 0)});
  CHECK(m.n_ok == 1);
  CHECK(m.ttft_s.empty());
  CHECK(m.e2el_s == std::vector<double>{0.25});
  m = measure({record(0, {0.125, 0.25, 0.375, 0.5}, 0.5, 5, 4)});
  CHECK(m.output_per_s == 8);
  CHECK(m.peak_output_per_s == 8);
}

TEST_CASE("bench serve: vLLM's block") {
  ServeBlock block;
  block.max_concurrency = 2;
  block.request_rate = 4;
  const std::string text = serve_block(measure(three_and_a_failure(), parse_goodput({"ttft:500"})), block);
  const auto line = [&](const std::string& label, const std::string& value) {
    const std::string whole = "\n" + (label + ":").append(size_t(40) - label.size() - 1, ' ') + " " + value + "\n";
    CHECK_MESSAGE(text.find(whole) != std::string::npos, label, " in\n", text);
  };
  CHECK(text.starts_with("============ Serving Benchmark Result ============\n"));
  CHECK(text.ends_with("\n==================================================\n"));
  line("Successful requests", "3");
  line("Failed requests", "1");
  line("Maximum request concurrency", "2");
  line("Request rate configured (RPS)", "4.00");
  line("Benchmark duration (s)", "4.00");
  line("Request throughput (req/s)", "0.75");
  line("Request goodput (req/s)", "0.50");
  line("Output token throughput (tok/s)", "2.50");
  line("Peak output token throughput (tok/s)", "4.50");
  line("Peak concurrent requests", "2");
  line("Total token throughput (tok/s)", "17.50");
  CHECK(text.find("\n---------------Time to First Token----------------\n") != std::string::npos);
  CHECK(text.find("\n-----Time per Output Token (excl. 1st token)------\n") != std::string::npos);
  CHECK(text.find("\n---------------Inter-token Latency----------------\n") != std::string::npos);
  CHECK(text.find("\n----------------End-to-end Latency----------------\n") != std::string::npos);
  line("Mean TTFT (ms)", "583.33");
  line("Median TTFT (ms)", "500.00");
  line("P90 TTFT (ms)", "900.00");
  line("P99 ITL (ms)", "985.00");  // .5 + .97 * .5 s between the third and fourth of four
  line("Mean E2EL (ms)", "1333.33");
  line("Mean TPOT (ms)", "333.33");
  block.latencies = {Latency::itl};
  block.percentiles = {50, 99.5};
  const std::string itl = serve_block(measure(three_and_a_failure()), block);
  CHECK(itl.find("TTFT") == std::string::npos);
  CHECK(itl.find("P99.5 ITL (ms):") != std::string::npos);
  CHECK(serve_block(measure({}), block).find("Mean ITL (ms):                           -\n") != std::string::npos);
}

TEST_CASE("bench serve: goodput and latencies as words") {
  CHECK(parse_goodput({"tpot:12.5"}).tpot_ms == 12.5);
  for (const char* wrong : {"ttft", "ttft:", "ttft:x", "ttft:0", "itl:5", "ttft:-1", "ttft:nan"})
    CHECK_MESSAGE(error_of([&] { parse_goodput({wrong}); }).starts_with("expected milliseconds like ttft:200"), wrong);
  CHECK(parse_latency("e2el") == Latency::e2el);
  CHECK(error_of([] { parse_latency("TTFT"); }) == "expected ttft, tpot, itl or e2el, found \"TTFT\"");
}

TEST_CASE("bench serve: arrivals") {
  CHECK(arrival_times(3, std::nullopt, 1, 0) == std::vector<double>{0, 0, 0});
  const int64_t n = 20'000;
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const std::vector<double> due = arrival_times(n, 50, burstiness, 7);
    CHECK(due.back() == doctest::Approx(400));
    CHECK(std::is_sorted(due.begin(), due.end()));
    std::vector<double> gaps;
    for (size_t i = 1; i < due.size(); ++i) gaps.push_back(due[i] - due[i - 1]);
    // Of a Gamma distribution's gaps the deviation is the mean over sqrt(shape).
    CHECK(standard_deviation(gaps) / mean(gaps) == doctest::Approx(1 / std::sqrt(burstiness)).epsilon(0.05));
  }
  CHECK(arrival_times(5, 2, 1, 1) == arrival_times(5, 2, 1, 1));
  CHECK(arrival_times(5, 2, 1, 1) != arrival_times(5, 2, 1, 2));
}

TEST_CASE("bench serve: one answer's chunks") {
  const auto read = [](const std::vector<std::string>& chunks, const std::string& problem = "") {
    ServeRecord r;
    AnswerReader reader(r);
    double at = 0;
    for (const std::string& c : chunks) reader.take(c, at += 1);
    reader.end(at + 1, problem);
    return r;
  };
  ServeRecord r = read({R"({"choices": [{"delta": {"role": "assistant", "content": ""}}]})",
                        R"({"choices": [{"delta": {"content": "a"}, "finish_reason": null}], "usage": null})",
                        R"({"choices": [{"delta": {"reasoning_content": "b"}}]})",
                        R"({"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]})",
                        R"({"choices": [{"delta": {}, "finish_reason": "stop"}]})",
                        R"({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})", "[DONE]"});
  CHECK(r.pieces_s == std::vector<double>{2, 3, 4});
  CHECK(r.input_tokens == 7);
  CHECK(r.output_tokens == 9);
  CHECK(r.end_s == 8);
  CHECK(r.error == "");
  r = read({R"({"choices": [{"text": "a"}]})", R"({"choices": [{"text": ""}]})", "[DONE]"});
  CHECK(r.output_tokens == 1);  // nobody counted
  CHECK(r.error == "");
  CHECK(read({R"({"choices": [{"text": "a"}]})"}).error == "the stream ended without a finish_reason or [DONE]");
  CHECK(read({R"({"error": {"message": "out of pages", "code": "x"}})", "[DONE]"}).error ==
        "error in the stream: \"out of pages\"");
  CHECK(read({"{"}).error.starts_with("a chunk of the answer: not valid JSON"));
  CHECK(read({R"([1])", "[DONE]"}).error == "");
  CHECK(read({R"({"choices": [1, {"delta": 2}], "usage": {"prompt_tokens": "x"}})", "[DONE]"}).error == "");
  CHECK(read({R"({"choices": [{"text": "a"}]})"}, "broke").error == "broke");
}

TEST_CASE("bench serve: random prompts have the lengths that were asked for") {
  // A tokenizer that has two tokens for words of more than four letters.
  const auto tokens_of = [](const std::string& text) {
    int64_t n = 0;
    for (const std::string& word : split(text, ' ')) n += word.size() > 4 ? 2 : 1;
    return n;
  };
  const CountTokens count = [&](const std::vector<std::string>& texts) {
    std::vector<int64_t> out;
    for (const std::string& text : texts) out.push_back(tokens_of(text));
    return std::optional(out);
  };
  RandomOptions o;
  o.input_len = 100, o.output_len = 10;
  Dataset data = random_dataset(50, o, 1, count);
  CHECK(data.note == "");
  std::set<std::string> texts;
  for (const ServePrompt& p : data.prompts) {
    CHECK(tokens_of(p.input.as_string()) == 100);
    CHECK(p.output_tokens == 10);
    texts.insert(p.input.as_string());
  }
  CHECK(texts.size() == 50);
  CHECK(random_dataset(50, o, 1, count).prompts[49].input == data.prompts[49].input);
  CHECK(random_dataset(50, o, 2, count).prompts[49].input != data.prompts[49].input);

  o.range_ratio = 0.5;
  o.prefix_len = 30;
  data = random_dataset(200, o, 1, count);
  int64_t least = 1000, most = 0, least_out = 1000, most_out = 0;
  const std::string first = data.prompts[0].input.as_string();
  for (const ServePrompt& p : data.prompts) {
    const std::string& text = p.input.as_string();
    least = std::min(least, tokens_of(text)), most = std::max(most, tokens_of(text));
    least_out = std::min(least_out, p.output_tokens), most_out = std::max(most_out, p.output_tokens);
    CHECK(text.substr(0, 60) == first.substr(0, 60));  // 30 tokens are at least that many letters
  }
  CHECK(least >= 80);
  CHECK(least < 85);
  CHECK(most <= 180);
  CHECK(most > 175);
  CHECK(least_out == 5);
  CHECK(most_out == 15);

  o = {};
  o.input_len = 7;
  data = random_dataset(1, o, 1, no_tokenizer);
  CHECK(split(data.prompts[0].input.as_string(), ' ').size() == 7);
  CHECK(data.note == "the endpoint has no /tokenize: lengths of prompts are in words, about a token each");
}

TEST_CASE("bench serve: prompts of a file") {
  const TempDir dir;
  const fs::path file = dir / "p.jsonl";
  write_file_atomic(file,
                    "{\"prompt\": \"one\"}\n\n{\"messages\": [{\"role\": \"user\"}], \"output_tokens\": "
                    "3}\n{\"prompt\": \"two\", \"max_tokens\": 4}\n");
  Dataset data = jsonl_dataset(file, 3, 99, 0);
  CHECK(data.note == "");
  std::set<std::string> seen;
  for (const ServePrompt& p : data.prompts) seen.insert(cat(dump_json(p.input), p.output_tokens));
  CHECK(seen == std::set<std::string>{"\"one\"99", "[{\"role\": \"user\"}]3", "\"two\"4"});
  data = jsonl_dataset(file, 5, 99, 0);
  CHECK(data.note == "the data set has 3 prompts: they are asked again and again");
  CHECK(data.prompts[3].input == data.prompts[0].input);
  for (const auto& [line, error] :
       {std::pair{"{\"text\": 1}", ": line 1: expected a \"prompt\" (text) or \"messages\" (a list)"},
        std::pair{"{\"prompt\": \"a\", \"output_tokens\": 0}",
                  ": line 1: expected a number above 0 as \"output_tokens\""},
        std::pair{"\n", ": no prompts in it"}}) {
    write_file_atomic(file, line);
    CHECK(error_of([&] { jsonl_dataset(file, 1, 1, 0); }) == file.string() + error);
  }
}

TEST_CASE("bench serve: ShareGPT's conversations, and which are left out") {
  const TempDir dir;
  const fs::path file = dir / "s.json";
  const auto conversation = [](int question, int answer) {
    const auto turn = [](const char* from, int letters) {
      return cat("{\"from\": \"", from, "\", \"value\": \"", std::string(size_t(letters), 'x'), "\"}");
    };
    return cat("{\"conversations\": [", turn("human", question), ", ", turn("gpt", answer), "]}");
  };
  // Letters are tokens here.
  const CountTokens letters = [](const std::vector<std::string>& texts) {
    std::vector<int64_t> out;
    for (const std::string& text : texts) out.push_back(int64_t(text.size()));
    return std::optional(out);
  };
  write_file_atomic(file, cat("[", conversation(3, 9), ",", conversation(9, 3), ",", conversation(1025, 9), ",",
                              conversation(1000, 1049), ",", conversation(1024, 1024), ",", conversation(4, 4),
                              ",{\"conversations\": []},{}]"));
  const auto lengths = [&](const Dataset& data) {
    std::multiset<std::string> out;
    for (const ServePrompt& p : data.prompts) out.insert(cat(p.input.as_string().size(), "+", p.output_tokens));
    return out;
  };
  CHECK(lengths(sharegpt_dataset(file, 2, std::nullopt, 0, letters)) == std::multiset<std::string>{"1024+1024", "4+4"});
  CHECK(lengths(sharegpt_dataset(file, 4, 7, 0, letters)) ==
        std::multiset<std::string>{"1000+7", "1024+7", "4+7", "9+7"});
  const Dataset guessed = sharegpt_dataset(file, 1, std::nullopt, 0, no_tokenizer);
  CHECK(guessed.note == "the endpoint has no /tokenize: four bytes of text count as a token");
  write_file_atomic(file, "[]");
  CHECK(error_of([&] { sharegpt_dataset(file, 1, std::nullopt, 0, letters); }).ends_with("of fitting lengths in it"));
  write_file_atomic(file, "{}");
  CHECK(error_of([&] {
          sharegpt_dataset(file, 1, std::nullopt, 0, letters);
        }).ends_with("expected a list of conversations"));
}

TEST_CASE("bench serve: a load keeps its concurrency and asks everything once, in order") {
  std::mutex mutex;
  std::vector<std::string> asked;
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    {
      const std::lock_guard lock(mutex);
      asked.push_back(r.body);
    }
    if (r.body == "13") return c.answer(429, R"({"error": {"message": "full"}})");
    if (r.body == "14") return c.answer(200, "{}");
    c.begin_events();
    for (int i = 0; i < 3; ++i) c.event(chunk("a", false, i == 2));
    c.end_events();
  });
  tools::HttpClientOptions options;
  options.base = tools::parse_url(server.url());
  tools::HttpClient client(options);
  Load load;
  load.path = "/x";
  for (int i = 0; i < 40; ++i) load.bodies.push_back(cat(i));
  load.due_s.assign(40, 0);
  load.max_concurrency = 4;
  int64_t last = 0;
  load.on_progress = [&](int64_t done) { CHECK(done == ++last); };
  const LoadResult result = run_load(client, load);
  CHECK(last == 40);
  CHECK(server.most_at_once() <= 4);
  CHECK(server.n_connections() <= 4);
  CHECK(measure(result.records).peak_concurrency == 4);
  std::set<std::string> bodies(asked.begin(), asked.end());
  CHECK(asked.size() == 40);
  CHECK(bodies.size() == 40);
  for (size_t i = 0; i < 40; ++i) {
    const ServeRecord& r = result.records[i];
    CHECK(r.error == (i == 13   ? "HTTP 429: \"full\""
                      : i == 14 ? "expected text/event-stream, found \"application/json\""
                                : ""));
    if (!r.error.empty()) continue;
    CHECK(r.output_tokens == 3);
    CHECK(r.start_s <= r.pieces_s.front());
    CHECK(r.pieces_s.back() <= r.end_s);
    if (i > 0) CHECK(r.start_s >= result.records[i - 1].start_s);
  }

  // By the clock: nothing is asked before it is due.
  load.due_s = arrival_times(40, 400, 1, 3);
  load.max_concurrency = 0;
  load.on_progress = nullptr;
  const LoadResult timed = run_load(client, load);
  for (size_t i = 0; i < 40; ++i) CHECK(timed.records[i].start_s >= load.due_s[i] - 1e-6);
}

TEST_CASE("bench serve: against an endpoint, from the command line") {
  std::mutex mutex;
  std::vector<Json> bodies;
  std::set<std::string> keys;
  FakeEndpoint server([&](const FakeRequest& r, FakeConnection& c) {
    {
      const std::lock_guard lock(mutex);
      if (r.path.ends_with("completions")) bodies.push_back(parse_json(r.body, "request"));
      keys.insert(r.headers.count("authorization") ? r.headers.at("authorization") : "none");
    }
    openai(r, c);
  });
  const TempDir dir;
  Result r = l4_bench({"--url",
                       server.url() + "/v1",
                       "--random-input-len",
                       "30",
                       "--random-output-len",
                       "5",
                       "--num-prompts",
                       "20",
                       "--max-concurrency",
                       "3",
                       "--ignore-eos",
                       "--api-key",
                       "secret",
                       "--goodput",
                       "ttft:10000",
                       "tpot:10000",
                       "--save-detailed",
                       "--result-filename",
                       dir / "r.json",
                       "--plot",
                       dir / "p.svg",
                       "--extra-body",
                       "{\"top_k\": 1}"});
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(r.err == "");
  CHECK(r.out.find("Successful requests:                     20\n") != std::string::npos);
  CHECK(r.out.find("Total input tokens:                      600\n") != std::string::npos);
  CHECK(r.out.find("Total generated tokens:                  100\n") != std::string::npos);
  CHECK(keys == std::set<std::string>{"Bearer secret"});
  CHECK(bodies.size() == 21);  // one before
  for (const Json& body : bodies) {
    CHECK(body.find("model")->as_string() == "fake");
    CHECK(body.find("ignore_eos")->as_bool());
    CHECK(body.find("top_k")->as_integer() == 1);
    CHECK(body.find("stream")->as_bool());
  }
  const Json saved = parse_json(read_file(dir / "r.json", 1 << 20), "r.json");
  CHECK(field(saved, "completed") == 20);
  CHECK(field(saved, "max_concurrent_requests") == 3);
  CHECK(field(saved, "request_goodput") == field(saved, "request_throughput"));
  CHECK(field(saved, "p99_e2el_ms") >= field(saved, "p90_e2el_ms"));
  CHECK(saved.find("piece_times")->as_array().size() == 20);
  CHECK(saved.find("piece_times")->as_array()[0].as_array().size() == 5);
  CHECK(read_file(dir / "p.svg", 1 << 20).starts_with("<svg "));

  // A sweep, chat, other prompts in each run, as JSON lines.
  bodies.clear();
  keys.clear();
  r = l4_bench(
      {"--url", server.url(), "--endpoint", "chat", "--random-input-len", "8", "--random-output-len", "2",
       "--num-prompts", "4,6", "--max-concurrency", "1,2", "--warmup", "0", "-o", "jsonl", "--plot", dir / "s.svg"},
      {"OPENAI_API_KEY=env"});
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(keys == std::set<std::string>{"Bearer env"});
  const std::vector<std::string> lines = split(std::string(trim(r.out)), '\n');
  REQUIRE(lines.size() == 2);
  CHECK(field(parse_json(lines[0], "line"), "completed") == 4);
  CHECK(field(parse_json(lines[1], "line"), "completed") == 6);
  CHECK(field(parse_json(lines[1], "line"), "max_concurrency") == 2);
  CHECK(bodies.size() == 10);
  std::set<std::string> prompts;
  for (const Json& body : bodies) {
    prompts.insert(dump_json(*body.find("messages")));
    CHECK(!body.find("ignore_eos"));
  }
  CHECK(prompts.size() == 10);
  CHECK(read_file(dir / "s.svg", 1 << 20).find("concurrent requests") != std::string::npos);
}

TEST_CASE("bench serve: what goes wrong is one line") {
  FakeEndpoint server([](const FakeRequest& r, FakeConnection& c) {
    if (r.path == "/v1/models") return c.answer(200, R"({"data": []})");
    if (r.path == "/tokenize") return c.answer(404, "{}");
    c.answer(401, R"({"error": {"message": "wrong key"}})");
  });
  const std::string url = server.url();
  const auto error = [&](const std::vector<std::string>& words, int status = 1) {
    return one_line_error(l4_bench(words), status);
  };
  CHECK(error({"--url", url}).find("no model in it; --model NAME says it") != std::string::npos);
  CHECK(error({"--url", url, "-m", "x"}) ==
        "l4-bench: error: the request before the measured ones failed: HTTP 401: \"wrong key\"\n");
  CHECK(error({"--url", "http://127.0.0.1:1"}).find("cannot connect: Connection refused; --model") !=
        std::string::npos);
  CHECK(error({"--url", "localhost"}, 2).find("--url: expected a URL like") != std::string::npos);
  CHECK(error({"--endpoint", "x"}, 2).find("--endpoint: expected chat or completions") != std::string::npos);
  CHECK(error({"--request-rate", "0"}, 2).find("--request-rate: expected requests a second") != std::string::npos);
  CHECK(error({"--dataset-name", "sharegpt"}, 2).find("--dataset-path: expected") != std::string::npos);
  CHECK(error({"--goodput", "x:1"}, 2).find("--goodput: expected milliseconds") != std::string::npos);
  CHECK(error({"--num-prompts", "1,2", "--max-concurrency", "1,2,3"}, 2).find("--num-prompts: expected one number") !=
        std::string::npos);
  CHECK(error({"--plot", "/nonexistent/p.svg", "-m", "x"}).find("/nonexistent/p.svg") != std::string::npos);
  // Without requests before: all fail, each reason once.
  const Result r = l4_bench({"--url", url, "-m", "x", "--warmup", "0", "--num-prompts", "3"});
  CHECK(r.status == 1);
  CHECK(r.out.find("Failed requests:                         3\n") != std::string::npos);
  CHECK(r.err.find("3 failed: HTTP 401: \"wrong key\"") != std::string::npos);
  CHECK(r.err.find("the endpoint has no /tokenize") != std::string::npos);
  CHECK(r.err.ends_with("l4-bench: error: every request failed\n"));
}

TEST_CASE("bench serve: plots show what was measured") {
  std::vector<ServeRecord> records;
  for (int i = 0; i < 100; ++i) {
    const double t = i * 0.125;
    records.push_back(record(t, {t + 0.25, t + 0.5}, t + 0.5, 1, 2));
  }
  const tools::Plot over_time = plot_over_time(records, "x");
  REQUIRE(over_time.panels.size() == 4);
  double tokens = 0;
  for (const auto& [x, y] : over_time.panels[0].series[0].points) tokens += y;
  // All 200 tokens, in steps of about half a second; the last piece may fall beyond the last step.
  const size_t n = over_time.panels[0].series[0].points.size();
  CHECK(tokens * (12.875 / double(n)) == doctest::Approx(199).epsilon(0.01));
  for (const auto& [x, y] : over_time.panels[1].series[0].points)
    if (x > 0.5 && x < 12.25) CHECK((y == 4 || y == 5));  // a start every 1/8 s, each runs for half a second
  for (const tools::PlotSeries& s : over_time.panels[2].series)
    for (const auto& [x, y] : s.points) CHECK(y == doctest::Approx(250));
  CHECK(over_time.panels[2].series[3].points.size() == 100);
  for (const tools::PlotSeries& s : over_time.panels[3].series)
    for (const auto& [x, y] : s.points) CHECK(y == doctest::Approx(250));
  CHECK(plot_over_time({}, "x").panels.empty());

  const tools::Plot sweep =
      plot_over_concurrency({{1, measure({record(0, {1, 2}, 2, 1, 2)})}, {4, measure(records)}}, "x");
  REQUIRE(sweep.panels.size() == 4);
  CHECK(sweep.panels[0].series[0].points[0] == std::pair<double, double>(1, 1));
  CHECK(sweep.panels[1].series[2].points[1].second == doctest::Approx(250));
}
