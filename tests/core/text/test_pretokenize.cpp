#include "text/pretokenize.h"

#include <string>
#include <vector>

#include "support/test.h"

using namespace l4;

namespace {

// The pieces with bars between them.
std::string pieces(std::string_view text) {
  static const Pretokenizer pretokenizer;
  std::string out, whole;
  pretokenizer.split(text, [&](std::string_view piece) {
    if (!whole.empty()) out += "|";
    out += piece;
    whole += piece;
  });
  CHECK(whole == text);
  return out;
}

}  // namespace

// Expected pieces were made with Hugging Face tokenizers 0.23.2 from the expression in tokenizer.json.
TEST_CASE("pretokenize: words, contractions, numbers, white space") {
  CHECK(pieces("Hello, world!") == "Hello|,| world|!");
  CHECK(pieces("I'm they'Re don't 'S x's") == "I'm| they'Re| don't| '|S| x's");
  CHECK(pieces("1234567 12,5") == "123|456|7| |12|,|5");
  CHECK(pieces("a  b   \n\n c\t\td  ") == "a| | b|   \n\n| c|\t|\td|  ");
  CHECK(pieces("ABCdef XMLHttp") == "ABCdef| XMLHttp");
  CHECK(pieces("http://a.b/c//\n!") == "http|://|a|.b|/c|//\n|!");
  CHECK(pieces("").empty());
}

TEST_CASE("pretokenize: letters, marks and numbers that Unicode 15 and 16 added count as such") {
  CHECK(pieces("\xF0\xB2\xAF\xB0x") == "\xF0\xB2\xAF\xB0x");  // U+2EBF0, CJK extension I
  CHECK(pieces("\xF0\x91\xBD\x90"
               "12"
               "3") ==
        "\xF0\x91\xBD\x90"
        "12|3");  // U+11F50, Kawi zero
  CHECK(pieces("a\xE0\xA2\x97"
               "b") ==
        "a\xE0\xA2\x97"
        "b");                                                                 // U+0897, a mark
  CHECK(pieces("\xEA\x9F\x9C\xEA\x9F\x9Bx") == "\xEA\x9F\x9C\xEA\x9F\x9Bx");  // U+A7DC upper, U+A7DB lower
  CHECK(pieces("\xEA\x9F\x9B\xEA\x9F\x9Cx") == "\xEA\x9F\x9B|\xEA\x9F\x9Cx");
}

TEST_CASE("pretokenize: U+180E is no space, U+0085 and U+3000 are") {
  CHECK(pieces("!\xE1\xA0\x8E!") == "!\xE1\xA0\x8E!");
  CHECK(pieces("!\xC2\x85!") == "!|\xC2\x85|!");
  CHECK(pieces("!\xE3\x80\x80!") == "!|\xE3\x80\x80|!");
}
