// The pieces of JSON that schemas are made of, and the same values as Python writes them (in pythonic tool calls).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "grammar/regex.h"
#include "grammar/rules.h"

namespace l4 {

enum class JsonDialect { json, python };

class JsonRules {
 public:
  JsonRules(GrammarRules& rules, JsonDialect dialect);

  ExprId space();   // at most one
  ExprId value();   // any value
  ExprId object();  // any object
  ExprId array();
  ExprId string();  // any string, in its quotes
  ExprId number();
  ExprId integer();
  ExprId boolean();
  ExprId null();
  ExprId literal(const Json& value);  // this value
  ExprId comma();                     // "," and a space or none
  ExprId pair(ExprId key, ExprId value);
  ExprId braces(char open, ExprId inside, char close);  // white space on both sides of what is not empty

  ExprId string_char();  // one character of a string, escaped or not
  // A string that none of `names` is. (A key that begins as one of them does must not write that beginning as \uXXXX.)
  ExprId key_except(std::vector<std::string> names);
  // A string whose value matches: characters are escaped where JSON demands it, and nowhere else.
  ExprId pattern(std::string_view regex, bool whole, std::string_view where, RegexLengths* lengths);

  struct Bound {
    Json value;  // a number
    bool exclusive = false;
  };
  // Exact for integers of up to 18 digits, and for numbers without an exponent. Nothing when no number is left.
  ExprId integer_between(const std::optional<Bound>& low, const std::optional<Bound>& high);
  ExprId number_between(const std::optional<Bound>& low, const std::optional<Bound>& high);

 private:
  class Writer;
  template <class Make>
  ExprId once(RuleId& rule, const char* name, const Make& make);
  ExprId key_tail(const std::vector<std::string>& names, size_t begin, size_t end, size_t depth);

  GrammarRules& rules_;
  JsonDialect dialect_;
  RuleId value_ = -1, object_ = -1, array_ = -1, string_ = -1, number_ = -1, integer_ = -1;
  ExprId space_ = -1, string_char_ = -1, chars_to_end_ = -1;
};

}  // namespace l4
