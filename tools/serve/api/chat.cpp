#include "tools/serve/api/chat.h"

#include <algorithm>
#include <ctime>

#include "tools/serve/api/logprobs.h"

namespace l4::serve {

const char* finish_reason(AnswerEnd end) {
  return end == AnswerEnd::length ? "length" : end == AnswerEnd::calls ? "tool_calls" : "stop";
}

Json stop_reason(const Answer& answer) {
  if (answer.stop_text) return Json(*answer.stop_text);
  if (answer.stop_id) return Json(int64_t(*answer.stop_id));
  return Json();
}

Json tool_call_json(const AnsweredCall& call) {
  return Json(Json::Object{{"id", cat("call_", call.id)},
                           {"type", "function"},
                           {"function", Json::Object{{"name", call.name}, {"arguments", call.arguments}}}});
}

// ---- Reading --------------------------------------------------------------------------------------------------------

namespace {

void refuse_what_chats_cannot(const Fields& body) {
  body.not_offered("functions", "give them as tools");
  body.not_offered("function_call", "give tool_choice");
  body.not_offered("audio", "answers are text");
  body.not_offered("modalities", "answers are text", Json(Json::Array{"text"}));
  body.not_offered("web_search_options", "this server searches nothing");
  body.not_offered("documents", "the chat template takes none");
  body.not_offered("chat_template", "--chat-template chooses it when the server is started");
  body.not_offered("echo", "/v1/completions has it", Json(false));
  body.not_offered("best_of", "n gives several answers", Json(1));
}

// "max_completion_tokens", or its old name.
std::string read_max_tokens(const Fields& body, Ask& ask) {
  for (const char* key : {"max_completion_tokens", "max_tokens"})
    if (const auto n = body.integer(key, 1, INT64_MAX)) {
      ask.options.max_tokens = *n;
      return key;
    }
  return "max_tokens";
}

bool read_logprobs(const Fields& body, const ReadContext& context, Ask& ask) {
  const bool logprobs = body.flag_or("logprobs", false);
  const auto top = body.integer("top_logprobs", 0, context.settings.max_logprobs);
  if (top.value_or(0) > 0 && !logprobs) body.bad_value("top_logprobs", "needs \"logprobs\": true");
  if (logprobs) ask.options.sampling.n_logprobs = int32_t(top.value_or(0));
  if (const auto n = body.integer("prompt_logprobs", 0, context.settings.max_logprobs)) {
    if (ask.stream) body.bad_value("prompt_logprobs", "not in a streamed answer");
    ask.options.prompt_logprobs = int32_t(*n);
  }
  ask.tokens = logprobs || ask.options.prompt_logprobs >= 0;
  return logprobs;
}

}  // namespace

void read_conversation(const Fields& body, const Json& json, const ReadContext& context, Ask& ask) {
  if (const Json::Array* tools = body.list("tools")) check_tools(*tools, body.path("tools"));
  if (!body.has("messages")) body.missing("messages");
  ChatRequest chat = blaming("messages", [&] { return chat_request_from_json(json); });
  if (const std::optional<Fields> more = body.object("chat_template_kwargs"))
    chat.tools_in_user_message = more->flag_or("tools_in_user_message", chat.tools_in_user_message);
  const bool continues = body.flag_or("continue_final_message", false);
  if (continues && body.flag_or("add_generation_prompt", false))
    body.bad_value("continue_final_message", "not beside \"add_generation_prompt\": true");
  apply_tools(body, read_tool_choice(body), body.flag_or("parallel_tool_calls", true), read_form(body), context, chat,
              ask);
  ask.prompts.push_back(chat_prompt(context, std::move(chat), continues));
}

Ask ChatDialect::read(const Json& json, const ReadContext& context, std::unique_ptr<Dialect>& dialect) {
  const Fields body(json);
  Ask ask;
  ask.model = read_model(body, context);
  refuse_what_chats_cannot(body);
  read_choices(body, context, ask);
  read_sampling(body, context, ask);
  read_stop(body, "stop", ask.options);
  const std::string max_tokens = read_max_tokens(body, ask);
  const bool logprobs = read_logprobs(body, context, ask);
  read_conversation(body, json, context, ask);
  check_length(ask, context, max_tokens);
  dialect.reset(new ChatDialect(ask, context.frontend().tokenizer(), logprobs));
  return ask;
}

// ---- Writing --------------------------------------------------------------------------------------------------------

ChatDialect::ChatDialect(const Ask& ask, const Tokenizer& tokenizer, bool logprobs)
    : tokenizer_(tokenizer),
      logprobs_(logprobs),
      id_("chatcmpl-" + random_id()),
      created_(std::time(nullptr)),
      has_role_(size_t(ask.n)),
      n_open_(ask.n) {
  head_ = cat("{\"id\":\"", id_, "\",\"object\":\"chat.completion.chunk\",\"created\":", created_,
              ",\"model\":", json_quote(ask.model), ",\"system_fingerprint\":", json_quote(system_fingerprint()),
              ",\"choices\":[");
}

std::string ChatDialect::whole(const Ask& ask, const std::vector<Answer>& answers) {
  Json choices(Json::Array{});
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer& answer = answers[i];
    Json message(Json::Object{{"role", "assistant"},
                              {"content", answer.text.empty() && !answer.calls.empty() ? Json() : Json(answer.text)},
                              {"refusal", Json()}});
    if (!answer.calls.empty()) {
      Json calls(Json::Array{});
      for (const AnsweredCall& call : answer.calls) calls.push_back(tool_call_json(call));
      message.set("tool_calls", std::move(calls));
    }
    choices.push_back(Json::Object{
        {"index", int64_t(i)},
        {"message", std::move(message)},
        {"logprobs", logprobs_ ? Json(Json::Object{{"content", chat_logprobs(answer.tokens, tokenizer_)}}) : Json()},
        {"finish_reason", finish_reason(answer.end)},
        {"stop_reason", stop_reason(answer)}});
  }
  const Totals totals = totals_of(ask, answers);
  Json out(Json::Object{{"id", id_},
                        {"object", "chat.completion"},
                        {"created", created_},
                        {"model", ask.model},
                        {"system_fingerprint", system_fingerprint()},
                        {"choices", std::move(choices)},
                        {"usage", usage_json(totals.usage)},
                        {"timings", timings_json(totals)}});
  if (ask.options.prompt_logprobs >= 0)
    out.set("prompt_logprobs", prompt_logprobs(answers[0].prompt_tokens, tokenizer_));
  return event_text(out);
}

