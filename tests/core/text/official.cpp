#include "core/text/official.h"

#include <cstdlib>
#include <ctime>

#include "base/file.h"
#include "base/strings.h"

namespace l4::test {

const Tokenizer& official_tiktoken() {
  static const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(shared_data("tokenizer/tokenizer.model"));
  return *tokenizer;
}

std::filesystem::path official_hf_file() {
  static const TempDir dir;
  std::filesystem::path file = dir / "tokenizer.json";
  if (!std::filesystem::exists(file)) {
    std::filesystem::path packed = shared_data("tokenizer/tokenizer.json.xz");
    if (std::system("xz --version >/dev/null 2>&1") != 0) L4_SKIP("xz is not here");
    std::string command = "xz -dkc '" + packed.string() + "' > '" + file.string() + "'";
    REQUIRE(std::system(command.c_str()) == 0);
  }
  return file;
}

const Tokenizer& official_hf() {
  static const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::load(official_hf_file());
  return *tokenizer;
}

std::vector<Json> read_jsonl(const std::filesystem::path& path) {
  std::vector<Json> values;
  for (const std::string& line : split(read_file(path, uint64_t(64) << 20), '\n'))
    if (!line.empty()) values.push_back(parse_json(line, path.string()));
  return values;
}

std::vector<int32_t> ids_of(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.as_array()) ids.push_back(int32_t(id.as_integer()));
  return ids;
}

double cpu_seconds() {
  return double(std::clock()) / CLOCKS_PER_SEC;
}

}  // namespace l4::test
