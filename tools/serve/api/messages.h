// Anthropic's /v1/messages and /v1/messages/count_tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "tools/serve/api/dialect.h"
#include "tools/serve/api/request_fields.h"

namespace l4::serve {

class MessagesDialect final : public Dialect {
 public:
  static Ask read(const Json& body, const ReadContext& context, std::unique_ptr<Dialect>& dialect);

  std::string whole(const Ask& ask, const std::vector<Answer>& answers) override;
  void delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) override;
  void end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) override;
  void broken(const ErrorBody& error, Exchange& out) override;
  HttpResponse refusal(const ErrorBody& error) override;

 private:
  explicit MessagesDialect(std::string model) : model_(std::move(model)), id_("msg_" + random_id()) {}
  Json message(Json content, const Answer* answer) const;
  void begin(const Answer& answer, Exchange& out);
  void open_block(Json block, Exchange& out);
  void close_block(Exchange& out);

  std::string model_, id_;
  bool has_begun_ = false;
  enum class Block : uint8_t { none, text, call } open_ = Block::none;
  int n_blocks_ = 0;  // begun so far; the last may be open
};

// The prompt's length, for /v1/messages/count_tokens.
int64_t count_message_tokens(const Json& body, const ReadContext& context);

// {"type": "error", "error": {"type", "message"}}.
HttpResponse anthropic_error_response(const ErrorBody& error);

}  // namespace l4::serve
