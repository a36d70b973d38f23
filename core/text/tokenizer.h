// Text <-> token ids. One interface over the three file formats a Llama 4 checkpoint may carry; the format is found by
// content, never by the file's name:
//   * Hugging Face tokenizer.json: byte-level BPE with the Llama 4 pre-tokeniser (anything else is refused by name)
//   * Meta tokenizer.model: tiktoken ranks, "base64 rank" a line; Meta's 2,048 special tokens follow the last rank
//   * SentencePiece tokenizer.model (protobuf), read by libsentencepiece
// A tokenizer is immutable after load and may be used by several threads at once.
//
// The Llama 4 tokenizer: 200,000 byte-level BPE tokens and 2,048 special ones. The two official files give the same ids
// for every text; they differ in the names of some reserved special tokens. No beginning-of-text token is ever added
// here: the chat template writes it, and completion prompts get it from bos_id().
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/file.h"
#include "text/segment.h"

namespace l4 {

class Tokenizer {
 public:
  // A checkpoint directory (tokenizer.json before tokenizer.model), or one tokenizer file.
  // Error{io | input | unsupported} naming the file and what is wrong with it.
  static std::unique_ptr<Tokenizer> load(const fs::path& path);
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // With parse_special the names of special tokens in the text become those tokens (leftmost match, longest first);
  // without, all of it is ordinary text. Error{usage} when the text is not UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool parse_special = false) const;
  // What a chat template rendered. Neighbouring ordinary segments are tokenised as one text. Error{input} when a
  // special segment names no special token of this tokenizer.
  std::vector<int32_t> encode(std::span<const TextSegment> segments) const;

  // The raw bytes of one token, which may begin or end inside a UTF-8 character: see StreamDecoder. A special token
  // gives its name; an id that names nothing (the model's vocabulary may be padded) gives the empty string.
  std::string decode(int32_t id) const;
  // Bytes of all ids one after the other; special tokens are left out when skip_special.
  std::string decode(std::span<const int32_t> ids, bool skip_special = true) const;

  // A special token's id by its exact name, "<|eot|>".
  std::optional<int32_t> special_id(std::string_view name) const;
  // For people: a special token's name, or an ordinary token's bytes with what is not UTF-8 replaced; empty when
  // unknown.
  std::string name_of(int32_t id) const;
  bool is_special(int32_t id) const;
  // Largest id + 1. The model's own vocabulary (config.json) may be larger.
  int32_t vocab_size() const { return vocab_size_; }

  // <|begin_of_text|> (<s> in SentencePiece files), if there is one.
  std::optional<int32_t> bos_id() const;
  // "tokenizer.json (BPE)", "tiktoken", "SentencePiece": for the load summary.
  virtual std::string_view format() const = 0;

 protected:
  struct SpecialToken {
    std::string name;
    int32_t id;
    bool is_control = true;  // hidden by skip_special
  };

  Tokenizer() = default;
  // Names must be unique and not empty, ids unique and >= 0: Error{input} otherwise, `source` names the file.
  void set_special_tokens(std::vector<SpecialToken> tokens, std::string_view source);
  void set_vocab_size(int32_t n) { vocab_size_ = n; }

  virtual void encode_ordinary(std::string_view utf8, std::vector<int32_t>& ids) const = 0;
  virtual std::string_view ordinary_bytes(int32_t id) const = 0;  // empty when there is none

 private:
  const SpecialToken* special_at(std::string_view text, size_t pos) const;
  const SpecialToken* find_special(int32_t id) const;

  std::vector<SpecialToken> specials_;         // sorted by name
  std::unordered_map<int32_t, size_t> by_id_;  // id -> index in specials_
  int32_t vocab_size_ = 0;
};

}  // namespace l4
