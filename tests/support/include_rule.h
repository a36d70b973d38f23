// Who may include whom, checked over the #include lines of core/, kernels/ and tools/. The rule is in include_rule.cpp's
// tables.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace l4::test {

// One line for each broken rule: "core/tensor/view.h:12: tensor may not include formats (formats/json.h)". Empty: all is well.
std::vector<std::string> include_violations(const std::filesystem::path& source_dir);

// How many files the last call looked at (a check that sees nothing proves nothing).
int files_checked();

}  // namespace l4::test
