// Which linears are quantised, and how: a preset people know by its name, and rules that change it.
#pragma once

#include <cstdint>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "model/tensor_names.h"

namespace l4::convert {

enum class Scheme : uint8_t { keep, fp8, int4 };  // keep: as the source has it
const char* scheme_name(Scheme scheme);           // "as it is", "FP8", "INT4"

// fp8           routed and shared experts, dense MLPs: what RedHat's FP8-dynamic checkpoints quantise
// fp8-all       the attention's linears as well
// fp8-experts   routed experts only: Meta's Maverick FP8
// w4a16         routed and shared experts, dense MLPs in INT4
// w4a16-all     the attention's linears as well
// none          nothing; rules say what
const std::vector<std::string>& preset_names();

// "PATTERN=fp8|int4|bf16". The pattern must match the whole name of a module, as the checkpoint spells it
// ("language_model.model.layers.0.self_attn.q_proj", "...feed_forward.experts.3.up_proj"): a glob whose * also matches
// dots, or a regular expression behind "re:".
class Rule {
 public:
  explicit Rule(const std::string& text);  // Error{usage}
  bool matches(const std::string& module) const;
  const std::string& text() const { return text_; }
  Scheme scheme() const { return scheme_; }

 private:
  std::string text_, glob_;
  std::optional<std::regex> regex_;
  Scheme scheme_ = Scheme::keep;
};

struct Recipe {
  std::string preset = "fp8";
  int64_t group = 128;      // of INT4
  std::vector<Rule> rules;  // the last that matches decides
  bool kv_scales = false;   // for an FP8 cache, one of keys and one of values a layer

  void check() const;  // Error{usage} for an unknown preset or group
  // Of a linear that can be quantised at all; see may_quantize().
  Scheme scheme_of(ModelPart part, const std::string& module) const;
};

// Attention, MLPs and, where a rule names it, lm_head. Router, embeddings, vision and projector stay: they are small or
// decide too much, and no engine reads them in these formats.
bool may_quantize(ModelPart part);

}  // namespace l4::convert
