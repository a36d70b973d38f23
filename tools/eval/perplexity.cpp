#include "tools/eval/perplexity.h"

#include <cmath>
#include <cstdio>
#include <deque>
#include <map>

#include "base/error.h"
#include "formats/json.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/commands.h"
#include "tools/eval/logits.h"

namespace l4::eval {

namespace {

// Documents, cut into windows as the scorer has room for them. What comes back is added up in the windows' order, so
// that two runs give the same digits.
class Measurement {
 public:
  Measurement(const PerplexityOptions& options, WindowScorer& scorer)
      : scorer_(scorer),
        documents_(options.documents),
        windows_(options.prefix_id ? *options.prefix_id : scorer.prefix_id(), options.window,
                 options.stride > 0 ? options.stride : options.window) {}

  PerplexityRun run() {
    scorer_.score([this] { return next(); },
                  [this](int64_t index, std::vector<float> logprobs) { take(index, std::move(logprobs)); });
    L4_CHECK(early_.empty() && ends_.empty());
    return run_;
  }

 private:
  struct End {  // of a document, behind that many windows
    int64_t n_windows = 0, n_words = 0, n_bytes = 0;
    std::string place;
  };

  std::optional<Window> next() {
    while (ready_.empty())
      if (!read_document()) return std::nullopt;
    Window window = std::move(ready_.front());
    ready_.pop_front();
    return window;
  }

  bool read_document() {
    const std::optional<TextDocument> document = documents_.next();
    if (!document) return false;
    const std::vector<int32_t> ids = scorer_.encode(document->text);
    if (ids.size() < 2) fail_input(document->place, ": expected at least 2 tokens, found ", ids.size());
    const auto emit = [this](Window window) {
      ready_.push_back(std::move(window));
      ++n_made_;
    };
    windows_.add(ids, emit);
    windows_.finish(emit);
    ends_.push_back({n_made_, count_words(document->counted), int64_t(document->counted.size()), document->place});
    return true;
  }

  void take(int64_t index, std::vector<float> logprobs) {
    early_.emplace(index, std::move(logprobs));
    for (auto first = early_.begin(); first != early_.end() && first->first == run_.n_windows; first = early_.begin()) {
      for (const float logprob : first->second) {
        if (!std::isfinite(logprob))
          fail_input(ends_.front().place, ": a token has probability 0: the perplexity is infinite");
        run_.score.add_token(logprob);
      }
      early_.erase(first);
      ++run_.n_windows;
      if (run_.n_windows < ends_.front().n_windows) continue;
      run_.score.end_document(ends_.front().n_words, ends_.front().n_bytes);
      ends_.pop_front();
    }
    progress_.bytes("scoring", documents_.bytes_read() * uint64_t(run_.n_windows) / uint64_t(n_made_),
                    documents_.bytes_total());
  }

