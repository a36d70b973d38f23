#include "grammar/rule_facts.h"

#include <algorithm>

#include "base/error.h"
#include "grammar/limits.h"

namespace l4 {

using Kind = GrammarExpr::Kind;

RuleFacts::RuleFacts(GrammarRules& rules, RuleId root) : rules_(rules) {
  grow();
  order_rules(root);
  find_fixpoints();
  refuse_left_recursion();
  if (!something_[size_t(root)]) fail(ErrorKind::usage, "the grammar matches no text at all");
  choose_copied();
}

void RuleFacts::grow() {
  size_t n = rules_.n_rules();
  empty_.resize(n);
  something_.resize(n);
  recursive_.resize(n);
  copied_.resize(n);
  size_.resize(n);
  nonempty_.resize(n, -1);
}

template <class F>
void RuleFacts::for_each_rule_in(ExprId id, const F& f) const {
  const GrammarExpr& expr = rules_.expr(id);
  if (expr.kind == Kind::rule) f(expr.rule);
  for (ExprId part : expr.parts) for_each_rule_in(part, f);
  if (expr.kind == Kind::list) for_each_rule_in(expr.separator, f);
}

// Rules that may begin at the very place where `id` begins.
template <class F>
void RuleFacts::for_each_first_rule(ExprId id, const F& f) const {
  const GrammarExpr& expr = rules_.expr(id);
  if (expr.kind == Kind::rule) f(expr.rule);
  for (size_t i = 0; i < expr.parts.size(); ++i) {
    for_each_first_rule(expr.parts[i], f);
    if (expr.kind == Kind::sequence && !matches_empty(expr.parts[i])) break;
    if (expr.kind == Kind::list && expr.required[i]) break;
  }
}

// A depth-first walk over "uses", with its stack on the heap: GBNF allows chains of thousands of rules. Rules on the
// stack that are met again, and what lies between, are recursive (Tarjan's strongly connected components).
void RuleFacts::order_rules(RuleId root) {
  struct Visit {
    RuleId rule;
    std::vector<RuleId> uses;
    size_t next = 0;
  };
  size_t n = rules_.n_rules();
  std::vector<int> number(n, 0), low(n, 0);
  std::vector<bool> open(n, false);
  std::vector<RuleId> component;
  std::vector<Visit> stack;
  int count = 0;
  auto enter = [&](RuleId rule) {
    number[size_t(rule)] = low[size_t(rule)] = ++count;
    open[size_t(rule)] = true;
    component.push_back(rule);
    Visit visit{rule, {}};
    for_each_rule_in(rules_.rule_at(rule).body, [&](RuleId used) {
      visit.uses.push_back(used);
      if (used == rule) recursive_[size_t(rule)] = true;
    });
    stack.push_back(std::move(visit));
  };
  enter(root);
  while (!stack.empty()) {
    Visit& top = stack.back();
    if (top.next < top.uses.size()) {
      RuleId used = top.uses[top.next++];
      if (number[size_t(used)] == 0) {
        enter(used);
      } else if (open[size_t(used)]) {
        low[size_t(top.rule)] = std::min(low[size_t(top.rule)], number[size_t(used)]);
      }
      continue;
    }
    RuleId rule = top.rule;
    stack.pop_back();
    if (!stack.empty()) {
      RuleId user = stack.back().rule;
      low[size_t(user)] = std::min(low[size_t(user)], low[size_t(rule)]);
    }
    order_.push_back(rule);
    if (low[size_t(rule)] != number[size_t(rule)]) continue;
    bool several = component.back() != rule;
    while (true) {
      RuleId member = component.back();
      component.pop_back();
      open[size_t(member)] = false;
      if (several) recursive_[size_t(member)] = true;
      if (member == rule) break;
    }
  }
}

bool RuleFacts::matches_empty(ExprId id) const {
  const GrammarExpr& expr = rules_.expr(id);
  auto empty = [&](ExprId part) { return matches_empty(part); };
  switch (expr.kind) {
    case Kind::texts:
      return std::any_of(expr.texts.begin(), expr.texts.end(), [](const std::string& text) { return text.empty(); });
    case Kind::chars:
      return false;
    case Kind::sequence:
      return std::all_of(expr.parts.begin(), expr.parts.end(), empty);
    case Kind::any_of:
      return std::any_of(expr.parts.begin(), expr.parts.end(), empty);
    case Kind::repeat:
      return expr.min == 0 || empty(expr.parts[0]);
    case Kind::rule:
      return empty_[size_t(expr.rule)];
    case Kind::list:
      return false;
  }
  return false;
}

bool RuleFacts::matches_something(ExprId id) const {
  const GrammarExpr& expr = rules_.expr(id);
  auto something = [&](ExprId part) { return matches_something(part); };
  switch (expr.kind) {
    case Kind::texts:
      return !expr.texts.empty();
    case Kind::chars:
      return !expr.chars.empty();
    case Kind::sequence:
      return std::all_of(expr.parts.begin(), expr.parts.end(), something);
    case Kind::any_of:
      return std::any_of(expr.parts.begin(), expr.parts.end(), something);
    case Kind::repeat:
      return expr.min == 0 || something(expr.parts[0]);
    case Kind::rule:
      return something_[size_t(expr.rule)];
    case Kind::list:
      for (size_t i = 0; i < expr.parts.size(); ++i) {
        if (expr.required[i] && !something(expr.parts[i])) return false;
      }
      return std::any_of(expr.parts.begin(), expr.parts.end(), something);
  }
  return false;
}

void RuleFacts::find_fixpoints() {
  constexpr int kMaxPasses = 100;  // one or two but for long chains of recursion
  for (int pass = 0; pass < kMaxPasses; ++pass) {
    bool changed = false;
    for (RuleId rule : order_) {
      ExprId body = rules_.rule_at(rule).body;
      size_t i = size_t(rule);
      if (!empty_[i] && matches_empty(body)) empty_[i] = changed = true;
      if (!something_[i] && matches_something(body)) something_[i] = changed = true;
    }
    if (!changed) return;
  }
  fail(ErrorKind::usage, "the grammar's rules use each other in too complicated a way");
}

void RuleFacts::refuse_left_recursion() {
  std::vector<std::vector<RuleId>> firsts(rules_.n_rules());
  for (RuleId rule : order_) {
    for_each_first_rule(rules_.rule_at(rule).body, [&](RuleId used) { firsts[size_t(rule)].push_back(used); });
  }
  enum : uint8_t { fresh, open, done };
  std::vector<uint8_t> mark(rules_.n_rules(), fresh);
  for (RuleId root : order_) {
    if (mark[size_t(root)] != fresh) continue;
    std::vector<std::pair<RuleId, size_t>> stack = {{root, 0}};
    mark[size_t(root)] = open;
    while (!stack.empty()) {
      auto& [rule, next] = stack.back();
      if (next == firsts[size_t(rule)].size()) {
        mark[size_t(rule)] = done;
        stack.pop_back();
        continue;
      }
      RuleId used = firsts[size_t(rule)][next++];
      if (mark[size_t(used)] == open) {
        fail(ErrorKind::usage, "rule ", shown(rules_.rule_at(used).name),
             " refers to itself before anything is read (left recursion)");
      }
      if (mark[size_t(used)] == fresh) {
        mark[size_t(used)] = open;
        stack.push_back({used, 0});
      }
    }
  }
}

size_t RuleFacts::size_of(ExprId id) const {
  const GrammarExpr& expr = rules_.expr(id);
  size_t size = 1 + expr.chars.ranges().size();
  for (const std::string& text : expr.texts) size += text.size();
  if (expr.kind == Kind::rule && copied_[size_t(expr.rule)]) size += size_[size_t(expr.rule)];
  for (ExprId part : expr.parts) size += size_of(part);
  if (expr.kind == Kind::list) size += expr.parts.size() * size_of(expr.separator);
  return size;
}

void RuleFacts::choose_copied() {
  constexpr size_t kLongest = 48;  // a few characters and sets: what is called so often that masks would see too little
  for (RuleId rule : order_) {
    const GrammarRule& about = rules_.rule_at(rule);
    size_[size_t(rule)] = size_of(about.body);
    copied_[size_t(rule)] = !about.keep && !recursive_[size_t(rule)] && size_[size_t(rule)] <= kLongest;
  }
}

ExprId RuleFacts::without_empty(ExprId id) {
  constexpr size_t kMaxOptionalParts = 256;  // their states grow with the square
  if (!matches_empty(id)) return id;
  GrammarExpr expr = rules_.expr(id);  // a copy: adding expressions moves them
  switch (expr.kind) {
    case Kind::texts:
      std::erase_if(expr.texts, [](const std::string& text) { return text.empty(); });
      return rules_.one_of_texts(expr.texts);
    case Kind::chars:
    case Kind::list:
      return id;
    case Kind::any_of:
      for (ExprId& part : expr.parts) part = without_empty(part);
      return rules_.any_of(expr.parts);
    case Kind::repeat: {
      ExprId part = without_empty(expr.parts[0]);
      if (expr.max == 0) return rules_.nothing();
      return rules_.repeat(part, expr.parts[0] == part ? std::max<int64_t>(expr.min, 1) : 1, expr.max);
    }
    case Kind::sequence: {  // the first part that is not empty, then the others; all parts may be empty
      if (expr.parts.empty()) return rules_.nothing();
      if (expr.parts.size() > kMaxOptionalParts) {
        fail(ErrorKind::usage, "the grammar repeats a sequence of more than ", kMaxOptionalParts, " optional parts");
      }
      ExprId out = without_empty(expr.parts.back()), rest = expr.parts.back();
      for (size_t i = expr.parts.size() - 1; i-- > 0;) {
        out = rules_.any_of({rules_.sequence({without_empty(expr.parts[i]), rest}), out});
        rest = rules_.sequence({expr.parts[i], rest});
      }
      return out;
    }
    case Kind::rule: {
      size_t rule = size_t(expr.rule);
      if (nonempty_[rule] < 0) {
        RuleId made = rules_.new_rule(rules_.rule_at(expr.rule).name, rules_.rule_at(expr.rule).keep);
        grow();
        nonempty_[rule] = made;
        something_[size_t(made)] = true;
        copied_[size_t(made)] = copied_[rule];
        rules_.define(made, without_empty(rules_.rule_at(expr.rule).body));
        something_[size_t(made)] = matches_something(rules_.rule_at(made).body);
      }
      return rules_.rule(nonempty_[rule]);
    }
  }
  return id;
}

}  // namespace l4
