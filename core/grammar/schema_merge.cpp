#include <algorithm>
#include <array>

#include "base/error.h"
#include "grammar/json_schema.h"
#include "grammar/limits.h"

namespace l4 {

namespace {

constexpr int kMaxDepth = 40;               // of references and allOf in each other
constexpr size_t kMaxCopied = 2'000'000;    // values, in all merges
constexpr size_t kMaxAlternatives = 1'000;  // of anyOf combined with anyOf

size_t count_values(const Json& value) {
  size_t n = 1;
  if (value.is_array()) {
    for (const Json& item : value.as_array()) n += count_values(item);
  } else if (value.is_object()) {
    for (const auto& [key, member] : value.as_object()) n += count_values(member);
  }
  return n;
}

Json without(const Json& schema, std::string_view key) {
  Json::Object out;
  for (const auto& member : schema.as_object()) {
    if (member.first != key) out.push_back(member);
  }
  return Json(std::move(out));
}

bool has_constraints(const Json& schema) {
  const auto& members = schema.as_object();
  return std::any_of(members.begin(), members.end(), [](const auto& member) { return !is_annotation(member.first); });
}

bool contains(const Json::Array& items, const Json& value) {
  return std::find(items.begin(), items.end(), value) != items.end();
}

Json::Array as_list(const Json& value) {
  return value.is_array() ? value.as_array() : Json::Array{value};
}

}  // namespace

std::string shown_place(std::string_view at) {
  std::string quoted = shown(at);
  return quoted.substr(1, quoted.size() - 2);
}

bool is_annotation(std::string_view keyword) {
  static constexpr std::array kAnnotations = {std::string_view("title"),           std::string_view("description"),
                                              std::string_view("default"),         std::string_view("examples"),
                                              std::string_view("example"),         std::string_view("$comment"),
                                              std::string_view("$schema"),         std::string_view("$id"),
                                              std::string_view("$defs"),           std::string_view("definitions"),
                                              std::string_view("deprecated"),      std::string_view("readOnly"),
                                              std::string_view("writeOnly"),       std::string_view("strict"),
                                              std::string_view("discriminator"),   std::string_view("$anchor"),
                                              std::string_view("contentMediaType")};
  return keyword.starts_with("x-") ||
         std::find(kAnnotations.begin(), kAnnotations.end(), keyword) != kAnnotations.end();
}

SchemaMerger::SchemaMerger(const Json& document) : document_(document) {}

void SchemaMerger::pay(const Json& made, std::string_view at) {
  paid_ += count_values(made);
  if (paid_ > kMaxCopied)
    fail(ErrorKind::usage, shown_place(at), ": too many schemas combined by allOf, anyOf and $ref");
}

const Json& SchemaMerger::referred(std::string_view reference, std::string_view at) const {
  auto no_such = [&](std::string_view why) {
    fail(ErrorKind::usage, shown_place(at), ": $ref ", shown(reference), " ", why);
  };
  if (!reference.starts_with("#")) no_such("leads outside the schema, which is not supported");
  const Json* place = &document_;
  std::string_view rest = reference.substr(1);
  if (!rest.empty() && rest[0] != '/') no_such("is an anchor, which is not supported");
  while (!rest.empty()) {
    rest.remove_prefix(1);
    size_t end = std::min(rest.find('/'), rest.size());
    std::string key;
    for (size_t i = 0; i < end; ++i) {
      unsigned code = 0;
      if (rest[i] == '~' && i + 1 < end && (rest[i + 1] == '0' || rest[i + 1] == '1')) {
        key.push_back(rest[++i] == '0' ? '~' : '/');
      } else if (rest[i] == '%' && i + 2 < end &&
                 std::from_chars(rest.data() + i + 1, rest.data() + i + 3, code, 16).ptr == rest.data() + i + 3) {
        key.push_back(char(code));
        i += 2;
      } else {
        key.push_back(rest[i]);
      }
    }
    rest.remove_prefix(end);
    const Json* next = place->find(key);
    if (!next && place->is_array()) {
      std::optional<int64_t> index = parse_int(key);
      if (index && *index >= 0 && size_t(*index) < place->as_array().size()) next = &place->as_array()[size_t(*index)];
    }
    if (!next) no_such("leads nowhere");
    place = next;
  }
  return *place;
}

Json SchemaMerger::flattened(const Json& schema, std::string_view at, int depth) {
  if (depth > kMaxDepth)
    fail(ErrorKind::usage, shown_place(at), ": $ref and allOf lead through too many schemas, or in a circle");
  if (!schema.is_object()) return schema;
  if (const Json* reference = schema.find("$ref")) {
    if (!reference->is_string()) fail(ErrorKind::usage, shown_place(at), "/$ref: expected a string");
    Json rest = without(schema, "$ref");
    if (!has_constraints(rest) && depth == 0) return schema;
    Json target = flattened(referred(reference->as_string(), at), at, depth + 1);
    return has_constraints(rest) ? merged(target, rest, at, depth + 1) : target;
  }
  const Json* all = schema.find("allOf");
  if (!all) return schema;
  if (!all->is_array()) fail(ErrorKind::usage, shown_place(at), "/allOf: expected a list of schemas");
  Json out = without(schema, "allOf");
  // allOf around one schema, a common way to put a description beside a $ref.
  if (!has_constraints(out) && all->as_array().size() == 1) return flattened(all->as_array()[0], at, depth);
  for (const Json& part : all->as_array()) out = merged(out, part, at, depth + 1);
  return out;
}

Json SchemaMerger::merged(const Json& a_in, const Json& b_in, std::string_view at, int depth) {
  Json a = flattened(a_in, at, depth + 1), b = flattened(b_in, at, depth + 1);
  if (a.is_bool()) return a.as_bool() ? b : a;
  if (b.is_bool()) return b.as_bool() ? a : b;
  if (!a.is_object() || !b.is_object())
    fail(ErrorKind::usage, shown_place(at), ": expected an object or a boolean as schema");
  Json out = a;
  for (const auto& [key, value] : b.as_object()) {
    const Json* there = a.find(key);
    if (!there) {
      out.set(key, value);
    } else if (!is_annotation(key) && !(*there == value)) {
      merge_keyword(out, key, *there, value, at, depth);
    }
  }
  merge_properties(out, a, b);
  pay(out, at);
  return out;
}

void SchemaMerger::merge_keyword(Json& out, const std::string& key, const Json& a, const Json& b, std::string_view at,
                                 int depth) {
  bool numbers = a.is_number() && b.is_number();
  if (key == "type") {
    Json::Array both;
    for (const Json& type : as_list(a)) {
      for (const Json& other : as_list(b)) {
        bool whole = (type == Json("integer") && other == Json("number")) ||
                     (type == Json("number") && other == Json("integer"));
        if (whole && !contains(both, Json("integer"))) both.push_back(Json("integer"));
        if (type == other && !contains(both, type)) both.push_back(type);
      }
    }
    out.set(key, Json(std::move(both)));
  } else if (key == "required" && a.is_array() && b.is_array()) {
    Json::Array all = a.as_array();
    for (const Json& name : b.as_array()) {
      if (!contains(all, name)) all.push_back(name);
    }
    out.set(key, Json(std::move(all)));
  } else if (key == "enum" && a.is_array() && b.is_array()) {
    Json::Array both;
    for (const Json& value : a.as_array()) {
      if (contains(b.as_array(), value)) both.push_back(value);
    }
    out.set(key, Json(std::move(both)));
  } else if (key == "const") {
    out.set("enum", Json(Json::Array{}));
    out = without(out, "const");
  } else if (numbers && (key.starts_with("min") || key == "exclusiveMinimum")) {
    out.set(key, a.as_number() < b.as_number() ? b : a);
  } else if (numbers && (key.starts_with("max") || key == "exclusiveMaximum")) {
    out.set(key, a.as_number() < b.as_number() ? a : b);
  } else if (key == "items" || key == "additionalProperties") {
    out.set(key, merged(a, b, at, depth + 1));
  } else if (key == "properties") {
    // merge_properties has them all
  } else if (key == "nullable") {
    out.set(key, Json(false));
  } else if ((key == "anyOf" || key == "oneOf") && a.is_array() && b.is_array()) {
    Json::Array pairs;
    for (const Json& left : a.as_array()) {
      for (const Json& right : b.as_array()) {
        if (pairs.size() >= kMaxAlternatives)
          fail(ErrorKind::usage, shown_place(at), ": too many combinations of ", key);
        pairs.push_back(merged(left, right, at, depth + 1));
      }
    }
    out.set(key, Json(std::move(pairs)));
  } else {
    fail(ErrorKind::usage, shown_place(at), ": keyword ", shown(key),
         " differs in schemas combined by allOf, which is not supported");
  }
}

// A property that only one side names is what the other side's additionalProperties says.
void SchemaMerger::merge_properties(Json& out, const Json& a, const Json& b) {
  const Json *in_a = a.find("properties"), *in_b = b.find("properties");
  if (!(in_a && in_a->is_object()) && !(in_b && in_b->is_object())) return;
  Json all{Json::Object{}};
  auto both = [](const Json& x, const Json& y) {
    if (x.is_bool() || y.is_bool()) return x.is_bool() ? (x.as_bool() ? y : x) : (y.as_bool() ? x : y);
    return Json(Json::Object{{"allOf", Json(Json::Array{x, y})}});
  };
  auto put = [&](const Json* from, const Json* others, const Json& other_schema) {
    if (!from || !from->is_object()) return;
    for (const auto& [name, schema] : from->as_object()) {
      if (all.find(name)) continue;
      const Json* other = others && others->is_object() ? others->find(name) : nullptr;
      if (!other) other = other_schema.find("additionalProperties");
      all.set(name, !other || *other == schema ? schema : both(schema, *other));
    }
  };
  put(in_a, in_b, b);
  put(in_b, in_a, a);
  out.set("properties", std::move(all));
}

}  // namespace l4
