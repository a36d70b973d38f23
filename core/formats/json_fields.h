// Reads members of a JSON object that somebody else wrote: every value is checked for its kind and range, and what is
// wrong is said in one line that names file, field, what was expected and what was found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace l4 {

class JsonFields {
 public:
  // `prefix` names the object inside the file, as "text_config."; empty for the whole document.
  // Error{input} when `object` is none.
  JsonFields(const Json& object, std::string source, std::string prefix = {});

  // nullptr when the member is absent or null. Both mean "the default" in Hugging Face's files.
  const Json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  bool is_null(std::string_view key) const;  // present and null

  // The member in [low, high]; `otherwise` when it is absent or null; Error{input} when that is no value either.
  int64_t integer(std::string_view key, std::optional<int64_t> otherwise, int64_t low, int64_t high) const;
  double number(std::string_view key, std::optional<double> otherwise, double low, double high) const;
  bool flag(std::string_view key, std::optional<bool> otherwise) const;
  std::string text(std::string_view key, std::optional<std::string> otherwise) const;
  // A list of integers in [low, high], or a single one.
  std::vector<int64_t> integers(std::string_view key, int64_t low, int64_t high) const;
  JsonFields object(std::string_view key) const;  // Error{input} when it is missing

  // Throws "FILE: FIELD: expected WHAT, found VALUE".
  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;
  std::string where(std::string_view key) const;  // "FILE: FIELD"

 private:
  const Json& object_;
  std::string source_, prefix_;
};

}  // namespace l4
