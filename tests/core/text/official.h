// The official tokenizer in both formats, loaded once for all tests that need it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "formats/json.h"
#include "support/test.h"
#include "text/tokenizer.h"

namespace l4::test {

// Meta's tokenizer.model from shared/data.
const Tokenizer& official_tiktoken();
// tokenizer.json, unpacked by xz; skips where there is no xz.
const Tokenizer& official_hf();
std::filesystem::path official_hf_file();

// The lines of a JSON-lines file.
std::vector<Json> read_jsonl(const std::filesystem::path& path);
std::vector<int32_t> ids_of(const Json& array);

// Processor time of this process: what a test may bound on a machine that others use too.
double cpu_seconds();
// How many times slower than usual this build is: sanitizers.
inline constexpr double kSlowdown =
#ifdef __SANITIZE_ADDRESS__
    20;
#else
    1;
#endif

}  // namespace l4::test
