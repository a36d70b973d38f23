// OpenAI's /v1/responses. Nothing is stored: a conversation is sent whole each time.
#pragma once

#include <memory>
#include <string>

#include "tools/serve/api/dialect.h"
#include "tools/serve/api/request_fields.h"

namespace l4::serve {

class ResponsesDialect final : public Dialect {
 public:
  static Ask read(const Json& body, const ReadContext& context, std::unique_ptr<Dialect>& dialect);

  std::string whole(const Ask& ask, const std::vector<Answer>& answers) override;
  void accepted(const Ask& ask, Exchange& out) override;
  void delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) override;
  void end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) override;
  void broken(const ErrorBody& error, Exchange& out) override;

 private:
  ResponsesDialect(const Json& body, const Ask& ask, const Tokenizer& tokenizer, bool logprobs);
  Json response(const Ask& ask, const char* status, Json output) const;
  Json ended(const Ask& ask, const Answer& answer, Json output) const;
  Json text_part(const std::string& text, Json logprobs) const;
  Json message_item(const char* status, Json content) const;
  Json call_item(const AnsweredCall& call, const char* status, std::string arguments) const;
  void send(const char* type, Json::Object members, Exchange& out);
  void open_message(Exchange& out);
  void close_item(const Answer& answer, Exchange& out);

  const Tokenizer& tokenizer_;
  bool logprobs_;
  std::string id_, message_id_;
  int64_t created_;
  Json echoed_;  // members of the request that a response repeats

  // Streaming:
  int64_t n_events_ = 0;
  enum class Item : uint8_t { none, message, call } open_ = Item::none;
  std::string text_;                   // of the open message
  size_t message_token_ = 0;           // Answer::tokens from here on belong to it
  size_t call_ = 0;                    // the open call
  Json output_ = Json(Json::Array{});  // items that are whole
};

}  // namespace l4::serve
