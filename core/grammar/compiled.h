// A compiled grammar from the inside: what the front ends make and the matcher walks.
#pragma once

#include <memory>
#include <mutex>

#include "grammar/automaton.h"
#include "grammar/grammar.h"
#include "grammar/rules.h"
#include "grammar/token_masks.h"

namespace l4 {

class Grammar {
 public:
  Grammar(GrammarVocabPtr vocab, Automaton automaton);

  const GrammarVocab& vocab() const { return *vocab_; }
  // Where masks are remembered; a fresh one when the last grew too large. Its users come over when they next look.
  std::shared_ptr<TokenMasks> masks() const;

 private:
  GrammarVocabPtr vocab_;
  Automaton automaton_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<TokenMasks> masks_;
};

// What is asked for as a part of larger rules. Error{usage} as compile_*() of grammar.h.
ExprId add_json_schema(GrammarRules& rules, const Json& schema);
ExprId add_regex(GrammarRules& rules, std::string_view pattern);
ExprId add_choice(GrammarRules& rules, std::span<const std::string> choices);
ExprId add_gbnf(GrammarRules& rules, std::string_view text);
ExprId add_tool_calls(GrammarRules& rules, const Json& tools, std::string_view name, bool parallel, ToolCallForm form);

// Compiles and looks at the first mask, so that what is too ambiguous is refused at once.
GrammarPtr make_grammar(const GrammarVocabPtr& vocab, GrammarRules& rules, RuleId root);

}  // namespace l4
