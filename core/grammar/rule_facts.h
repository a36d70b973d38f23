// What the compiler has to know about rules before it builds states.
#pragma once

#include <vector>

#include "grammar/rules.h"

namespace l4 {

class RuleFacts {
 public:
  // Looks at what `root` can reach. Error{usage} on left recursion and when nothing can match.
  RuleFacts(GrammarRules& rules, RuleId root);

  bool matches_empty(ExprId id) const;
  bool matches_something(ExprId id) const;                         // false: no text at all matches
  bool is_copied(RuleId id) const { return copied_[size_t(id)]; }  // into its users
  // What `id` matches without the empty text; for the bodies of repetitions, which must go on with every turn.
  ExprId without_empty(ExprId id);

 private:
  void order_rules(RuleId root);
  void find_fixpoints();
  void refuse_left_recursion();
  void choose_copied();
  void grow();

  template <class F>
  void for_each_rule_in(ExprId id, const F& f) const;
  template <class F>
  void for_each_first_rule(ExprId id, const F& f) const;
  size_t size_of(ExprId id) const;

  GrammarRules& rules_;
  std::vector<RuleId> order_;  // used rules before their users, but for recursion
  std::vector<bool> empty_, something_, recursive_, copied_;
  std::vector<size_t> size_;
  std::vector<RuleId> nonempty_;  // rule -> the rule without the empty text, -1: not made yet
};

}  // namespace l4
