#include "text/python_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>

#include "base/error.h"

namespace l4 {

struct PythonPattern::Compiled {
  pcre2_code* code = nullptr;
  pcre2_match_context* limits = nullptr;
  ~Compiled() {
    pcre2_match_context_free(limits);
    pcre2_code_free(code);
  }
};

PythonPattern::PythonPattern(std::string_view regex, Case how) : compiled_(std::make_unique<Compiled>()) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  compiled_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(regex.data()), regex.size(),
                    PCRE2_UTF | PCRE2_UCP | (how == ignore_case ? PCRE2_CASELESS : 0), &error, &at, context);
  pcre2_compile_context_free(context);
  L4_CHECK(compiled_->code, regex, " at ", at, ": error ", error);
  // The rules' expressions step back no further than a line: there is nothing to limit, and a limit would be an answer.
  compiled_->limits = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(compiled_->limits, UINT32_MAX);
}

PythonPattern::~PythonPattern() = default;

std::optional<PythonPattern::Match> PythonPattern::first(std::string_view utf8, size_t from) const {
  struct Data {
    pcre2_match_data* match;
    ~Data() { pcre2_match_data_free(match); }
  } data{pcre2_match_data_create(2, nullptr)};
  const int found = pcre2_match(compiled_->code, reinterpret_cast<PCRE2_SPTR>(utf8.data()), utf8.size(), from,
                                PCRE2_NO_UTF_CHECK, data.match, compiled_->limits);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  L4_CHECK(found > 0, "PCRE2: error ", found);
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.match);
  const size_t group = found > 1 ? 2 : 0;
  return Match{bounds[0], bounds[1], utf8.substr(bounds[group], bounds[group + 1] - bounds[group])};
}

std::vector<PythonPattern::Match> PythonPattern::all(std::string_view utf8) const {
  std::vector<Match> matches;
  size_t from = 0;
  while (const std::optional<Match> match = first(utf8, from)) {
    L4_CHECK(match->end > match->begin, "a rule that matches nothing");
    matches.push_back(*match);
    from = match->end;
  }
  return matches;
}

std::optional<PythonPattern::Match> PythonPattern::last(std::string_view utf8) const {
  const std::vector<Match> matches = all(utf8);
  return matches.empty() ? std::nullopt : std::optional(matches.back());
}

}  // namespace l4
