#include "tools/serve/api/text_completions.h"

#include <algorithm>
#include <ctime>

#include "tools/serve/api/chat.h"

namespace l4::serve {

// ---- Reading --------------------------------------------------------------------------------------------------------

namespace {

bool is_id_list(const Json& value) {
  return value.is_array() && !value.as_array().empty() && value.as_array()[0].is_number();
}

std::vector<int32_t> read_ids(const Fields& body, const Json& list, int64_t vocab) {
  std::vector<int32_t> ids;
  for (const Json& id : list.as_array()) {
    if (!id.is_integer() || id.as_integer() < 0 || id.as_integer() >= vocab)
      body.bad_value("prompt", "expected token ids from 0 to ", vocab - 1, ", found ", shown_json(id));
    ids.push_back(int32_t(id.as_integer()));
  }
  return ids;
}

// One string, one list of ids, or a list of either.
std::vector<Json> read_prompts(const Fields& body, const ReadContext& context) {
  const Json* prompt = body.find("prompt");
  if (!prompt) body.missing("prompt");
  if (prompt->is_string() || is_id_list(*prompt)) return {*prompt};
  if (!prompt->is_array()) body.wrong("prompt", "a string, a list of token ids, or a list of these");
  if (prompt->as_array().empty()) body.bad_value("prompt", "expected at least one prompt");
  if (int64_t(prompt->as_array().size()) > context.settings.max_answers)
    body.bad_value("prompt", "expected at most ", context.settings.max_answers, " prompts, found ",
                   prompt->as_array().size());
  for (const Json& one : prompt->as_array())
    if (!one.is_string() && !is_id_list(one))
      body.bad_value("prompt", "expected strings or lists of token ids, found ", shown_json(one));
  return prompt->as_array();
}

}  // namespace

Ask CompletionsDialect::read(const Json& json, const ReadContext& context, std::unique_ptr<Dialect>& dialect) {
  constexpr int64_t kUsualTokens = 16;  // OpenAI's
  const Fields body(json);
  const Frontend& frontend = context.frontend();
  Ask ask;
  ask.model = read_model(body, context);
  body.not_offered("suffix", "the model fills no gaps", Json(""));
  read_choices(body, context, ask);
  if (const auto best_of = body.integer("best_of", 1, context.settings.max_answers); best_of && *best_of != ask.n)
    refuse("best_of", "unsupported_parameter", "not supported: n gives several answers");
  read_sampling(body, context, ask);
  read_stop(body, "stop", ask.options);
  const bool echo = body.flag_or("echo", false);
  ask.options.max_tokens = body.integer("max_tokens", echo ? 0 : 1, INT64_MAX).value_or(kUsualTokens);
  // As OpenAI a number; as in chats a flag would be 1.
  const auto n_logprobs = body.integer("logprobs", 0, context.settings.max_logprobs);
  const auto n_prompt = body.integer("prompt_logprobs", 0, context.settings.max_logprobs);
  if (n_prompt && ask.stream) body.bad_value("prompt_logprobs", "not in a streamed answer");
  if (n_logprobs) ask.options.sampling.n_logprobs = int32_t(*n_logprobs);
  if (n_prompt || (echo && n_logprobs))
    ask.options.prompt_logprobs = int32_t(std::max(n_prompt.value_or(0), echo ? n_logprobs.value_or(0) : 0));
  ask.tokens = n_logprobs || n_prompt;
  ask.options.grammar = context.grammars.form(read_form(body));

  std::vector<EchoedPrompt> echoed;
  const bool add_special = body.flag_or("add_special_tokens", true);
  for (const Json& prompt : read_prompts(body, context)) {
    if (prompt.is_string()) {
      if (!frontend.has_tokenizer())
        refuse("prompt", "unsupported_value", "the checkpoint has no tokenizer: give token ids");
      ask.prompts.push_back(blaming("prompt", [&] {
        return add_special ? frontend.prompt_from_text(prompt.as_string())
                           : frontend.prompt_from_ids(frontend.tokenizer().encode(prompt.as_string()));
      }));
    } else {
      std::vector<int32_t> ids = read_ids(body, prompt, frontend.config().text.vocab);
      ask.prompts.push_back(blaming("prompt", [&] { return frontend.prompt_from_ids(std::move(ids)); }));
    }
    const std::vector<int32_t>& ids = ask.prompts.back().ids;
    if (ids.empty()) body.bad_value("prompt", "expected at least one token");
    if (!echo) continue;
    if (!frontend.has_tokenizer()) body.bad_value("echo", "the checkpoint has no tokenizer");
    echoed.push_back(
        {prompt.is_string() ? prompt.as_string() : utf8_replace_invalid(frontend.tokenizer().decode(ids, false)),
         ids.front()});
  }
  if (int64_t(ask.prompts.size()) * ask.n > context.settings.max_answers)
    body.bad_value("n", "prompts times n: at most ", context.settings.max_answers);
  check_length(ask, context, "max_tokens");
  dialect.reset(new CompletionsDialect(ask, frontend, int(n_logprobs.value_or(-1)), std::move(echoed)));
  return ask;
}

// ---- Writing --------------------------------------------------------------------------------------------------------

CompletionsDialect::CompletionsDialect(const Ask& ask, const Frontend& frontend, int n_logprobs,
                                       std::vector<EchoedPrompt> echo)
    : tokenizer_(frontend.has_tokenizer() ? &frontend.tokenizer() : nullptr),
      id_("cmpl-" + random_id()),
      created_(std::time(nullptr)),
      n_logprobs_(tokenizer_ ? n_logprobs : -1),
      echo_(std::move(echo)) {
  const size_t n_answers = ask.prompts.size() * size_t(ask.n);
  begun_.resize(n_answers);
  n_open_ = int(n_answers);
  for (size_t i = 0; i < n_answers && n_logprobs_ >= 0; ++i) {
    logprobs_.emplace_back(*tokenizer_, n_logprobs_);
    if (!echo_.empty()) logprobs_.back().add_first(echo_[i / size_t(ask.n)].first_id);
  }
}

Json CompletionsDialect::logprobs_since(const Answer& answer, int index, size_t prompt_token, size_t token) {
  if (n_logprobs_ < 0) return Json();
  CompletionLogprobs& lists = logprobs_[size_t(index)];
  for (size_t i = prompt_token; !echo_.empty() && i < answer.prompt_tokens.size(); ++i)
    lists.add(answer.prompt_tokens[i]);
  for (size_t i = token; i < answer.tokens.size(); ++i) lists.add(answer.tokens[i]);
  return lists.empty() ? Json() : lists.take();
}

Json CompletionsDialect::choice(const Ask& ask, const Answer& answer, int index, std::string text,
                                Json logprobs) const {
  Json out(Json::Object{{"index", int64_t(index)}, {"text", std::move(text)}, {"logprobs", std::move(logprobs)}});
  out.set("finish_reason", answer.end == AnswerEnd::open ? Json() : Json(finish_reason(answer.end)));
  out.set("stop_reason", stop_reason(answer));
  if (ask.options.prompt_logprobs >= 0 && !ask.stream && tokenizer_)
    out.set("prompt_logprobs", prompt_logprobs(answer.prompt_tokens, *tokenizer_));
  return out;
}

Json CompletionsDialect::head(const Ask& ask) const {
  return Json(Json::Object{{"id", id_},
                           {"object", "text_completion"},
                           {"created", created_},
                           {"model", ask.model},
                           {"system_fingerprint", system_fingerprint()}});
}

std::string CompletionsDialect::whole(const Ask& ask, const std::vector<Answer>& answers) {
  Json choices(Json::Array{});
  for (size_t i = 0; i < answers.size(); ++i) {
    const std::string prompt = echo_.empty() ? std::string() : echo_[i / size_t(ask.n)].text;
    Json logprobs = logprobs_since(answers[i], int(i), 0, 0);
    choices.push_back(choice(ask, answers[i], int(i), prompt + answers[i].text, std::move(logprobs)));
  }
  const Totals totals = totals_of(ask, answers);
  Json out = head(ask);
  out.set("choices", std::move(choices));
  out.set("usage", usage_json(totals.usage));
  out.set("timings", timings_json(totals));
  return event_text(out);
}

void CompletionsDialect::send(const Ask& ask, const std::vector<Answer>& answers, Json choices, Exchange& out,
                              bool is_last) {
  Json chunk = head(ask);
  chunk.set("choices", std::move(choices));
  if (ask.continuous_usage || (is_last && ask.include_usage))
    chunk.set("usage", usage_json(totals_of(ask, answers).usage));
  else if (ask.include_usage)
    chunk.set("usage", Json());
  if (is_last) chunk.set("timings", timings_json(totals_of(ask, answers)));
  out.send_event(event_text(chunk));
}

void CompletionsDialect::delta(const Ask& ask, const std::vector<Answer>& answers, const Delta& delta, Exchange& out) {
  const Answer& answer = answers[size_t(delta.index)];
  const bool has_tokens = answer.usage.completion_tokens > 0 || delta.ended;
  std::string text = delta.text;
  size_t prompt_token = delta.first_prompt_token;
  if (!echo_.empty() && !begun_[size_t(delta.index)]) {
    if (!has_tokens) return;  // the prompt's log-probabilities are not whole yet
    prompt_token = 0;
    text = echo_[size_t(delta.index) / size_t(ask.n)].text + text;
  }
  begun_[size_t(delta.index)] = has_tokens;
  Json logprobs = logprobs_since(answer, delta.index, prompt_token, delta.first_token);
  if (delta.ended) --n_open_;
  if (text.empty() && logprobs.is_null() && !delta.ended) return;
  send(ask, answers, Json::Array{choice(ask, answer, delta.index, std::move(text), std::move(logprobs))}, out,
       delta.ended && n_open_ == 0 && !ask.include_usage);
}

void CompletionsDialect::end(const Ask& ask, const std::vector<Answer>& answers, Exchange& out) {
  if (ask.include_usage) send(ask, answers, Json::Array{}, out, true);
  out.send_event("[DONE]");
}

void CompletionsDialect::broken(const ErrorBody& error, Exchange& out) {
  out.send_event(event_text(error_json(error)));
}

}  // namespace l4::serve
