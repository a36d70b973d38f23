// A small JSON value. nlohmann/json parses (in json.cpp alone, its header is slow to compile); what it hands over is
// checked here: no duplicate keys, bounded depth, UTF-8 only, finite numbers. Objects keep the order of the file, which
// chat templates need.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace l4 {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(int64_t(value)) {}
  Json(int64_t value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  const char* kind_name() const;  // "null", "boolean", "integer", "number", "string", "array", "object"

  // The value as what the caller has tested it to be; Error{internal} otherwise.
  bool as_bool() const;
  int64_t as_integer() const;
  double as_number() const;  // integers too
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;
  Array& as_array();
  Object& as_object();

  // Member of an object by linear search, or nullptr (also when this is no object).
  const Json* find(std::string_view key) const;
  // Sets or replaces a member; a null value becomes an object first.
  void set(std::string_view key, Json value);
  void push_back(Json value);  // a null value becomes an array first

  bool operator==(const Json&) const = default;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

struct JsonLimits {
  int max_depth = 100;
  int64_t max_values = 10'000'000;  // bounds memory: a value takes some 40 bytes, its text may take two
};

// Parses one JSON document. `source` names the file or field in errors: Error{input} "SOURCE: not valid JSON: ...".
// Integers that do not fit int64 become numbers.
Json parse_json(std::string_view text, std::string_view source, JsonLimits limits = {});

enum class JsonStyle {
  python,   // json.dumps's separators ", " and ": ", what chat templates and people see
  compact,  // no white space
};
// indent < 0: one line. Floats as Python's repr; non-ASCII characters are kept.
std::string dump_json(const Json& value, JsonStyle style = JsonStyle::python, int indent = -1);
// One string in JSON's quotes.
std::string json_quote(std::string_view utf8);
// A double as Python's repr writes it: 1.0, 1e-05, 0.1, 1e+16.
std::string python_float(double value);

}  // namespace l4
