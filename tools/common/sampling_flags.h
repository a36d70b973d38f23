// The flags that say how tokens are chosen and when an answer ends.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "l4.h"
#include "tools/common/flags.h"

namespace l4::tools {

// What the command line says; the rest is as the checkpoint's generation_config.json asks for.
struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<int> top_k, n_logprobs, n_prompt_logprobs;
  std::optional<int64_t> max_tokens, min_tokens, seed;  // seed -1: random
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_ids;
  std::vector<std::pair<int32_t, float>> logit_bias;

  // A random seed where none was given. Error{usage} naming the flag whose token ids the model does not have.
  GenerationOptions options(const Frontend& frontend) const;
};

void add_sampling_flags(Flags& flags, SamplingFlags& sampling);
uint64_t random_seed();

}  // namespace l4::tools
