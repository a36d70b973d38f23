#include "tools/common/openai_endpoint.h"

#include <cstdlib>

#include "base/error.h"
#include "formats/json.h"

namespace l4::tools {

HttpClientOptions EndpointFlags::client_options() const {
  HttpClientOptions c;
  c.base = parse_url(url);
  if (c.base.path.ends_with("/v1")) c.base.path.resize(c.base.path.size() - 3);  // as OpenAI's clients are told
  std::optional<std::string> key = api_key;
  if (const char* value = std::getenv("OPENAI_API_KEY"); value && *value && !key) key = value;
  if (key) c.headers.emplace_back("Authorization", "Bearer " + *key);
  c.verify_tls = !insecure;
  c.silence_timeout_s = timeout_s;
  return c;
}

void add_endpoint_flags(Flags& flags, EndpointFlags& endpoint, const std::string& url_help) {
  flags.value("--url,--base-url", "URL", url_help, [&endpoint](const std::string& text) {
    parse_url(text);
    endpoint.url = text;
  });
  flags.text("--api-key", "KEY", "sent as a bearer token (default: $OPENAI_API_KEY)", &endpoint.api_key);
  flags.toggle("--insecure", "accept any TLS certificate", &endpoint.insecure);
  flags.value("--timeout", "SECONDS", "a request fails after such a silence (default 600)",
              [&endpoint](const std::string& text) {
                const std::optional<double> seconds = parse_double(text);
                if (!seconds || !(*seconds >= 0.001) || *seconds > 1e6) wrong_value("seconds above 0", text);
                endpoint.timeout_s = *seconds;
              });
}

HttpAnswer ask_models(HttpClient& client) {
  HttpCall call;
  call.method = "GET";
  call.path = "/v1/models";
  return client.ask(std::move(call));
}

std::string first_model(const HttpAnswer& models, const std::string& url) {
  if (!models.ok())
    fail(ErrorKind::io, "cannot ask for the model's name: ", models.problem(), "; --model NAME says it");
  const std::string source = url + "/v1/models";
  const Json json = parse_json(models.body, source);
  if (const Json* data = json.find("data"); data && data->is_array() && !data->as_array().empty())
    if (const Json* id = data->as_array()[0].find("id"); id && id->is_string()) return id->as_string();
  fail_input(source, ": no model in it; --model NAME says it");
}

}  // namespace l4::tools
