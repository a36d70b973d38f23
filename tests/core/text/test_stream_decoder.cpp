#include "text/stream_decoder.h"

#include "base/strings.h"
#include "core/text/official.h"

using namespace l4;
using namespace l4::test;

TEST_CASE("stream_decoder: pieces are whole characters and add up to Python's decode") {
  const Tokenizer& tokenizer = official_tiktoken();
  std::vector<Json> vectors = read_jsonl(shared_data("tokenizer/golden_decode.jsonl"));
  REQUIRE(vectors.size() == 340);
  size_t n_waits = 0;
  for (const Json& v : vectors) {
    StreamDecoder decoder(tokenizer, false);
    std::string all;
    for (int32_t id : ids_of(*v.find("ids"))) {
      std::string piece = decoder.push(id);
      CHECK(is_valid_utf8(piece));
      n_waits += piece.empty();
      all += piece;
    }
    all += decoder.flush();
    CHECK(all == v.find("text_utf8_replace")->as_string());
    CHECK(decoder.flush().empty());
  }
  CHECK(n_waits > 50);
}

TEST_CASE("stream_decoder: a character in four tokens comes once, with the last") {
  const Tokenizer& tokenizer = official_tiktoken();
  StreamDecoder decoder(tokenizer);
  std::vector<int32_t> bytes;
  for (char c : std::string("\xF0\x9F\x99\x82"))  // one token a byte
    for (int32_t id = 0; id < 256; ++id)
      if (tokenizer.decode(id) == std::string(1, c)) bytes.push_back(id);
  REQUIRE(bytes.size() == 4);
  CHECK(decoder.push(bytes[0]) == "");
  CHECK(decoder.push(bytes[1]) == "");
  CHECK(decoder.push(bytes[2]) == "");
  CHECK(decoder.push(bytes[3]) == "\xF0\x9F\x99\x82");
  CHECK(decoder.push(bytes[0]) == "");
  CHECK(decoder.push(1556) == "\xEF\xBF\xBDuser");  // what was begun never ended
  CHECK(decoder.push(bytes[0]) == "");
  CHECK(decoder.flush() == "\xEF\xBF\xBD");
}

TEST_CASE("stream_decoder: special tokens are hidden or shown, unknown ids are nothing") {
  const Tokenizer& tokenizer = official_tiktoken();
  StreamDecoder hidden(tokenizer), shown_too(tokenizer, false);
  CHECK(hidden.push(200008) == "");
  CHECK(shown_too.push(200008) == "<|eot|>");
  CHECK(hidden.push(999999) == "");
  CHECK(shown_too.push(-5) == "");
}
