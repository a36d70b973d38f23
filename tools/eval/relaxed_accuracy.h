// Whether an answer to a question about a chart is right: numbers within 5 %, other text the same. The rules of two
// harnesses, which differ in much: what counts as the answer, percent signs, punctuation, targets of zero.
#pragma once

#include <string>
#include <string_view>

namespace l4::eval {

// ---- lm-eval's chartqa. All texts valid UTF-8.

// What stands after the last "answer:" in any case: its first line that is not empty, without *, _, brackets and
// parentheses. Stars around the colon ("**Answer:**", "**Answer**:") do not matter. Empty: there is none.
std::string final_answer(std::string_view answer);
// One answer against the target. Numbers ("$1,234." is one) may differ by 5 % of the target, and where either has a
// percent sign also after dividing that one by 100; a target of one letter is met by the answer's first letter; other
// text must be the same in lower case, less the answer's punctuation at its end.
bool relaxed_equal(std::string_view prediction, std::string_view target);
// relaxed_equal of the final answer; false where there is none.
bool relaxed_accuracy(std::string_view answer, std::string_view target);
// The same, but where there is no final answer the target may stand anywhere: a number as it is or with its thousands
// apart, other text after "is ", "are ", "was " and the like. Generous by its authors' own word.
bool anywhere_accuracy(std::string_view answer, std::string_view target);
// "Final Answer: X" in any case ends the text, and X is the target in any case, less one full stop.
bool exact_final_answer(std::string_view answer, std::string_view target);
// The target that lm-eval compares with: a label such as "[2003,2009]" reads as a list in Python there, and is written
// back as Python writes lists. Lists of numbers only: others either are no Python or come back as they were.
std::string lm_eval_target(const std::string& label);

// ---- lmms-eval's chartqa: the whole answer against the target. A number with a percent sign is divided by 100 first;
// a target of zero, and what is no number, must be the same text in lower case.
bool relaxed_equal_lmms(std::string_view prediction, std::string_view target);

}  // namespace l4::eval
