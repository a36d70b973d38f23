#include "tools/run/batch.h"

#include <condition_variable>
#include <fstream>
#include <mutex>
#include <unordered_map>

#include "base/hex.h"
#include "formats/json.h"
#include "tools/run/batch_journal.h"
#include "vision/sha256.h"

namespace l4::run {

namespace {

bool is_blank(const std::string& line) {
  return trim(line).empty();
}

struct InputFacts {
  std::string id;  // hexadecimal digest of the whole file
  int64_t n_lines = 0;
};

std::ifstream open_input(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || fs::is_directory(path)) fail(ErrorKind::io, path.string(), ": cannot be read");
  return in;
}

InputFacts look_at(const fs::path& path) {
  std::ifstream in = open_input(path);
  InputFacts facts;
  Sha256 sha;
  for (std::string line; std::getline(in, line);) {
    facts.n_lines += !is_blank(line);
    line += '\n';
    sha.update({reinterpret_cast<const uint8_t*>(line.data()), line.size()});
  }
  if (in.bad()) fail(ErrorKind::io, path.string(), ": cannot be read");
  facts.id = to_hex(sha.finish());
  return facts;
}

// One line, read. What is wrong with it, if anything.
struct BatchLine {
  Json custom_id;  // a string, or null where there is none
  std::string url, body, problem;
};

class LineReader {
 public:
  explicit LineReader(const tools::OfflineApi& api) : api_(api) {}

  BatchLine read(const std::string& text, int64_t number) {
    BatchLine line;
    try {
      read_fields(parse_json(text, cat("line ", number)), number, line);
    } catch (const Error& error) {
      line.problem = error.message();
    }
    return line;
  }

 private:
  template <class... Parts>
  [[noreturn]] static void refuse(int64_t number, const Parts&... what) {
    fail(ErrorKind::usage, "line ", number, ": ", what...);
  }

  static const std::string& need_text(const Json& json, const char* key, int64_t number) {
    const Json* value = json.find(key);
    if (!value || !value->is_string())
      refuse(number, key, ": expected a string, found ", value ? value->kind_name() : "nothing");
    return value->as_string();
  }

  void read_fields(const Json& json, int64_t number, BatchLine& line) {
    if (!json.is_object()) refuse(number, "expected an object, found ", json.kind_name());
    const std::string& id = need_text(json, "custom_id", number);
    line.custom_id = id;
    if (id.empty()) refuse(number, "custom_id: is empty");
    const auto [first, is_new] = first_line_.try_emplace(id, number);
    if (!is_new) refuse(number, "custom_id: ", shown(id), " was line ", first->second, "'s");
    const std::string& method = need_text(json, "method", number);
    if (method != "POST") refuse(number, "method: expected POST, found ", shown(method));
    line.url = need_text(json, "url", number);
    if (!api_.has(line.url)) refuse(number, "url: ", shown(line.url), " answers no requests of a batch");
    const Json* body = json.find("body");
    if (!body || !body->is_object())
      refuse(number, "body: expected an object, found ", body ? body->kind_name() : "nothing");
    Json::Object members;
    for (const Json::Member& member : body->as_object())
      if (member.first != "model") members.push_back(member);
    if (const Json* stream = body->find("stream"); stream && *stream != Json(false) && !stream->is_null())
      refuse(number, "body.stream: answers of a batch are whole");
    line.body = dump_json(Json(std::move(members)), JsonStyle::compact);
  }

  const tools::OfflineApi& api_;
  std::unordered_map<std::string, int64_t> first_line_;  // of each custom_id
};

// What the API's threads share with the one that reads. Answers may come after it has ended early: the journal, which
// the next process may want, is closed then.
struct Shared {
  std::mutex mutex;
  std::unique_ptr<BatchJournal> journal;
  std::condition_variable changed;
  int64_t n_in_flight = 0, n_errors = 0, n_failures = 0;
  std::string failure;               // of the last 5xx
  std::exception_ptr journal_error;  // a full disk
};

std::string error_message(const std::string& body) {
  try {
    const Json json = parse_json(body, "answer");
    const Json* error = json.find("error");
    const Json* message = error ? error->find("message") : nullptr;
    if (message && message->is_string()) return message->as_string();
  } catch (const Error&) {
  }
  return "no reason given";
}

class BatchRun {
 public:
  BatchRun(const BatchOptions& options, tools::OfflineApi& api)
      : options_(options),
        api_(api),
        input_(look_at(options.input)),
        shared_(std::make_shared<Shared>()),
        journal_(*(shared_->journal = std::make_unique<BatchJournal>(options.output, input_.id))),
        n_done_before_(journal_.n_final()) {}
  ~BatchRun() {
    const std::lock_guard lock(shared_->mutex);
    shared_->journal.reset();
  }
  BatchRun(const BatchRun&) = delete;
  BatchRun& operator=(const BatchRun&) = delete;

