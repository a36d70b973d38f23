// OpenAI's /v1/chat/completions.
#pragma once

#include <memory>
#include <string>

#include "tools/serve/api/dialect.h"
#include "tools/serve/api/request_fields.h"

namespace l4::serve {

class ChatDialect final : public Dialect {
 public:
  // Reads a request. Throws ApiError.
  static Ask read(const Json& body, const ReadContext& context, std::unique_ptr<Dialect>& dialect);

  std::string whole(const Ask& ask, const std::vector<Answer>& answers) override;
  void delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) override;
  void end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) override;
  void broken(const ErrorBody& error, Exchange& out) override;

 private:
  ChatDialect(const Ask& ask, const Tokenizer& tokenizer, bool logprobs);
  void send(const Ask& ask, const std::vector<Answer>& answers, const std::string& choice, Exchange& out,
            bool is_last = false);

  const Tokenizer& tokenizer_;
  bool logprobs_;
  std::string head_;  // of every chunk, up to its choices
  std::string id_;
  int64_t created_;
  std::vector<char> has_role_;  // of each answer: its first chunk was sent
  int n_open_ = 0;
};

// "stop", "length", "tool_calls".
const char* finish_reason(AnswerEnd end);
Json stop_reason(const Answer& answer);  // vLLM's: the stop string or token id, null for the model's own end
// OpenAI's tool call, whole.
Json tool_call_json(const AnsweredCall& call);
// "messages", "tools", "tool_choice", "response_format", ... of a chat, for whoever has OpenAI's conversations: the
// prompt and what may be said to it.
void read_conversation(const Fields& body, const Json& json, const ReadContext& context, Ask& ask);

}  // namespace l4::serve
