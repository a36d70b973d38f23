// Names and numbers of reports.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/common/bar_plot.h"
#include "tools/eval/summary.h"

namespace l4::eval {

std::string variant_of(const RunHeader& header);  // "lm-eval 3.1, 5-shot, no chat template, limit 20, only law"
std::string kind_of(const RunHeader& header);     // "mmlu_pro, lm-eval 3.1, 5-shot": what makes scores comparable
// A name for each that tells them apart: the model's, with the settings in which runs of one model differ.
std::vector<std::string> labels_of(std::span<const Summary> summaries);
std::string setting_text(const Json& value);  // one line; a SHA-256 shortened

std::string percent(double share);             // "74.32"
std::string percent(const Mean& mean);         // "74.32 ± 0.40"
std::string share_of(int64_t n, int64_t all);  // "1,204 (10.01 %)"
std::string wilson_text(const Mean& mean);     // "73.51 to 75.07"
tools::BarPlot::Bar bar_of(const Mean& mean);  // in percent, with Wilson's interval

}  // namespace l4::eval
