// What a client did wrong: thrown by whoever reads a request, written by each API in its own shape. The message is for
// the client: it names the field, what was expected and what was found.
#pragma once

#include <string>
#include <string_view>

#include "tools/serve/api_error.h"

namespace l4::serve {

// 400 invalid_request_error. `code`: invalid_value, invalid_type, missing_required_parameter, unsupported_parameter,
// ...
template <class... Parts>
[[noreturn]] void refuse(std::string_view param, std::string_view code, const Parts&... what) {
  const std::string message = cat(what...);
  throw ApiError(api_error(400, param.empty() ? message : cat(param, ": ", message), "invalid_request_error",
                           std::string(param), std::string(code)));
}

// Runs `work`, whose l4::Errors that are the request's fault (400) become refusals with a param: the field that the
// message begins with ("messages[2].content: ..."), else `field`. Other errors pass.
[[noreturn]] void refuse_error(const Error& error, std::string_view field);
template <class Work>
auto blaming(std::string_view field, Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const Error& error) {
    refuse_error(error, field);
  }
}

}  // namespace l4::serve
