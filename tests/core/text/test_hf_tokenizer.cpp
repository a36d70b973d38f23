// Small and damaged tokenizer.json files.
#include <functional>

#include "base/strings.h"
#include "formats/json.h"
#include "support/test.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

using namespace l4;
using namespace l4::test;

namespace {

// GPT-2's byte alphabet, by its own definition.
std::string byte_letter(int byte) {
  auto itself = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); };
  std::string out;
  int n = 0;
  for (int b = 0; b < byte; ++b) n += !itself(b);
  append_utf8(out, itself(byte) ? char32_t(byte) : char32_t(256 + n));
  return out;
}

// 256 bytes, "he" 256, "ll" 257, "hell" 258; "<|eot|>" 259 and "<|eot" 260.
Json small() {
  Json vocab(Json::Object{});
  for (int b = 0; b < 256; ++b) vocab.as_object().emplace_back(byte_letter(b), b);
  vocab.set("he", 256);
  vocab.set("ll", 257);
  vocab.set("hell", 258);
  Json root = parse_json(R"({"version":"1.0","normalizer":null,
    "pre_tokenizer":{"type":"Sequence","pretokenizers":[
      {"type":"Split","pattern":{"Regex":)" +
                             json_quote(kLlama4SplitPattern) + R"(},"behavior":"Isolated","invert":false},
      {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},
    "added_tokens":[{"id":259,"content":"<|eot|>","special":true},{"id":260,"content":"<|eot","special":false}],
    "model":{"type":"BPE","ignore_merges":true,"merges":["h e",["l","l"],"he ll"]}})",
                         "small");
  for (auto& [name, member] : root.as_object())
    if (name == "model") member.set("vocab", std::move(vocab));
  return root;
}

std::unique_ptr<Tokenizer> load(const std::string& text) {
  TempDir dir;
  write_file_atomic(dir / "t.json", text);
  return Tokenizer::load(dir / "t.json");
}
// The error for this content, without the file's name in front.
std::string refusal(const std::string& text) {
  std::string message = error_of([&] { load(text); });
  size_t name = message.find("t.json: ");
  return name == std::string::npos ? message : message.substr(name + 8);
}

Json& at(Json& root, std::initializer_list<const char*> path) {
  Json* value = &root;
  for (std::string_view step : path) {
    Json* next = nullptr;
    if (value->is_array())
      next = &value->as_array()[size_t(*parse_int(step))];
    else
      for (auto& [name, member] : value->as_object())
        if (name == step) next = &member;
    REQUIRE(next);
    value = next;
  }
  return *value;
}
std::string refusal_with(const std::function<void(Json&)>& change) {
  Json root = small();
  change(root);
  return refusal(dump_json(root));
}

}  // namespace

TEST_CASE("hf_tokenizer: a small one, merges in both spellings") {
  std::unique_ptr<Tokenizer> tokenizer = load(dump_json(small()));
  CHECK(tokenizer->encode("hello") == std::vector<int32_t>{258, 'o'});
  CHECK(tokenizer->encode("<|eot|>", true) == std::vector<int32_t>{259});
  CHECK(tokenizer->encode("a<|eot<|eot|>", true) == std::vector<int32_t>{'a', 260, 259});  // longest match first
  CHECK(tokenizer->encode("<|eot|>").size() == 7);
  CHECK(tokenizer->vocab_size() == 261);
  CHECK(tokenizer->is_special(259));
  CHECK(!tokenizer->is_special(260));  // "special": false stays visible
  CHECK(tokenizer->decode(std::vector<int32_t>{259, 260, 258}) == "<|eothell");
  CHECK(!tokenizer->bos_id());
  CHECK(tokenizer->format() == "tokenizer.json (BPE)");
}

TEST_CASE("hf_tokenizer: special tokens may be in the vocabulary too") {
  Json root = small();
  at(root, {"model", "vocab"}).set("<|eot|>", 259);
  std::unique_ptr<Tokenizer> tokenizer = load(dump_json(root));
  CHECK(tokenizer->encode("<|eot|>").size() == 7);
  CHECK(tokenizer->encode("<|eot|>", true) == std::vector<int32_t>{259});
}

