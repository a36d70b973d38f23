#include "base/error.h"
#include "formats/json.h"
#include "tools/eval/window_scorer.h"

namespace l4::eval {

namespace {

using tools::HttpAnswer;
using tools::HttpCall;
using tools::HttpClient;

Json json_list(const std::vector<int32_t>& ids) {
  Json list(Json::Array{});
  for (const int32_t id : ids) list.push_back(int64_t(id));
  return list;
}

// choices[0].logprobs.token_logprobs: one for each token of the prompt, none for the first, then the one token that
// endpoints insist on adding.
std::vector<float> read_logprobs(const HttpAnswer& answer, const Window& window) {
  const std::string place = "/v1/completions";
  const Json json = parse_json(answer.body, place);
  const Json* choices = json.find("choices");
  const Json* choice =
      choices && choices->is_array() && !choices->as_array().empty() ? &choices->as_array()[0] : nullptr;
  const Json* logprobs = choice ? choice->find("logprobs") : nullptr;
  const Json* list = logprobs ? logprobs->find("token_logprobs") : nullptr;
  if (!list || !list->is_array())
    fail(ErrorKind::unsupported, place,
         ": no choices[0].logprobs.token_logprobs in the answer: the endpoint does not "
         "echo prompts with log-probabilities");
  const Json::Array& values = list->as_array();
  if (values.size() < window.ids.size() || values.size() > window.ids.size() + 1)
    fail_input(place, ": expected log-probabilities of ", window.ids.size(), " tokens, found ", values.size());
  std::vector<float> out;
  for (size_t i = window.ids.size() - size_t(window.n_scored); i < window.ids.size(); ++i) {
    if (!values[i].is_number())
      fail_input(place, ": token_logprobs[", i, "]: expected a number, found ", values[i].kind_name());
    out.push_back(float(values[i].as_number()));
  }
  return out;
}

class EndpointScorer final : public WindowScorer {
 public:
  explicit EndpointScorer(const EndpointScorerOptions& options)
      : options_(options), client_(client_options(options)), model_(options.model) {
    if (model_.empty()) model_ = tools::first_model(tools::ask_models(client_), options.endpoint.url);
    int64_t max_context = 0;
    tokenize("a", false, &max_context);
    if (max_context > 0 && options.window + 2 > max_context)
      fail(ErrorKind::usage, "--window: ", options.window,
           " and a token at either side are longer than the endpoint's context of ", max_context);
  }

  std::string model() const override { return model_; }
  std::string device() const override { return options_.endpoint.url; }
  std::vector<int32_t> encode(const std::string& text) override { return tokenize(text, false); }
  // What the endpoint puts before a text.
  int32_t prefix_id() override {
    const std::vector<int32_t> with = tokenize("a", true), without = tokenize("a", false);
    if (with.size() != without.size() + 1 || !std::equal(without.begin(), without.end(), with.begin() + 1))
      fail(ErrorKind::unsupported, options_.endpoint.url,
           ": puts no token before a text; --prefix-id says which one stands "
           "before the first");
    return with.front();
  }

  void score(const Next& next, const Done& done) override {
    // Not the one that asks for tokens: next() does so in between.
    HttpClient client(client_options(options_));
    int64_t index = 0;
    bool ended = false;
    const std::function<void()> send = [&] {
      if (ended) return;
      std::optional<Window> window = next();
      ended = !window;
      if (!window) return;
      Json body(Json::Object{{"model", model_},
                             {"prompt", json_list(window->ids)},
                             {"max_tokens", 1},  // 0 is refused by some
                             {"temperature", 0},
                             {"echo", true},
                             {"logprobs", 1}});
      HttpCall call;
      call.path = "/v1/completions";
      call.body = dump_json(body, JsonStyle::compact);
      call.on_done = [&, at = index++, window = std::move(*window)](HttpAnswer& answer) {
        if (!answer.ok()) fail(ErrorKind::io, options_.endpoint.url, ": /v1/completions: ", answer.problem());
        done(at, read_logprobs(answer, window));
        send();
      };
      client.start(std::move(call));
    };
    for (int64_t i = 0; i < options_.concurrency; ++i) send();
    client.run();
  }

 private:
  static tools::HttpClientOptions client_options(const EndpointScorerOptions& options) {
    tools::HttpClientOptions client = options.endpoint.client_options();
    client.max_attempts = options.max_attempts;
    return client;
  }

  std::vector<int32_t> tokenize(const std::string& text, bool add_special, int64_t* max_context = nullptr) {
    HttpCall call;
    call.path = "/tokenize";
    call.body = dump_json(Json(Json::Object{{"model", model_}, {"prompt", text}, {"add_special_tokens", add_special}}));
    const HttpAnswer answer = client_.ask(std::move(call));
    const std::string place = options_.endpoint.url + "/tokenize";
    if (!answer.ok())
      fail(answer.status == 404 ? ErrorKind::unsupported : ErrorKind::io, place, ": ", answer.problem(),
           "; a perplexity needs the endpoint's tokens");
    const Json json = parse_json(answer.body, place);
    const Json *tokens = json.find("tokens"), *length = json.find("max_model_len");
    if (max_context && length && length->is_integer()) *max_context = length->as_integer();
    if (!tokens || !tokens->is_array()) fail_input(place, ": no tokens in the answer");
    std::vector<int32_t> ids;
    for (const Json& id : tokens->as_array()) {
      if (!id.is_integer() || id.as_integer() < 0 || id.as_integer() > INT32_MAX)
        fail_input(place, ": expected token ids, found ", shown(dump_json(id)));
      ids.push_back(int32_t(id.as_integer()));
    }
    return ids;
  }

  const EndpointScorerOptions options_;
  HttpClient client_;
  std::string model_;
};

}  // namespace

std::unique_ptr<WindowScorer> endpoint_scorer(const EndpointScorerOptions& options) {
  return std::make_unique<EndpointScorer>(options);
}

}  // namespace l4::eval
