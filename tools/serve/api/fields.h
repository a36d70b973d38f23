// Reads the members of a request's JSON: every value is checked for kind and range, and what is wrong is an ApiError
// that names the member as the client wrote it. A null counts as absent, as in OpenAI's API.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "tools/serve/api/refusal.h"

namespace l4::serve {

class Fields {
 public:
  // `path` of the object itself, empty for the whole body. Refuses what is no object. Keeps a reference.
  explicit Fields(const Json& object, std::string path = {});

  const Json* find(std::string_view key) const;  // nullptr: absent or null
  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::string path(std::string_view key) const;  // "tools[0].function"

  std::optional<bool> flag(std::string_view key) const;
  bool flag_or(std::string_view key, bool otherwise) const { return flag(key).value_or(otherwise); }
  std::optional<int64_t> integer(std::string_view key, int64_t low, int64_t high) const;
  std::optional<double> number(std::string_view key, double low, double high) const;
  std::optional<std::string> text(std::string_view key) const;
  std::string need_text(std::string_view key) const;
  const Json::Array* list(std::string_view key) const;  // nullptr: absent
  std::optional<Fields> object(std::string_view key) const;
  // One of these names, the first where it is absent.
  std::string one_of(std::string_view key, std::initializer_list<const char*> names) const;

  // A member that would change the answer in a way that is not offered: refused unless absent or `harmless`.
  void not_offered(std::string_view key, std::string_view why, const Json& harmless = {}) const;

  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;  // invalid_type
  [[noreturn]] void missing(std::string_view key) const;
  template <class... Parts>
  [[noreturn]] void bad_value(std::string_view key, const Parts&... what) const {
    refuse(path(key), "invalid_value", what...);
  }

 private:
  const Json* object_;
  std::string path_;
};

// The body of a request: refuses what is not JSON, too deep or too large in pieces.
Json parse_body(std::string_view body);
// A value for error messages: short and printable.
std::string shown_json(const Json& value);

}  // namespace l4::serve
