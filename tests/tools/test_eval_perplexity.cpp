// Perplexity: windows, sums, documents, and the whole command against logits and an endpoint.
#include <cmath>
#include <fstream>
#include <numeric>

#include "formats/npy.h"
#include "tools/eval/perplexity.h"
#include "tools/fake_endpoint.h"
#include "tools/python.h"
#include "tools/run_tool.h"
#include "tools/serve_process.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

using Ids = std::vector<int32_t>;

std::vector<Window> windows_of(const Ids& ids, int64_t window, int64_t stride, size_t piece) {
  std::vector<Window> out;
  RollingWindows rolling(-1, window, stride);
  const auto emit = [&](Window w) { out.push_back(std::move(w)); };
  for (size_t at = 0; at < ids.size(); at += piece)
    rolling.add(std::span(ids).subspan(at, std::min(piece, ids.size() - at)), emit);
  rolling.finish(emit);
  return out;
}

Ids count_up(size_t n) {
  Ids ids(n);
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::string write_file(const TempDir& dir, const std::string& name, const std::string& bytes) {
  const std::string path = (dir / name).string();
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

std::vector<std::string> texts_of(const TextDocumentsOptions& options) {
  std::vector<std::string> out;
  TextDocuments documents(options);
  while (const std::optional<TextDocument> document = documents.next()) out.push_back(document->text);
  return out;
}

Result perplexity(std::vector<std::string> words) {
  words.insert(words.begin(), "perplexity");
  return run(tool("l4-eval", words), {.timeout_s = 120});
}

const Json& at(const Json& json, std::initializer_list<const char*> path) {
  const Json* here = &json;
  for (const char* name : path) {
    here = here->find(name);
    REQUIRE_MESSAGE(here, name);
  }
  return *here;
}

double value_of(const Json& results, const char* name) {
  return at(results, {"results", "perplexity", name}).as_number();
}

// Sentences of the kind that the demo model knows, so that probabilities are not all alike.
std::string demo_text(int n) {
  std::string text;
  for (int i = 0; i < n; ++i)
    text += cat("What is ", i, " + 4? ", i, " + 4 = ", i + 4, ".\nThe chair is near the river. ");
  return text;
}

// By `l4-eval logits` on one window.
double nll_of(const Window& window, const TempDir& dir) {
  std::string ids;
  for (const int32_t id : window.ids) ids += cat(ids.empty() ? "" : ",", id);
  const std::string out = (dir / "logits.npy").string();
  const Result r = run(tool("l4-eval", {"logits", "-m", demo_model(), "--dtype", "float32", "--ids", ids, "-o", out}));
  REQUIRE_MESSAGE(r.status == 0, r.err);
  const NpyMatrix m = read_npy(out);
  double nll = 0;
  for (size_t i = window.ids.size() - size_t(window.n_scored); i < window.ids.size(); ++i) {
    const std::span<const float> row = std::span(m.values).subspan((i - 1) * size_t(m.cols), size_t(m.cols));
    double sum = 0;
    for (const float z : row) sum += std::exp(double(z));
    nll += std::log(sum) - double(row[size_t(window.ids[i])]);
  }
  return nll;
}

}  // namespace

TEST_CASE("perplexity: every token is scored once, with the context that there is") {
  for (const size_t n : {1u, 2u, 3u, 7u, 8u, 9u, 15u, 16u, 17u, 100u})
    for (const auto& [window, stride] : {std::pair{1, 1}, {4, 1}, {4, 3}, {4, 4}, {8, 5}, {200, 7}})
      for (const size_t piece : {1u, 3u, 1000u}) {
        CAPTURE(n);
        CAPTURE(window);
        CAPTURE(stride);
        Ids scored;
        bool first = true;
        for (const Window& w : windows_of(count_up(n), window, stride, piece)) {
          REQUIRE(w.n_scored >= 1);
          REQUIRE(w.n_scored < int64_t(w.ids.size()));
          CHECK(w.ids[0] == (first ? -1 : w.ids[1] - 1));
          for (size_t i = 2; i < w.ids.size(); ++i) CHECK(w.ids[i] == w.ids[i - 1] + 1);  // of the text, without gaps
          if (first)
            CHECK(int64_t(w.ids.size()) == w.n_scored + 1);
          else
            CHECK(int64_t(w.ids.size()) == window + 1);
          CHECK(w.n_scored <= (first ? window : stride));
          scored.insert(scored.end(), w.ids.end() - w.n_scored, w.ids.end());
          first = false;
        }
        CHECK(scored == count_up(n));
      }
  CHECK(windows_of({}, 4, 4, 1).empty());
}

TEST_CASE("perplexity: windows are lm-eval's own") {
  const std::string python = python_with("lm_eval");
  const std::string code =
      "import json\n"
      "from lm_eval.utils import get_rolling_token_windows as rolling, make_disjoint_window as disjoint\n"
      "for n, w, s in [(1, 4, 4), (4, 4, 4), (5, 4, 4), (23, 4, 4), (23, 8, 3), (100, 16, 16), (100, 16, 1)]:\n"
      "  print(json.dumps([[n, w, s]] + [[c + t, [len(t)]] for c, t in\n"
      "    map(disjoint, rolling(list(range(n)), -1, w, w - s + 1))]))\n";
  const Result r = run({python, "-c", code}, {.timeout_s = 120});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  int lines = 0;
  for (const std::string& line : split(r.out, '\n')) {
    if (line.empty()) continue;
    CAPTURE(line);
    ++lines;
    const Json json = parse_json(line, "lm-eval");
    const Json::Array& list = json.as_array();
    const auto number = [&](size_t i) { return list[0].as_array()[i].as_integer(); };
    const std::vector<Window> ours = windows_of(count_up(size_t(number(0))), number(1), number(2), 5);
    REQUIRE(ours.size() == list.size() - 1);
    for (size_t i = 0; i < ours.size(); ++i) {
      Ids theirs;
      for (const Json& id : list[i + 1].as_array()[0].as_array()) theirs.push_back(int32_t(id.as_integer()));
      CHECK(ours[i].ids == theirs);
      CHECK(ours[i].n_scored == list[i + 1].as_array()[1].as_array()[0].as_integer());
    }
  }
  CHECK(lines == 7);
}

TEST_CASE("perplexity: sums and their errors") {
  RollingScore one;
  for (const double p : {0.5, 0.25, 0.5, 0.25}) one.add_token(std::log(p));
  one.end_document(3, 8);
  CHECK(one.token_perplexity().value == doctest::Approx(std::sqrt(8.0)));
  CHECK(one.word_perplexity().value == doctest::Approx(4));
  CHECK(one.byte_perplexity().value == doctest::Approx(std::pow(64, 1.0 / 8)));
  CHECK(one.bits_per_byte().value == doctest::Approx(6.0 / 8));
  CHECK(one.loglikelihood() == doctest::Approx(-std::log(64)));
  CHECK(!one.errors_are_over_documents());
  // Nats per token: 1.5 log 2 +- sqrt(sum of squared differences / (n (n - 1))), each difference half a log 2.
  const double error = std::log(2) / 2 * std::sqrt(4.0 / (4 * 3));
  CHECK(*one.token_perplexity().error == doctest::Approx(error * std::sqrt(8.0)));
  CHECK(*one.bits_per_byte().error == doctest::Approx(error * 4 / 8 / std::log(2)));

  // Two documents whose rates per byte are 1 and 3: the residuals around 2 are -10 and 10.
  RollingScore two;
  two.add_token(-10);
  two.end_document(1, 10);
  two.add_token(-30);
  two.end_document(1, 10);
  CHECK(two.errors_are_over_documents());
  CHECK(two.byte_perplexity().value == doctest::Approx(std::exp(2)));
  CHECK(*two.bits_per_byte().error == doctest::Approx(std::sqrt(200.0 * 2) / 20 / std::log(2)));
  // Rates that are all the same have no error, however unlike the documents' lengths are.
  RollingScore same;
  for (const int n : {1, 5, 20}) {
    for (int i = 0; i < n; ++i) same.add_token(-2);
    same.end_document(n, n);
  }
  CHECK(*same.token_perplexity().error == doctest::Approx(0).epsilon(1e-6));
  RollingScore single;
  single.add_token(-1);
  single.end_document(1, 1);
  CHECK(!single.token_perplexity().error);
}

TEST_CASE("perplexity: words are what Python's re.split leaves") {
  CHECK(count_words("one") == 1);
  CHECK(count_words("one two\n\nthree") == 3);
  CHECK(count_words(" one ") == 3);
  CHECK(count_words("") == 1);
  CHECK(count_words("a\u00a0b\u3000c\u2028d\x1f"
                    "e") == 5);
  CHECK(count_words("a\u200bb") == 1);  // no white space
}

TEST_CASE("perplexity: documents") {
  TempDir dir;
  const std::string lines = write_file(
      dir, "d.jsonl", "{\"text\": \"one\", \"page\": \" = A @-@ B = \\n\"}\r\n\n{\"text\": \"tw\\u00f6\"}\n");
  CHECK(texts_of({.text = {}, .jsonl = lines}) == std::vector<std::string>{"one", "tw\u00f6"});
  const std::string text = write_file(dir, "t.txt", "{\"text\": 1}\n\n");
  CHECK(texts_of({.text = text, .jsonl = {}}) == std::vector<std::string>{"{\"text\": 1}\n\n"});
  TextDocuments wiki({.text = {}, .jsonl = lines, .field = "page", .wikitext = true});
  const TextDocument first = *wiki.next();
  CHECK(first.text == " = A-B =\n");
  CHECK(first.counted == " = A @-@ B = \n");

  const auto error = [&](const std::string& bytes, bool jsonl = true) {
    const std::string path = write_file(dir, "bad", bytes);
    return error_of([&] { texts_of({.text = jsonl ? "" : path, .jsonl = jsonl ? path : ""}); });
  };
  CHECK(error("").find("bad: expected documents, found none") != std::string::npos);
  CHECK(error("\n\n").find("bad: expected documents, found none") != std::string::npos);
  CHECK(error("{\"text\": \"a\"}\n{\"text\"\n").find("bad: line 2: not valid JSON") != std::string::npos);
  CHECK(error("{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").find("bad: line 2: expected a text in \"text\"") !=
        std::string::npos);
  CHECK(error("{\"text\": 7}").find("bad: line 1: expected a text") != std::string::npos);
  CHECK(error("[]").find("bad: line 1: expected a text") != std::string::npos);
  CHECK(error("{\"text\": \"\"}").find("bad: line 1: expected text, found none") != std::string::npos);
  CHECK(error("{\"text\": \"\xff\"}").find("bad: line 1: ") != std::string::npos);
  CHECK(error("", false).find("bad: expected text, found none") != std::string::npos);
  CHECK(error("fine\n\xc3(", false).find("bad: not UTF-8 text") != std::string::npos);
  CHECK(error_of([] { TextDocuments d({.text = "/no/such.txt", .jsonl = {}}); }).find("/no/such.txt") !=
        std::string::npos);
  CHECK(error_of([&] { TextDocuments d({.text = dir.path(), .jsonl = {}}); }).find("a folder") != std::string::npos);
}

TEST_CASE("perplexity: WikiText's marks go as in lm-eval") {
  const std::string python = python_with("lm_eval");
  const std::vector<std::string> texts{
      " = Robert <unk> = \n \n It was a two @-@ year run of 1 @,@ 234 shows , rated 7 @.@ 5 . \n",
      "the boys ' and dogs 's ( a ( nested ) one ) [ x ] { y } \" q \" ' s ' 90 \u00b0 N N N = = H = = = = = = T = = = "
      "=",
      "open ( never closed \" odd ' = = =",
      "a ; b : c ! d ? e . f , g",
      "( \u00a0 ) [ \n ] \"  \" /' 5/ /' 7/ s ' s '",
      "' ' ' ' ( ( ( ) ) )",
      "\n \n  \n",
      "N",
      "\u00e9 \u00b0 \u4e16 N \u754c , ."};
  Json list{Json::Array{}};
  for (const std::string& text : texts) list.push_back(text);
  TempDir dir;
  const std::string file = write_file(dir, "texts.json", dump_json(list));
  const std::string code =
      "import json, sys\n"
      "from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer as d\n"
      "print(json.dumps([d({'page': t}) for t in json.load(open(sys.argv[1]))]))\n";
  const Result r = run({python, "-c", code, file}, {.timeout_s = 120});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  const Json theirs = parse_json(r.out, "lm-eval");
  REQUIRE(theirs.as_array().size() == texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    CAPTURE(texts[i]);
    CHECK(wikitext_detokenized(texts[i]) == theirs.as_array()[i].as_string());
  }
}

TEST_CASE("l4-eval perplexity: the demo model's is what its logits say") {
  TempDir dir;
  const std::string a = demo_text(20), b = demo_text(3);
  Json line(Json::Object{{"text", a}}), other(Json::Object{{"text", b}});
  const std::string file = write_file(dir, "d.jsonl", dump_json(line) + "\n" + dump_json(other) + "\n");
  const std::string out = (dir / "p.json").string();
  const Result r = perplexity(
      {"-m", demo_model(), "--jsonl", file, "--window", "200", "--stride", "120", "--dtype", "float32", "-o", out});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.out.find("2 documents") != std::string::npos);
  CHECK(r.out.find("token perplexity") != std::string::npos);
  const Json results = parse_json(read_file(out, 1 << 20), out);

  const auto tokenizer = Tokenizer::load(demo_model());
  RollingWindows rolling(*tokenizer->bos_id(), 200, 120);
  double nll = 0;
  int64_t n_tokens = 0;
  for (const std::string& text : {a, b}) {
    const Ids ids = tokenizer->encode(text);
    n_tokens += int64_t(ids.size());
    const auto emit = [&](Window window) { nll += nll_of(window, dir); };
    rolling.add(ids, emit);
    rolling.finish(emit);
  }
  const double bytes = double(a.size() + b.size()), words = double(count_words(a) + count_words(b));
  CHECK(at(results, {"l4", "tokens"}).as_integer() == n_tokens);
  CHECK(at(results, {"l4", "windows"}).as_integer() > 4);
  CHECK(value_of(results, "token_perplexity,none") == doctest::Approx(std::exp(nll / double(n_tokens))).epsilon(1e-5));
  CHECK(value_of(results, "word_perplexity,none") == doctest::Approx(std::exp(nll / words)).epsilon(1e-4));
  CHECK(value_of(results, "byte_perplexity,none") == doctest::Approx(std::exp(nll / bytes)).epsilon(1e-5));
  CHECK(value_of(results, "bits_per_byte,none") == doctest::Approx(nll / bytes / std::log(2)).epsilon(1e-5));
  CHECK(value_of(results, "bits_per_byte_stderr,none") > 0);

  // Again: the same digits. Through an endpoint: the same, with what the server's JSON keeps.
  const std::string again = (dir / "again.json").string();
  CHECK(perplexity({"-m", demo_model(), "--jsonl", file, "--window", "200", "--stride", "120", "--dtype", "float32",
                    "-o", again})
            .status == 0);
  CHECK(read_file(again, 1 << 20) == read_file(out, 1 << 20));
  const ServeProcess server({"--dtype", "float32"});
  const std::string served = (dir / "served.json").string();
  const Result s = perplexity({"--url", server.url(), "--jsonl", file, "--window", "200", "--stride", "120",
                               "--concurrency", "3", "-o", served});
  REQUIRE_MESSAGE(s.status == 0, s.err);
  const Json theirs = parse_json(read_file(served, 1 << 20), served);
  CHECK(at(theirs, {"l4", "loglikelihood"}).as_number() ==
        doctest::Approx(at(results, {"l4", "loglikelihood"}).as_number()).epsilon(1e-6));
  CHECK(at(theirs, {"l4", "tokens"}).as_integer() == n_tokens);
  CHECK(one_line_error(perplexity({"--url", server.url(), "--jsonl", file, "--window", "1M"}), 2).find("--window") !=
        std::string::npos);
}

