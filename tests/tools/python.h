// The Python that tests of scripts run.
#pragma once

#include <cstdlib>
#include <string>

#include "support/test.h"

namespace l4::test {

// One that has these packages ("pyarrow", "openai, anthropic"): $L4_PYTHON or python3. Skips the test where there is
// none.
inline std::string python_with(const std::string& packages) {
  const char* given = std::getenv("L4_PYTHON");
  const std::string python = given ? given : "python3";
  if (run({python, "-c", "import " + packages}, {.timeout_s = 120}).status == 0) return python;
  L4_SKIP("no Python with " + packages + " ($L4_PYTHON names one)");
}

}  // namespace l4::test
