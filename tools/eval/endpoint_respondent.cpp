#include "tools/eval/endpoint_respondent.h"

#include "base/error.h"
#include "formats/json.h"
#include "tools/common/media/data_uri.h"
#include "tools/eval/interrupt.h"
#include "vision/image.h"

namespace l4::eval {

using tools::HttpAnswer;
using tools::HttpCall;
using tools::HttpClient;

namespace {

Json content_of(const Query::Turn& turn, const std::vector<fs::path>& images) {
  if (images.empty()) return turn.text;
  Json parts{Json::Array{}};
  for (const fs::path& image : images) {
    const std::string uri = tools::encode_data_uri(read_file(image, ImageLimits{}.max_bytes), image.string());
    parts.push_back(Json::Object{{"type", "image_url"}, {"image_url", Json::Object{{"url", uri}}}});
  }
  parts.push_back(Json::Object{{"type", "text"}, {"text", turn.text}});
  return parts;
}

int64_t count_of(const Json* usage, const char* key) {
  const Json* value = usage ? usage->find(key) : nullptr;
  return value && value->is_integer() ? std::max<int64_t>(0, value->as_integer()) : 0;
}

std::string error_in(const HttpAnswer& answer, bool chat) {
  try {
    read_reply(answer.body, chat);
    return {};
  } catch (const Error& error) {
    return error.message();
  }
}

// Keeps as many questions on their way as it may.
class Asking {
 public:
  Asking(HttpClient& client, const std::string& model, int64_t concurrency, int64_t n,
         const std::function<Query(int64_t)>& query, const std::function<void(int64_t, Reply)>& done)
      : client_(client), model_(model), concurrency_(concurrency), n_(n), query_(query), done_(done) {}

  void run() {
    look_around();
    send_what_may();
    client_.run();
  }

 private:
  // No longer once all is done: the client runs until every time is past.
  void look_around() {
    throw_if_interrupted();
    if (n_done_ < n_) client_.at(HttpClient::Clock::now() + std::chrono::milliseconds(100), [this] { look_around(); });
  }

  void send_what_may() {
    while (next_ < n_ && next_ - n_done_ < concurrency_) send(next_++);
  }

  void send(int64_t index) {
    const Query query = query_(index);
    const bool chat = !query.turns.empty();
    HttpCall call;
    call.path = chat ? "/v1/chat/completions" : "/v1/completions";
    try {
      call.body = request_body(query, model_);
    } catch (const Error& error) {  // a picture
      Reply reply;
      reply.error = error.message();
      reply.attempts = 0;
      ++n_done_;
      return done_(index, std::move(reply));
    }
    call.check = [chat](const HttpAnswer& answer) { return error_in(answer, chat); };
    call.on_done = [this, index, chat](HttpAnswer& answer) {
      take(index, answer, chat);
      send_what_may();
    };
    client_.start(std::move(call));
  }

  void take(int64_t index, const HttpAnswer& answer, bool chat) {
    Reply reply;
    if (answer.ok())
      reply = read_reply(answer.body, chat);
    else
      reply.error = answer.problem();
    reply.attempts = answer.attempts;
    n_lost_ = answer.status == 0 ? n_lost_ + 1 : 0;
    const std::string error = reply.error;
    ++n_done_;
    done_(index, std::move(reply));
    if (n_lost_ >= kMostLost + 2 * concurrency_)
      fail(ErrorKind::io, "the endpoint is gone: the last ", n_lost_,
           " questions got no answer, the last one: ", error);
  }

  static constexpr int64_t kMostLost = 50;

  HttpClient& client_;
  const std::string& model_;
  const int64_t concurrency_, n_;
  const std::function<Query(int64_t)>& query_;
  const std::function<void(int64_t, Reply)>& done_;
  int64_t next_ = 0, n_done_ = 0;
  int64_t n_lost_ = 0;  // in a row
};

}  // namespace

std::string request_body(const Query& query, const std::string& model) {
  Json body(Json::Object{{"model", model}});
  if (query.turns.empty()) {
    if (!query.images.empty()) fail_input("a text that is continued has no pictures; they need a chat");
    body.set("prompt", query.text);
    body.set("max_tokens", query.max_tokens);
  } else {
    Json messages{Json::Array{}};
    for (size_t i = 0; i < query.turns.size(); ++i) {
      const bool is_last = i + 1 == query.turns.size();
      messages.push_back(
          Json::Object{{"role", query.turns[i].role},
                       {"content", content_of(query.turns[i], is_last ? query.images : std::vector<fs::path>{})}});
    }
    body.set("messages", std::move(messages));
    body.set("max_completion_tokens", query.max_tokens);
  }
  body.set("temperature", 0);
  if (!query.stop.empty()) {
    Json stop{Json::Array{}};
    for (const std::string& text : query.stop) stop.push_back(text);
    body.set("stop", std::move(stop));
  }
  return dump_json(body, JsonStyle::compact);
}

Reply read_reply(const std::string& body, bool chat) {
  const Json json = parse_json(body, "the answer");
  const Json* choices = json.find("choices");
  if (!choices || !choices->is_array() || choices->as_array().empty()) fail_input("no choices in the answer");
  const Json& choice = choices->as_array().front();
  const Json* holder = chat ? choice.find("message") : &choice;
  const char* key = chat ? "content" : "text";
  const Json* text = holder ? holder->find(key) : nullptr;
  if (!text || !(text->is_string() || (chat && text->is_null())))
    fail_input("no choices[0].", chat ? "message." : "", key, " in the answer");
  Reply reply;
  if (text->is_string()) reply.text = text->as_string();
  if (const Json* reason = choice.find("finish_reason"); reason && reason->is_string())
    reply.finish_reason = reason->as_string();
  reply.prompt_tokens = count_of(json.find("usage"), "prompt_tokens");
  reply.completion_tokens = count_of(json.find("usage"), "completion_tokens");
  return reply;
}

EndpointRespondent::EndpointRespondent(const EndpointOptions& options)
    : client_(options.endpoint.client_options()),
      model_(options.model),
      concurrency_(options.concurrency > 0 ? options.concurrency : 32) {
  tools::raise_descriptor_limit();
  HttpClient client(client_);
  const HttpAnswer models = tools::ask_models(client);
  if (models.status == 0) fail(ErrorKind::io, "--url: nobody answers there: ", models.problem());
  if (models.status == 401 || models.status == 403)
    fail(ErrorKind::io, "--url: ", options.endpoint.url, ": ", models.problem());
  if (model_.empty()) model_ = tools::first_model(models, options.endpoint.url);
  client_.max_attempts = options.max_attempts;
  client_.first_wait_s = options.first_wait_s;
}

void EndpointRespondent::ask(int64_t n, const std::function<Query(int64_t)>& query,
                             const std::function<void(int64_t, Reply)>& done) {
  HttpClient client(client_);
  Asking(client, model_, concurrency_, n, query, done).run();
}

}  // namespace l4::eval