  WindowScorer& scorer_;
  TextDocuments documents_;
  RollingWindows windows_;
  std::deque<Window> ready_;
  int64_t n_made_ = 0;
  std::deque<End> ends_;
  std::map<int64_t, std::vector<float>> early_;
  PerplexityRun run_;
  tools::ProgressLine progress_;
};

struct Row {
  const char* name;  // lm-eval's, but for the tokens'
  Estimate estimate;
};
std::vector<Row> rows_of(const RollingScore& score) {
  return {{"word_perplexity", score.word_perplexity()},
          {"byte_perplexity", score.byte_perplexity()},
          {"bits_per_byte", score.bits_per_byte()},
          {"token_perplexity", score.token_perplexity()}};
}

std::string digits(double value) {
  char text[40];
  std::snprintf(text, sizeof text, value < 1e6 ? "%.4f" : "%.4e", value);
  return text;
}

std::string count(int64_t n) {
  return human_count(uint64_t(n));
}

int64_t stride_of(const PerplexityOptions& o) {
  return o.stride > 0 ? o.stride : o.window;
}

std::string table(const PerplexityOptions& o, const WindowScorer& scorer, const PerplexityRun& run) {
  const RollingScore& s = run.score;
  std::string out = cat(scorer.model(), ", ", scorer.device(), "\n", count(s.n_documents()),
                        s.n_documents() == 1 ? " document, " : " documents, ", count(s.n_tokens()), " tokens, ",
                        count(s.n_words()), " words, ", count(s.n_bytes()), " bytes; ", count(run.n_windows),
                        " windows of ", count(o.window), " tokens, stride ", count(stride_of(o)), "\n\n");
  for (const Row& row : rows_of(s)) {
    std::string name = row.name;
    for (char& c : name)
      if (c == '_') c = ' ';
    name.resize(18, ' ');
    out += cat(name, digits(row.estimate.value));
    if (row.estimate.error) out += cat(" +- ", digits(*row.estimate.error));
    out += '\n';
  }
  return out + cat("standard errors over ", s.errors_are_over_documents() ? "documents\n" : "tokens\n");
}

// lm-eval's layout; what it has no place for is under "l4".
Json results(const PerplexityOptions& o, const WindowScorer& scorer, const PerplexityRun& run) {
  const std::string task = o.documents.wikitext ? "wikitext" : "perplexity";
  const RollingScore& s = run.score;
  Json values(Json::Object{{"alias", task}}), better(Json::Object{});
  for (const Row& row : rows_of(s)) {
    values.set(cat(row.name, ",none"), row.estimate.value);
    values.set(cat(row.name, "_stderr,none"), row.estimate.error ? Json(*row.estimate.error) : Json("N/A"));
    better.set(row.name, false);
  }
  const fs::path& data = o.documents.jsonl.empty() ? o.documents.text : o.documents.jsonl;
  return Json::Object{
      {"results", Json::Object{{task, std::move(values)}}},
      {"versions", Json::Object{{task, 2.0}}},
      {"n-shot", Json::Object{{task, 0}}},
      {"higher_is_better", Json::Object{{task, std::move(better)}}},
      {"n-samples", Json::Object{{task, Json::Object{{"original", s.n_documents()}, {"effective", s.n_documents()}}}}},
      {"config", Json::Object{{"model", scorer.model()}, {"device", scorer.device()}}},
      {"l4", Json::Object{{"data", data.filename().string()},
                          {"window", o.window},
                          {"stride", stride_of(o)},
                          {"windows", run.n_windows},
                          {"documents", s.n_documents()},
                          {"tokens", s.n_tokens()},
                          {"words", s.n_words()},
                          {"bytes", s.n_bytes()},
                          {"loglikelihood", s.loglikelihood()},
                          {"standard_errors_over", s.errors_are_over_documents() ? "documents" : "tokens"}}}};
}

}  // namespace

PerplexityRun measure_perplexity(const PerplexityOptions& options, WindowScorer& scorer) {
  return Measurement(options, scorer).run();
}

int run_perplexity(const PerplexityOptions& options) {
  // What may be wrong is looked at before the weights are loaded: all of the data, too.
  for (TextDocuments documents(options.documents); documents.next();) {
  }
  std::optional<tools::RemoveAtInterrupt> remove_at_interrupt;
  std::optional<AtomicFile> out;
  if (!options.out.empty()) {
    remove_at_interrupt.emplace(unfinished_name(options.out));
    out.emplace(options.out);
  }
  std::unique_ptr<WindowScorer> scorer;
  if (!options.endpoint.endpoint.url.empty()) {
    EndpointScorerOptions endpoint = options.endpoint;
    endpoint.window = options.window;
    scorer = endpoint_scorer(endpoint);
  } else {
    LoadOptions load = options.model.load;
    load.frontend = Frontend::load(load.model_dir, load.chat_template);
    const ModelConfig& config = load.frontend->config();
    const int64_t context = load.max_context > 0 ? load.max_context : config.text.max_positions;
    if (options.window + 1 > context)
      fail(ErrorKind::usage, "--window: ", options.window,
           " tokens and the one before them are longer than the context of ", context);
    if (options.prefix_id) tools::check_ids({*options.prefix_id}, config.text.vocab, "--prefix-id");
    scorer = engine_scorer(std::move(load), options.window);
  }
  const PerplexityRun run = measure_perplexity(options, *scorer);
  if (out) {
    out->write(dump_json(results(options, *scorer, run), JsonStyle::python, 2) + "\n");
    out->commit();
  }
  tools::write_stdout(table(options, *scorer, run));
  return 0;
}

int perplexity_main(int argc, char** argv) {
  PerplexityOptions o;
  tools::Flags flags("l4-eval perplexity",
                     "How likely a text is to a model, by rolling windows as lm-eval's wikitext.");
  flags.usage("l4-eval perplexity [-m DIR | --url URL] --text FILE | --jsonl FILE [-o OUT.json]");
  flags.examples(
      "l4-eval perplexity -m Llama-4-Scout-17B-16E-Instruct --jsonl wikitext_test.jsonl --field page --wikitext\n"
      "l4-eval perplexity --url http://127.0.0.1:8000 --text book.txt --window 4096 --stride 2048 -o book.json");
  flags.group("Text");
  flags.path("--text", "FILE", "one document", &o.documents.text);
  flags.path("--jsonl", "FILE", "documents, a line each: {\"text\": \"...\"}", &o.documents.jsonl);
  flags.value("--field", "NAME", "where a line has its text (default text)",
              [&](const std::string& name) { o.documents.field = name; });
  flags.toggle("--wikitext",
               "take back WikiText's marks of tokenisation, and count words and bytes with them: as lm-eval",
               &o.documents.wikitext);
  flags.size("--window", "tokens that are seen at once (default 2048)", &o.window, 1);
  flags.size("--stride", "tokens from one window's end to the next one's (default: the window, as lm-eval)", &o.stride,
             1);
  flags.number<int32_t>("--prefix-id", "ID", "token before the first (default: beginning of text)", &o.prefix_id, 0,
                        INT32_MAX);
  flags.path("-o,--out", "FILE", "results as JSON, in lm-eval's layout", &o.out);
  flags.group("Endpoint");
  tools::add_endpoint_flags(flags, o.endpoint.endpoint,
                            "an endpoint instead of a checkpoint; it needs /tokenize and echoed log-probabilities");
  std::optional<int64_t> concurrency;
  flags.number<int64_t>("--concurrency", "N", "windows on their way at once (default 8)", &concurrency, 1, 4096);
  tools::add_model_flags(flags, o.model);
  tools::add_log_flags(flags);
  if (const std::optional<int> status = flags.parse(argc, argv)) return *status;
  if (o.documents.text.empty() == o.documents.jsonl.empty())
    fail(ErrorKind::usage, "expected either --text or --jsonl, found ", o.documents.text.empty() ? "none" : "both");
  if (o.documents.jsonl.empty() && flags.was_given("--field")) fail(ErrorKind::usage, "--field: of --jsonl only");
  if (stride_of(o) > o.window)
    fail(ErrorKind::usage, "--stride: ", o.stride, " is longer than the window of ", o.window,
         ": tokens would be left out");
  o.endpoint.concurrency = concurrency.value_or(o.endpoint.concurrency);
  if (o.endpoint.endpoint.url.empty())
    o.model.complete();
  else
    o.endpoint.model = o.model.load.model_dir.string();
  tools::install_signal_handlers();
  const tools::EndAtInterrupt end_at_interrupt;
  return run_perplexity(o);
}

}  // namespace l4::eval