  BatchResult run() {
    std::ifstream in = open_input(options_.input);
    LineReader reader(api_);
    int64_t number = 0;
    for (std::string text; !stopping() && std::getline(in, text);) {
      ++number;
      if (is_blank(text)) continue;
      BatchLine line =
          reader.read(text, number);  // also of those that are done: a custom_id counts from its first line
      if (journal_.has_final(number)) continue;
      if (!line.problem.empty())
        refuse_line(number, line);
      else if (wait_until([&] { return shared_->n_in_flight < options_.max_in_flight; }))
        ask(number, std::move(line));
    }
    const bool all_answered = wait_until([&] { return shared_->n_in_flight == 0; });
    return end(all_answered);
  }

 private:
  std::string begin_of(int64_t number, const BatchLine& line) const {
    return cat("{\"id\":\"batch_req_", input_.id.substr(0, 16), "_", number,
               "\",\"custom_id\":", dump_json(line.custom_id, JsonStyle::compact), ",\"response\":");
  }

  void refuse_line(int64_t number, const BatchLine& line) {
    journal_.add(number,
                         cat(begin_of(number, line),
                             "null,\"error\":{\"code\":\"invalid_line\",\"message\":", json_quote(line.problem), "}}"),
                         true);
    const std::lock_guard lock(shared_->mutex);
    ++shared_->n_errors;
  }

  void ask(int64_t number, BatchLine line) {
    {
      const std::lock_guard lock(shared_->mutex);
      ++shared_->n_in_flight;
    }
    const std::string begin = cat(begin_of(number, line), "{\"status_code\":");
    const std::string request_id = cat("req_", input_.id.substr(0, 16), "_", number);
    api_.post(line.url, std::move(line.body), [shared = shared_, number, begin, request_id](tools::ApiAnswer answer) {
      const bool failed = answer.status >= 500;
      const std::lock_guard lock(shared->mutex);
      if (!shared->journal) return;
      try {
        shared->journal->add(number,
                             cat(begin, answer.status, ",\"request_id\":\"", request_id, "\",\"body\":", answer.body,
                                 "},\"error\":null}"),
                             !failed);
      } catch (...) {
        shared->journal_error = std::current_exception();
      }
      --shared->n_in_flight;
      shared->n_errors += answer.status != 200;
      shared->n_failures += failed;
      if (failed) shared->failure = error_message(answer.body);
      shared->changed.notify_one();
    });
  }

  // Also looks whether it was interrupted.
  bool stopping() {
    const std::lock_guard lock(shared_->mutex);
    if (options_.interrupted && options_.interrupted()) interrupted_ = true;
    return interrupted_ || shared_->journal_error || shared_->n_failures >= options_.max_failures;
  }

  // False when the batch has to stop first.
  template <class Test>
  bool wait_until(Test&& test) {
    for (;;) {
      show_progress();
      if (stopping()) return false;
      std::unique_lock lock(shared_->mutex);
      if (shared_->changed.wait_for(lock, std::chrono::milliseconds(100), test)) return true;
    }
  }

  void show_progress() const {
    if (options_.progress) options_.progress(journal_.n_final(), input_.n_lines, n_done_before_);
  }

  BatchResult end(bool all_answered) {
    stopping();
    BatchResult result;
    std::exception_ptr journal_error;
    {
      const std::lock_guard lock(shared_->mutex);
      result = {false, input_.n_lines, journal_.n_final(), shared_->n_errors};
      journal_error = shared_->journal_error;
      if (!journal_error && shared_->n_failures >= options_.max_failures)
        fail(ErrorKind::device, shared_->n_failures, " requests failed, the last one with \"", shared_->failure, "\"; ",
             result.n_done, " of ", result.n_lines, " lines are done, the same command goes on from there");
    }
    if (journal_error) std::rethrow_exception(journal_error);
    if (!all_answered || interrupted_) return result;
    journal_.finish();
    result.finished = true;
    return result;
  }

  const BatchOptions& options_;
  tools::OfflineApi& api_;
  const InputFacts input_;
  const std::shared_ptr<Shared> shared_;
  BatchJournal& journal_;
  const int64_t n_done_before_;
  bool interrupted_ = false;
};

}  // namespace

void check_batch_files(const BatchOptions& options) {
  const BatchJournal journal(options.output, look_at(options.input).id);
}

BatchResult run_batch(const BatchOptions& options, tools::OfflineApi& api) {
  return BatchRun(options, api).run();
}

}  // namespace l4::run
