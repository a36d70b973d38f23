// Meta's tokenizer.model: one token a line, "base64(bytes) rank", ranks 0, 1, 2, ... The id of a token is its rank, and
// the merge order is the order of ids.
#include <algorithm>
#include <optional>

#include "base/base64.h"
#include "base/error.h"
#include "base/strings.h"
#include "text/special_tokens.h"
#include "text/tokenizer_formats.h"

namespace l4 {

namespace {

std::optional<std::string> token_bytes(std::string_view base64) {
  try {
    if (!base64.empty()) return from_base64(base64);
  } catch (const Error&) {
  }
  return std::nullopt;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tiktoken(std::string_view ranks, std::string_view source) {
  const int64_t n_lines = std::count(ranks.begin(), ranks.end(), '\n') + 1;
  BpeModel model;
  int64_t line_number = 0;
  int64_t n_tokens = 0, largest = -1;
  for (size_t begin = 0; begin < ranks.size();) {
    size_t end = std::min(ranks.find('\n', begin), ranks.size());
    std::string_view line = ranks.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    auto refuse = [&](const auto&... what) { fail_input(source, " line ", line_number, ": ", what...); };
    size_t space = line.find(' ');
    if (space == std::string_view::npos) refuse("expected \"base64 rank\", found ", shown(line));
    std::optional<std::string> bytes = token_bytes(line.substr(0, space));
    if (!bytes) refuse("token ", shown(line.substr(0, space)), " is not base64");
    std::optional<int64_t> rank = parse_int(line.substr(space + 1));
    if (!rank || *rank < 0) refuse("rank ", shown(line.substr(space + 1)), " is not a number from 0 up");
    if (*rank >= n_lines)
      refuse("rank ", *rank, " is beyond the ", n_lines, " lines of the file: ranks must have no gaps");
    if (!model.bytes(int32_t(*rank)).empty()) refuse("rank ", *rank, " is there twice");
    if (!model.add_token(int32_t(*rank), std::move(*bytes)))
      refuse("token ", shown(line.substr(0, space)), " is there twice");
    ++n_tokens;
    largest = std::max(largest, *rank);
  }
  if (largest + 1 != n_tokens)
    fail_input(source, ": ", n_tokens, " tokens with ranks up to ", largest, ": ranks must have no gaps");
  model.merge_by_id();

  std::vector<BpeTokenizer::SpecialToken> specials;
  for (std::string& name : meta_special_tokens())
    specials.push_back({std::move(name), int32_t(n_tokens + int64_t(specials.size()))});
  return std::make_unique<BpeTokenizer>(std::move(model), std::move(specials), "tiktoken", source);
}

}  // namespace l4
