// Hugging Face's tokenizer.json. It can describe many tokenizers; this reads the one structure that Llama 4 checkpoints
// have (llama4-spec 5.1) and refuses everything else by the name of the field that differs.
#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "base/strings.h"
#include "formats/json.h"
#include "text/tokenizer_formats.h"

namespace l4 {

namespace {

// GPT-2's alphabet: every byte is written as one printable character. 33-126, 161-172 and 174-255 stand for themselves,
// the other 68 for U+0100 and up in order.
std::optional<std::string> from_byte_alphabet(std::string_view text) {
  static const std::array<int16_t, 0x144> byte_of = [] {
    std::array<int16_t, 0x144> table;
    table.fill(-1);
    size_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      table[itself ? size_t(b) : next++] = int16_t(b);
    }
    return table;
  }();
  std::string bytes;
  for (size_t pos = 0; pos < text.size();) {
    char32_t c = next_code_point(text, pos);
    if (c >= byte_of.size() || byte_of[c] < 0) return std::nullopt;
    bytes.push_back(char(byte_of[c]));
  }
  return bytes;
}

class Reader {
 public:
  Reader(const Json& root, std::string_view source) : root_(root), source_(source) {}

  std::unique_ptr<Tokenizer> read() {
    check_structure();
    read_added_tokens();
    read_vocabulary();
    read_merges();
    return std::make_unique<BpeTokenizer>(std::move(model_), std::move(specials_), "tokenizer.json (BPE)", source_);
  }

 private:
  // Llama 4's structure: the error names the first field that differs.
  void check_structure() {
    if (!root_.is_object()) fail_input(source_, ": expected a JSON object, found ", root_.kind_name());
    expect_null(root_, "normalizer", "normalizer");
    const Json& pre = member(root_, "pre_tokenizer", "pre_tokenizer");
    expect(pre, "type", "Sequence", "pre_tokenizer.type");
    const Json* steps = pre.find("pretokenizers");
    if (!steps || !steps->is_array() || steps->as_array().size() != 2)
      fail_unsupported("pre_tokenizer.pretokenizers", "a Split and a ByteLevel step");
    const Json& split = steps->as_array()[0];
    const Json& byte_level = steps->as_array()[1];
    const std::string first = "pre_tokenizer.pretokenizers[0]", second = "pre_tokenizer.pretokenizers[1]";
    expect(split, "type", "Split", first + ".type");
    expect(member(split, "pattern", first + ".pattern"), "Regex", std::string(kLlama4SplitPattern),
           first + ".pattern.Regex");
    expect(split, "behavior", "Isolated", first + ".behavior");
    expect(split, "invert", false, first + ".invert");
    expect(byte_level, "type", "ByteLevel", second + ".type");
    expect(byte_level, "add_prefix_space", false, second + ".add_prefix_space");
    expect(byte_level, "use_regex", false, second + ".use_regex");

    const Json& model = member(root_, "model", "model");
    expect(model, "type", "BPE", "model.type");
    for (const char* name : {"dropout", "unk_token"}) expect_null(model, name, cat("model.", name));
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const Json* affix = model.find(name); affix && !affix->is_null() && *affix != Json(""))
        fail_unsupported(cat("model.", name), "null");
    expect_unless_absent(model, "byte_fallback", false, "model.byte_fallback");
    const Json* ignore_merges = model.find("ignore_merges");
    if (ignore_merges && !ignore_merges->is_bool()) fail_unsupported("model.ignore_merges", "true or false");
    model_.set_whole_pieces(ignore_merges && ignore_merges->as_bool());
  }

  void read_added_tokens() {
    const Json* added = root_.find("added_tokens");
    if (!added || added->is_null()) return;
    if (!added->is_array()) fail_input(source_, ": added_tokens: expected an array, found ", added->kind_name());
    for (size_t i = 0; i < added->as_array().size(); ++i) {
      const Json& token = added->as_array()[i];
      const std::string field = cat("added_tokens[", i, "]");
      const Json* id = token.find("id");
      const Json* content = token.find("content");
      if (!id || !id->is_integer() || !content || !content->is_string())
        fail_input(source_, ": ", field, ": expected an object with a number \"id\" and a string \"content\"");
      for (const char* flag : {"single_word", "lstrip", "rstrip"})
        expect_unless_absent(token, flag, false, cat(field, ".", flag));
      const Json* is_special = token.find("special");
      specials_.push_back({content->as_string(), checked_id(*id, field + ".id"),
                           !is_special || !is_special->is_bool() || is_special->as_bool()});
    }
  }