TEST_CASE("l4-eval perplexity: endpoints that cannot say") {
  TempDir dir;
  const std::string text = write_file(dir, "t.txt", "some text");
  std::string completion, tokens = R"({"tokens": [5, 6, 7], "count": 3})";
  int tokenize_status = 200;
  FakeEndpoint endpoint([&](const FakeRequest& request, FakeConnection& connection) {
    if (request.path == "/v1/models") return connection.answer(200, R"({"data": [{"id": "m"}]})");
    if (request.path == "/tokenize") {
      const bool special = request.body.find("\"add_special_tokens\": true") != std::string::npos;
      return connection.answer(tokenize_status, special ? R"({"tokens": [1, 5, 6, 7]})" : tokens);
    }
    connection.answer(200, completion);
  });
  const auto ask = [&] { return perplexity({"--url", endpoint.url(), "--text", text}); };
  const auto answer = [](const std::string& values) {
    return R"({"choices": [{"logprobs": {"token_logprobs": )" + values + "}}]}";
  };
  completion = answer("[null, -1, -2, -3, -0.5]");  // the last one is the endpoint's own token
  const Result good = ask();
  CHECK_MESSAGE(good.status == 0, good.err);
  CHECK(good.out.find("token perplexity  7.3891") != std::string::npos);
  completion = answer("[null, -1, -2, -3]");
  CHECK(ask().status == 0);
  const auto refused = [&](const std::string& body, const std::string& part, int status = 1) {
    completion = body;
    const std::string line = one_line_error(ask(), status);
    CHECK_MESSAGE(line.find(part) != std::string::npos, line);
  };
  refused(answer("[null, -1, null, -3]"), "token_logprobs[2]: expected a number, found null");
  refused(answer("[null, -1, -2]"), "expected log-probabilities of 4 tokens, found 3");
  refused(R"({"choices": [{"text": "x", "logprobs": null}]})", "does not echo prompts");
  refused(R"({"choices": []})", "does not echo prompts");
  refused("no JSON", "not valid JSON");
  tokens = R"({"tokens": [5]})";
  refused(answer("[]"), "--prefix-id");
  tokens = R"({"tokens": ["a"]})";
  refused(answer("[]"), "expected token ids");
  tokens = "{}";
  refused(answer("[]"), "no tokens in the answer");
  tokenize_status = 404;
  refused(answer("[]"), "a perplexity needs the endpoint's tokens");
  CHECK(one_line_error(perplexity({"--url", "http://127.0.0.1:1", "--text", text}), 1).find("127.0.0.1") !=
        std::string::npos);
}

