#include "grammar/json_rules.h"

#include <algorithm>

#include "base/strings.h"

namespace l4 {

namespace {
const CharSet kControls{{0, 0x1F}};
const CharSet kNotPlain{{0, 0x1F}, {'"', '"'}, {'\\', '\\'}};
constexpr std::string_view kShortEscapes = "\"\\bfnrt", kShortMeanings = "\"\\\b\f\n\r\t";
constexpr const char* kHex = "0123456789abcdefABCDEF";
}  // namespace

// Characters of an expression inside a JSON string.
class JsonRules::Writer : public RegexWriter {
 public:
  using RegexWriter::RegexWriter;
  ExprId chars(const CharSet& set) override {
    std::vector<ExprId> parts = {rules_.chars(set.minus(kNotPlain))};
    std::vector<std::string> escaped;
    for (size_t i = 0; i < kShortEscapes.size(); ++i) {
      if (set.contains(char32_t(kShortMeanings[i]))) escaped.push_back(cat('\\', kShortEscapes[i]));
    }
    for (char32_t c = 0; c < 0x20; ++c) {
      if (!set.contains(c) || kShortMeanings.find(char(c)) != std::string_view::npos) continue;
      escaped.push_back(cat("\\u00", c < 16 ? "0" : "1", "0123456789abcdef"[c % 16]));
      if (c % 16 > 9) escaped.push_back(cat("\\u00", c < 16 ? "0" : "1", "0123456789ABCDEF"[c % 16]));
    }
    if (!escaped.empty()) parts.push_back(rules_.one_of_texts(std::move(escaped)));
    return rules_.any_of(std::move(parts));
  }
};

JsonRules::JsonRules(GrammarRules& rules, JsonDialect dialect) : rules_(rules), dialect_(dialect) {
  space_ = rules_.optional(rules_.text(" "));
}

// A rule of its own for what is used again and again: its masks are then made once.
template <class Make>
ExprId JsonRules::once(RuleId& rule, const char* name, const Make& make) {
  if (rule < 0) {
    rule = rules_.new_rule(name, true);
    rules_.define(rule, make());
  }
  return rules_.rule(rule);
}

ExprId JsonRules::space() {
  return space_;
}
ExprId JsonRules::comma() {
  return rules_.sequence({rules_.text(","), space_});
}
ExprId JsonRules::pair(ExprId key, ExprId value) {
  return rules_.sequence({key, rules_.text(":"), space_, value});
}

ExprId JsonRules::braces(char open, ExprId inside, char close) {
  return rules_.sequence({rules_.text(cat(open)), space_, inside, space_, rules_.text(cat(close))});
}

ExprId JsonRules::value() {
  return once(value_, "value", [&] {
    return rules_.any_of({object(), array(), string(), number(), boolean(), null()});
  });
}

ExprId JsonRules::object() {
  return once(object_, "object", [&] {
    ExprId member = pair(string(), value());
    ExprId members = rules_.sequence({member, rules_.repeat(rules_.sequence({comma(), member}), 0), space_});
    return rules_.sequence({rules_.text("{"), space_, rules_.optional(members), rules_.text("}")});
  });
}

ExprId JsonRules::array() {
  return once(array_, "array", [&] {
    ExprId items = rules_.sequence({value(), rules_.repeat(rules_.sequence({comma(), value()}), 0), space_});
    return rules_.sequence({rules_.text("["), space_, rules_.optional(items), rules_.text("]")});
  });
}

ExprId JsonRules::string_char() {
  if (string_char_ >= 0) return string_char_;
  ExprId hex = rules_.chars(kHex), d = rules_.chars("dD");
  ExprId two = rules_.sequence({hex, hex});
  ExprId no_surrogate = rules_.any_of({rules_.sequence({rules_.chars("0123456789abcefABCEF"), hex, two}),
                                       rules_.sequence({d, rules_.chars("01234567"), two})});
  ExprId pair = rules_.sequence({d, rules_.chars("89abAB"), two, rules_.text("\\u"), d, rules_.chars("cdefCDEF"), two});
  // Python has no \/ .
  ExprId letter = rules_.chars(cat(kShortEscapes, dialect_ == JsonDialect::json ? "/" : ""));
  ExprId code = rules_.sequence({rules_.text("u"), rules_.any_of({no_surrogate, pair})});
  ExprId escape = rules_.sequence({rules_.text("\\"), rules_.any_of({letter, code})});
  return string_char_ = rules_.any_of({rules_.chars(kNotPlain.negated()), escape});
}

ExprId JsonRules::string() {
  return once(string_, "string", [&] {
    return rules_.sequence({rules_.text("\""), rules_.repeat(string_char(), 0), rules_.text("\"")});
  });
}

// Bounded, so that a model cannot write digits for ever and every number is finite.
ExprId JsonRules::integer() {
  return once(integer_, "integer", [&] { return integer_between(std::nullopt, std::nullopt); });
}

ExprId JsonRules::number() {
  return once(number_, "number", [&] {
    ExprId digit = rules_.chars("0123456789");
    ExprId whole =
        rules_.any_of({rules_.text("0"), rules_.sequence({rules_.chars("123456789"), rules_.repeat(digit, 0, 17)})});
    ExprId exponent =
        rules_.sequence({rules_.chars("eE"), rules_.optional(rules_.chars("+-")), rules_.repeat(digit, 1, 2)});
    return rules_.sequence({rules_.optional(rules_.text("-")), whole,
                            rules_.optional(rules_.sequence({rules_.text("."), rules_.repeat(digit, 1, 18)})),
                            rules_.optional(exponent)});
  });
}

ExprId JsonRules::boolean() {
  return dialect_ == JsonDialect::json ? rules_.one_of_texts({"true", "false"})
                                       : rules_.one_of_texts({"True", "False"});
}
ExprId JsonRules::null() {
  return rules_.text(dialect_ == JsonDialect::json ? "null" : "None");
}

ExprId JsonRules::literal(const Json& value) {
  if (value.is_null()) return null();
  if (value.is_bool() && dialect_ == JsonDialect::python) return rules_.text(value.as_bool() ? "True" : "False");
  if (!value.is_array() && !value.is_object()) return rules_.text(dump_json(value));
  std::vector<ExprId> parts;
  auto put = [&](ExprId part) {
    if (!parts.empty()) parts.push_back(comma());
    parts.push_back(part);
  };
  if (value.is_array()) {
    for (const Json& item : value.as_array()) put(literal(item));
    return parts.empty() ? rules_.text("[]") : braces('[', rules_.sequence(parts), ']');
  }
  for (const auto& [key, member] : value.as_object()) put(pair(rules_.text(json_quote(key)), literal(member)));
  return parts.empty() ? rules_.text("{}") : braces('{', rules_.sequence(parts), '}');
}

// names[begin, end) agree in their first `depth` bytes, and so does the key so far.
ExprId JsonRules::key_tail(const std::vector<std::string>& names, size_t begin, size_t end, size_t depth) {
  std::vector<ExprId> ways;
  CharSet taken;
  bool is_name = false;
  for (size_t i = begin; i < end;) {
    if (names[i].size() == depth) {
      is_name = true;
      ++i;
      continue;
    }
    size_t next = depth;
    char32_t c = next_code_point(names[i], next);
    size_t same = i;
    std::string_view letter = std::string_view(names[i]).substr(depth, next - depth);
    while (same < end && std::string_view(names[same]).substr(depth).starts_with(letter)) ++same;
    taken.add(c, c);
    // A long common beginning is one text: the key may leave it after any of its characters.
    ways.push_back(rules_.sequence(
        {rules_.text(json_quote(letter).substr(1, json_quote(letter).size() - 2)), key_tail(names, i, same, next)}));
    i = same;
  }
  if (chars_to_end_ < 0) chars_to_end_ = rules_.sequence({rules_.repeat(string_char(), 0), rules_.text("\"")});
  std::vector<std::string> escapes;
  for (size_t i = 0; i < kShortEscapes.size(); ++i) {
    if (!taken.contains(char32_t(kShortMeanings[i]))) escapes.push_back(cat('\\', kShortEscapes[i]));
  }
  taken.add(kNotPlain);
  ExprId other = rules_.any_of({rules_.chars(taken.negated()), rules_.one_of_texts(std::move(escapes))});
  ways.push_back(rules_.sequence({other, chars_to_end_}));
  if (!is_name) ways.push_back(rules_.text("\""));
  return rules_.any_of(std::move(ways));
}

ExprId JsonRules::key_except(std::vector<std::string> names) {
  if (names.empty()) return string();
  std::sort(names.begin(), names.end());
  return rules_.sequence({rules_.text("\""), key_tail(names, 0, names.size(), 0)});
}

ExprId JsonRules::pattern(std::string_view regex, bool whole, std::string_view where, RegexLengths* lengths) {
  Writer writer(rules_);
  ExprId inside = parse_regex(rules_, writer, regex, whole, where, lengths);
  return rules_.sequence({rules_.text("\""), inside, rules_.text("\"")});
}

}  // namespace l4
