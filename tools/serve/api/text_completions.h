// OpenAI's /v1/completions: plain prompts, also several, as text or token ids, with echo and their log-probabilities.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/serve/api/dialect.h"
#include "tools/serve/api/logprobs.h"
#include "tools/serve/api/request_fields.h"

namespace l4::serve {

class CompletionsDialect final : public Dialect {
 public:
  static Ask read(const Json& body, const ReadContext& context, std::unique_ptr<Dialect>& dialect);

  std::string whole(const Ask& ask, const std::vector<Answer>& answers) override;
  void delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) override;
  void end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) override;
  void broken(const ErrorBody& error, Exchange& out) override;

 private:
  struct EchoedPrompt {
    std::string text;
    int32_t first_id = -1;
  };
  CompletionsDialect(const Ask& ask, const Frontend& frontend, int n_logprobs, std::vector<EchoedPrompt> echo);
  Json choice(const Ask& ask, const Answer& answer, int index, std::string text, Json logprobs) const;
  Json logprobs_since(const Answer& answer, int index, size_t prompt_token, size_t token);
  Json head(const Ask& ask) const;
  void send(const Ask& ask, const std::vector<Answer>& answers, Json choices, Exchange& out, bool is_last);

  const Tokenizer* tokenizer_;  // none: ids only
  std::string id_;
  int64_t created_;
  int n_logprobs_;                            // -1: none
  std::vector<EchoedPrompt> echo_;            // of each prompt; empty: no echo
  std::vector<CompletionLogprobs> logprobs_;  // of each answer
  std::vector<char> begun_;
  int n_open_ = 0;
};

}  // namespace l4::serve
