#include "grammar/automaton.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "grammar/limits.h"
#include "grammar/rule_facts.h"

namespace l4 {

namespace {

using Kind = GrammarExpr::Kind;

class Builder {
 public:
  Builder(GrammarRules& rules, RuleId root) : rules_(rules), facts_(rules, root), root_(root) {}

  Automaton build() {
    out_.start = start_of(root_);
    while (!todo_.empty()) {
      RuleId rule = todo_.back();
      todo_.pop_back();
      body(rules_.rule_at(rule).body, starts_[size_t(rule)]);
    }
    flatten();
    find_byte_classes();
    return std::move(out_);
  }

 private:
  StateId new_state() {
    if (states_.size() >= grammar_limits::kMaxStates) {
      fail(ErrorKind::usage, "the grammar is too large (more than ", grammar_limits::kMaxStates, " states)");
    }
    states_.emplace_back();
    return StateId(states_.size() - 1);
  }

  StateId start_of(RuleId rule) {
    starts_.resize(rules_.n_rules(), kNone);
    StateId& start = starts_[size_t(rule)];
    if (start == kNone) {
      start = new_state();
      todo_.push_back(rule);
    }
    return start;
  }

  // A body of its own: a rule's or a repetition's.
  void body(ExprId id, StateId start) {
    StateId end = new_state();
    states_[end].is_end = true;
    between(id, start, end);
  }

  void edge(StateId from, Automaton::Edge e) { states_[from].edges.push_back(e); }
  void skip(StateId from, StateId to) { edge(from, {Automaton::EdgeKind::none, 0, 0, to, 0}); }
  void read(StateId from, uint8_t first, uint8_t last, StateId to) {
    edge(from, {Automaton::EdgeKind::bytes, first, last, to, 0});
  }

  // Puts what `id` matches between two states. No edge is ever added back to `from`, or out of `to`.
  void between(ExprId id, StateId from, StateId to) {
    if (!facts_.matches_something(id)) return;  // what cannot be finished must not be begun
    const GrammarExpr& expr = rules_.expr(id);
    switch (expr.kind) {
      case Kind::texts:
        return texts(expr.texts, from, to);
      case Kind::chars:
        return chars(expr.chars, from, to);
      case Kind::sequence:
        return sequence(std::vector<ExprId>(expr.parts), from, to);
      case Kind::any_of:
        for (ExprId part : std::vector<ExprId>(expr.parts)) between(part, from, to);
        return;
      case Kind::repeat:
        return repeat(expr.parts[0], expr.min, expr.max, from, to);
      case Kind::rule:
        if (facts_.is_copied(expr.rule)) return between(rules_.rule_at(expr.rule).body, from, to);
        return edge(from, {Automaton::EdgeKind::call, 0, 0, start_of(expr.rule), to});
      case Kind::list:
        return list(expr.parts, expr.required, expr.separator, from, to);
    }
  }

  // Every part is there once, however many of those before it are left out.
  void list(std::vector<ExprId> parts, std::vector<bool> required, ExprId separator, StateId from, StateId to) {
    for (size_t i = parts.size(); i-- > 0;) {
      if (facts_.matches_something(parts[i])) continue;
      parts.erase(parts.begin() + ptrdiff_t(i));
      required.erase(required.begin() + ptrdiff_t(i));
    }
    size_t last_required = parts.size();  // nothing behind it has to come
    while (last_required > 0 && !required[last_required - 1]) --last_required;
    StateId none_yet = from, separated = kNone;  // before part i: nothing was written; a separator was
    for (size_t i = 0; i < parts.size(); ++i) {
      StateId before = new_state(), after = new_state();
      skip(none_yet, before);
      if (separated != kNone) skip(separated, before);
      between(parts[i], before, after);
      if (i + 1 >= last_required) skip(after, to);
      if (i + 1 == parts.size()) break;
      StateId next_separated = new_state();
      between(separator, after, next_separated);
      if (!required[i] && separated != kNone) skip(separated, next_separated);
      separated = next_separated;
      StateId next_none = new_state();
      if (!required[i]) skip(none_yet, next_none);
      none_yet = next_none;
    }
  }

  void sequence(const std::vector<ExprId>& parts, StateId from, StateId to) {
    if (parts.empty()) return skip(from, to);
    for (size_t i = 0; i < parts.size(); ++i) {
      StateId next = i + 1 == parts.size() ? to : new_state();
      between(parts[i], from, next);
      from = next;
    }
  }

