// llama.cpp's grammar notation:
//   root ::= "a" [b-d^]+ (other | "x"){2,3} .   # a comment
// A rule ends with its line, except inside parentheses and after "|". Escapes: \n \r \t \\ \" \[ \] \xHH \uHHHH
// \UHHHHHHHH. Left recursion is refused.
#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/limits.h"

namespace l4 {

namespace {

class GbnfParser {
 public:
  explicit GbnfParser(std::string_view text) : text_(text) {}

  RuleId parse(GrammarRules& rules) {
    rules_ = &rules;
    if (text_.size() > grammar_limits::kMaxTextBytes) fail(ErrorKind::usage, "grammar: longer than 1 MiB");
    if (!is_valid_utf8(text_)) fail(ErrorKind::usage, "grammar: not UTF-8");
    skip_space(true);
    while (!at_end()) parse_rule();
    for (const auto& [name, rule] : ids_) {
      if (rules.rule_at(rule).body < 0)
        fail(ErrorKind::usage, "grammar: rule ", shown(name), " is used but not defined");
    }
    auto root = ids_.find("root");
    if (root == ids_.end()) fail(ErrorKind::usage, "grammar: there is no rule named root");
    return root->second;
  }

 private:
  [[noreturn]] void wrong(std::string_view what) const {
    size_t line = 1 + size_t(std::count(text_.begin(), text_.begin() + ptrdiff_t(std::min(pos_, text_.size())), '\n'));
    fail(ErrorKind::usage, "grammar, line ", line, ": ", what,
         at_end() ? std::string(" at the end") : cat(" before ", shown(text_.substr(pos_, 20))));
  }

  bool at_end() const { return pos_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[pos_]; }
  bool accept(std::string_view word) {
    if (!text_.substr(pos_).starts_with(word)) return false;
    pos_ += word.size();
    return true;
  }
  void skip_space(bool line_ends) {
    while (!at_end()) {
      char c = text_[pos_];
      if (c == '#') {
        while (!at_end() && text_[pos_] != '\n' && text_[pos_] != '\r') ++pos_;
      } else if (c == ' ' || c == '\t' || (line_ends && (c == '\n' || c == '\r'))) {
        ++pos_;
      } else {
        break;
      }
    }
  }

  std::string_view name() {
    size_t begin = pos_;
    auto inner = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    };
    while (!at_end() && inner(text_[pos_])) ++pos_;
    return text_.substr(begin, pos_ - begin);
  }

  RuleId rule_named(std::string_view name) {
    auto [place, is_new] = ids_.try_emplace(std::string(name), -1);
    if (is_new) place->second = rules_->new_rule(std::string(name));
    return place->second;
  }

  void parse_rule() {
    std::string_view called = name();
    if (called.empty()) wrong("expected a rule's name");
    skip_space(false);
    if (!accept("::=")) wrong("expected ::=");
    skip_space(true);
    ExprId body = alternatives(0);
    RuleId rule = rule_named(called);
    if (rules_->rule_at(rule).body >= 0) fail(ErrorKind::usage, "grammar: rule ", shown(called), " is defined twice");
    rules_->define(rule, body);
    if (!at_end() && peek() != '\n' && peek() != '\r') wrong("unexpected text");
    skip_space(true);
  }

  ExprId alternatives(int depth) {
    if (depth > grammar_limits::kMaxNesting) wrong("too many parentheses in each other");
    std::vector<ExprId> parts = {sequence(depth)};
    while (accept("|")) {
      skip_space(true);
      parts.push_back(sequence(depth));
    }
    return rules_->any_of(std::move(parts));
  }

  ExprId sequence(int depth) {
    std::vector<ExprId> parts;
    while (!at_end()) {
      char c = peek();
      if (c == '"') {
        parts.push_back(literal());
      } else if (c == '[') {
        parts.push_back(char_class());
      } else if (c == '(') {
        ++pos_;
        skip_space(true);
        parts.push_back(alternatives(depth + 1));
        if (!accept(")")) wrong("expected )");
      } else if (c == '.') {
        ++pos_;
        parts.push_back(rules_->chars(CharSet::all()));
      } else if (c == '*' || c == '+' || c == '?' || c == '{') {
        if (parts.empty()) wrong("nothing to repeat");
        repetition(parts.back());
      } else if (c == '<' || c == '!') {
        wrong("tokens by name or number are not supported");
      } else {
        std::string_view used = name();
        if (used.empty()) break;
        parts.push_back(rules_->rule(rule_named(used)));
      }
      skip_space(depth > 0);
    }
    return rules_->sequence(std::move(parts));
  }

  void repetition(ExprId& part) {
    switch (text_[pos_++]) {
      case '*':
        part = rules_->repeat(part, 0);
        return;
      case '+':
        part = rules_->repeat(part, 1);
        return;
      case '?':
        part = rules_->optional(part);
        return;
      default:
        break;
    }
    skip_space(false);
    int64_t min = number(), max = min;
    skip_space(false);
    if (accept(",")) {
      skip_space(false);
      max = peek() == '}' ? GrammarRules::kNoLimit : number();
      skip_space(false);
    }
    if (!accept("}")) wrong("expected }");
    if (max != GrammarRules::kNoLimit && max < min) wrong("a repetition's maximum is below its minimum");
    part = rules_->repeat(part, min, max);
  }

  int64_t number() {
    size_t begin = pos_;
    while (peek() >= '0' && peek() <= '9') ++pos_;
    std::optional<int64_t> value = parse_int(text_.substr(begin, pos_ - begin));
    if (!value) wrong("expected a number");
    if (*value > grammar_limits::kMaxRepeat) wrong("a repetition of more than 1,000,000,000");
    return *value;
  }

  char32_t character() {
    if (!accept("\\")) return next_code_point(text_, pos_);
    char c = peek();
    ++pos_;
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return hex(2);
      case 'u':
        return hex(4);
      case 'U':
        return hex(8);
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^':
        return char32_t(c);
      default:
        --pos_;
        wrong("unknown escape");
    }
  }

  char32_t hex(size_t n_digits) {
    std::string_view digits = text_.substr(std::min(pos_, text_.size()), n_digits);
    uint32_t code = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != n_digits || error != std::errc() || end != digits.data() + n_digits)
      wrong("expected hex digits");
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) wrong("no Unicode character");
    pos_ += n_digits;
    return char32_t(code);
  }

  ExprId literal() {
    ++pos_;
    std::string bytes;
    while (!accept("\"")) {
      if (at_end()) wrong("expected \"");
      append_utf8(bytes, character());
    }
    return rules_->text(bytes);
  }

  ExprId char_class() {
    ++pos_;
    bool negated = accept("^");
    CharSet set;
    while (!accept("]")) {
      if (at_end()) wrong("expected ]");
      char32_t first = character(), last = first;
      if (peek() == '-' && !text_.substr(pos_).starts_with("-]")) {
        ++pos_;
        if (at_end()) wrong("expected ]");
        last = character();
        if (last < first) wrong("a range from a larger to a smaller character");
      }
      set.add(first, last);
    }
    return rules_->chars(negated ? set.negated() : set);
  }

  std::string_view text_;
  size_t pos_ = 0;
  GrammarRules* rules_ = nullptr;
  std::unordered_map<std::string, RuleId> ids_;
};

}  // namespace

ExprId add_gbnf(GrammarRules& rules, std::string_view text) {
  return rules.rule(GbnfParser(text).parse(rules));
}

}  // namespace l4
