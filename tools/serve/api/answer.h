// What all APIs have in common: a request that has been read (Ask), answers as they grow (Answer) and what came last
// (Delta). The four dialects differ in how they read the one and write the others (dialect.h), in nothing else.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "l4.h"
#include "tools/serve/api/fields.h"

namespace l4::serve {

// One prompt and how to answer it.
struct Ask {
  std::vector<Prompt> prompts;  // several: /v1/completions alone
  GenerationOptions options;
  int n = 1;          // answers to each prompt; answer i belongs to prompt i / n
  std::string model;  // the name that the client used
  std::chrono::steady_clock::time_point arrival = std::chrono::steady_clock::now();

  bool stream = false;
  bool include_usage = false, continuous_usage = false;  // stream_options
  bool keep_stop_text = false;                           // include_stop_str_in_output
  bool tokens = false;                                   // the dialect wants Answer::tokens and prompt_tokens

  std::vector<std::string> tool_names;  // calls to these are looked for in the text; empty: none are
  bool parallel_calls = true;           // false: the answer ends after its first call
};

struct AnsweredCall {
  std::string id;  // without the dialect's prefix
  std::string name;
  std::string arguments;  // JSON of an object
};

enum class AnswerEnd : uint8_t { open, stop, length, calls };

struct Answer {
  std::string text;
  std::vector<AnsweredCall> calls;
  std::vector<TokenChoice> tokens, prompt_tokens;  // where Ask::tokens; the first prompt token has no choice
  AnswerEnd end = AnswerEnd::open;
  std::optional<std::string> stop_text;  // end stop: this was found
  std::optional<int32_t> stop_id;        // end stop: this token, which is one of the request's stop ids
  Usage usage;                           // while it is open: the prompt's length, and the tokens so far
  Timings timings;
};

// What one answer got since the last delta. Text comes before calls.
struct CallDelta {
  size_t call = 0;        // of Answer::calls
  bool is_new = false;    // its id and name are known from here on
  std::string arguments;  // the next piece of them
};
struct Delta {
  int index = 0;  // of the answer
  std::string text;
  std::vector<CallDelta> calls;
  size_t first_token = 0, first_prompt_token = 0;  // Answer::tokens from here on are new
  bool ended = false;                              // end, stop_text, ... of the answer are known
};

// Of all answers together: a prompt counts once, however many answers it has.
struct Totals {
  Usage usage;
  Timings timings;  // the longest of each
};
Totals totals_of(const Ask& ask, const std::vector<Answer>& answers);

// What the API needs of an engine: core/l4.h's, or a script (tests, measuring the server alone).
class AnswerStream {
 public:
  virtual ~AnswerStream() = default;                  // cancels
  virtual std::optional<GenerationEvent> next() = 0;  // what is there now; waits for nothing
  virtual bool done() const = 0;
  virtual void cancel() = 0;  // any thread
};

class AnswerSource {
 public:
  virtual ~AnswerSource() = default;
  virtual const Frontend& frontend() const = 0;         // also where not_ready()
  virtual std::string not_ready() const { return {}; }  // why it can answer nothing now; "": it can
  virtual int64_t max_context() const = 0;
  // As Engine::start.
  virtual std::vector<std::unique_ptr<AnswerStream>> start(Prompt prompt, const GenerationOptions& options, int n,
                                                           std::function<void()> wake) = 0;
  virtual EngineStats stats() const = 0;
};

// The engine, which may be given later than its frontend: loading weights takes minutes, and a server that listens
// meanwhile can say so.
class EngineSource final : public AnswerSource {
 public:
  explicit EngineSource(std::shared_ptr<const Frontend> frontend) : frontend_(std::move(frontend)) {}
  void set_engine(Engine& engine) { engine_ = &engine; }  // outlives this

  const Frontend& frontend() const override { return *frontend_; }
  std::string not_ready() const override { return engine_.load() ? "" : "the model is being loaded"; }
  int64_t max_context() const override;
  std::vector<std::unique_ptr<AnswerStream>> start(Prompt prompt, const GenerationOptions& options, int n,
                                                   std::function<void()> wake) override;
  EngineStats stats() const override;

 private:
  std::shared_ptr<const Frontend> frontend_;
  std::atomic<Engine*> engine_{nullptr};
};

}  // namespace l4::serve
