#include "grammar/rules.h"

#include "base/error.h"
#include "grammar/limits.h"

namespace l4 {

ExprId GrammarRules::add(GrammarExpr expr) {
  n_parts_ += 1 + expr.parts.size() + expr.texts.size() + expr.chars.ranges().size();
  for (const std::string& text : expr.texts) n_parts_ += text.size() / 8;
  if (n_parts_ > grammar_limits::kMaxExpressions) {
    fail(ErrorKind::usage, "the grammar is too large (more than ", grammar_limits::kMaxExpressions, " parts)");
  }
  exprs_.push_back(std::move(expr));
  return ExprId(exprs_.size() - 1);
}

ExprId GrammarRules::text(std::string_view bytes) {
  return add({.kind = GrammarExpr::Kind::texts, .texts = {std::string(bytes)}});
}

ExprId GrammarRules::one_of_texts(std::vector<std::string> texts) {
  return add({.kind = GrammarExpr::Kind::texts, .texts = std::move(texts)});
}

ExprId GrammarRules::chars(CharSet set) {
  return add({.kind = GrammarExpr::Kind::chars, .chars = std::move(set)});
}

ExprId GrammarRules::sequence(std::vector<ExprId> parts) {
  if (parts.size() == 1) return parts[0];
  return add({.kind = GrammarExpr::Kind::sequence, .parts = std::move(parts)});
}

ExprId GrammarRules::any_of(std::vector<ExprId> parts) {
  if (parts.size() == 1) return parts[0];
  return add({.kind = GrammarExpr::Kind::any_of, .parts = std::move(parts)});
}

ExprId GrammarRules::repeat(ExprId part, int64_t min, int64_t max) {
  if (min == 1 && max == 1) return part;
  return add({.kind = GrammarExpr::Kind::repeat, .parts = {part}, .min = min, .max = max});
}

ExprId GrammarRules::list(std::vector<ExprId> parts, std::vector<bool> required, ExprId separator) {
  return add({.kind = GrammarExpr::Kind::list,
              .parts = std::move(parts),
              .required = std::move(required),
              .separator = separator});
}

ExprId GrammarRules::rule(RuleId rule) {
  return add({.kind = GrammarExpr::Kind::rule, .rule = rule});
}

ExprId GrammarRules::shared(ExprId body, std::string name) {
  RuleId made = new_rule(std::move(name));
  define(made, body);
  return rule(made);
}

RuleId GrammarRules::new_rule(std::string name, bool keep) {
  if (rules_.size() >= grammar_limits::kMaxRules) {
    fail(ErrorKind::usage, "the grammar is too large (more than ", grammar_limits::kMaxRules, " rules)");
  }
  rules_.push_back({std::move(name), -1, keep});
  return RuleId(rules_.size() - 1);
}

}  // namespace l4
