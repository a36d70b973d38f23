#include "tools/bench/serve_load.h"

#include <algorithm>
#include <ctime>
#include <deque>
#include <memory>
#include <numeric>
#include <random>

#include "base/error.h"

namespace l4::bench {

using tools::HttpAnswer;
using tools::HttpCall;
using tools::HttpClient;
using Clock = HttpClient::Clock;

std::vector<double> arrival_times(int64_t n, std::optional<double> rate, double burstiness, uint64_t seed) {
  std::vector<double> due(size_t(n), 0.0);
  if (!rate || n == 0) return due;
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> gap(burstiness, 1);
  for (double& d : due) d = gap(random);
  std::partial_sum(due.begin(), due.end(), due.begin());
  const double scale = due.back() > 0 ? double(n) / *rate / due.back() : 0;
  for (double& d : due) d *= scale;
  return due;
}

// ---- one answer -----------------------------------------------------------------------------------------------------

namespace {

bool has_text(const Json* value) {
  return value && value->is_string() && !value->as_string().empty();
}

// Whether a chunk's choice brings something that a reader sees; the role at the beginning is nothing.
bool brings_tokens(const Json& choice) {
  if (has_text(choice.find("text"))) return true;
  const Json* delta = choice.find("delta");
  if (!delta) return false;
  const Json* calls = delta->find("tool_calls");
  return has_text(delta->find("content")) || has_text(delta->find("reasoning_content")) ||
         has_text(delta->find("reasoning")) || (calls && calls->is_array() && !calls->as_array().empty());
}

}  // namespace

void AnswerReader::take(std::string_view data, double at_s) {
  if (!record_.error.empty()) return;
  if (data == "[DONE]") {
    finished_ = true;
    return;
  }
  try {
    const Json chunk = parse_json(data, "a chunk of the answer");
    if (const Json* error = chunk.find("error"); error && !error->is_null()) {
      const Json* message = error->find("message");
      record_.error = cat("error in the stream: ",
                          shown(message && message->is_string() ? message->as_string() : dump_json(*error)));
      return;
    }
    if (const Json* choices = chunk.find("choices"); choices && choices->is_array())
      for (const Json& choice : choices->as_array()) {
        if (brings_tokens(choice)) record_.pieces_s.push_back(at_s);
        if (has_text(choice.find("finish_reason"))) finished_ = true;
      }
    if (const Json* usage = chunk.find("usage"); usage && usage->is_object()) {
      const Json *input = usage->find("prompt_tokens"), *output = usage->find("completion_tokens");
      if (input && input->is_integer()) record_.input_tokens = input->as_integer();
      if (output && output->is_integer()) {
        record_.output_tokens = output->as_integer();
        counted_ = true;
      }
    }
  } catch (const Error& error) {
    record_.error = error.message();
  }
}

void AnswerReader::end(double at_s, const std::string& problem) {
  record_.end_s = at_s;
  if (!counted_) record_.output_tokens = int64_t(record_.pieces_s.size());
  if (!record_.error.empty()) return;
  record_.error = problem;
  if (problem.empty() && !finished_) record_.error = "the stream ended without a finish_reason or [DONE]";
}

// ---- all of them ----------------------------------------------------------------------------------------------------

namespace {

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

class Runner {
 public:
  Runner(HttpClient& client, const Load& load) : client_(client), load_(load), records_(load.bodies.size()) {}

  LoadResult run() {
    const double cpu_before = thread_seconds();
    begin_ = Clock::now();
    wait_for_next();
    client_.run();
    const double wall = seconds(Clock::now());
    return {std::move(records_), wall > 0 ? (thread_seconds() - cpu_before) / wall : 0};
  }

 private:
  double seconds(Clock::time_point t) const { return std::chrono::duration<double>(t - begin_).count(); }

  // Everything that is due, then one timer for what is not: requests that come at once need no timers.
  void wait_for_next() {
    while (next_ < records_.size() && load_.due_s[next_] <= seconds(Clock::now())) due_.push_back(next_++);
    send_what_may();
    if (next_ == records_.size()) return;
    const auto after = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(load_.due_s[next_]));
    client_.at(begin_ + after, [this] { wait_for_next(); });
  }

  void send_what_may() {
    while (!due_.empty() && (load_.max_concurrency == 0 || n_live_ < load_.max_concurrency)) {
      send(due_.front());
      due_.pop_front();
    }
  }

  void send(size_t i) {
    ++n_live_;
    ServeRecord& record = records_[i];
    record.start_s = seconds(Clock::now());
    const auto reader = std::make_shared<AnswerReader>(record);
    HttpCall call;
    call.path = load_.path;
    call.body = load_.bodies[i];
    call.on_event = [this, reader](const tools::SseEvent& event, Clock::time_point at) {
      reader->take(event.data, seconds(at));
    };
    call.on_done = [this, reader](HttpAnswer& answer) {
      std::string problem = answer.problem();
      if (problem.empty() && answer.content_type != "text/event-stream")
        problem = cat("expected text/event-stream, found ", shown(answer.content_type));
      reader->end(seconds(Clock::now()), problem);
      --n_live_;
      if (load_.on_progress) load_.on_progress(++n_done_);
      send_what_may();
    };
    client_.start(std::move(call));
  }

  HttpClient& client_;
  const Load& load_;
  std::vector<ServeRecord> records_;
  Clock::time_point begin_;
  size_t next_ = 0;  // not due yet
  std::deque<size_t> due_;
  int64_t n_live_ = 0, n_done_ = 0;
};

}  // namespace

LoadResult run_load(HttpClient& client, const Load& load) {
  L4_CHECK(load.bodies.size() == load.due_s.size());
  return Runner(client, load).run();
}

}  // namespace l4::bench
