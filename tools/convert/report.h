// What a conversion will do, and what it lost: tables for people, JSON for programs.
#pragma once

#include <string>
#include <vector>

#include "formats/json.h"
#include "quant/quantize.h"
#include "tools/common/conversion_plan.h"
#include "tools/convert/calibration.h"

namespace l4::convert {

// A line a tensor of the source: from, to, bytes; then the sums by part of the model.
std::string describe_plan(const Plan& plan);

// `errors`: one an item of the plan; n is 0 for what stays.
std::string error_table(const Plan& plan, const std::vector<QuantError>& errors);
Json error_report(const Plan& plan, const std::vector<QuantError>& errors, const Calibration& calibration);
// Lines on what calibration found: linears that were rounded for want of inputs, by name; sizes of keys and values.
// Empty where there was none.
std::string calibration_summary(const Calibration& calibration);

}  // namespace l4::convert
