// SentencePiece models: one trained here by the library's own trainer, and ModelProtos written byte by byte to lie.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "base/strings.h"
#include "support/test.h"
#include "text/stream_decoder.h"
#include "text/tokenizer.h"

using namespace l4;
using namespace l4::test;

namespace {

class Sentences : public sentencepiece::SentenceIterator {
 public:
  bool done() const override { return next_ >= kLines; }
  void Next() override { ++next_; }
  const std::string& value() const override {
    line_ = cat("the quick brown fox number ", next_ * 7919 % 1000, " jumps over the lazy dog, naïve café ", next_ % 13,
                "!");
    return line_;
  }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  static constexpr int kLines = 400;
  int next_ = 0;
  mutable std::string line_;
};

// Trained once for each kind: "unigram" or "bpe", with byte fallback and the default normalisation (NFKC, a real
// character map).
const std::string& trained(const std::string& kind) {
  static std::vector<std::pair<std::string, std::string>> models;
  for (const auto& [name, model] : models)
    if (name == kind) return model;
  std::string model;
  Sentences sentences;
  auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", kind},
                                                            {"vocab_size", "400"},
                                                            {"byte_fallback", "true"},
                                                            {"user_defined_symbols", "<mark>"},
                                                            {"control_symbols", "<|eot|>"},
                                                            {"minloglevel", "3"},
                                                            {"num_threads", "1"}},
                                                           &sentences, &model);
  REQUIRE(status.ok());
  return models.emplace_back(kind, model).second;
}

