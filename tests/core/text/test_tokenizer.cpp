#include "text/tokenizer.h"

#include <algorithm>
#include <cstdio>

#include "base/strings.h"
#include "core/text/official.h"
#include "text/special_tokens.h"

using namespace l4;
using namespace l4::test;

namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes.push_back(char(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

void check_golden_encode(const Tokenizer& tokenizer, const char* special_ids, int n_with_special) {
  std::vector<Json> vectors = read_jsonl(shared_data("tokenizer/golden_encode.jsonl"));
  REQUIRE(vectors.size() == 1022);
  int n_special = 0;
  for (const Json& v : vectors) {
    const std::string& text = v.find("text")->as_string();
    INFO(v.find("id")->as_string());
    std::vector<int32_t> ids = ids_of(*v.find("ids"));
    CHECK(tokenizer.encode(text) == ids);
    CHECK(tokenizer.decode(ids, false) == text);
    const Json* with_special = v.find(special_ids);
    n_special += with_special != nullptr;
    CHECK(tokenizer.encode(text, true) == (with_special ? ids_of(*with_special) : ids));
  }
  CHECK(n_special == n_with_special);
}

void check_golden_decode(const Tokenizer& tokenizer) {
  std::vector<Json> vectors = read_jsonl(shared_data("tokenizer/golden_decode.jsonl"));
  REQUIRE(vectors.size() == 340);
  for (const Json& v : vectors) {
    std::string bytes = tokenizer.decode(ids_of(*v.find("ids")), false);
    CHECK(bytes == from_hex(v.find("bytes_hex")->as_string()));
    CHECK(utf8_replace_invalid(bytes) == v.find("text_utf8_replace")->as_string());
  }
}

}  // namespace

TEST_CASE("tokenizer: every golden text on Meta's tokenizer.model") {
  check_golden_encode(official_tiktoken(), "ids_special_meta", 38);
}
TEST_CASE("tokenizer: every golden text on the official tokenizer.json") {
  check_golden_encode(official_hf(), "ids_special_hf", 33);
}
TEST_CASE("tokenizer: golden decodes, with characters cut at both ends") {
  check_golden_decode(official_tiktoken());
  check_golden_decode(official_hf());
}

TEST_CASE("tokenizer: Meta's special tokens by rule are those of Meta's list") {
  Json list =
      parse_json(read_file(shared_data("tokenizer/special_tokens_meta.json"), 1 << 20), "special_tokens_meta.json");
  const Tokenizer& tokenizer = official_tiktoken();
  CHECK(list.as_object().size() == 2048);
  CHECK(meta_special_tokens().size() == 2048);
  for (const auto& [name, id] : list.as_object()) {
    INFO(name);
    CHECK(tokenizer.special_id(name) == std::optional<int32_t>(int32_t(id.as_integer())));
    CHECK(tokenizer.decode(int32_t(id.as_integer())) == name);
    CHECK(tokenizer.is_special(int32_t(id.as_integer())));
  }
  CHECK(tokenizer.vocab_size() == 202048);
}

TEST_CASE("tokenizer: names, ids beyond the vocabulary, stop ids") {
  for (const Tokenizer* tokenizer : {&official_tiktoken(), &official_hf()}) {
    CHECK(tokenizer->bos_id() == std::optional<int32_t>(200000));
    CHECK(tokenizer->special_id("<|eot|>") == std::optional<int32_t>(200008));
    CHECK(!tokenizer->special_id("<|eo|>"));
    CHECK(!tokenizer->special_id("user"));
    CHECK(tokenizer->name_of(200008) == "<|eot|>");
    CHECK(tokenizer->name_of(1556) == "user");
    CHECK(tokenizer->name_of(0) == "\xEF\xBF\xBD");
    CHECK(!tokenizer->is_special(1556));
    CHECK(tokenizer->decode(202048) == "");
    CHECK(tokenizer->decode(-1) == "");
    CHECK(tokenizer->decode(INT32_MAX) == "");
    CHECK(tokenizer->decode(INT32_MIN) == "");
    CHECK(!tokenizer->is_special(202048));
    CHECK(default_stop_ids(*tokenizer) == std::vector<int32_t>{200001, 200007, 200008});
    std::vector<int32_t> turn = {1556, 200008, 1556};
    CHECK(tokenizer->decode(turn) == "useruser");
    CHECK(tokenizer->decode(turn, false) == "user<|eot|>user");
  }
  CHECK(official_hf().vocab_size() == 201135);
  CHECK(official_hf().decode(201135) == "");
}

TEST_CASE("tokenizer: text that names special tokens stays text unless asked") {
  const Tokenizer& tokenizer = official_tiktoken();
  const std::string text = "a<|eot|>b<|header_start|";
  for (int32_t id : tokenizer.encode(text)) CHECK(id < 200000);
  std::vector<int32_t> parsed = tokenizer.encode(text, true);
  CHECK(std::count(parsed.begin(), parsed.end(), 200008) == 1);
  CHECK(std::count(parsed.begin(), parsed.end(), 200005) == 0);
  CHECK(tokenizer.decode(parsed, false) == text);
}

TEST_CASE("tokenizer: segments are one text where they touch") {
  const Tokenizer& tokenizer = official_tiktoken();
  std::vector<TextSegment> segments = {{"<|header_start|>", true}, {"us", false}, {"er", false},
                                       {"<|header_end|>", true},   {"\n", false}, {"\n", false},
                                       {"<|eot|>", false}};
  std::vector<int32_t> expected = {200005, 1556, 200006};
  std::vector<int32_t> rest = tokenizer.encode("\n\n<|eot|>");
  expected.insert(expected.end(), rest.begin(), rest.end());
  CHECK(tokenizer.encode(segments) == expected);
  CHECK(flat_text(segments) == "<|header_start|>user<|header_end|>\n\n<|eot|>");
  segments = {{"<|no_such_token|>", true}};
  CHECK(error_of([&] { tokenizer.encode(segments); }) ==
        "the tokenizer has no special token \"<|no_such_token|>\", which the prompt needs");
}

TEST_CASE("tokenizer: text that is not UTF-8 is refused with the place") {
  const Tokenizer& tokenizer = official_tiktoken();
  CHECK(error_of([&] { tokenizer.encode("ab\xFF"); }) == "text: not UTF-8 at byte 2");
  CHECK(error_of([&] { tokenizer.encode("\xEF\xBF\xBD\xC3"); }) == "text: not UTF-8 at byte 3");
  CHECK(error_of([&] { tokenizer.encode("x\xEF\xBF", true); }) == "text: not UTF-8 at byte 1");
  std::vector<TextSegment> segments = {{"\xED\xA0\x80", false}};  // a surrogate
  CHECK(error_of([&] { tokenizer.encode(segments); }) == "text: not UTF-8 at byte 0");
  CHECK(tokenizer.encode("").empty());
}

TEST_CASE("tokenizer: tokenizer.json is read before tokenizer.model") {
  TempDir dir;
  std::filesystem::copy_file(shared_data("tokenizer/tokenizer.model"), dir / "tokenizer.model");
  CHECK(Tokenizer::load(dir.path())->format() == "tiktoken");
  write_file_atomic(dir / "tokenizer.json", "{}");
  CHECK(error_of([&] { Tokenizer::load(dir.path()); }) ==
        (dir / "tokenizer.json").string() + ": pre_tokenizer: missing");
  TempDir empty;
  CHECK(error_of([&] { Tokenizer::load(empty.path()); }) ==
        empty.path().string() + ": no tokenizer.json and no tokenizer.model in this directory");
}

TEST_CASE("tokenizer: the official files load in good time") {
  official_hf_file();
  for (auto [file, limit_s] : {std::pair(official_hf_file(), 2.5), {shared_data("tokenizer/tokenizer.model"), 1.5}}) {
    double begin = cpu_seconds();
    Tokenizer::load(file);
    double seconds = cpu_seconds() - begin;
    INFO(file.string());
    CHECK(seconds < limit_s * kSlowdown);
    if (std::getenv("L4_TIMES")) std::printf("load %s: %.3f s\n", file.filename().c_str(), seconds);
  }
}

TEST_CASE("tokenizer: a megabyte of anything takes well under a second") {
  const Tokenizer& tokenizer = official_tiktoken();
  constexpr size_t kBytes = 1 << 20;
  auto repeat = [&](std::string_view unit) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    return text;
  };
  std::string prose = read_file(shared_data("chat/meta_prompt_format.md"), 1 << 20);
  for (const std::string& text :
       {repeat(prose), repeat("a"), repeat("A"), repeat(" "), repeat("\n"), repeat(" \n"), repeat("\t "), repeat("!"),
        repeat("\xE5\xAD\x97"), repeat("\xCC\x81"), repeat("aB"), repeat("<|"), repeat("7"), repeat("'S"),
        repeat("\xF0\xB2\xAF\xB0"), repeat(" ") + "x", std::string(kBytes, '\0'), repeat("\xF0\x9F\x99\x82")}) {
    double begin = cpu_seconds();
    std::vector<int32_t> ids = tokenizer.encode(text, true);
    double seconds = cpu_seconds() - begin;
    INFO(shown(text.substr(0, 8)));
    CHECK(tokenizer.decode(ids, false) == text);
    CHECK(seconds < 1 * kSlowdown);  // a quadratic step would take hours
    if (std::getenv("L4_TIMES"))
      std::printf("1 MiB of %s: %.3f s, %zu tokens\n", shown(text.substr(0, 8)).c_str(), seconds, ids.size());
  }
}
