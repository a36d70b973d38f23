// Summaries as people read them: one run, or several side by side (BF16, FP8, INT4, an FP8 cache). The recipe stands
// beside every score, and what is missing from a score beside it.
#pragma once

#include <span>
#include <string>

#include "tools/eval/summary.h"

namespace l4::eval {

std::string to_table(const Summary& summary);  // for a terminal
std::string to_table(std::span<const Summary> summaries);
std::string to_markdown(std::span<const Summary> summaries);
// One file, light and dark, with charts; nothing in it is loaded from elsewhere or run.
std::string to_html(std::span<const Summary> summaries);

}  // namespace l4::eval
