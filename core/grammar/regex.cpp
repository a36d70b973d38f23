#include "grammar/regex.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/limits.h"

namespace l4 {

namespace {

const CharSet kDigits{{'0', '9'}};
const CharSet kWord{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CharSet kSpace{{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680}, {0x2000, 0x200A},
                     {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CharSet kLineEnds{{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

class RegexParser {
 public:
  RegexParser(GrammarRules& rules, RegexWriter& writer, std::string_view pattern, bool whole, std::string_view where)
      : rules_(rules), writer_(writer), text_(pattern), whole_(whole), where_(where) {}

  struct Piece {
    ExprId expr;
    RegexLengths lengths;
  };

  Piece parse() {
    if (text_.size() > grammar_limits::kMaxTextBytes) fail(ErrorKind::usage, where_, ": longer than 1 MiB");
    if (!is_valid_utf8(text_)) fail(ErrorKind::usage, where_, ": not UTF-8");
    Piece piece = alternatives(0, true);
    if (!at_end()) wrong("unexpected )");
    return piece;
  }

 private:
  [[noreturn]] void wrong(std::string_view what) const {
    fail(ErrorKind::usage, where_, ": ", what, " at offset ", std::min(pos_, text_.size()), " of ", shown(text_));
  }

  bool at_end() const { return pos_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[pos_]; }
  bool accept(std::string_view word) {
    if (!text_.substr(pos_).starts_with(word)) return false;
    pos_ += word.size();
    return true;
  }

  Piece chars(const CharSet& set) { return {writer_.chars(set), {1, 1}}; }
  Piece anything() {
    if (anything_ < 0) anything_ = rules_.repeat(writer_.chars(CharSet::all()), 0);
    return {anything_, {0, GrammarRules::kNoLimit}};
  }

  // at_top: not inside a repetition or behind other parts, so that anchors have a meaning here.
  Piece alternatives(int depth, bool at_top) {
    if (depth > grammar_limits::kMaxNesting) wrong("too many groups in each other");
    std::vector<ExprId> parts;
    RegexLengths lengths{INT64_MAX, 0};
    do {
      Piece piece = sequence(depth, at_top);
      parts.push_back(piece.expr);
      lengths.min = std::min(lengths.min, piece.lengths.min);
      bool no_limit = lengths.max == GrammarRules::kNoLimit || piece.lengths.max == GrammarRules::kNoLimit;
      lengths.max = no_limit ? GrammarRules::kNoLimit : std::max(lengths.max, piece.lengths.max);
    } while (accept("|"));
    return {rules_.any_of(std::move(parts)), lengths};
  }

  static RegexLengths joined(RegexLengths a, RegexLengths b) {
    bool no_limit = a.max == GrammarRules::kNoLimit || b.max == GrammarRules::kNoLimit;
    return {saturated(a.min + b.min), no_limit ? GrammarRules::kNoLimit : saturated(a.max + b.max)};
  }
  static int64_t saturated(int64_t n) { return std::min(n, kHuge); }

  Piece sequence(int depth, bool at_top) {
    std::vector<ExprId> parts;
    RegexLengths lengths;
    auto put = [&](const Piece& piece) {
      parts.push_back(piece.expr);
      lengths = joined(lengths, piece.lengths);
    };
    // A group that is all there is of an alternative has its anchors to itself.
    if (at_top && peek() == '(' && is_whole_alternative()) return group(depth, true);
    bool open_begin = at_top && !whole_, open_end = at_top && !whole_;
    while (accept("^")) {
      if (!at_top) wrong("^ is only supported at the beginning of an alternative");
      open_begin = false;
    }
    if (open_begin) put(anything());
    while (!at_end() && peek() != '|' && peek() != ')') {
      if (peek() == '^') wrong("^ is only supported at the beginning of an alternative");
      if (accept("$")) {
        while (accept("$")) continue;
        if (!at_top || (!at_end() && peek() != '|' && peek() != ')')) {
          wrong("$ is only supported at the end of an alternative");
        }
        open_end = false;
        break;
      }
      Piece piece = atom(depth);
      repetitions(piece);
      put(piece);
    }
    if (open_end) put(anything());
    return {rules_.sequence(std::move(parts)), lengths};
  }

  // Whether the group that begins here ends where its alternative ends. Looks no further than the group.
  bool is_whole_alternative() const {
    int open = 0;
    bool in_class = false;
    for (size_t i = pos_; i < text_.size(); ++i) {
      char c = text_[i];
      if (c == '\\') {
        ++i;
      } else if (in_class) {
        in_class = c != ']';
      } else if (c == '[') {
        in_class = true;
      } else if (c == '(') {
        ++open;
      } else if (c == ')' && --open == 0) {
        return i + 1 == text_.size() || text_[i + 1] == '|' || text_[i + 1] == ')';
      }
    }
    return false;
  }

  Piece group(int depth, bool at_top) {
    ++pos_;
    if (accept("?")) {
      if (accept(":")) {
      } else if (accept("P<") || (text_.substr(pos_).starts_with("<") && !text_.substr(pos_).starts_with("<=") &&
                                  !text_.substr(pos_).starts_with("<!") && accept("<"))) {
        size_t end = text_.find('>', pos_);
        if (end == std::string_view::npos || end == pos_) wrong("expected a group's name");
        pos_ = end + 1;
      } else if (peek() == '=' || peek() == '!' || peek() == '<') {
        wrong("look-around is not supported");
      } else {
        wrong("this kind of group is not supported");
      }
    }
    Piece piece = alternatives(depth + 1, at_top);
    if (!accept(")")) wrong("expected )");
    return piece;
  }

  Piece atom(int depth) {
    char c = peek();
    if (c == '(') return group(depth, false);
    if (c == '[') return chars(char_class());
    if (accept(".")) return chars(kLineEnds.negated());
    if (c == '*' || c == '+' || c == '?') wrong("nothing to repeat");
    if (c == '\\') {
      if (std::optional<CharSet> set = class_escape()) return chars(*set);
      char32_t code = escape(false);
      return chars({{code, code}});
    }
    char32_t code = next_code_point(text_, pos_);
    return chars({{code, code}});
  }

  void repetitions(Piece& piece) {
    size_t begin = pos_;
    int64_t min = 0, max = GrammarRules::kNoLimit;
    if (accept("*")) {
    } else if (accept("+")) {
      min = 1;
    } else if (accept("?")) {
      max = 1;
    } else if (!counts(min, max)) {
      return;
    }
    if (!accept("?")) accept("+");  // lazy, possessive
    if (max != GrammarRules::kNoLimit && max < min) {
      pos_ = begin;
      wrong("a repetition's maximum is below its minimum");
    }
    if (peek() == '*' || peek() == '+' || peek() == '?') wrong("nothing to repeat");
    piece.expr = rules_.repeat(piece.expr, min, max);
    auto times = [](int64_t a, int64_t b) { return a != 0 && b > kHuge / a ? kHuge : a * b; };
    int64_t longest = piece.lengths.max;
    if (longest != 0 && max != 0) {
      longest = longest < 0 || max < 0 ? GrammarRules::kNoLimit : times(longest, max);
    } else {
      longest = 0;
    }
    piece.lengths = {times(piece.lengths.min, min), longest};
  }

  // {n}, {n,}, {n,m}; any other "{" is a character.
  bool counts(int64_t& min, int64_t& max) {
    size_t begin = pos_;
    if (!accept("{")) return false;
    std::optional<int64_t> from = number(), to;
    bool open = accept(",");
    if (open) to = number();
    if (!from || !accept("}")) {
      pos_ = begin;
      return false;
    }
    if (*from > grammar_limits::kMaxRepeat || (to && *to > grammar_limits::kMaxRepeat)) {
      wrong("a repetition of more than 1,000,000,000");
    }
    min = *from;
    max = !open ? min : to ? *to : GrammarRules::kNoLimit;
    return true;
  }

  std::optional<int64_t> number() {
    size_t begin = pos_;
    while (peek() >= '0' && peek() <= '9') ++pos_;
    if (pos_ == begin) return std::nullopt;
    if (pos_ - begin > 10) return grammar_limits::kMaxRepeat + 1;
    return parse_int(text_.substr(begin, pos_ - begin));
  }

  std::optional<CharSet> class_escape() {
    if (pos_ + 1 >= text_.size()) wrong("a \\ with nothing behind it");
    std::optional<CharSet> set;
    switch (text_[pos_ + 1]) {
      case 'd':
        set = kDigits;
        break;
      case 'D':
        set = kDigits.negated();
        break;
      case 'w':
        set = kWord;
        break;
      case 'W':
        set = kWord.negated();
        break;
      case 's':
        set = kSpace;
        break;
      case 'S':
        set = kSpace.negated();
        break;
      default:
        return std::nullopt;
    }
    pos_ += 2;
    return set;
  }

  char32_t escape(bool in_class) {
    if (pos_ + 1 >= text_.size()) wrong("a \\ with nothing behind it");
    char c = text_[pos_ + 1];
    constexpr std::string_view kLetters = "nrtfv0", kMeanings = std::string_view("\n\r\t\f\v\0", 6);
    bool digit_follows = pos_ + 2 < text_.size() && text_[pos_ + 2] >= '0' && text_[pos_ + 2] <= '9';
    if (c >= '0' && c <= '9' && (c != '0' || digit_follows)) wrong("back-references and octal codes are not supported");
    if (size_t which = kLetters.find(c); which != std::string_view::npos) {
      pos_ += 2;
      return char32_t(kMeanings[which]);
    }
    if (c == 'b' && in_class) {
      pos_ += 2;
      return '\b';
    }
    if (c == 'c' && pos_ + 2 < text_.size()) {
      char letter = char(text_[pos_ + 2] | 0x20);
      if (letter < 'a' || letter > 'z') wrong("\\c needs a letter");
      pos_ += 3;
      return char32_t(letter - 'a' + 1);
    }
    if (c == 'x' || c == 'u') return hex_escape(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) wrong(cat("\\", c, " is not supported"));
    ++pos_;
    return next_code_point(text_, pos_);
  }

  char32_t hex_escape(char kind) {
    size_t begin = pos_;
    pos_ += 2;
    std::optional<uint32_t> code;
    if (kind == 'u' && accept("{")) {
      size_t end = text_.find('}', pos_);
      code = end == std::string_view::npos || end - pos_ > 8 ? std::nullopt : hex(end - pos_);
      if (code) ++pos_;
    } else {
      code = hex(kind == 'x' ? 2 : 4);
      if (kind == 'u' && code && *code >= 0xD800 && *code < 0xDC00 && accept("\\u")) {
        std::optional<uint32_t> low = hex(4);
        code = low && *low >= 0xDC00 && *low < 0xE000
                   ? std::optional(0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00))
                   : std::nullopt;
      }
    }
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) {
      pos_ = begin;
      wrong("no Unicode character");
    }
    return char32_t(*code);
  }

  std::optional<uint32_t> hex(size_t n_digits) {
    std::string_view digits = text_.substr(std::min(pos_, text_.size()), n_digits);
    uint32_t code = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != n_digits || error != std::errc() || end != digits.data() + n_digits) return std::nullopt;
    pos_ += n_digits;
    return code;
  }

  CharSet char_class() {
    ++pos_;
    bool negated = accept("^");
    CharSet set;
    while (!accept("]")) {
      if (at_end()) wrong("expected ]");
      if (text_.substr(pos_).starts_with("[:")) wrong("named classes are not supported");
      std::optional<char32_t> first = class_member(set);
      if (!first) continue;
      char32_t last = *first;
      if (peek() == '-' && pos_ + 1 < text_.size() && text_[pos_ + 1] != ']') {
        ++pos_;
        CharSet right;
        std::optional<char32_t> end = class_member(right);
        if (!end) {  // [a-\d]: the dash is a character
          set.add(right);
          set.add('-', '-');
        } else if (*end < *first) {
          wrong("a range from a larger to a smaller character");
        } else {
          last = *end;
        }
      }
      set.add(*first, last);
    }
    return negated ? set.negated() : set;
  }

  // One character, or nothing after a class like \d was added to `set`.
  std::optional<char32_t> class_member(CharSet& set) {
    if (peek() != '\\') return next_code_point(text_, pos_);
    if (std::optional<CharSet> escaped = class_escape()) {
      set.add(*escaped);
      return std::nullopt;
    }
    return escape(true);
  }

  static constexpr int64_t kHuge = int64_t(1) << 40;

  GrammarRules& rules_;
  RegexWriter& writer_;
  std::string_view text_;
  bool whole_;
  std::string_view where_;
  size_t pos_ = 0;
  ExprId anything_ = -1;
};

}  // namespace

ExprId parse_regex(GrammarRules& rules, RegexWriter& writer, std::string_view pattern, bool whole,
                   std::string_view where, RegexLengths* lengths) {
  RegexParser::Piece piece = RegexParser(rules, writer, pattern, whole, where).parse();
  if (lengths) *lengths = piece.lengths;
  return piece.expr;
}

ExprId add_regex(GrammarRules& rules, std::string_view pattern) {
  RegexWriter writer(rules);
  return parse_regex(rules, writer, pattern, true, "regex");
}

}  // namespace l4
