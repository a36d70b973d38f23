// Results as people and programs read them. A record is a row of a Markdown table and an object of the other formats.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "formats/json.h"

namespace l4::bench {

enum class Format { none, markdown, csv, json, jsonl, sql };
Format parse_format(const std::string& name);  // md|csv|json|jsonl|sql; Error{usage}

struct Cell {
  std::string header, text;
  bool is_number = true;  // aligned to the right
  size_t width = 0;       // at least
};

struct Record {
  std::vector<Cell> cells;
  Json fields;  // an object; arrays are left out of CSV and SQL
};

// Writes each record as it comes, so that what was measured is kept whatever happens later.
class Reporter {
 public:
  Reporter(Format format, std::FILE* to) : format_(format), to_(to) {}
  ~Reporter();  // closes what is open
  Reporter(const Reporter&) = delete;
  Reporter& operator=(const Reporter&) = delete;

  void add(const Record& record);
  // An object of another kind: JSON only, which can tell it apart by its fields.
  void add_object(const Json& object);
  // A line for people, outside of the table: Markdown only.
  void note(const std::string& line);

 private:
  void write(const std::string& text);
  std::string markdown(const Record& record);
  std::string table_row(const Record& record);

  const Format format_;
  std::FILE* const to_;
  std::vector<std::string> headers_;  // of the table being written
  size_t n_records_ = 0;
  bool noted_ = false;
};

}  // namespace l4::bench
