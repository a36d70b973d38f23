#include "formats/json.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"

namespace l4 {

const char* Json::kind_name() const {
  static const char* const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
  return names[value_.index()];
}

namespace {
[[noreturn]] void wrong_kind(const Json& value, const char* wanted) {
  fail(ErrorKind::internal, "JSON value is ", value.kind_name(), ", not ", wanted);
}
}  // namespace

bool Json::as_bool() const {
  if (const bool* v = std::get_if<bool>(&value_)) return *v;
  wrong_kind(*this, "boolean");
}
int64_t Json::as_integer() const {
  if (const int64_t* v = std::get_if<int64_t>(&value_)) return *v;
  wrong_kind(*this, "integer");
}
double Json::as_number() const {
  if (const double* v = std::get_if<double>(&value_)) return *v;
  if (const int64_t* v = std::get_if<int64_t>(&value_)) return double(*v);
  wrong_kind(*this, "number");
}
const std::string& Json::as_string() const {
  if (const std::string* v = std::get_if<std::string>(&value_)) return *v;
  wrong_kind(*this, "string");
}
const Json::Array& Json::as_array() const {
  if (const Array* v = std::get_if<Array>(&value_)) return *v;
  wrong_kind(*this, "array");
}
const Json::Object& Json::as_object() const {
  if (const Object* v = std::get_if<Object>(&value_)) return *v;
  wrong_kind(*this, "object");
}
Json::Array& Json::as_array() {
  if (Array* v = std::get_if<Array>(&value_)) return *v;
  wrong_kind(*this, "array");
}
Json::Object& Json::as_object() {
  if (Object* v = std::get_if<Object>(&value_)) return *v;
  wrong_kind(*this, "object");
}

const Json* Json::find(std::string_view key) const {
  if (const Object* members = std::get_if<Object>(&value_))
    for (const Member& m : *members)
      if (m.first == key) return &m.second;
  return nullptr;
}

void Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = Object{};
  for (Member& m : as_object())
    if (m.first == key) {
      m.second = std::move(value);
      return;
    }
  as_object().emplace_back(std::string(key), std::move(value));
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array{};
  as_array().push_back(std::move(value));
}

namespace {

// Builds the value from nlohmann's events; keys of the open objects are kept to find duplicates in constant time.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view source, JsonLimits limits) : source_(source), limits_(limits) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool v) override { return add(Json(v)); }
  bool number_integer(int64_t v) override { return add(Json(v)); }
  bool number_unsigned(uint64_t v) override {
    return add(v <= uint64_t(INT64_MAX) ? Json(int64_t(v)) : Json(double(v)));
  }
  bool number_float(double v, const std::string& text) override {
    if (!std::isfinite(v)) fail_input(source_, ": not valid JSON: number ", shown(text), " is out of range");
    return add(Json(v));
  }
  bool string(std::string& v) override { return add(Json(std::move(v))); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json(Json::Object{})); }
  bool start_array(size_t) override { return open(Json(Json::Array{})); }
  bool key(std::string& k) override {
    if (!keys_.back().insert(k).second) fail_input(source_, ": not valid JSON: duplicate key ", shown(k));
    stack_.back()->as_object().emplace_back(std::move(k), Json());
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail_input(source_, ": not valid JSON at byte ", position);
  }

 private:
  Json* place(Json value) {
    if (++n_values_ > limits_.max_values)
      fail_input(source_, ": not valid JSON: more than ", human_count(uint64_t(limits_.max_values)), " values");
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_object()) {
      Json& slot = parent.as_object().back().second;
      slot = std::move(value);
      return &slot;
    }
    parent.as_array().push_back(std::move(value));
    return &parent.as_array().back();
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (int(stack_.size()) >= limits_.max_depth)
      fail_input(source_, ": not valid JSON: nested deeper than ", limits_.max_depth, " levels");
    stack_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::string source_;
  JsonLimits limits_;
  int64_t n_values_ = 0;
  Json root_;
  std::vector<Json*> stack_;  // open values; parents do not move while a child is open
  std::vector<std::unordered_set<std::string>> keys_;
};

void dump(std::string& out, const Json& value, JsonStyle style, int indent, int depth) {
  auto new_line = [&](int levels) {
    out.push_back('\n');
    out.append(size_t(levels * indent), ' ');
  };
  const char* comma = style == JsonStyle::compact || indent >= 0 ? "," : ", ";
  const char* colon = style == JsonStyle::compact ? ":" : ": ";
  auto list = [&](char open, char close, size_t n, auto&& item) {
    out.push_back(open);
    for (size_t i = 0; i < n; ++i) {
      if (i) out += comma;
      if (indent >= 0) new_line(depth + 1);
      item(i);
    }
    if (n && indent >= 0) new_line(depth);
    out.push_back(close);
  };
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_integer()) {
    out += cat(value.as_integer());
  } else if (value.is_number()) {
    out += python_float(value.as_number());
  } else if (value.is_string()) {
    out += json_quote(value.as_string());
  } else if (value.is_array()) {
    const Json::Array& items = value.as_array();
    list('[', ']', items.size(), [&](size_t i) { dump(out, items[i], style, indent, depth + 1); });
  } else {
    const Json::Object& members = value.as_object();
    list('{', '}', members.size(), [&](size_t i) {
      out += json_quote(members[i].first);
      out += colon;
      dump(out, members[i].second, style, indent, depth + 1);
    });
  }
}

}  // namespace

Json parse_json(std::string_view text, std::string_view source, JsonLimits limits) {
  // nlohmann's lexer takes a zero byte for the end of the text and would not look at what follows it.
  if (size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail_input(source, ": not valid JSON at byte ", zero + 1);
  Builder builder(source, limits);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string dump_json(const Json& value, JsonStyle style, int indent) {
  std::string out;
  dump(out, value, style, indent, 0);
  return out;
}

std::string json_quote(std::string_view utf8) {
  std::string out = "\"";
  for (unsigned char c : utf8) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c < 0x20) {
          char escape[8];
          std::snprintf(escape, sizeof escape, "\\u%04x", c);
          out += escape;
        } else {
          out.push_back(char(c));
        }
    }
  }
  out.push_back('"');
  return out;
}

std::string python_float(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  char buffer[40];
  auto [end, ec] = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string text(buffer, end);  // d.ddde+xx with the fewest digits that round-trip
  size_t e = text.find('e');
  int exponent = std::atoi(text.c_str() + e + 1);
  std::string sign = text[0] == '-' ? "-" : "";
  std::string digits;
  for (char c : text.substr(0, e))
    if (c >= '0' && c <= '9') digits.push_back(c);
  if (exponent < -4 || exponent >= 16) {
    std::string mantissa = digits.substr(0, 1);
    if (digits.size() > 1) mantissa += "." + digits.substr(1);
    char suffix[16];
    std::snprintf(suffix, sizeof suffix, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return sign + mantissa + suffix;
  }
  if (exponent < 0) return sign + "0." + std::string(size_t(-exponent - 1), '0') + digits;
  if (digits.size() <= size_t(exponent) + 1)
    return sign + digits + std::string(size_t(exponent) + 1 - digits.size(), '0') + ".0";
  return sign + digits.substr(0, size_t(exponent) + 1) + "." + digits.substr(size_t(exponent) + 1);
}

}  // namespace l4
