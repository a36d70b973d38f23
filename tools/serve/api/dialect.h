// How one API writes the answer to one request. A Dialect belongs to one request; its functions are called one after
// the other, never at once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/serve/api/answer.h"
#include "tools/serve/exchange.h"

namespace l4::serve {

class Dialect {
 public:
  virtual ~Dialect() = default;

  // Not streamed: the body of the whole answer.
  virtual std::string whole(const Ask& ask, const std::vector<Answer>& answers) = 0;

  // Streamed: accepted; then deltas, each `answers[delta.index]` holding what the delta brought; then either end or
  // broken. Nothing is sent of an answer before its first delta.
  virtual void accepted(const Ask&, Exchange&) {}
  virtual void delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) = 0;
  virtual void end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) = 0;
  virtual void broken(const ErrorBody& error, Exchange& out) = 0;

  virtual HttpResponse refusal(const ErrorBody& error) { return error_response(error); }
};

// Parts that the APIs share.
std::string random_id();                  // 24 hexadecimal digits
Json usage_json(const Usage& usage);      // OpenAI's, with prompt_tokens_details.cached_tokens
Json timings_json(const Totals& totals);  // llama.cpp's
const std::string& system_fingerprint();
std::string event_text(const Json& value);  // compact

}  // namespace l4::serve
