#include "tools/serve/api/routes.h"

#include <algorithm>
#include <ctime>
#include <thread>

#include "tools/serve/api/chat.h"
#include "tools/serve/api/messages.h"
#include "tools/serve/api/responses.h"
#include "tools/serve/api/text_completions.h"
#include "tools/serve/api/tokenize.h"
#include "tools/serve/page/page.h"

namespace l4::serve {

namespace {

int thread_count(int asked) {
  return asked > 0 ? asked : std::thread::hardware_concurrency() > 4 ? 2 : 1;
}

void reply(Exchange& exchange, const Json& body) {
  exchange.reply({.body = event_text(body)});
}

HttpResponse page_response() {
  const WebPage& page = web_page();
  return {.content_type = "text/html; charset=utf-8",
          .body = std::string(page.html),
          .headers = {{"Cache-Control", "no-cache"},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Content-Security-Policy", page.content_security_policy}}};
}

}  // namespace

Api::Api(AnswerSource& source, tools::MediaLoader* media, Options options)
    : source_(source),
      options_(std::move(options)),
      grammars_(source.frontend()),
      context_{source, grammars_, media, options_.settings},
      created_(std::time(nullptr)),
      completions_(source, options_.hooks, thread_count(options_.threads)) {}

Api::~Api() = default;

void Api::check_ready() const {
  if (const std::string why = source_.not_ready(); !why.empty()) throw ApiError(api_error(503, why));
}

void Api::answer(Read read, std::shared_ptr<Exchange> exchange) {
  check_ready();
  const std::string text = std::move(exchange->request().body);
  std::unique_ptr<Dialect> dialect;
  Ask ask = read(parse_body(text), context_, dialect);
  blaming("", [&] { completions_.start(std::move(ask), std::move(dialect), std::move(exchange)); });
}

Json Api::models() const {
  Json list(Json::Array{});
  // Members of OpenAI's, vLLM's and Anthropic's lists beside each other.
  for (const std::string& name : options_.settings.model_names)
    list.push_back(Json::Object{{"id", name},
                                {"object", "model"},
                                {"created", created_},
                                {"owned_by", "l4"},
                                {"root", options_.settings.model_names.front()},
                                {"max_model_len", source_.max_context()},
                                {"type", "model"},
                                {"display_name", name}});
  return list;
}

void Api::add_routes(Router& router) {
  const auto work = [&](const char* path, Read read, auto error_format) {
    RouteOptions options;
    options.is_work = true;
    options.error_format = error_format;
    router.add(
        "POST", path, [this, read](std::shared_ptr<Exchange> e) { answer(read, std::move(e)); }, options);
  };
  work("/v1/chat/completions", ChatDialect::read, error_response);
  work("/v1/completions", CompletionsDialect::read, error_response);
  work("/v1/responses", ResponsesDialect::read, error_response);
  work("/v1/messages", MessagesDialect::read, anthropic_error_response);
  const auto calculation = [&](const char* path, auto calculate, auto error_format) {
    RouteOptions options;
    options.error_format = error_format;
    router.add(
        "POST", path,
        [this, calculate](std::shared_ptr<Exchange> e) {
          check_ready();
          reply(*e, calculate(parse_body(e->request().body), context_));
        },
        options);
  };
  calculation(
      "/v1/messages/count_tokens",
      [](const Json& body, const ReadContext& context) {
        return Json(Json::Object{{"input_tokens", count_message_tokens(body, context)}});
      },
      anthropic_error_response);
  calculation("/tokenize", tokenize, error_response);
  calculation("/detokenize", detokenize, error_response);

  router.add("GET", "/v1/models", [this](std::shared_ptr<Exchange> e) {
    reply(*e, Json(Json::Object{{"object", "list"}, {"data", models()}, {"has_more", false}}));
  });
  router.add("GET", "/v1/models/*", [this](std::shared_ptr<Exchange> e) {
    const Json all = models();
    for (const Json& model : all.as_array())
      if (model.find("id")->as_string() == e->request().wildcard) return reply(*e, model);
    throw ApiError(api_error(404, cat("no model is called ", shown(e->request().wildcard), " here"),
                             "invalid_request_error", "model", "model_not_found"));
  });
  if (options_.page)
    router.add("GET", "/", [](std::shared_ptr<Exchange> e) { e->reply(page_response()); }, {.needs_key = false});
}

// ---- Metrics --------------------------------------------------------------------------------------------------------

EngineStatsCollector::EngineStatsCollector(const AnswerSource& source, Metrics& metrics, EngineMetrics& engine_metrics)
    : source_(source),
      m_(engine_metrics),
      steps_(metrics.counter("l4:engine_steps_total", "Steps of the model.")),
      step_seconds_(metrics.counter("l4:engine_step_seconds_total", "Time in steps of the model.")),
      host_seconds_(metrics.counter("l4:engine_host_seconds_total",
                                    "Time between steps while there was work, for which the device waited.")),
      drafts_(metrics.counter("l4:spec_decode_num_draft_tokens_total", "Tokens drafted by n-gram look-up.")),
      accepted_drafts_(metrics.counter("l4:spec_decode_num_accepted_tokens_total", "Drafted tokens that were right.")) {
}

void EngineStatsCollector::collect() {
  const EngineStats s = source_.stats();
  m_.num_requests_running.set(double(s.n_running));
  m_.num_requests_waiting.set(double(s.n_waiting));
  m_.kv_cache_usage_perc.set(s.kv_usage());
  m_.prefix_cache_queries_total.rise_to(double(s.prefix_query_tokens));
  m_.prefix_cache_hits_total.rise_to(double(s.prefix_hit_tokens));
  m_.prompt_tokens_total.rise_to(double(s.prompt_tokens));
  m_.generation_tokens_total.rise_to(double(s.generated_tokens));
  m_.num_preemptions_total.rise_to(double(s.preemptions));
  // The engine counts rows of all steps together: since the last look, each step had the mean.
  if (const int64_t steps = s.n_steps - steps_seen_; steps > 0)
    m_.iteration_tokens_total.observe(double(s.step_rows - rows_seen_) / double(steps), uint64_t(steps));
  steps_seen_ = s.n_steps;
  rows_seen_ = s.step_rows;
  steps_.rise_to(double(s.n_steps));
  step_seconds_.rise_to(s.step_seconds);
  host_seconds_.rise_to(s.host_seconds);
  drafts_.rise_to(double(s.draft_tokens));
  accepted_drafts_.rise_to(double(s.accepted_draft_tokens));
}

}  // namespace l4::serve
