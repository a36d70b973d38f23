#include "tools/eval/letter_answer.h"

#include <random>

#include "text/python_pattern.h"

namespace l4::eval {

namespace {

LetterAnswer found(const std::optional<PythonPattern::Match>& match, const char* rule) {
  if (!match) return {};
  return {match->group.front(), rule};
}

}  // namespace

LetterAnswer letter_lm_eval(const std::string& answer) {
  static const PythonPattern answer_is(R"(answer is \(?([A-J])\)?)");
  return found(answer_is.first(answer), "answer is");
}

LetterAnswer letter_llama(const std::string& answer) {
  static const PythonPattern best_answer_is(R"([tT]he best answer is ([A-Z]))");
  return found(best_answer_is.last(answer), "best answer is");
}

LetterAnswer letter_tiger(const std::string& answer) {
  static const PythonPattern answer_colon(R"(.*[aA]nswer:[\s\x1c-\x1f]*([A-J]))");
  static const PythonPattern lone_letter(R"(\b[A-J]\b)");
  LetterAnswer letter = letter_lm_eval(answer);
  if (!letter.letter) letter = found(answer_colon.first(answer), "answer:");
  if (!letter.letter) letter = found(lone_letter.last(answer), "last letter");
  return letter;
}

char guessed_letter(const std::string& id, int64_t n_options, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : id) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
  std::mt19937_64 die(hash ^ (seed ? seed : 12345));
  return char('A' + die() % uint64_t(n_options));
}

}  // namespace l4::eval
