#include "tools/serve/api_error.h"

namespace l4::serve {

namespace {

struct Usual {
  int status;
  const char *type, *code;
};

constexpr Usual kUsual[] = {
    {400, "invalid_request_error", "invalid_value"},
    {401, "authentication_error", "invalid_api_key"},
    {403, "permission_error", "forbidden"},
    {404, "not_found_error", "not_found"},
    {405, "invalid_request_error", "method_not_allowed"},
    {408, "timeout_error", "request_timeout"},
    {413, "invalid_request_error", "request_too_large"},
    {429, "rate_limit_error", "server_overloaded"},
    {503, "service_unavailable_error", "unavailable"},
};

Usual usual(int status) {
  for (const Usual& row : kUsual)
    if (row.status == status) return row;
  if (status < 500) return {status, "invalid_request_error", "bad_request"};
  return {status, "server_error", "internal_error"};
}

}  // namespace

ErrorBody api_error(int status, std::string message, std::string type, std::string param, std::string code) {
  const Usual row = usual(status);
  if (type.empty()) type = row.type;
  if (code.empty()) code = row.code;
  return {status, std::move(message), std::move(type), std::move(param), std::move(code)};
}

ErrorBody api_error_of(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::usage:
    case ErrorKind::input:
    case ErrorKind::unsupported:
      return api_error(400, error.message());
    default:
      return api_error(500, "the server could not do this; its log says why");
  }
}

Json error_json(const ErrorBody& body) {
  Json error;
  error.set("message", utf8_replace_invalid(body.message));
  error.set("type", body.type);
  error.set("param", body.param.empty() ? Json() : Json(utf8_replace_invalid(body.param)));
  error.set("code", body.code);
  Json out;
  out.set("error", std::move(error));
  return out;
}

HttpResponse error_response(const ErrorBody& body) {
  HttpResponse response;
  response.status = body.status;
  response.body = dump_json(error_json(body), JsonStyle::compact) + "\n";
  if (body.status == 429 || body.status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace l4::serve
