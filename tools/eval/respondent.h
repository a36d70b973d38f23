// Who is asked: a checkpoint in this process (engine_respondent.h) or an OpenAI endpoint (endpoint_respondent.h).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "tools/eval/task.h"

namespace l4::eval {

struct Reply {
  std::string text;
  std::string finish_reason;  // "stop", "length"
  std::string error;          // one line: why there is no answer, after all attempts; empty: there is one
  int attempts = 1;
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

class Respondent {
 public:
  virtual ~Respondent() = default;
  virtual std::string model() const = 0;   // a directory's name, or what the endpoint calls it
  virtual std::string device() const = 0;  // "CPU, 2 threads", "http://127.0.0.1:8000"

  // Asks `n` queries, as many side by side as it takes, and returns when `done` was called once for each, in any order,
  // from the calling thread. `query` is called in ascending order, shortly before its query is sent. What concerns one
  // question is its Reply's error; what ends everything (the device failed, nobody listens) is thrown.
  virtual void ask(int64_t n, const std::function<Query(int64_t)>& query,
                   const std::function<void(int64_t, Reply)>& done) = 0;
};

}  // namespace l4::eval
