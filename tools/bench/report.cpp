#include "tools/bench/report.h"

#include <algorithm>

#include "tools/common/flags.h"
#include "tools/common/terminal.h"

namespace l4::bench {

namespace {

// Columns that a terminal shows: bytes that begin a character.
size_t display_width(const std::string& text) {
  size_t n = 0;
  for (const char c : text) n += (uint8_t(c) & 0xC0) != 0x80;
  return n;
}

std::string padded(const Cell& cell, const std::string& text) {
  const size_t wanted = std::max(cell.width, display_width(cell.header)), has = display_width(text);
  const std::string space(wanted > has ? wanted - has : 0, ' ');
  return cell.is_number ? space + text : text + space;
}

std::string quoted(const std::string& text, char quote) {
  std::string out(1, quote);
  for (const char c : text) out += c == quote ? std::string(2, quote) : std::string(1, c);
  return out + quote;
}

std::string plain(const Json& value) {
  return value.is_string() ? value.as_string() : value.is_null() ? "" : dump_json(value);
}

bool is_flat(const Json& value) {
  return !value.is_array() && !value.is_object();
}

}  // namespace

Format parse_format(const std::string& name) {
  if (name == "none") return Format::none;
  if (name == "md") return Format::markdown;
  if (name == "csv") return Format::csv;
  if (name == "json") return Format::json;
  if (name == "jsonl") return Format::jsonl;
  if (name == "sql") return Format::sql;
  tools::wrong_value("md, csv, json, jsonl or sql", name);
}

void Reporter::write(const std::string& text) {
  if (to_ == stdout) {
    tools::write_stdout(text);
    return;
  }
  std::fwrite(text.data(), 1, text.size(), to_);
  std::fflush(to_);
}

std::string Reporter::markdown(const Record& record) {
  std::string row = "|", head = "|", line = "|";
  std::vector<std::string> headers;
  for (const Cell& cell : record.cells) {
    headers.push_back(cell.header);
    row += cat(" ", padded(cell, cell.text), " |");
    head += cat(" ", padded(cell, cell.header), " |");
    const std::string dashes(std::max(cell.width, display_width(cell.header)) - (cell.is_number ? 1 : 0), '-');
    line += cat(" ", dashes, cell.is_number ? ": |" : " |");
  }
  const bool new_table = headers != headers_;
  const std::string before = headers_.empty() && !noted_ ? "" : "\n";
  headers_ = headers;
  return new_table ? cat(before, head, "\n", line, "\n", row, "\n") : row + "\n";
}

std::string Reporter::table_row(const Record& record) {
  std::string names, values, columns;
  for (const auto& [name, value] : record.fields.as_object()) {
    if (!is_flat(value)) continue;
    const char* comma = names.empty() ? "" : format_ == Format::csv ? "," : ", ";
    names += cat(comma, name);
    if (format_ == Format::csv) {
      values += cat(comma, quoted(plain(value), '"'));
    } else {
      values += cat(comma, value.is_null()     ? "NULL"
                           : value.is_number() ? plain(value)
                                               : quoted(plain(value), '\''));
      columns += cat(comma, name, value.is_integer() ? " INTEGER" : value.is_number() ? " REAL" : " TEXT");
    }
  }
  if (format_ == Format::csv) return n_records_ == 0 ? cat(names, "\n", values, "\n") : values + "\n";
  const std::string insert = cat("INSERT INTO test (", names, ") VALUES (", values, ");\n");
  return n_records_ == 0 ? cat("CREATE TABLE IF NOT EXISTS test (", columns, ");\n", insert) : insert;
}

void Reporter::add(const Record& record) {
  switch (format_) {
    case Format::none:
      break;
    case Format::markdown:
      write(markdown(record));
      break;
    case Format::csv:
    case Format::sql:
      write(table_row(record));
      break;
    case Format::json:
    case Format::jsonl:
      return add_object(record.fields);
  }
  ++n_records_;
}

void Reporter::add_object(const Json& object) {
  if (format_ == Format::json)
    write(cat(n_records_ == 0 ? "[\n" : ",\n", dump_json(object, JsonStyle::python, 2)));
  else if (format_ == Format::jsonl)
    write(dump_json(object) + "\n");
  else
    return;
  ++n_records_;
}

void Reporter::note(const std::string& line) {
  if (format_ != Format::markdown) return;
  write(cat(headers_.empty() || noted_ ? "" : "\n", line, "\n"));
  noted_ = true;
}

Reporter::~Reporter() {
  if (format_ != Format::json) return;
  try {
    write(n_records_ == 0 ? "[]\n" : "\n]\n");
  } catch (const Error&) {
    // what could be written was
  }
}

}  // namespace l4::bench
