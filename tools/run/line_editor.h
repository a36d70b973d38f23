// Reads what a person types: libedit on a terminal (editing, history, Tab, pasted lines kept together), plain lines
// from anything else.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include "base/file.h"
#include "tools/run/commands.h"

namespace l4::run {

class LineEditor {
 public:
  struct Options {
    std::FILE* screen = stdout;  // where prompt and typed text are shown
    fs::path history_file;       // empty: none
    std::function<Completion(std::string_view)> complete;
  };
  explicit LineEditor(Options options);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  struct Line {
    enum class Kind { text, end_of_input, interrupted, asked_to_end };
    Kind kind = Kind::text;
    std::string text;         // UTF-8, may hold line feeds; without the last one
    bool was_typing = false;  // interrupted: there was something on the line
  };
  // `prompt` may hold escape sequences. Error{input} when plain input is not UTF-8.
  Line read(const std::string& prompt);
  void remember(const std::string& text);  // as history

  bool is_terminal() const;

  struct Impl;  // libedit's callbacks know it

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4::run
