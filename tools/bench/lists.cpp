#include "tools/bench/lists.h"

#include <algorithm>

#include "base/strings.h"
#include "tools/common/flags.h"

namespace l4::bench {

namespace {

constexpr size_t kMostNumbers = 1000;

// Nothing where it is no number or out of range.
std::optional<int64_t> number(std::string_view text, int64_t low, int64_t high) {
  const std::optional<uint64_t> n = parse_size(text);
  if (!n || *n > uint64_t(high) || int64_t(*n) < low) return std::nullopt;
  return int64_t(*n);
}

// "first-last", "first-last+step", "first-last*factor"; false where it is none of them.
bool add_range(std::string_view item, int64_t low, int64_t high, std::vector<int64_t>& to) {
  const size_t dash = item.find('-');
  if (dash == std::string_view::npos) return false;
  const size_t sign = item.find_first_of("+*", dash);
  const bool multiplies = sign != std::string_view::npos && item[sign] == '*';
  const std::optional<int64_t> first = number(item.substr(0, dash), low, high);
  const std::optional<int64_t> last = number(item.substr(dash + 1, sign == std::string_view::npos ? sign : sign - dash - 1), low, high);
  const std::optional<int64_t> by =
      sign == std::string_view::npos ? 1 : number(item.substr(sign + 1), multiplies ? 2 : 1, high);
  if (!first || !last || !by || *first > *last || (multiplies && *first == 0)) return false;
  for (int64_t n = *first; n <= *last; n = multiplies ? n * *by : n + *by) {
    if (to.size() == kMostNumbers) fail(ErrorKind::usage, "more than ", kMostNumbers, " numbers");
    to.push_back(n);
    if (multiplies && n > high / *by) break;
  }
  return true;
}

}  // namespace

std::vector<int64_t> parse_numbers(const std::string& text, int64_t low, int64_t high) {
  std::vector<int64_t> out;
  for (const std::string& word : split(text, ',')) {
    const std::string_view item = trim(word);
    if (const std::optional<int64_t> n = number(item, low, high))
      out.push_back(*n);
    else if (!add_range(item, low, high, out))
      tools::wrong_value(cat("numbers from ", low, " to ", high, " like 512,8K or 128-1024*2"), text);
    if (out.size() > kMostNumbers) fail(ErrorKind::usage, "more than ", kMostNumbers, " numbers");
  }
  return out;
}

std::pair<int64_t, int64_t> parse_pair(const std::string& text, int64_t high) {
  const std::vector<std::string> words = split(text, ',');
  if (words.size() == 2) {
    const auto prompt = number(trim(words[0]), 0, high), answer = number(trim(words[1]), 0, high);
    if (prompt && answer && *prompt + *answer > 0) return {*prompt, *answer};
  }
  tools::wrong_value("a prompt and an answer in tokens like 512,128", text);
}

}  // namespace l4::bench
