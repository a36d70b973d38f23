// The one form every front end writes: named rules over texts, sets of characters, sequences, alternatives and
// repetitions. automaton.h compiles it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/char_set.h"

namespace l4 {

using ExprId = int32_t;
using RuleId = int32_t;

struct GrammarExpr {
  enum class Kind : uint8_t {
    texts,     // one of `texts`
    chars,     // one code point of `chars`, in UTF-8
    sequence,  // all of `parts`, one after the other; none: the empty text
    any_of,    // one of `parts`; none: nothing matches
    repeat,    // parts[0], min to max times
    rule,      // what `rule` says
    list,      // `parts` in this order, with `separator` between them; those not required may be missing, but not all.
               // No part matches the empty text.
  };
  Kind kind;
  std::vector<ExprId> parts = {};
  std::vector<std::string> texts = {};
  CharSet chars = {};
  int64_t min = 0, max = 0;
  RuleId rule = -1;
  std::vector<bool> required = {};
  ExprId separator = -1;
};

struct GrammarRule {
  std::string name;  // for error lines: a GBNF rule's name, a JSON pointer
  ExprId body = -1;
  bool keep = false;  // never copied into the rules that use it: its places are then shared by all of them
};

// An expression used in several places is compiled several times. Error{usage} when a grammar becomes too large.
class GrammarRules {
 public:
  static constexpr int64_t kNoLimit = -1;

  ExprId text(std::string_view bytes);
  ExprId one_of_texts(std::vector<std::string> texts);
  ExprId chars(CharSet set);
  ExprId chars(std::string_view ascii) { return chars(CharSet::of(ascii)); }
  ExprId sequence(std::vector<ExprId> parts);
  ExprId any_of(std::vector<ExprId> parts);
  ExprId repeat(ExprId part, int64_t min, int64_t max = kNoLimit);
  ExprId optional(ExprId part) { return repeat(part, 0, 1); }
  ExprId list(std::vector<ExprId> parts, std::vector<bool> required, ExprId separator);
  ExprId nothing() { return any_of({}); }
  ExprId rule(RuleId rule);

  RuleId new_rule(std::string name, bool keep = false);  // its body comes later: rules may use each other
  // For what is used in several places: copies in copies would grow exponentially.
  ExprId shared(ExprId body, std::string name);
  void define(RuleId rule, ExprId body) { rules_[size_t(rule)].body = body; }

  const GrammarExpr& expr(ExprId id) const { return exprs_[size_t(id)]; }
  const GrammarRule& rule_at(RuleId id) const { return rules_[size_t(id)]; }
  size_t n_rules() const { return rules_.size(); }

 private:
  ExprId add(GrammarExpr expr);

  std::vector<GrammarExpr> exprs_;
  std::vector<GrammarRule> rules_;
  size_t n_parts_ = 0;
};

}  // namespace l4
