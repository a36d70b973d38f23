// An OpenAI endpoint as command lines name it: where it is, its key, the model it has.
#pragma once

#include <optional>
#include <string>

#include "tools/common/flags.h"
#include "tools/common/http_client.h"

namespace l4::tools {

struct EndpointFlags {
  std::string url;  // as given, also with OpenAI's "/v1" at its end
  std::optional<std::string> api_key = {};
  bool insecure = false;
  double timeout_s = 600;  // silence of an answer

  // Where requests go: the base without "/v1", the key (or $OPENAI_API_KEY) as a header. Error{usage}.
  HttpClientOptions client_options() const;
};

// --url, --api-key, --insecure, --timeout. `url_help` says what the first stands for.
void add_endpoint_flags(Flags& flags, EndpointFlags& endpoint, const std::string& url_help);

// What GET /v1/models answers, asked once; an HttpAnswer with status 0: nobody is there.
HttpAnswer ask_models(HttpClient& client);
// The first model of that answer. Error{io | input} saying that --model NAME names one.
std::string first_model(const HttpAnswer& models, const std::string& url);

}  // namespace l4::tools
