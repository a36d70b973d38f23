// Regular expressions as Python's `re` reads them on str, for rules that were written in Python (l4-eval's recipes).
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace l4 {

// Characters are code points, \d \w \b know Unicode's letters and digits, `.` stops at \n alone, and `$` stands at the
// end and before a \n that ends the text. (\s lacks Python's U+001C to U+001F: a rule that needs them says so.)
// Immutable, shared by threads.
class PythonPattern {
 public:
  enum Case { exact, ignore_case };
  // `regex` is the suite's own: a bad one is Error{internal}.
  explicit PythonPattern(std::string_view regex, Case how = exact);
  ~PythonPattern();
  PythonPattern(const PythonPattern&) = delete;
  PythonPattern& operator=(const PythonPattern&) = delete;

  struct Match {
    size_t begin, end;       // bytes of the text
    std::string_view group;  // what ( ) caught, or the whole match where the expression has none
  };
  // Of valid UTF-8: what re.search, re.findall()[-1] and re.finditer find.
  std::optional<Match> first(std::string_view utf8, size_t from = 0) const;
  std::optional<Match> last(std::string_view utf8) const;
  std::vector<Match> all(std::string_view utf8) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace l4
