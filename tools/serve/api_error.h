// Errors as clients get them: OpenAI's shape, {"error": {"message", "type", "param", "code"}}, with a code that is a
// string. Messages are our own words: no text of a library, no path or address of this machine.
#pragma once

#include <string>

#include "base/error.h"
#include "formats/json.h"
#include "tools/serve/exchange.h"

namespace l4::serve {

struct ErrorBody {
  int status = 500;
  std::string message;
  std::string type;   // "invalid_request_error"
  std::string param;  // the field that is wrong; "": null
  std::string code;   // "context_length_exceeded"
};

// An empty type or code becomes what goes with the status: 400 invalid_request_error/invalid_value, 401
// authentication_error/invalid_api_key, 404 not_found_error/not_found, 405 invalid_request_error/method_not_allowed,
// 408 timeout_error/request_timeout, 413 invalid_request_error/request_too_large, 429
// rate_limit_error/server_overloaded, 503 service_unavailable_error/unavailable, other 4xx
// invalid_request_error/bad_request, other 5xx server_error/internal_error.
ErrorBody api_error(int status, std::string message, std::string type = {}, std::string param = {},
                    std::string code = {});

// What handlers throw to be answered so; the server turns any other exception into api_error_of().
class ApiError : public std::exception {
 public:
  explicit ApiError(ErrorBody body) : body_(std::move(body)) {}
  const ErrorBody& body() const { return body_; }
  const char* what() const noexcept override { return body_.message.c_str(); }

 private:
  ErrorBody body_;
};

// usage, input and unsupported: 400 with the message. All else: 500, and the message stays in the log.
ErrorBody api_error_of(const Error& error);

Json error_json(const ErrorBody& body);              // {"error": {...}}: also what an event of a broken stream holds
HttpResponse error_response(const ErrorBody& body);  // with Retry-After for 429 and 503

}  // namespace l4::serve