TEST_CASE("hf_tokenizer: any other structure is refused by name") {
  CHECK(refusal_with([](Json& r) { at(r, {"normalizer"}) = true; }) ==
        "normalizer: not Llama 4's tokenizer: expected null, found \"true\"");
  CHECK(refusal_with([](Json& r) {
          at(r, {"pre_tokenizer", "type"}) = "Whitespace";
        }).starts_with("pre_tokenizer.type: not Llama 4's tokenizer: expected \"Sequence\""));
  CHECK(refusal_with([](Json& r) {
          at(r, {"pre_tokenizer", "pretokenizers", "0", "pattern"}).set("Regex", "\\w+");
        }).starts_with("pre_tokenizer.pretokenizers[0].pattern.Regex: not Llama 4's tokenizer"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"pre_tokenizer", "pretokenizers", "0", "behavior"}) = "Removed";
        }).starts_with("pre_tokenizer.pretokenizers[0].behavior: "));
  CHECK(refusal_with([](Json& r) {
          at(r, {"pre_tokenizer", "pretokenizers", "1", "use_regex"}) = true;
        }).starts_with("pre_tokenizer.pretokenizers[1].use_regex: "));
  CHECK(refusal_with([](Json& r) {
          at(r, {"pre_tokenizer", "pretokenizers"}).push_back(Json(Json::Object{}));
        }).starts_with("pre_tokenizer.pretokenizers: "));
  CHECK(refusal_with([](Json& r) { at(r, {"model", "type"}) = "Unigram"; }).starts_with("model.type: "));
  CHECK(
      refusal_with([](Json& r) { at(r, {"model"}).set("byte_fallback", true); }).starts_with("model.byte_fallback: "));
  CHECK(refusal_with([](Json& r) { at(r, {"model"}).set("unk_token", "<unk>"); }).starts_with("model.unk_token: "));
  CHECK(refusal_with([](Json& r) { at(r, {"model"}).set("dropout", 0.1); }).starts_with("model.dropout: "));
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens", "0"}).set("lstrip", true);
        }).starts_with("added_tokens[0].lstrip: "));
}

TEST_CASE("hf_tokenizer: hostile content is answered with the field") {
  CHECK(refusal("{") == "not valid JSON at byte 2");
  CHECK(refusal("{}") == "pre_tokenizer: missing");
  CHECK(refusal(R"({"pre_tokenizer":[]})").starts_with("pre_tokenizer.type: "));
  CHECK(refusal_with([](Json& r) { at(r, {"model"}) = 5; }).starts_with("model.type: "));
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab"}) = 5;
        }) == "model.vocab: expected an object, found integer");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "merges"}) = "x";
        }) == "model.merges: expected an array, found string");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab", "a"}) = -1;
        }) == "model.vocab[\"a\"]: expected an id from 0 to 16777215, found \"-1\"");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab", "a"}) = int64_t(1) << 40;
        }).starts_with("model.vocab[\"a\"]: expected an id"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab", "a"}) = 98.5;
        }).starts_with("model.vocab[\"a\"]: expected an id"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab", "a"}) = 98;
        }) == "model.vocab: id 98 has two tokens, one of them \"b\"");
  CHECK(refusal_with([](Json& r) { at(r, {"model", "vocab"}).set("", 300); }) == "model.vocab: token \"\" is empty");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab"}).set("a b", 300);
        }) == "model.vocab: token \"a b\" is not written in the byte alphabet");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab"}).set("\xF0\x9F\x99\x82", 300);
        }).ends_with("is not written in the byte alphabet"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "vocab"}).as_object().erase(at(r, {"model", "vocab"}).as_object().begin() + 7);
        }) == "no token for the single byte 7, so not every text could be encoded");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "merges"}).push_back("x y");
        }) == "model.merges[3]: \"x\" and \"y\" are not two tokens whose concatenation is a token");
  CHECK(refusal_with([](Json& r) {
          at(r, {"model", "merges"}).push_back("nope l");
        }).starts_with("model.merges[3]: \"nope\" and \"l\" are not"));
  for (const char* merge :
       {"\"\"", "\"ab\"", "\" l\"", "\"l \"", "5", "[]", "[\"l\"]", "[\"l\",5]", "[\"l\",\"l\",\"l\"]", "null"})
    CHECK(refusal_with([&](Json& r) {
            at(r, {"model", "merges"}).push_back(parse_json(merge, "m"));
          }) == "model.merges[3]: expected \"left right\" or [\"left\", \"right\"]");
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens", "0", "id"}) = 65;
        }) == "special token \"<|eot|>\" has the id 65 of an ordinary token");
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens", "0", "id"}) = 260;
        }).starts_with("id 260 has two special tokens"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens", "0", "id"}) = -7;
        }).starts_with("added_tokens[0].id: expected an id"));
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens", "0", "content"}) = "<|eot";
        }) == "special token \"<|eot\" is there twice, as 259 and 260");
  CHECK(refusal_with([](Json& r) { at(r, {"added_tokens", "0", "content"}) = ""; }) == "special token 259 has no name");
  CHECK(refusal_with([](Json& r) {
          at(r, {"added_tokens"}).push_back(7);
        }).starts_with("added_tokens[2]: expected an object with a number \"id\""));
  CHECK(refusal_with([](Json& r) { at(r, {"added_tokens"}) = "x"; }) ==
        "added_tokens: expected an array, found string");
}

TEST_CASE("hf_tokenizer: a file cut anywhere is refused") {
  const std::string whole = dump_json(small());
  for (size_t n = 1; n < whole.size(); n += 97) CHECK(!refusal(whole.substr(0, n)).empty());
}