  void read_vocabulary() {
    const Json& vocab = member(*root_.find("model"), "vocab", "model.vocab");
    if (!vocab.is_object()) fail_input(source_, ": model.vocab: expected an object, found ", vocab.kind_name());
    std::unordered_map<int32_t, std::string_view> added;
    for (const auto& token : specials_) added.emplace(token.id, token.name);
    for (const auto& [text, id] : vocab.as_object()) {
      int32_t n = checked_id(id, cat("model.vocab[", shown(text), "]"));
      auto same = added.find(n);
      if (same != added.end() && same->second == text) continue;  // listed in both places: it is the special one
      std::optional<std::string> bytes = from_byte_alphabet(text);
      if (!bytes) fail_input(source_, ": model.vocab: token ", shown(text), " is not written in the byte alphabet");
      if (!model_.bytes(n).empty())
        fail_input(source_, ": model.vocab: id ", n, " has two tokens, one of them ", shown(text));
      if (!model_.add_token(n, std::move(*bytes)))
        fail_input(source_, ": model.vocab: token ", shown(text), " is empty");
    }
  }

  // Each merge is "left right" or ["left", "right"].
  void read_merges() {
    const Json& merges = member(*root_.find("model"), "merges", "model.merges");
    if (!merges.is_array()) fail_input(source_, ": model.merges: expected an array, found ", merges.kind_name());
    const Json::Array& list = merges.as_array();
    for (size_t i = 0; i < list.size(); ++i) {
      std::string_view left, right;
      const Json& merge = list[i];
      if (merge.is_string()) {
        const std::string& text = merge.as_string();
        size_t space = text.find(' ');
        if (space != std::string::npos) {
          left = std::string_view(text).substr(0, space);
          right = std::string_view(text).substr(space + 1);
        }
      } else if (merge.is_array() && merge.as_array().size() == 2 && merge.as_array()[0].is_string() &&
                 merge.as_array()[1].is_string()) {
        left = merge.as_array()[0].as_string();
        right = merge.as_array()[1].as_string();
      }
      if (left.empty() || right.empty())
        fail_input(source_, ": model.merges[", i, "]: expected \"left right\" or [\"left\", \"right\"]");
      std::optional<std::string> left_bytes = from_byte_alphabet(left), right_bytes = from_byte_alphabet(right);
      if (!left_bytes || !right_bytes || !model_.add_merge(*left_bytes, *right_bytes, uint32_t(i)))
        fail_input(source_, ": model.merges[", i, "]: ", shown(left), " and ", shown(right),
                   " are not two tokens whose concatenation is a token");
    }
  }

  int32_t checked_id(const Json& value, const std::string& field) {
    if (!value.is_integer() || value.as_integer() < 0 || value.as_integer() >= kMaxIds)
      fail_input(source_, ": ", field, ": expected an id from 0 to ", kMaxIds - 1, ", found ", shown(dump_json(value)));
    return int32_t(value.as_integer());
  }
  const Json& member(const Json& object, std::string_view name, const std::string& field) {
    const Json* value = object.find(name);
    if (!value) fail_input(source_, ": ", field, ": missing");
    return *value;
  }
  void expect(const Json& object, std::string_view name, const Json& wanted, const std::string& field) {
    const Json* value = object.find(name);
    if (!value || *value != wanted)
      fail_unsupported(field, dump_json(wanted), value ? dump_json(*value) : std::string("nothing"));
  }
  void expect_unless_absent(const Json& object, std::string_view name, const Json& wanted, const std::string& field) {
    if (object.find(name)) expect(object, name, wanted, field);
  }
  void expect_null(const Json& object, std::string_view name, const std::string& field) {
    expect_unless_absent(object, name, Json(), field);
  }
  [[noreturn]] void fail_unsupported(const std::string& field, const std::string& wanted,
                                     const std::string& found = {}) {
    fail(ErrorKind::unsupported, source_, ": ", field, ": not Llama 4's tokenizer: expected ", wanted,
         found.empty() ? std::string() : ", found " + shown(found));
  }

  static constexpr int64_t kMaxIds = 1 << 24;  // bounds what a hostile id makes the table of tokens allocate
  const Json& root_;
  std::string source_;
  BpeModel model_;
  std::vector<BpeTokenizer::SpecialToken> specials_;
};

}  // namespace

std::unique_ptr<Tokenizer> load_hf_tokenizer(std::string_view json, std::string_view source) {
  Json root = parse_json(json, source);
  return Reader(root, source).read();
}

}  // namespace l4
