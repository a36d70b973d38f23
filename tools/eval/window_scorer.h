// Who says how likely tokens are: a checkpoint in this process, or an endpoint that echoes prompts with
// log-probabilities.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/common/model_flags.h"
#include "tools/common/openai_endpoint.h"
#include "tools/eval/rolling.h"

namespace l4::eval {

class WindowScorer {
 public:
  virtual ~WindowScorer() = default;
  virtual std::string model() const = 0;
  virtual std::string device() const = 0;
  virtual std::vector<int32_t> encode(const std::string& text) = 0;  // nothing put before it
  virtual int32_t prefix_id() = 0;                                   // beginning of text; Error naming --prefix-id

  using Next = std::function<std::optional<Window>()>;
  // Log-probabilities of a window's scored tokens, in order.
  using Done = std::function<void(int64_t index, std::vector<float> logprobs)>;
  // Takes windows as it has room for them, until there are none; `done` may come in any order, from this thread.
  // What goes wrong is thrown: a sum with a window left out means nothing.
  virtual void score(const Next& next, const Done& done) = 0;
};

// Loads. `window`: of the longest prompt, which has a token more.
std::unique_ptr<WindowScorer> engine_scorer(LoadOptions load, int64_t window);

struct EndpointScorerOptions {
  tools::EndpointFlags endpoint;
  std::string model;  // empty: the first that the endpoint names
  int64_t window = 0;
  int64_t concurrency = 8;
  int max_attempts = 5;
};
// Asks /v1/models and /tokenize. Error{io | input | unsupported} in one line.
std::unique_ptr<WindowScorer> endpoint_scorer(const EndpointScorerOptions& options);

}  // namespace l4::eval
