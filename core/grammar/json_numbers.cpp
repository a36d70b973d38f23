// Decimal numbers between bounds, digit by digit: as long as the digits so far are those of a bound, the bound limits
// the next digit; once they differ, anything may follow.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/strings.h"
#include "grammar/json_rules.h"

namespace l4 {

namespace {

constexpr int64_t kLargest = 999'999'999'999'999'999;  // 18 digits

class Decimals {
 public:
  explicit Decimals(GrammarRules& rules) : rules_(rules), any_digit_(rules.chars("0123456789")) {}

  // Whole numbers low..high, both >= 0.
  ExprId whole(int64_t low, int64_t high) {
    std::vector<ExprId> ways;
    for (int64_t from = low; from <= high;) {  // numbers of one length at a time
      std::string first = cat(from);
      int64_t to = first.size() == 18 ? kLargest : power(int(first.size())) - 1;
      to = std::min(to, high);
      ways.push_back(same_length(first, cat(to)));
      if (to == kLargest) break;
      from = to + 1;
    }
    return rules_.any_of(std::move(ways));
  }

  struct End {
    int64_t whole = 0;
    std::string fraction;  // digits, without zeros at the end
    bool exclusive = false;
  };

  // Numbers >= 0 with a point or without. No upper end: up to 18 digits before the point.
  ExprId between(const End& low, const End* high) {
    std::vector<ExprId> ways;
    auto put = [&](int64_t first, int64_t last, const End* from, const End* to) {
      if (first <= last) ways.push_back(rules_.sequence({whole(first, last), fraction(from, to)}));
    };
    if (high && low.whole == high->whole) {
      put(low.whole, low.whole, &low, high);
    } else if (!high || low.whole < high->whole) {
      put(low.whole, low.whole, &low, nullptr);
      put(low.whole + 1, high ? high->whole - 1 : kLargest, nullptr, nullptr);
      if (high) put(high->whole, high->whole, nullptr, high);
    }
    return rules_.any_of(std::move(ways));
  }

 private:
  static int64_t power(int n) {
    int64_t out = 1;
    for (int i = 0; i < n; ++i) out *= 10;
    return out;
  }
  ExprId digits(int64_t min, int64_t max) { return rules_.repeat(any_digit_, min, max); }
  ExprId digit_range(int first, int last) {
    CharSet set;
    if (first <= last) set.add(char32_t('0' + first), char32_t('0' + last));
    return rules_.chars(set);
  }

  ExprId same_length(const std::string& low, const std::string& high) {
    if (low == high) return rules_.text(low);
    size_t n = low.size();
    if (low.find_first_not_of('0') == std::string::npos && high.find_first_not_of('9') == std::string::npos) {
      return digits(int64_t(n), int64_t(n));
    }
    int first = low[0] - '0', last = high[0] - '0';
    std::string low_rest = low.substr(1), high_rest = high.substr(1);
    if (first == last) return rules_.sequence({rules_.text(low.substr(0, 1)), same_length(low_rest, high_rest)});
    std::vector<ExprId> ways;
    auto put = [&](ExprId head, const std::string& from, const std::string& to) {
      ways.push_back(n == 1 ? head : rules_.sequence({head, same_length(from, to)}));
    };
    std::string zeros(n - 1, '0'), nines(n - 1, '9');
    if (low_rest != zeros) put(digit_range(first, first), low_rest, nines), ++first;
    if (high_rest != nines) put(digit_range(last, last), zeros, high_rest), --last;
    if (first <= last) put(digit_range(first, last), zeros, nines);
    return rules_.any_of(std::move(ways));
  }

  // "" or "." and digits, of a number whose whole part is that of the ends given.
  ExprId fraction(const End* low, const End* high) {
    std::vector<ExprId> ways;
    if (may_stop(0, low, high)) ways.push_back(rules_.sequence({}));
    ways.push_back(rules_.sequence({rules_.text("."), digits_from(0, low, high, true)}));
    return rules_.any_of(std::move(ways));
  }

  static int digit(const End& end, size_t i) { return i < end.fraction.size() ? end.fraction[i] - '0' : 0; }

  // The digits before place i are those of the ends given: is it right to write no more?
  static bool may_stop(size_t i, const End* low, const End* high) {
    if (low && (low->fraction.size() > i || low->exclusive)) return false;
    return !(high && high->fraction.size() <= i && high->exclusive);
  }

