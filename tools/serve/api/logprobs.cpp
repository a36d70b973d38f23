#include "tools/serve/api/logprobs.h"

#include <algorithm>
#include <cmath>

namespace l4::serve {

namespace {

// JSON has no infinity: what OpenAI and vLLM write for a token that could not come.
double finite(float logprob) {
  return std::isnan(logprob) ? -9999.0 : std::clamp(double(logprob), -9999.0, 0.0);
}

Json bytes_of(int32_t id, const Tokenizer& tokenizer) {
  Json out(Json::Array{});
  for (unsigned char byte : tokenizer.decode(id)) out.push_back(int64_t(byte));
  return out;
}

Json token_json(int32_t id, float logprob, const Tokenizer& tokenizer) {
  return Json(
      Json::Object{{"token", tokenizer.name_of(id)}, {"logprob", finite(logprob)}, {"bytes", bytes_of(id, tokenizer)}});
}

int64_t n_characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

Json chat_logprobs(std::span<const TokenChoice> tokens, const Tokenizer& tokenizer) {
  Json list(Json::Array{});
  for (const TokenChoice& token : tokens) {
    Json item = token_json(token.id, token.logprob, tokenizer);
    Json top(Json::Array{});
    for (const TokenLogprob& other : token.top) top.push_back(token_json(other.id, other.logprob, tokenizer));
    item.set("top_logprobs", std::move(top));
    list.push_back(std::move(item));
  }
  return list;
}

void CompletionLogprobs::add_text(int32_t id) {
  const std::string name = tokenizer_.name_of(id);
  offsets_.push_back(offset_);
  offset_ += n_characters(name);
  tokens_.push_back(name);
}

void CompletionLogprobs::add_first(int32_t id) {
  add_text(id);
  logprobs_.push_back(Json());
  top_.push_back(Json());
}

void CompletionLogprobs::add(const TokenChoice& token) {
  add_text(token.id);
  logprobs_.push_back(finite(token.logprob));
  Json top(Json::Object{});
  for (size_t i = 0; i < token.top.size() && i < size_t(n_top_); ++i)
    top.set(tokenizer_.name_of(token.top[i].id), finite(token.top[i].logprob));
  top.set(tokenizer_.name_of(token.id), finite(token.logprob));
  top_.push_back(std::move(top));
}

Json CompletionLogprobs::take() {
  Json out(Json::Object{{"tokens", std::move(tokens_)},
                        {"token_logprobs", std::move(logprobs_)},
                        {"top_logprobs", std::move(top_)},
                        {"text_offset", std::move(offsets_)}});
  tokens_.clear();
  logprobs_.clear();
  top_.clear();
  offsets_.clear();
  return out;
}

Json prompt_logprobs(std::span<const TokenChoice> tokens, const Tokenizer& tokenizer) {
  Json list(Json::Array{Json()});
  for (const TokenChoice& token : tokens) {
    Json item(Json::Object{});
    const auto add = [&](int32_t id, float logprob, Json rank) {
      if (item.find(cat(id))) return;
      item.set(cat(id),
               Json::Object{
                   {"logprob", finite(logprob)}, {"rank", std::move(rank)}, {"decoded_token", tokenizer.name_of(id)}});
    };
    for (size_t i = 0; i < token.top.size(); ++i) add(token.top[i].id, token.top[i].logprob, int64_t(i + 1));
    add(token.id, token.logprob, Json());  // beyond the best: its rank is not known
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace l4::serve
