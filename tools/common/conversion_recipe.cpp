#include "tools/common/conversion_recipe.h"

#include <fnmatch.h>

#include <algorithm>

namespace l4::convert {

namespace {

struct Preset {
  const char* name;
  Scheme scheme;
  std::vector<ModelPart> parts;
};

const std::vector<Preset>& presets() {
  using enum ModelPart;
  static const std::vector<Preset> table = {
      {"fp8", Scheme::fp8, {routed_experts, shared_expert, dense_ffn}},
      {"fp8-all", Scheme::fp8, {routed_experts, shared_expert, dense_ffn, attention}},
      {"fp8-experts", Scheme::fp8, {routed_experts}},
      {"w4a16", Scheme::int4, {routed_experts, shared_expert, dense_ffn}},
      {"w4a16-all", Scheme::int4, {routed_experts, shared_expert, dense_ffn, attention}},
      {"none", Scheme::keep, {}},
  };
  return table;
}

}  // namespace

const char* scheme_name(Scheme scheme) {
  static const char* const names[] = {"as it is", "FP8", "INT4"};
  return names[size_t(scheme)];
}

const std::vector<std::string>& preset_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Preset& preset : presets()) list.push_back(preset.name);
    return list;
  }();
  return names;
}

Rule::Rule(const std::string& text) : text_(text) {
  const size_t equals = text.rfind('=');
  const std::string scheme = equals == std::string::npos ? "" : text.substr(equals + 1);
  if (scheme == "fp8")
    scheme_ = Scheme::fp8;
  else if (scheme == "int4")
    scheme_ = Scheme::int4;
  else if (scheme != "bf16")
    fail(ErrorKind::usage, "expected PATTERN=fp8, =int4 or =bf16 (stays as it is), found ", shown(text));
  glob_ = text.substr(0, equals);
  if (glob_.empty()) fail(ErrorKind::usage, "expected a pattern before the =, found ", shown(text));
  if (!glob_.starts_with("re:")) return;
  try {
    regex_.emplace(glob_.substr(3), std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error&) {
    fail(ErrorKind::usage, "expected a regular expression behind re:, found ", shown(text));
  }
}

bool Rule::matches(const std::string& module) const {
  return regex_ ? std::regex_match(module, *regex_) : fnmatch(glob_.c_str(), module.c_str(), 0) == 0;
}

void Recipe::check() const {
  const auto& names = preset_names();
  if (std::find(names.begin(), names.end(), preset) == names.end())
    fail(ErrorKind::usage, "--preset: expected ", join(names, ", "), ", found ", shown(preset));
  if (group != 32 && group != 64 && group != 128)
    fail(ErrorKind::usage, "--group-size: expected 32, 64 or 128, found ", group);
}

Scheme Recipe::scheme_of(ModelPart part, const std::string& module) const {
  Scheme scheme = Scheme::keep;
  for (const Preset& p : presets())
    if (p.name == preset && std::find(p.parts.begin(), p.parts.end(), part) != p.parts.end()) scheme = p.scheme;
  for (const Rule& rule : rules)
    if (rule.matches(module)) scheme = rule.scheme();
  return scheme;
}

bool may_quantize(ModelPart part) {
  switch (part) {
    case ModelPart::attention:
    case ModelPart::routed_experts:
    case ModelPart::shared_expert:
    case ModelPart::dense_ffn:
    case ModelPart::lm_head:
      return true;
    default:
      return false;
  }
}

}  // namespace l4::convert
