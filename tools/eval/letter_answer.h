// Which letter an answer to a multiple-choice question names: the rules of MMLU-Pro's recipes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace l4::eval {

struct LetterAnswer {
  std::optional<char> letter;  // what the answer says
  std::string rule;            // which rule found it; empty: none
};

// lm-eval's mmlu_pro: the first "answer is (X)" or "answer is X" of A to J. Rule "answer is".
LetterAnswer letter_lm_eval(const std::string& answer);
// lm-eval's mmlu_pro_llama, which is Meta's: the last "The best answer is X". Rule "best answer is".
LetterAnswer letter_llama(const std::string& answer);
// The authors' of MMLU-Pro: the first "answer is (X)", else an "Answer: X" (of the first line that has one its last),
// else the last letter from A to J that stands alone. Rules "answer is", "answer:", "last letter".
LetterAnswer letter_tiger(const std::string& answer);

// Where no rule finds a letter, the authors' script throws a die with as many sides as the question has options, one
// stream of random numbers (seed 12345) for all questions of a run in its order. This die depends on the seed (0:
// 12345) and the question's id alone, so that a run that was interrupted, or asks in another order, scores the same.
char guessed_letter(const std::string& id, int64_t n_options, uint64_t seed);

}  // namespace l4::eval