// Chunks are put together as text: at tens of thousands of tokens a second this is what the server does most.
void ChatDialect::send(const Ask& ask, const std::vector<Answer>& answers, const std::string& choice, Exchange& out,
                       bool is_last) {
  std::string chunk = cat(head_, choice, "]");
  if (ask.continuous_usage || (is_last && ask.include_usage))
    chunk += cat(",\"usage\":", event_text(usage_json(totals_of(ask, answers).usage)));
  else if (ask.include_usage)
    chunk += ",\"usage\":null";
  if (is_last) chunk += cat(",\"timings\":", event_text(timings_json(totals_of(ask, answers))));
  out.send_event(chunk += "}");
}

void ChatDialect::delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) {
  const Answer& answer = answers[size_t(delta.index)];
  const auto choice = [&](const std::string& what, const std::string& logprobs, const std::string& rest) {
    return cat("{\"index\":", delta.index, ",\"delta\":", what, ",\"logprobs\":", logprobs, rest, "}");
  };
  const std::string open = ",\"finish_reason\":null";
  const bool has_tokens = answer.usage.completion_tokens > 0 || delta.ended;
  if (has_tokens && !has_role_[size_t(delta.index)]) {
    has_role_[size_t(delta.index)] = true;
    send(ask, answers, choice("{\"role\":\"assistant\",\"content\":\"\"}", "null", open), out);
  }
  const bool has_logprobs = logprobs_ && answer.tokens.size() > delta.first_token;
  if (!delta.text.empty() || has_logprobs) {
    const std::string logprobs =
        has_logprobs
            ? cat("{\"content\":",
                  event_text(chat_logprobs(std::span(answer.tokens).subspan(delta.first_token), tokenizer_)), "}")
            : "null";
    send(ask, answers, choice(cat("{\"content\":", json_quote(delta.text), "}"), logprobs, open), out);
  }
  for (const CallDelta& piece : delta.calls) {
    const AnsweredCall& call = answer.calls[piece.call];
    const std::string opening =
        piece.is_new ? cat("\"id\":\"call_", call.id, "\",\"type\":\"function\",") : std::string();
    const std::string name = piece.is_new ? cat("\"name\":", json_quote(call.name), ",") : std::string();
    send(ask, answers,
         choice(cat("{\"tool_calls\":[{\"index\":", piece.call, ",", opening, "\"function\":{", name,
                    "\"arguments\":", json_quote(piece.arguments), "}}]}"),
                "null", open),
         out);
  }
  if (!delta.ended) return;
  --n_open_;
  const bool is_last = n_open_ == 0 && !ask.include_usage;
  send(ask, answers,
       choice("{}", "null",
              cat(",\"finish_reason\":\"", finish_reason(answer.end),
                  "\",\"stop_reason\":", event_text(stop_reason(answer)))),
       out, is_last);
}

void ChatDialect::end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) {
  if (ask.include_usage) send(ask, answers, "", out, true);
  out.send_event("[DONE]");
}

void ChatDialect::broken(const ErrorBody& error, Exchange& out) {
  out.send_event(event_text(error_json(error)));
}

}  // namespace l4::serve
