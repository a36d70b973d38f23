// Regular expressions, the part that ECMAScript (what JSON schema means by "pattern") and PCRE agree on: characters,
// ".", classes, \d \w \s and their negations (ASCII, \s with Unicode's spaces), escapes \n \t \xHH \uHHHH \u{H...} \cX,
// groups (plain, (?:...), named), "|", * + ? {n} {n,} {n,m} (lazy and possessive marks change nothing that matches), ^
// and $ at the ends of alternatives. Refused by name: look-around, back-references, \b, \p, inline flags.
#pragma once

#include <string_view>

#include "grammar/rules.h"

namespace l4 {

// What may come at a place in the output, given what the expression says of it.
class RegexWriter {
 public:
  explicit RegexWriter(GrammarRules& rules) : rules_(rules) {}
  virtual ~RegexWriter() = default;
  virtual ExprId chars(const CharSet& set) { return rules_.chars(set); }

 protected:
  GrammarRules& rules_;
};

struct RegexLengths {
  int64_t min = 0, max = 0;  // in characters; max: GrammarRules::kNoLimit or a number
};

// whole: the text matches from end to end (guided decoding); otherwise the expression is found anywhere in it, as JSON
// schema has it, but for the ends it anchors. Error{usage} "WHERE: ...", with the offset of what is wrong.
ExprId parse_regex(GrammarRules& rules, RegexWriter& writer, std::string_view pattern, bool whole,
                   std::string_view where, RegexLengths* lengths = nullptr);

}  // namespace l4
