// Text to be scored, a document at a time: a file that is one, or a file of JSON lines.
#pragma once

#include <fstream>
#include <optional>
#include <string>

#include "base/file.h"

namespace l4::eval {

struct TextDocument {
  std::string place;    // "wiki.jsonl: line 3"
  std::string text;     // what is scored: UTF-8, not empty
  std::string counted;  // whose words and bytes count
};

struct TextDocumentsOptions {
  fs::path text, jsonl;        // one of them
  std::string field = "text";  // of a line, {"text": "..."}
  bool wikitext = false;       // as lm-eval's task does: scored without the marks of tokenisation, counted with them
};

class TextDocuments {
 public:
  // Error{io} naming the file.
  explicit TextDocuments(TextDocumentsOptions options);

  // Nothing after the last one. Error{input} naming file and line: no JSON, no text in it, not UTF-8, empty.
  std::optional<TextDocument> next();
  uint64_t bytes_read() const { return bytes_read_; }
  uint64_t bytes_total() const { return bytes_total_; }

 private:
  const fs::path& path() const { return options_.jsonl.empty() ? options_.text : options_.jsonl; }

  TextDocumentsOptions options_;
  std::ifstream lines_;
  int64_t line_ = 0, n_documents_ = 0;
  uint64_t bytes_read_ = 0, bytes_total_ = 0;
};

// WikiText's marks of tokenisation, " @-@ " and the like, taken back as lm-eval's task "wikitext" takes them.
std::string wikitext_detokenized(std::string_view utf8);

}  // namespace l4::eval
