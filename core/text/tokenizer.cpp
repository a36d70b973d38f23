#include "text/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "base/strings.h"
#include "text/special_tokens.h"
#include "text/tokenizer_formats.h"

namespace l4 {

namespace {

enum class Format { json, tiktoken, sentencepiece, unknown };

// "base64 rank" up to the first line's end.
bool is_rank_line(std::string_view line) {
  size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0) return false;
  auto base64 = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/' ||
           c == '=';
  };
  auto digit = [](char c) { return (c >= '0' && c <= '9') || c == '-' || c == '\r'; };
  std::string_view rank = line.substr(space + 1);
  return !rank.empty() && std::all_of(line.begin(), line.begin() + long(space), base64) &&
         std::all_of(rank.begin(), rank.end(), digit);
}

Format format_of(std::string_view content) {
  constexpr size_t kFirstLine = 4096;
  std::string_view start = content.substr(0, kFirstLine);
  std::string_view text = trim(start);
  if (!text.empty() && text[0] == '{') return Format::json;
  if (is_rank_line(start.substr(0, start.find('\n')))) return Format::tiktoken;
  // A SentencePiece ModelProto begins with a piece (field 1, a message).
  if (!start.empty() && start[0] == '\x0a') return Format::sentencepiece;
  return Format::unknown;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::load(const fs::path& path) {
  constexpr uint64_t kMaxFileBytes = uint64_t(256) << 20;  // the official tokenizer.json has 28 MB
  fs::path file = path;
  std::error_code ec;
  if (fs::is_directory(path, ec)) {
    for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
      file = path / name;
      if (fs::exists(file, ec)) break;
      file.clear();
    }
    if (file.empty()) fail_input(path.string(), ": no tokenizer.json and no tokenizer.model in this directory");
  }
  std::string content = read_file(file, kMaxFileBytes);
  switch (format_of(content)) {
    case Format::json:
      return load_hf_tokenizer(content, file.string());
    case Format::tiktoken:
      return load_tiktoken(content, file.string());
    case Format::sentencepiece:
      return load_sentencepiece(content, file.string());
    case Format::unknown:
      break;
  }
  fail_input(file.string(),
             ": not a tokenizer: expected tokenizer.json, tiktoken ranks or a SentencePiece model, found ",
             content.empty() ? std::string("an empty file") : shown(std::string_view(content).substr(0, 24)));
}

void Tokenizer::set_special_tokens(std::vector<SpecialToken> tokens, std::string_view source) {
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  by_id_.clear();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const SpecialToken& token = tokens[i];
    if (token.name.empty()) fail_input(source, ": special token ", token.id, " has no name");
    if (i > 0 && tokens[i - 1].name == token.name)
      fail_input(source, ": special token ", shown(token.name), " is there twice, as ", tokens[i - 1].id, " and ",
                 token.id);
    if (!by_id_.emplace(token.id, i).second)
      fail_input(source, ": id ", token.id, " has two special tokens, one of them ", shown(token.name));
  }
  specials_ = std::move(tokens);
}

// Longest special token whose name begins at `pos`: the sorted names that agree so far are narrowed character by
// character.
const Tokenizer::SpecialToken* Tokenizer::special_at(std::string_view text, size_t pos) const {
  auto low = specials_.begin(), high = specials_.end();
  const SpecialToken* longest = nullptr;
  for (size_t length = 0; low != high; ++length) {
    if (low->name.size() == length) longest = &*low++;
    if (pos + length >= text.size()) break;
    unsigned char c = static_cast<unsigned char>(text[pos + length]);
    auto at = [&](const SpecialToken& token) { return static_cast<unsigned char>(token.name[length]); };
    low = std::partition_point(low, high, [&](const SpecialToken& token) { return at(token) < c; });
    high = std::partition_point(low, high, [&](const SpecialToken& token) { return at(token) == c; });
  }
  return longest;
}

const Tokenizer::SpecialToken* Tokenizer::find_special(int32_t id) const {
  auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &specials_[it->second];
}

namespace {
void check_utf8(std::string_view text) {
  if (is_valid_utf8(text)) return;
  size_t good = 0;
  for (size_t length = 1; length <= 4 && good + length <= text.size(); ++length)
    if (is_valid_utf8(text.substr(good, length))) good += length, length = 0;
  fail(ErrorKind::usage, "text: not UTF-8 at byte ", good);
}
}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  check_utf8(text);
  std::vector<int32_t> ids;
  size_t begin = 0;
  if (parse_special) {
    for (size_t pos = 0; pos < text.size();) {
      const SpecialToken* token = special_at(text, pos);
      if (!token) {
        ++pos;
        continue;
      }
      encode_ordinary(text.substr(begin, pos - begin), ids);
      ids.push_back(token->id);
      begin = pos += token->name.size();
    }
  }
  encode_ordinary(text.substr(begin), ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::span<const TextSegment> segments) const {
  std::vector<int32_t> ids;
  std::string ordinary;
  auto flush = [&] {
    check_utf8(ordinary);
    encode_ordinary(ordinary, ids);
    ordinary.clear();
  };
  for (const TextSegment& segment : segments) {
    if (!segment.is_special) {
      ordinary += segment.text;
      continue;
    }
    flush();
    std::optional<int32_t> id = special_id(segment.text);
    if (!id) fail_input("the tokenizer has no special token ", shown(segment.text), ", which the prompt needs");
    ids.push_back(*id);
  }
  flush();
  return ids;
}

std::string Tokenizer::decode(int32_t id) const {
  if (const SpecialToken* token = find_special(id)) return token->name;
  return std::string(ordinary_bytes(id));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (int32_t id : ids)
    if (!skip_special || !is_special(id)) bytes += decode(id);
  return bytes;
}

std::optional<int32_t> Tokenizer::special_id(std::string_view name) const {
  auto it =
      std::partition_point(specials_.begin(), specials_.end(), [&](const auto& token) { return token.name < name; });
  if (it == specials_.end() || it->name != name) return std::nullopt;
  return it->id;
}

std::string Tokenizer::name_of(int32_t id) const {
  return utf8_replace_invalid(decode(id));
}

bool Tokenizer::is_special(int32_t id) const {
  const SpecialToken* token = find_special(id);
  return token && token->is_control;
}

std::optional<int32_t> Tokenizer::bos_id() const {
  std::optional<int32_t> id = special_id(special::kBeginOfText);
  return id ? id : special_id("<s>");
}

}  // namespace l4
