// Small and damaged rank files.
#include "base/base64.h"
#include "base/strings.h"
#include "support/test.h"
#include "text/tokenizer.h"

using namespace l4;
using namespace l4::test;

namespace {

std::string ranks(const std::vector<std::string>& more = {"he", "ll", "hell"}) {
  std::string out;
  int rank = 0;
  for (; rank < 256; ++rank) out += cat(to_base64(std::string(1, char(rank))), " ", rank, "\n");
  for (const std::string& token : more) out += cat(to_base64(token), " ", rank++, "\n");
  return out;
}

std::unique_ptr<Tokenizer> load(const std::string& text) {
  TempDir dir;
  write_file_atomic(dir / "t.model", text);
  return Tokenizer::load(dir / "t.model");
}
std::string refusal(const std::string& text) {
  std::string message = error_of([&] { load(text); });
  return message.substr(message.find("t.model") + 7);
}

}  // namespace

TEST_CASE("tiktoken: a small file; special tokens follow the last rank") {
  for (std::string text : {ranks(), ranks() + "\n", ranks().substr(0, ranks().size() - 1)}) {
    std::unique_ptr<Tokenizer> tokenizer = load(text);
    CHECK(tokenizer->encode("hello") == std::vector<int32_t>{258, 'o'});
    CHECK(tokenizer->bos_id() == 259);
    CHECK(tokenizer->special_id("<|eot|>") == 267);
    CHECK(tokenizer->vocab_size() == 259 + 2048);
  }
  std::string windows;
  for (char c : ranks()) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  CHECK(load(windows)->encode("hello") == std::vector<int32_t>{258, 'o'});
}

TEST_CASE("tiktoken: damaged ranks are answered with the line") {
  CHECK(refusal("") ==
        ": not a tokenizer: expected tokenizer.json, tiktoken ranks or a SentencePiece model, found an empty file");
  CHECK(refusal("hello world\n").starts_with(": not a tokenizer: "));
  CHECK(refusal(ranks() + "aGU= 259\n") == " line 260: token \"aGU=\" is there twice");
  CHECK(refusal(ranks() + to_base64("x1") + " 258\n") == " line 260: rank 258 is there twice");
  CHECK(refusal(ranks() + to_base64("x1") + " 9999999999\n") ==
        " line 260: rank 9999999999 is beyond the 261 lines of the file: ranks must have no gaps");
  CHECK(refusal(ranks() + to_base64("x1") + " 260\n") == ": 260 tokens with ranks up to 260: ranks must have no gaps");
  CHECK(refusal(ranks() + to_base64("x1") + " -1\n") == " line 260: rank \"-1\" is not a number from 0 up");
  CHECK(refusal(ranks() + to_base64("x1") + " 1x\n") == " line 260: rank \"1x\" is not a number from 0 up");
  CHECK(refusal(ranks() + to_base64("x1") + " 99999999999999999999\n").starts_with(" line 260: rank "));
  CHECK(refusal(ranks() + to_base64("x1") + "\n").starts_with(" line 260: expected \"base64 rank\""));
  CHECK(refusal(ranks() + to_base64("x1") + " \n").starts_with(" line 260: rank \"\""));
  for (const char* token : {"", "aGU", "aG=U", "a===", "====", "aGV=", "aG V", "\xFF\xFF\xFF\xFF", "aGU=aGU="})
    CHECK(refusal(ranks() + token + " 259\n").starts_with(" line 260: "));
  std::string without_byte = ranks();
  without_byte.replace(without_byte.find("AA== 0\n"), 7, "AAA= 0\n");
  CHECK(refusal(without_byte) == ": no token for the single byte 0, so not every text could be encoded");
}

TEST_CASE("tiktoken: a file cut anywhere loads what it holds or is refused") {
  const std::string whole = ranks();
  for (size_t n = 1; n < whole.size(); n += 53)
    CHECK(!refusal(whole.substr(0, std::min(n, whole.find("/w== 255")))).empty());
}
