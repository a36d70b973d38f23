#include "tools/common/sampling_flags.h"

#include <limits>
#include <random>

#include "tools/common/model_flags.h"

namespace l4::tools {

namespace {

// "15=-1.5", "15:2", and llama.cpp's "15+2", "15-1.5"; "-inf" forbids.
std::pair<int32_t, float> parse_bias(const std::string& text) {
  const std::string expected = "ID=BIAS, like 15=-1.5 or 15=-inf";
  const size_t at = text.find_first_not_of("0123456789");
  const std::optional<int64_t> id = parse_int(text.substr(0, at));
  if (at == std::string::npos || !id || *id > INT32_MAX) wrong_value(expected, text);
  std::string value = text.substr(at + (text[at] == '=' || text[at] == ':' ? 1 : 0));
  if (!value.empty() && value[0] == '+') value.erase(0, 1);
  if (value == "-inf" || value == "false") return {int32_t(*id), -std::numeric_limits<float>::infinity()};
  const std::optional<double> bias = parse_double(value);
  if (!bias) wrong_value(expected, text);
  return {int32_t(*id), float(*bias)};
}

}  // namespace

void add_sampling_flags(Flags& flags, SamplingFlags& s) {
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr int kMaxInt = std::numeric_limits<int>::max();
  constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();
  flags.group("Answer");
  flags.number<int64_t>("-n,--predict,--n-predict,--max-tokens", "N",
                        "at most N tokens; -1: until it ends or the context is full", &s.max_tokens, -1, kMaxInt64);
  flags.number<int64_t>("--min-tokens", "N", "at least N tokens", &s.min_tokens, 0, kMaxInt64);
  flags.list("-r,--stop,--reverse-prompt", "TEXT", "end before this text; repeatable", [&s](const std::string& text) {
    if (text.empty()) wrong_value("a text", text);
    check_utf8(text);
    s.stop.push_back(text);
  });
  flags.list("--stop-token-ids", "IDS", "end at one of these tokens, like 1,2", [&s](const std::string& text) {
    for (int32_t id : read_ids(text, "")) s.stop_ids.push_back(id);
  });
  flags.toggle("--ignore-eos", "go on after the end-of-sequence token", &s.ignore_eos);

  flags.group("Sampling (defaults: the checkpoint's generation_config.json)");
  flags.number<float>("--temp,--temperature", "T", "0: always the likeliest token", &s.temperature, 0.0f, kMost);
  flags.number<int>("--top-k", "K", "only the K likeliest; 0: all", &s.top_k, -1, kMaxInt);
  flags.number<float>("--top-p", "P", "only the likeliest that together have probability P; 1: all", &s.top_p, 0.0f,
                      1.0f);
  flags.number<float>("--min-p", "P", "only those with P times the likeliest's probability; 0: all", &s.min_p, 0.0f,
                      1.0f);
  flags.number<float>("--repeat-penalty,--repetition-penalty", "R", "divide the logits of tokens seen before; 1: off",
                      &s.repetition_penalty, 0.01f, 100.0f);
  flags.number<float>("--frequency-penalty", "F", "subtract F for each time a token was written; 0: off",
                      &s.frequency_penalty, -100.0f, 100.0f);
  flags.number<float>("--presence-penalty", "F", "subtract F once for tokens that were written; 0: off",
                      &s.presence_penalty, -100.0f, 100.0f);
  flags.number<int64_t>("-s,--seed", "N", "same seed, same answer; -1: random", &s.seed, -1, kMaxInt64);
  flags.list("-l,--logit-bias", "ID=BIAS", "add to a token's logit, -inf forbids it; repeatable",
             [&s](const std::string& text) { s.logit_bias.push_back(parse_bias(text)); });
  flags.number<int>("--logprobs", "N", "show each token's log-probability and the N likeliest", &s.n_logprobs, 0, 1000);
  flags.number<int>("--prompt-logprobs", "N", "the same for the prompt", &s.n_prompt_logprobs, 0, 1000);
}

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t(device()) << 21 ^ device()) & ((uint64_t(1) << 53) - 1);  // any JSON reader keeps it exactly
}

GenerationOptions SamplingFlags::options(const Frontend& frontend) const {
  check_ids(stop_ids, frontend.config().text.vocab, "--stop-token-ids");
  for (const auto& [id, bias] : logit_bias) check_ids({id}, frontend.config().text.vocab, "--logit-bias");
  if (min_tokens && max_tokens && *max_tokens >= 0 && *min_tokens > *max_tokens)
    fail(ErrorKind::usage, "--min-tokens (", *min_tokens, ") is more than --max-tokens (", *max_tokens, ")");
  GenerationOptions out;
  SamplingParams& p = out.sampling;
  p = frontend.default_sampling();
  const auto set = [](auto& field, const auto& given) {
    if (given) field = *given;
  };
  set(p.temperature, temperature);
  set(p.top_p, top_p);
  set(p.min_p, min_p);
  set(p.repetition_penalty, repetition_penalty);
  set(p.frequency_penalty, frequency_penalty);
  set(p.presence_penalty, presence_penalty);
  if (top_k) p.top_k = std::max(*top_k, 0);
  set(p.n_logprobs, n_logprobs);
  p.seed = seed && *seed >= 0 ? uint64_t(*seed) : random_seed();
  set(out.max_tokens, max_tokens);
  set(out.min_tokens, min_tokens);
  set(out.prompt_logprobs, n_prompt_logprobs);
  out.ignore_eos = ignore_eos;
  out.stop = stop;
  out.stop_ids = stop_ids;
  out.logit_bias = logit_bias;
  return out;
}

}  // namespace l4::tools
