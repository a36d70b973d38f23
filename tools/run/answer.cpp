#include "tools/run/answer.h"

#include <cmath>
#include <cstdio>

#include "tools/common/signals.h"

namespace l4::run {

namespace {

double per_second(int64_t n, double ms) {
  return ms > 0 ? double(n) * 1000 / ms : 0;
}

// The first token belongs to the prompt's time, so the others are what is measured.
double generation_rate(const Finished& f) {
  return per_second(f.usage.completion_tokens - 1, f.timings.predicted_ms);
}
double prompt_rate(const Finished& f) {
  return per_second(f.usage.prompt_tokens - f.usage.cached_tokens, f.timings.prompt_ms);
}

std::string rate(double per_s) {
  char text[32];
  std::snprintf(text, sizeof text, per_s < 100 ? "%.1f" : "%.0f", per_s);
  return text;
}

}  // namespace

Answer take_answer(Generation generation, const AnswerView& view) {
  Answer answer;
  while (!generation.done()) {
    std::optional<GenerationEvent> event = generation.next(std::chrono::milliseconds(50));
    if (int n = tools::take_interrupts(); n > 0 || tools::asked_to_end()) {
      if (tools::asked_to_end()) tools::end_now(128 + tools::asked_to_end());
      if (answer.interrupted || n > 1) tools::end_now(130);
      answer.interrupted = true;
      generation.cancel();
    }
    if (!event) continue;
    if (event->kind == GenerationEvent::Kind::prompt) {
      for (TokenChoice& token : event->prompt.logprobs) answer.prompt_logprobs.push_back(std::move(token));
      if (view.prompt) view.prompt(event->prompt);
      continue;
    }
    if (!event->text.empty()) {
      answer.text += event->text;
      if (view.text) view.text(event->text);
    }
    if (event->kind == GenerationEvent::Kind::token) answer.tokens.push_back(std::move(event->token));
    if (event->kind == GenerationEvent::Kind::finished) {
      answer.finished = std::move(event->finished);
      answer.stop_text = std::move(event->stop_text);
    }
  }
  if (answer.finished.reason == FinishReason::error) throw Error(answer.finished.error_kind, answer.finished.error);
  return answer;
}

std::string stats_line(const Answer& answer, int64_t max_context) {
  const Usage& u = answer.finished.usage;
  std::string line = cat("[", human_count(uint64_t(u.prompt_tokens)), " prompt tokens");
  if (u.cached_tokens > 0) line += cat(" (", human_count(uint64_t(u.cached_tokens)), " cached)");
  line += cat(", ", rate(prompt_rate(answer.finished)), " tokens/s | ", human_count(uint64_t(u.completion_tokens)),
              u.completion_tokens == 1 ? " token" : " tokens");
  if (u.completion_tokens > 1) line += cat(", ", rate(generation_rate(answer.finished)), " tokens/s");
  return line + cat(" | context ", human_count(uint64_t(u.prompt_tokens + u.completion_tokens)), " of ",
                    human_count(uint64_t(max_context)), "]");
}

// ---- JSON -----------------------------------------------------------------------------------------------------------

namespace {

double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

Json logprob_json(int32_t id, float logprob, const Tokenizer* tokenizer) {
  Json out;
  out.set("id", int64_t(id));
  if (tokenizer) out.set("token", tokenizer->name_of(id));
  out.set("logprob", std::isfinite(logprob) ? Json(double(logprob)) : Json());
  return out;
}

Json logprobs_json(const std::vector<TokenChoice>& tokens, const Tokenizer* tokenizer) {
  Json list(Json::Array{});
  for (const TokenChoice& token : tokens) {
    Json item = logprob_json(token.id, token.logprob, tokenizer);
    Json top(Json::Array{});
    for (const TokenLogprob& other : token.top) top.push_back(logprob_json(other.id, other.logprob, tokenizer));
    item.set("top_logprobs", std::move(top));
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace

Json answer_json(const Answer& answer, const AnswerFacts& facts, const Tokenizer* tokenizer) {
  const Usage& u = answer.finished.usage;
  const Timings& t = answer.finished.timings;
  Json ids(Json::Array{}), usage, timings, out;
  for (const TokenChoice& token : answer.tokens) ids.push_back(int64_t(token.id));
  usage.set("prompt_tokens", u.prompt_tokens);
  usage.set("cached_tokens", u.cached_tokens);
  usage.set("completion_tokens", u.completion_tokens);
  usage.set("total_tokens", u.prompt_tokens + u.completion_tokens);
  timings.set("load_ms", rounded(facts.load_ms));
  timings.set("prompt_ms", rounded(t.prompt_ms));
  timings.set("prompt_per_second", rounded(prompt_rate(answer.finished)));
  timings.set("predicted_ms", rounded(t.predicted_ms));
  timings.set("predicted_per_second", rounded(generation_rate(answer.finished)));
  out.set("model", facts.model);
  out.set("text", answer.text);
  out.set("ids", std::move(ids));
  out.set("finish_reason", finish_reason_name(answer.finished.reason));
  if (answer.stop_text) out.set("stop", *answer.stop_text);
  out.set("usage", std::move(usage));
  out.set("timings", std::move(timings));
  out.set("seed", int64_t(facts.seed));
  if (facts.with_logprobs) out.set("logprobs", logprobs_json(answer.tokens, tokenizer));
  if (facts.with_prompt_logprobs) out.set("prompt_logprobs", logprobs_json(answer.prompt_logprobs, tokenizer));
  return out;
}

std::string logprobs_table(const std::vector<TokenChoice>& tokens, const Tokenizer* tokenizer) {
  const auto name = [&](int32_t id) { return tokenizer ? json_quote(tokenizer->name_of(id)) : cat("#", id); };
  std::string out;
  for (const TokenChoice& token : tokens) {
    char number[32];
    std::snprintf(number, sizeof number, "%9.4f", double(token.logprob));
    std::string first = name(token.id);
    first.resize(std::max<size_t>(first.size(), 18), ' ');
    out += cat(number, "  ", first);
    for (const TokenLogprob& other : token.top) {
      std::snprintf(number, sizeof number, "%.4f", double(other.logprob));
      out += cat("  ", name(other.id), " ", number);
    }
    out += "\n";
  }
  return out;
}

}  // namespace l4::run
