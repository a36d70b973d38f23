#include "tools/eval/text_documents.h"

#include "base/error.h"
#include "formats/json.h"
#include "text/python_text.h"

namespace l4::eval {

namespace {

constexpr uint64_t kMostBytes = uint64_t(256) << 20;  // of a document

void check_text(const std::string& text, const std::string& place) {
  if (!is_valid_utf8(text)) fail_input(place, ": not UTF-8 text");
  if (text.empty()) fail_input(place, ": expected text, found none");
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t begin = 0;
  for (size_t at; (at = text.find(from, begin)) != std::string::npos; begin = at + from.size()) {
    out.append(text, begin, at - begin);
    out += to;
  }
  text = out.append(text, begin);
}

// No white space within brackets or quotes, of which the next `close` ends what `open` began.
void trim_within(std::string& text, char open, char close) {
  std::string out;
  size_t begin = 0;
  for (size_t from; (from = text.find(open, begin)) != std::string::npos;) {
    const size_t to = text.find(close, from + 1);
    if (to == std::string::npos) break;
    out.append(text, begin, from + 1 - begin);
    out += python_strip(std::string_view(text).substr(from + 1, to - from - 1));
    out += close;
    begin = to + 1;
  }
  text = out.append(text, begin);
}

}  // namespace

std::string wikitext_detokenized(std::string_view utf8) {
  std::string text(utf8);
  replace_all(text, "s '", "s'");
  // lm-eval means a digit before a minute mark and writes a class of characters as text.
  for (const char digit : std::string_view("0123456789"))
    replace_all(text, std::string("/' ") + digit + "/", "/'[0-9]/");
  for (const char* mark : {"-", ",", "."}) replace_all(text, cat(" @", mark, "@ "), mark);
  for (const char* mark : {":", ";", ".", "!", "?", ","}) replace_all(text, cat(" ", mark, " "), cat(mark, " "));
  trim_within(text, '(', ')');
  trim_within(text, '[', ']');
  trim_within(text, '{', '}');
  trim_within(text, '"', '"');
  trim_within(text, '\'', '\'');
  replace_all(text, "= = = =", "====");
  replace_all(text, "= = =", "===");
  replace_all(text, "= =", "==");
  replace_all(text, " \u00b0 ", "\u00b0");
  replace_all(text, " \n", "\n");
  replace_all(text, "\n ", "\n");
  replace_all(text, " N ", " 1 ");
  replace_all(text, " 's", "'s");
  return text;
}

TextDocuments::TextDocuments(TextDocumentsOptions options) : options_(std::move(options)) {
  std::error_code ec;
  if (fs::is_directory(path(), ec)) fail(ErrorKind::io, path().string(), ": a folder, not a file");
  lines_.open(path(), std::ios::binary);
  if (!lines_) fail(ErrorKind::io, path().string(), ": cannot be read");
  const uint64_t size = fs::file_size(path(), ec);
  bytes_total_ = ec ? 0 : size;
}

std::optional<TextDocument> TextDocuments::next() {
  TextDocument out;
  if (options_.jsonl.empty()) {
    if (n_documents_++ > 0) return std::nullopt;
    out.place = path().string();
    out.text = read_file(path(), kMostBytes);
    bytes_read_ = out.text.size();
  } else {
    std::string line;
    do {
      if (!std::getline(lines_, line)) {
        if (n_documents_ == 0) fail_input(path().string(), ": expected documents, found none");
        return std::nullopt;
      }
      ++line_;
      bytes_read_ += line.size() + 1;
    } while (trim(line).empty());
    ++n_documents_;
    out.place = cat(path().string(), ": line ", line_);
    if (line.size() > kMostBytes) fail_input(out.place, ": larger than ", human_bytes(kMostBytes));
    const Json json = parse_json(line, out.place);
    const Json* text = json.find(options_.field);
    if (!text || !text->is_string()) fail_input(out.place, ": expected a text in \"", options_.field, "\"");
    out.text = text->as_string();
  }
  check_text(out.text, out.place);
  out.counted = out.text;
  if (options_.wikitext) out.text = wikitext_detokenized(out.text);
  return out;
}

}  // namespace l4::eval