std::unique_ptr<Tokenizer> load(const std::string& bytes) {
  TempDir dir;
  write_file_atomic(dir / "t.model", bytes);
  return Tokenizer::load(dir / "t.model");
}
std::string refusal(const std::string& bytes) {
  std::string message = error_of([&] { load(bytes); });
  return message.substr(message.find("t.model") + 9);
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(char(value | 0x80));
  out.push_back(char(value));
  return out;
}
std::string field(int number, const std::string& bytes) {
  return varint(uint64_t(number) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string number_field(int number, uint64_t value) {
  return varint(uint64_t(number) << 3) + varint(value);
}
std::string piece(const std::string& text, float score = 0, int type = 1) {
  std::string bits(4, '\0');
  std::memcpy(bits.data(), &score, 4);
  return field(1, field(1, text) + varint(2 << 3 | 5) + bits + number_field(3, uint64_t(type)));
}
const int kUnknown = 2, kControl = 3;
std::string minimal() {
  return piece("<unk>", 0, kUnknown) + piece("<s>", 0, kControl) + piece("a", -1) + piece("\xE2\x96\x81", -2);
}

std::string u32(uint32_t value) {
  std::string out(4, '\0');
  std::memcpy(out.data(), &value, 4);
  return out;
}
// A model whose normaliser has this character map.
std::string with_map(const std::string& map) {
  return minimal() + field(3, field(2, map));
}

}  // namespace

TEST_CASE("sentencepiece: trained models encode and decode, special tokens by name") {
  for (const char* kind : {"unigram", "bpe"}) {
    INFO(kind);
    std::unique_ptr<Tokenizer> tokenizer = load(trained(kind));
    CHECK(tokenizer->format() == "SentencePiece");
    CHECK(tokenizer->vocab_size() == 400);
    CHECK(tokenizer->bos_id() == 1);
    CHECK(tokenizer->special_id("</s>") == 2);
    CHECK(tokenizer->is_special(0));
    CHECK(!tokenizer->special_id("<mark>"));
    for (std::string text :
         {"the quick brown fox", "jumps over <s> the <|eot|> lazy dog", "naïve 北京 🙂", "a\nb\tc"}) {
      std::vector<int32_t> ids = tokenizer->encode(text);
      for (int32_t id : ids) CHECK(!tokenizer->is_special(id));
      if (text.find('\n') == std::string::npos)
        CHECK(tokenizer->decode(ids) == " " + text);  // the library's space in front
    }
    std::optional<int32_t> eot = tokenizer->special_id("<|eot|>");
    REQUIRE(eot);
    std::vector<TextSegment> segments = {{"<|eot|>", true}, {"fox <|eot|>", false}};
    std::vector<int32_t> ids = tokenizer->encode(segments);
    CHECK(std::count(ids.begin(), ids.end(), *eot) == 1);
    CHECK(ids[0] == *eot);
    CHECK(tokenizer->encode("<|eot|>", true) == std::vector<int32_t>{*eot});
    StreamDecoder decoder(*tokenizer);
    std::string all;
    for (int32_t id : tokenizer->encode("🙂")) all += decoder.push(id);
    CHECK(all + decoder.flush() == " 🙂");
    CHECK(tokenizer->decode(400) == "");
    CHECK(tokenizer->decode(-1) == "");
    CHECK(error_of([&] { tokenizer->encode("\xFF"); }) == "text: not UTF-8 at byte 0");
  }
}

TEST_CASE("sentencepiece: the smallest model that loads") {
  std::unique_ptr<Tokenizer> tokenizer = load(minimal());
  CHECK(tokenizer->vocab_size() == 4);
  CHECK(tokenizer->encode("aa") == std::vector<int32_t>{3, 2, 2});
}

TEST_CASE("sentencepiece: claims that the bytes do not keep") {
  CHECK(refusal("\x0a") == "not a SentencePiece model: in ModelProto: it ends inside a number");
  CHECK(refusal("\x0a\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F") ==
        "not a SentencePiece model: in ModelProto: a field claims 9223372036854775807 bytes where 0 are left");
  CHECK(refusal(minimal() + "\x0a\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01").find("more than 64 bits") !=
        std::string::npos);
  CHECK(refusal(minimal() + "\x0b") == "not a SentencePiece model: in ModelProto: a field of unknown kind");
  CHECK(refusal(minimal() + number_field(1, 7)) == "not a SentencePiece model: field 1 is no message");
  CHECK(refusal(minimal() + field(1, "\x0a\x05zz")) ==
        "not a SentencePiece model: in SentencePiece: a field claims 5 bytes where 2 are left");
  CHECK(refusal(minimal() + piece("")) == "piece 4: expected 1 to 4096 bytes of UTF-8, found \"\"");
  CHECK(refusal(minimal() + piece("\xFF")).starts_with("piece 4: expected 1 to 4096 bytes of UTF-8"));
  CHECK(refusal(minimal() + piece(std::string(5000, 'x'))).starts_with("piece 4: expected 1 to 4096 bytes"));
  CHECK(refusal(minimal() + piece("b", std::numeric_limits<float>::quiet_NaN())) ==
        "piece 4: its score is not a finite number");
  CHECK(refusal(minimal() + piece("b", -std::numeric_limits<float>::infinity())) ==
        "piece 4: its score is not a finite number");
  CHECK(refusal(minimal() + piece("a")).find("libsentencepiece refuses") != std::string::npos);  // twice the same
  CHECK(refusal(piece("a")).find("libsentencepiece refuses") != std::string::npos);              // no <unk>
  CHECK(refusal(std::string("\x0a\0", 2)).find("piece 0") != std::string::npos);
  std::string many;
  for (int i = 0; i <= 1 << 21; ++i) many += "\x0a\x03\x0a\x01x";
  CHECK(refusal(many) == "more than 2097152 pieces");
}

TEST_CASE("sentencepiece: a character map that points outside itself") {
  auto lie = [](const std::string& map) {
    std::string message = refusal(with_map(map));
    std::string front = "not a SentencePiece model: precompiled_charsmap: ";
    return message.starts_with(front) ? message.substr(front.size()) : message;
  };
  const std::string zeros(1024, '\0');  // 256 units that lead nowhere
  CHECK(load(with_map(u32(1024) + zeros + std::string(1, '\0')))->encode("a").size() == 2);
  CHECK(lie("x") == "shorter than its header");
  CHECK(lie(u32(1024)) == "the size of the trie is wrong");
  CHECK(lie(u32(0xFFFFFFFC) + zeros) == "the size of the trie is wrong");
  CHECK(lie(u32(0) + zeros) == "the size of the trie is wrong");
  CHECK(lie(u32(1022) + zeros) == "the size of the trie is wrong");
  CHECK(lie(u32(1024) + zeros) == "the size of the trie is wrong");
  CHECK(lie(u32(1024) + zeros + "x") == "the last replacement does not end");
  CHECK(lie(u32(4) + u32(0) + std::string(1, '\0')) == "the trie points outside itself");
  std::string far = zeros;
  far.replace(0, 4, u32(0x7FFFFC00));
  CHECK(lie(u32(1024) + far + std::string(1, '\0')) == "the trie points outside itself");
  std::string leaf = zeros;
  leaf.replace(0, 4, u32(1u << 10 | 1u << 8));  // unit 0: value at unit 1
  CHECK(lie(u32(1024) + leaf + std::string(1, '\0')) == "the trie points outside the replacements");
  leaf.replace(4, 4, u32(1u << 31 | 5));
  CHECK(lie(u32(1024) + leaf + std::string(1, '\0')) == "the trie points outside the replacements");
  leaf.replace(4, 4, u32(1u << 31 | 0));
  CHECK(load(with_map(u32(1024) + leaf + std::string(1, '\0')))->encode("a").size() == 2);
}

TEST_CASE("sentencepiece: damaged models load or are refused, and never crash") {
  std::mt19937 random(3);
  int n_loaded = 0, n_refused = 0;
  for (const char* kind : {"unigram", "bpe"}) {
    const std::string& good = trained(kind);
    for (int round = 0; round < 60; ++round) {
      std::string bytes = good;
      if (round % 3 == 0) bytes.resize(random() % bytes.size());
      for (int edits = int(random() % 8) + 1; edits > 0 && bytes.size() > 1; --edits)
        bytes[1 + random() % (bytes.size() - 1)] = char(random());
      try {
        load(bytes)->encode("the quick brown fox ｆｕｌｌ ㍿ \xEF\xB7\xBA naïve 北京");
        ++n_loaded;
      } catch (const Error&) {
        ++n_refused;
      }
    }
  }
  CHECK(n_loaded > 0);
  CHECK(n_refused > 0);
}
