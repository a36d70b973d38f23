#include "tools/eval/relaxed_accuracy.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/strings.h"
#include "formats/json.h"
#include "text/python_pattern.h"
#include "text/python_text.h"
#include "tools/eval/python_values.h"

namespace l4::eval {

namespace {

constexpr double kMaxRelativeChange = 0.05;

struct Number {
  double value = 0;
  bool percent = false;
};

std::string_view without_percent(std::string_view text) {
  while (text.ends_with('%')) text.remove_suffix(1);
  return text;
}

std::optional<Number> number_of(std::string_view text) {
  text = python_strip(text);
  const std::optional<double> value = python_float_of(without_percent(text));
  if (!value) return std::nullopt;
  return Number{*value, text.ends_with('%')};
}

std::string_view without_quotes(std::string_view text) {
  for (const char quote : {'"', '\''})
    if (text.starts_with(quote) && text.ends_with(quote)) return text.size() > 1 ? text.substr(1, text.size() - 2) : "";
  return text;
}

// Punctuation and white space at the end, up to a percent sign.
std::string_view without_end_punctuation(std::string_view text) {
  while (!text.empty() && text.back() != '%') {
    const std::string_view shorter =
        is_punctuation(text.back())
            ? text.substr(0, text.size() - 1)
            : text.substr(0, size_t(python_strip(text).data() + python_strip(text).size() - text.data()));
    if (shorter.size() == text.size()) break;
    text = shorter;
  }
  return text;
}

// How both sides are written before they are compared.
std::string prepared(std::string_view text) {
  if (!has_digit(text)) return std::string(without_quotes(text));
  std::string out(without_end_punctuation(text));
  std::erase_if(out, [](char c) { return c == ',' || c == '$'; });
  return out;
}

bool is_close(double prediction, double target) {
  return std::abs(prediction - target) / std::max(std::abs(target), 1e-10) <= kMaxRelativeChange;
}

double as_decimal(const Number& number) {
  return number.percent ? number.value / 100 : number.value;
}

bool same_text(std::string_view prediction, std::string_view target) {
  while (!prediction.empty() && is_punctuation(prediction.back())) prediction.remove_suffix(1);
  return python_lower(prediction) == python_lower(target);
}

}  // namespace

std::string final_answer(std::string_view answer) {
  static const PythonPattern starred(R"(([aA]nswer)\**:\**)");
  std::string plain;
  size_t copied = 0;
  for (const PythonPattern::Match& match : starred.all(answer)) {
    plain.append(answer.substr(copied, match.begin - copied)).append(match.group).append(":");
    copied = match.end;
  }
  plain.append(answer.substr(copied));

  constexpr std::string_view kMark = "answer:";
  const size_t at = to_lower(plain).rfind(kMark);
  if (at == plain.npos) return {};
  for (const std::string& line : split(std::string_view(plain).substr(at + kMark.size()), '\n')) {
    std::string text(python_strip(line));
    if (text.empty()) continue;
    std::erase_if(text, [](char c) { return std::string_view("*_[]()").find(c) != std::string_view::npos; });
    return text;
  }
  return {};
}

bool relaxed_equal(std::string_view prediction_text, std::string_view target_text) {
  const std::string prediction = prepared(prediction_text), target = prepared(target_text);
  const std::optional<Number> p = number_of(prediction), t = number_of(target);
  if (p && t) {
    if (is_close(p->value, t->value)) return true;
    return (p->percent || t->percent) && (is_close(as_decimal(*p), t->value) || is_close(p->value, as_decimal(*t)));
  }
  if (is_one_letter(target) && !prediction.empty())
    return python_lower(first_character(prediction)) == python_lower(target);
  return same_text(prediction, target);
}

bool relaxed_accuracy(std::string_view answer, std::string_view target) {
  const std::string final = final_answer(answer);
  return !final.empty() && relaxed_equal(final, target);
}

bool anywhere_accuracy(std::string_view answer, std::string_view target) {
  const std::string final = final_answer(answer);
  if (!final.empty()) return relaxed_equal(final, target);
  const auto says = [&](const std::string& text) { return answer.find(text) != std::string_view::npos; };
  const std::optional<double> number = python_float_of(target);
  // The authors' code asks int() of it: of infinity that ends the run, of nan it goes on as with text.
  if (number && std::isinf(*number)) return false;
  if (number && !std::isnan(*number)) return says(with_thousands(*number)) || says(shortest(*number));
  // The target is in lower case here and the answer is not.
  const std::string lower = python_lower(target);
  return says("is " + lower) || says("was " + lower) || says(" " + lower + ".") || says("are " + lower) ||
         says("\n\n" + lower);
}

bool exact_final_answer(std::string_view answer, std::string_view target) {
  static const PythonPattern at_end("Final Answer: (.+)$", PythonPattern::ignore_case);
  const std::optional<PythonPattern::Match> match = at_end.first(answer);
  if (!match) return false;
  std::string said = python_lower(python_strip(match->group));
  if (said.ends_with('.')) said.pop_back();
  return said == python_lower(python_strip(target));
}

std::string lm_eval_target(const std::string& label) {
  static const PythonPattern python_number(R"(^-?(?:0|[1-9][0-9]*|[0-9]+\.[0-9]*|\.[0-9]+)\z)");
  if (label.size() < 2 || label.front() != '[' || label.back() != ']') return label;
  Json list(Json::Array{});
  for (const std::string& item : split(std::string_view(label).substr(1, label.size() - 2), ',')) {
    const std::string_view text = trim(item);
    if (!python_number.first(text)) return label;
    const std::optional<int64_t> whole = parse_int(text);
    list.push_back(whole ? Json(*whole) : Json(*python_float_of(text)));
  }
  return python_str(list);
}

bool relaxed_equal_lmms(std::string_view prediction, std::string_view target) {
  const auto value_of = [](std::string_view text) -> std::optional<double> {
    if (!text.ends_with('%')) return python_float_of(text);
    const std::optional<double> value = python_float_of(without_percent(text));
    return value ? std::optional(*value / 100) : std::nullopt;
  };
  const std::optional<double> p = value_of(prediction), t = value_of(target);
  if (p && t && *t != 0) return std::abs(*p - *t) / std::abs(*t) <= kMaxRelativeChange;
  return python_lower(prediction) == python_lower(target);
}

}  // namespace l4::eval