  ExprId digits_from(size_t i, const End* low, const End* high, bool needs_one) {
    if (!low && !high) return digits(needs_one ? 1 : 0, kDigits);
    size_t n = std::max(low ? low->fraction.size() : 0, high ? high->fraction.size() : 0);
    std::vector<ExprId> ways;
    if (!needs_one && may_stop(i, low, high)) ways.push_back(rules_.sequence({}));
    if (i >= n) {  // the ends go on with zeros
      ExprId zeros = rules_.repeat(rules_.text("0"), needs_one ? 1 : 0, kDigits);
      if (!(low && low->exclusive) && !(high && high->exclusive)) ways.push_back(zeros);
      if (!high) {
        ways.push_back(
            rules_.sequence({rules_.repeat(rules_.text("0"), 0, kDigits), digit_range(1, 9), digits(0, kDigits)}));
      }
      return rules_.any_of(std::move(ways));
    }
    int first = low ? digit(*low, i) : 0, last = high ? digit(*high, i) : 9;
    auto put = [&](int from, int to, const End* next_low, const End* next_high) {
      if (from <= to)
        ways.push_back(rules_.sequence({digit_range(from, to), digits_from(i + 1, next_low, next_high, false)}));
    };
    if (low && high && first >= last) {
      if (first == last) put(first, first, low, high);
    } else {
      if (low) put(first, first, low, nullptr), ++first;
      if (high) put(last, last, nullptr, high), --last;
      put(first, last, nullptr, nullptr);
    }
    return rules_.any_of(std::move(ways));
  }

  static constexpr int64_t kDigits = 18;

  GrammarRules& rules_;
  ExprId any_digit_;
};

bool is_beyond(const JsonRules::Bound& bound) {
  return std::abs(bound.value.as_number()) > double(kLargest);
}

Decimals::End end_of(const JsonRules::Bound& bound) {
  Decimals::End end;
  end.exclusive = bound.exclusive;
  if (bound.value.is_integer()) {
    end.whole = std::abs(bound.value.as_integer());
    return end;
  }
  char text[400];
  auto [stop, error] =
      std::to_chars(text, text + sizeof text, std::abs(bound.value.as_number()), std::chars_format::fixed);
  std::string_view digits(text, error == std::errc() ? size_t(stop - text) : 0);
  size_t point = std::min(digits.find('.'), digits.size());
  end.whole = parse_int(digits.substr(0, point)).value_or(0);
  if (point < digits.size()) end.fraction = digits.substr(point + 1);
  while (end.fraction.ends_with('0')) end.fraction.pop_back();
  return end;
}

// The smallest whole number that is right, if `up`, else the largest.
int64_t whole_end(const JsonRules::Bound& bound, bool up) {
  constexpr int64_t kBeyond = kLargest + 1;
  if (bound.value.is_integer()) {
    int64_t value = std::clamp(bound.value.as_integer(), -kBeyond, kBeyond);
    return value + (bound.exclusive ? (up ? 1 : -1) : 0);
  }
  double value = bound.value.as_number();
  if (std::abs(value) >= double(kBeyond)) return value < 0 ? -kBeyond : kBeyond;
  double whole = up ? std::ceil(value) : std::floor(value);
  return int64_t(whole) + (bound.exclusive && whole == value ? (up ? 1 : -1) : 0);
}

}  // namespace

ExprId JsonRules::integer_between(const std::optional<Bound>& low, const std::optional<Bound>& high) {
  int64_t from = std::max(low ? whole_end(*low, true) : -kLargest, -kLargest);
  int64_t to = std::min(high ? whole_end(*high, false) : kLargest, kLargest);
  Decimals decimals(rules_);
  std::vector<ExprId> ways;
  if (to >= 0 && from <= to) ways.push_back(decimals.whole(std::max<int64_t>(from, 0), to));
  if (from < 0 && from <= to) {
    ways.push_back(rules_.sequence({rules_.text("-"), decimals.whole(-std::min<int64_t>(to, -1), -from)}));
  }
  return rules_.any_of(std::move(ways));
}

ExprId JsonRules::number_between(const std::optional<Bound>& low, const std::optional<Bound>& high) {
  if (!low && !high) return number();
  bool low_negative = !low || low->value.as_number() < 0, high_negative = high && high->value.as_number() < 0;
  if ((low && !low_negative && is_beyond(*low)) || (high_negative && is_beyond(*high))) return rules_.nothing();
  // An end that no number of 18 digits reaches is no end.
  std::optional<Decimals::End> from, to;
  if (low && !is_beyond(*low)) from = end_of(*low);
  if (high && !is_beyond(*high)) to = end_of(*high);
  Decimals decimals(rules_);
  std::vector<ExprId> ways;
  if (!high_negative) ways.push_back(decimals.between(low_negative ? Decimals::End{} : *from, to ? &*to : nullptr));
  if (low_negative) {                                                           // "-" and the size
    Decimals::End smallest = high_negative ? *to : Decimals::End{0, "", true};  // no -0
    ways.push_back(rules_.sequence({rules_.text("-"), decimals.between(smallest, from ? &*from : nullptr)}));
  }
  return rules_.any_of(std::move(ways));
}

}  // namespace l4
