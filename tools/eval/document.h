// A report before it is text: put together once, written for a terminal, as Markdown, as one HTML file that needs
// nothing from elsewhere. What models and data files say is hostile, so all strings given here are plain text, and each
// writer escapes them in one place. Only a chart's SVG is taken as it is.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/common/bar_plot.h"

namespace l4::eval {

class Document {
 public:
  using Row = std::vector<std::string>;

  Document(std::string title, std::string subtitle) : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  void heading(std::string text) { blocks_.push_back({Kind::heading, std::move(text), {}, {}, {}}); }
  void text(std::string text) { blocks_.push_back({Kind::text, std::move(text), {}, {}, {}}); }
  // What a reader must not miss before believing a number.
  void warning(std::string text) { blocks_.push_back({Kind::warning, std::move(text), {}, {}, {}}); }
  // The first row is the header, and as long as any. Columns of numbers go to the right. A terminal gets no more rows
  // than that.
  void table(std::vector<Row> rows, size_t most_on_terminal = SIZE_MAX) {
    blocks_.push_back({Kind::table, {}, std::move(rows), {}, {}, most_on_terminal});
  }
  void chart(const tools::BarPlot& plot) { blocks_.push_back({Kind::chart, to_text(plot), {}, {}, to_svg(plot)}); }
  // What somebody wrote, word for word but for its length, under a line that says what it is. Not for terminals.
  void quote(std::string caption, std::string words) {
    blocks_.push_back({Kind::quote, std::move(caption), {}, std::move(words), {}});
  }

  std::string to_terminal() const;  // without charts and quotes
  std::string to_markdown() const;
  std::string to_html() const;

 private:
  enum class Kind { heading, text, warning, table, chart, quote };
  struct Block {
    Kind kind;
    std::string text;
    std::vector<Row> rows;
    std::string words, svg;
    size_t most_on_terminal = SIZE_MAX;
  };

  std::string title_, subtitle_;
  std::vector<Block> blocks_;
};

}  // namespace l4::eval
