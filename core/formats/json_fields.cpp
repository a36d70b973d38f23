#include "formats/json_fields.h"

#include "base/error.h"

namespace l4 {

JsonFields::JsonFields(const Json& object, std::string source, std::string prefix)
    : object_(object), source_(std::move(source)), prefix_(std::move(prefix)) {
  if (object.is_object()) return;
  std::string name = prefix_.empty() ? "" : cat(": ", std::string_view(prefix_).substr(0, prefix_.size() - 1));
  fail_input(source_, name, ": expected an object, found ", object.kind_name());
}

const Json* JsonFields::find(std::string_view key) const {
  const Json* value = object_.find(key);
  return value && !value->is_null() ? value : nullptr;
}

bool JsonFields::is_null(std::string_view key) const {
  const Json* value = object_.find(key);
  return value && value->is_null();
}

std::string JsonFields::where(std::string_view key) const {
  return cat(source_, ": ", prefix_, key);
}

void JsonFields::wrong(std::string_view key, std::string_view expected) const {
  const Json* value = object_.find(key);
  std::string found = "nothing";
  if (value && (value->is_array() || value->is_object()))
    found = value->kind_name();
  else if (value && value->is_string())
    found = shown(value->as_string());
  else if (value)
    found = dump_json(*value);
  fail_input(where(key), ": expected ", expected, ", found ", found);
}

int64_t JsonFields::integer(std::string_view key, std::optional<int64_t> otherwise, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value || !value->is_integer() || value->as_integer() < low || value->as_integer() > high)
    wrong(key, cat("an integer from ", low, " to ", high));
  return value->as_integer();
}

double JsonFields::number(std::string_view key, std::optional<double> otherwise, double low, double high) const {
  const Json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value || !value->is_number() || !(value->as_number() >= low && value->as_number() <= high))
    wrong(key, cat("a number from ", low, " to ", high));
  return value->as_number();
}

bool JsonFields::flag(std::string_view key, std::optional<bool> otherwise) const {
  const Json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value || !value->is_bool()) wrong(key, "true or false");
  return value->as_bool();
}

std::string JsonFields::text(std::string_view key, std::optional<std::string> otherwise) const {
  const Json* value = find(key);
  if (!value && otherwise) return *otherwise;
  if (!value || !value->is_string()) wrong(key, "a string");
  return value->as_string();
}

std::vector<int64_t> JsonFields::integers(std::string_view key, int64_t low, int64_t high) const {
  const Json* value = find(key);
  std::string expected = cat("integers from ", low, " to ", high);
  if (!value) wrong(key, expected);
  auto checked = [&](const Json& item) {
    if (!item.is_integer() || item.as_integer() < low || item.as_integer() > high) {
      std::string found = item.is_array() || item.is_object() ? item.kind_name() : shown(dump_json(item));
      fail_input(where(key), ": expected ", expected, ", found ", found);
    }
    return item.as_integer();
  };
  std::vector<int64_t> out;
  if (!value->is_array()) return {checked(*value)};
  for (const Json& item : value->as_array()) out.push_back(checked(item));
  return out;
}

JsonFields JsonFields::object(std::string_view key) const {
  const Json* value = find(key);
  if (!value) wrong(key, "an object");
  return JsonFields(*value, source_, cat(prefix_, key, "."));
}

}  // namespace l4
