#include "tools/eval/document.h"

#include <algorithm>

#include "base/strings.h"
#include "tools/common/svg.h"
#include "tools/common/terminal.h"

namespace l4::eval {

using tools::svg::escaped;

namespace {

constexpr size_t kMostQuoted = 4000;  // bytes

constexpr const char* kPageBegin = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
)";
constexpr const char* kPageStyle = R"(<style>
:root { --ground: #ffffff; --text: #1a1d21; --soft: #5c6470; --line: #e3e5e9; --raised: #f6f7f9; --warn: #7a4300; --warn-ground: #fff4e0; --warn-line: #f0b35a; }
@media (prefers-color-scheme: dark) {
:root { --ground: #14171b; --text: #e9ebee; --soft: #98a1ad; --line: #2b3038; --raised: #1c2026; --warn: #ffcf8a; --warn-ground: #2c2214; --warn-line: #8a5a16; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 28px 64px; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; padding-top: 18px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 86ch; overflow-wrap: anywhere; }
.under { color: var(--soft); margin-bottom: 22px; }
.warn { color: var(--warn); background: var(--warn-ground); border-left: 3px solid var(--warn-line); padding: 8px 14px; border-radius: 0 6px 6px 0; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 6px 12px 6px 0; min-width: 7ch; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); max-width: 46ch; overflow-wrap: break-word; unicode-bidi: isolate; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; padding-left: 8px; min-width: 0; }
td.number { white-space: nowrap; }
tbody tr:hover td { background: var(--raised); }
figure { margin: 14px -28px; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; }
.words { margin: 14px 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.words summary { padding: 8px 14px; background: var(--raised); cursor: pointer; unicode-bidi: isolate; overflow-wrap: anywhere; }
.words pre { margin: 0; padding: 12px 14px; max-height: 26em; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { .words pre { max-height: none; } }
</style>
)";

// A column whose cells begin like numbers, or are empty.
std::vector<bool> number_columns(const std::vector<Document::Row>& rows) {
  std::vector<bool> is_number(rows.empty() ? 0 : rows[0].size(), rows.size() > 1);
  for (size_t r = 1; r < rows.size(); ++r)
    for (size_t c = 0; c < is_number.size(); ++c) {
      const std::string cell = c < rows[r].size() ? rows[r][c] : "";
      const std::string_view bare =
          std::string_view(cell).substr(std::min(cell.find_first_not_of("+-<± "), cell.size()));
      if (!bare.empty() && (bare[0] < '0' || bare[0] > '9') && cell != "n/a") is_number[c] = false;
    }
  return is_number;
}

std::string one_line(std::string_view text) {
  std::string out = tools::printable(utf8_replace_invalid(text));
  for (char& c : out)
    if (c == '\n' || c == '\t') c = ' ';
  return out;
}

size_t width_of(std::string_view text) {
  return size_t(std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}

std::string table_for_terminal(const std::vector<Document::Row>& rows) {
  const std::vector<bool> is_number = number_columns(rows);
  std::vector<size_t> width(is_number.size());
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], width_of(one_line(row[c])));
  std::string out;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string cell = one_line(row[c]), space(width[c] - width_of(cell), ' ');
      line += cat(c ? "  " : "", is_number[c] ? space : "", cell, is_number[c] ? "" : space);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string markdown_escaped(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else {
      if (std::string_view("\\`*[]|~#$").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out;
}

std::string markdown_table(const std::vector<Document::Row>& rows) {
  const std::vector<bool> is_number = number_columns(rows);
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    out += "|";
    for (const std::string& cell : rows[r]) out += cat(" ", markdown_escaped(cell), " |");
    out += "\n";
    if (r > 0) continue;
    out += "|";
    for (const bool right : is_number) out += right ? " ---: |" : " --- |";
    out += "\n";
  }
  return out;
}

// Between fences longer than any in it.
std::string fenced(std::string_view text) {
  size_t longest = 0, run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(std::max<size_t>(3, longest + 1), '`');
  const bool ended = !text.empty() && text.back() == '\n';
  return cat(fence, "text\n", text, ended ? "" : "\n", fence, "\n");
}

std::string html_table(const std::vector<Document::Row>& rows) {
  const std::vector<bool> is_number = number_columns(rows);
  std::string out = "<div class=\"scroll\"><table>\n";
  for (size_t r = 0; r < rows.size(); ++r) {
    const char* cell = r ? "td" : "th";
    out += r == 0 ? "<thead><tr>" : r == 1 ? "<tbody>\n<tr>" : "<tr>";
    for (size_t c = 0; c < rows[r].size(); ++c)
      out += cat("<", cell, c < is_number.size() && is_number[c] ? " class=\"number\">" : ">", escaped(rows[r][c]),
                 "</", cell, ">");
    out += r == 0 ? "</tr></thead>\n" : "</tr>\n";
  }
  return out + (rows.size() > 1 ? "</tbody>" : "") + "</table></div>\n";
}

std::string shortened(const std::string& words) {
  std::string clean = tools::printable(utf8_replace_invalid(words));
  if (clean.size() <= kMostQuoted) return clean;
  const size_t kept = utf8_whole_prefix(std::string_view(clean).substr(0, kMostQuoted));
  return cat(clean.substr(0, kept), "\n… ", human_count(clean.size() - kept), " more bytes");
}

}  // namespace

std::string Document::to_terminal() const {
  std::string out = one_line(title_) + "\n";
  if (!subtitle_.empty()) out += one_line(subtitle_) + "\n";
  for (const Block& b : blocks_) switch (b.kind) {
      case Kind::heading:
        out += cat("\n", one_line(b.text), "\n");
        break;
      case Kind::text:
        out += one_line(b.text) + "\n";
        break;
      case Kind::warning:
        out += cat("note: ", one_line(b.text), "\n");
        break;
      case Kind::table:
        if (b.rows.size() <= b.most_on_terminal) {
          out += table_for_terminal(b.rows);
        } else {
          out += table_for_terminal({b.rows.begin(), b.rows.begin() + int64_t(b.most_on_terminal)});
          out += cat("  … ", b.rows.size() - b.most_on_terminal, " more\n");
        }
        break;
      case Kind::chart:
      case Kind::quote:
        break;
    }
  return out;
}

std::string Document::to_markdown() const {
  std::string out = cat("# ", markdown_escaped(title_), "\n");
  if (!subtitle_.empty()) out += cat("\n", markdown_escaped(subtitle_), "\n");
  for (const Block& b : blocks_) {
    out += "\n";
    switch (b.kind) {
      case Kind::heading:
        out += cat("## ", markdown_escaped(b.text), "\n");
        break;
      case Kind::text:
        out += markdown_escaped(b.text) + "\n";
        break;
      case Kind::warning:
        out += cat("> **Note:** ", markdown_escaped(b.text), "\n");
        break;
      case Kind::table:
        out += markdown_table(b.rows);
        break;
      case Kind::chart:
        out += fenced(b.text);
        break;
      case Kind::quote:
        out += cat(markdown_escaped(b.text), "\n\n", fenced(shortened(b.words)));
        break;
    }
  }
  return out;
}

std::string Document::to_html() const {
  std::string out = cat(kPageBegin, "<title>", escaped(title_), "</title>\n", kPageStyle, "</head>\n<body><main>\n<h1>",
                        escaped(title_), "</h1>\n<p class=\"under\">", escaped(subtitle_), "</p>\n");
  for (const Block& b : blocks_) switch (b.kind) {
      case Kind::heading:
        out += cat("<h2>", escaped(b.text), "</h2>\n");
        break;
      case Kind::text:
        out += cat("<p>", escaped(b.text), "</p>\n");
        break;
      case Kind::warning:
        out += cat("<p class=\"warn\">", escaped(b.text), "</p>\n");
        break;
      case Kind::table:
        out += html_table(b.rows);
        break;
      case Kind::chart:
        out += cat("<figure>", b.svg, "</figure>\n");
        break;
      case Kind::quote:
        out += cat("<details class=\"words\"><summary>", escaped(b.text), "</summary><pre dir=\"auto\">",
                   escaped(shortened(b.words)), "</pre></details>\n");
        break;
    }
  return out + "</main></body>\n</html>\n";
}

}  // namespace l4::eval