  // Texts with common beginnings share states.
  void texts(std::vector<std::string> all, StateId from, StateId to) {
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    std::vector<StateId> path = {from};  // path[n]: after n bytes of the text before
    for (size_t i = 0; i < all.size(); ++i) {
      const std::string& text = all[i];
      size_t common = 0;
      while (i > 0 && common < all[i - 1].size() && common < text.size() && all[i - 1][common] == text[common])
        ++common;
      path.resize(common + 1);
      bool goes_on = i + 1 < all.size() && all[i + 1].starts_with(text);
      for (size_t j = common; j < text.size(); ++j) {
        StateId next = j + 1 == text.size() && !goes_on ? to : new_state();
        read(path.back(), uint8_t(text[j]), uint8_t(text[j]), next);
        path.push_back(next);
      }
      if (goes_on || text.empty()) skip(path.back(), to);
    }
  }

  void chars(const CharSet& set, StateId from, StateId to) {
    std::map<std::array<uint32_t, 3>, StateId> shared;  // what leads to one state over the same bytes is one state
    for (CodeRange range : std::vector<CodeRange>(set.ranges())) {
      for (const Utf8Sequence& bytes : utf8_sequences(range)) {
        StateId next = to;
        for (size_t i = bytes.size() - 1; i > 0; --i) {
          StateId& before = shared.try_emplace({bytes[i].first, bytes[i].last, next}, kNone).first->second;
          if (before == kNone) {
            before = new_state();
            read(before, bytes[i].first, bytes[i].last, next);
          }
          next = before;
        }
        read(from, bytes[0].first, bytes[0].last, next);
      }
    }
  }

  void repeat(ExprId part, int64_t min, int64_t max, StateId from, StateId to) {
    if (facts_.matches_empty(part)) {  // fewer turns that read something, the others empty
      part = facts_.without_empty(part);
      min = 0;
      if (!facts_.matches_something(part)) max = 0;
    }
    if (max == 0 || !facts_.matches_something(part)) return skip(from, to);
    if (max == GrammarRules::kNoLimit && min <= 1) {
      StateId first = new_state(), last = new_state();
      skip(from, first);
      between(part, first, last);
      skip(last, first);
      skip(last, to);
      if (min == 0) skip(from, to);
      return;
    }
    constexpr int64_t kUnrolled = 4;
    if (max != GrammarRules::kNoLimit && max <= kUnrolled && is_small(part)) {
      for (int64_t i = 0; i < max; ++i) {
        if (i >= min) skip(from, to);
        StateId next = i + 1 == max ? to : new_state();
        between(part, from, next);
        from = next;
      }
      return;
    }
    StateId start = new_state();
    uint32_t limit = max == GrammarRules::kNoLimit ? Automaton::kNoMax : uint32_t(max);
    out_.repeats.push_back({start, to, uint32_t(min), limit});
    edge(from, {Automaton::EdgeKind::repeat, 0, 0, uint32_t(out_.repeats.size() - 1), to});
    body(part, start);
  }

  // Characters and short texts, whose copies cost nothing.
  bool is_small(ExprId id) const {
    const GrammarExpr& expr = rules_.expr(id);
    if (expr.kind == Kind::texts) return expr.texts.size() == 1 && expr.texts[0].size() <= 8;
    return expr.kind == Kind::chars && expr.chars.ranges().size() <= 4;
  }

  void flatten() {
    for (const BuildState& state : states_) {
      Automaton::State flat;
      flat.edges_begin = uint32_t(out_.edges.size());
      out_.edges.insert(out_.edges.end(), state.edges.begin(), state.edges.end());
      flat.edges_end = uint32_t(out_.edges.size());
      flat.is_end = state.is_end;
      flat.reads_bytes = std::any_of(state.edges.begin(), state.edges.end(),
                                     [](const Automaton::Edge& e) { return e.kind == Automaton::EdgeKind::bytes; });
      out_.states.push_back(flat);
    }
  }

  void find_byte_classes() {
    std::array<bool, 257> begins{};
    for (const Automaton::Edge& e : out_.edges) {
      if (e.kind != Automaton::EdgeKind::bytes) continue;
      begins[e.first] = true;
      begins[size_t(e.last) + 1] = true;
    }
    uint32_t last_class = 0;
    for (size_t byte = 0; byte < 256; ++byte) {
      if (byte > 0 && begins[byte]) ++last_class;
      out_.byte_class[byte] = uint8_t(last_class);
    }
    out_.n_byte_classes = last_class + 1;
  }

  static constexpr StateId kNone = ~StateId(0);
  struct BuildState {
    std::vector<Automaton::Edge> edges;
    bool is_end = false;
  };

  GrammarRules& rules_;
  RuleFacts facts_;
  RuleId root_;
  Automaton out_;
  std::vector<BuildState> states_;
  std::vector<StateId> starts_;
  std::vector<RuleId> todo_;
};

}  // namespace

Automaton compile_automaton(GrammarRules& rules, RuleId root) {
  return Builder(rules, root).build();
}

}  // namespace l4