TEST_CASE("l4-eval perplexity: what is wrong is said before weights are read") {
  TempDir model;  // without weights
  for (const auto& entry : std::filesystem::directory_iterator(demo_model()))
    if (entry.path().extension() != ".safetensors")
      std::filesystem::copy(entry.path(), model.path() / entry.path().filename());
  TempDir dir;
  const std::string text = write_file(dir, "t.txt", "some text"), empty = write_file(dir, "e.txt", "");
  const auto error = [&](std::vector<std::string> words, int status) {
    return one_line_error(perplexity(std::vector<std::string>{"-m", model.path().string()} + words), status);
  };
  CHECK(error({"--text", text}, 1).find("safetensors") != std::string::npos);  // all else is well
  CHECK(error({"--text", empty}, 1).find("e.txt: expected text, found none") != std::string::npos);
  CHECK(error({"--text", text, "--jsonl", text}, 2).find("found both") != std::string::npos);
  CHECK(error({}, 2).find("either --text or --jsonl") != std::string::npos);
  CHECK(error({"--text", text, "--field", "page"}, 2).find("--field") != std::string::npos);
  CHECK(error({"--text", text, "--window", "64K"}, 2).find("context of 32768") != std::string::npos);
  CHECK(error({"--text", text, "--window", "4K", "-c", "4K"}, 2).find("context of 4096") != std::string::npos);
  CHECK(error({"--text", text, "--window", "8", "--stride", "9"}, 2).find("--stride") != std::string::npos);
  CHECK(error({"--text", text, "--window", "0"}, 2).find("--window") != std::string::npos);
  CHECK(error({"--text", text, "--prefix-id", "99999"}, 2).find("--prefix-id") != std::string::npos);
  CHECK(error({"--text", text, "-o", "/no/such/folder/x.json"}, 1).find("/no/such/folder") != std::string::npos);
  CHECK(error({"--jsonl", text}, 1).find("t.txt: line 1: not valid JSON") != std::string::npos);
  // Its tokens are counted by the one who is asked.
  const std::string short_text = write_file(dir, "s.txt", "a");
  CHECK(one_line_error(perplexity({"-m", demo_model(), "--text", short_text}), 1)
            .find("s.txt: expected at least 2 tokens, found 1") != std::string::npos);
  CHECK(perplexity({"--help"}).status == 0);
}
