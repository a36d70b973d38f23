#include "tools/serve/api/fields.h"

#include <cmath>

namespace l4::serve {

namespace {

// "messages[2].content[0].type: expected ..." -> "messages[2].content[0].type".
std::string_view leading_field(std::string_view message) {
  const size_t end = message.find(": ");
  if (end == std::string_view::npos || end == 0) return {};
  for (char c : message.substr(0, end))
    if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_' && c != '.' && c != '[' && c != ']') return {};
  return message.substr(0, end);
}

}  // namespace

void refuse_error(const Error& error, std::string_view field) {
  ErrorBody body = api_error_of(error);
  if (body.status != 400) throw error;
  const std::string_view found = leading_field(error.message());
  body.param = std::string(found.empty() ? field : found);
  throw ApiError(std::move(body));
}

std::string shown_json(const Json& value) {
  if (value.is_array() || value.is_object()) return value.kind_name();
  std::string text = dump_json(value);
  return value.is_string() ? shown(value.as_string()) : text;
}

Json parse_body(std::string_view body) {
  // What a conversation may need; a schema or arguments nested deeper than that are no use to anybody.
  constexpr JsonLimits kLimits = {.max_depth = 64, .max_values = 2'000'000};
  try {
    return parse_json(body, "body", kLimits);
  } catch (const Error& error) {
    throw ApiError(api_error(400, error.message(), "invalid_request_error", "", "invalid_json"));
  }
}

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (!object.is_object())
    refuse(path_, "invalid_type",
           path_.empty() ? "the body must be a JSON object, found " : "expected an object, found ", shown_json(object));
}

const Json* Fields::find(std::string_view key) const {
  const Json* value = object_->find(key);
  return value && !value->is_null() ? value : nullptr;
}

std::string Fields::path(std::string_view key) const {
  return path_.empty() ? std::string(key) : cat(path_, ".", key);
}

void Fields::wrong(std::string_view key, std::string_view expected) const {
  refuse(path(key), "invalid_type", "expected ", expected, ", found ", shown_json(*find(key)));
}

void Fields::missing(std::string_view key) const {
  refuse(path(key), "missing_required_parameter", "missing");
}

std::optional<bool> Fields::flag(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_bool()) wrong(key, "true or false");
  return value->as_bool();
}

std::optional<int64_t> Fields::integer(std::string_view key, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  int64_t n = 0;
  if (value->is_integer()) {
    n = value->as_integer();
  } else {
    // 1.0 is what some clients write for 1; beyond 2^53 a double is no longer one whole number.
    const double d = value->is_number() ? value->as_number() : 0.5;
    if (d != std::floor(d)) wrong(key, "a whole number");
    if (std::abs(d) > 9007199254740992.0)
      bad_value(key, "expected a whole number from ", low, " to ", high, ", found ", shown_json(*value));
    n = int64_t(d);
  }
  if (n < low || n > high) bad_value(key, "expected a whole number from ", low, " to ", high, ", found ", n);
  return n;
}

std::optional<double> Fields::number(std::string_view key, double low, double high) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) wrong(key, "a number");
  const double d = value->as_number();
  if (!(d >= low && d <= high))
    bad_value(key, "expected a number from ", low, " to ", high, ", found ", shown_json(*value));
  return d;
}

std::optional<std::string> Fields::text(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) wrong(key, "a string");
  return value->as_string();
}

std::string Fields::need_text(std::string_view key) const {
  if (!has(key)) missing(key);
  return *text(key);
}

const Json::Array* Fields::list(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return nullptr;
  if (!value->is_array()) wrong(key, "a list");
  return &value->as_array();
}

std::optional<Fields> Fields::object(std::string_view key) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  return Fields(*value, path(key));
}

std::string Fields::one_of(std::string_view key, std::initializer_list<const char*> names) const {
  const std::optional<std::string> given = text(key);
  if (!given) return *names.begin();
  std::vector<std::string> all;
  for (const char* name : names) {
    if (*given == name) return *given;
    all.push_back(name);
  }
  bad_value(key, "expected ", join(all, ", "), ", found ", shown(*given));
}

void Fields::not_offered(std::string_view key, std::string_view why, const Json& harmless) const {
  const Json* value = find(key);
  if (!value || *value == harmless) return;
  refuse(path(key), "unsupported_parameter", "not supported: ", why);
}

}  // namespace l4::serve
