#include <algorithm>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/json_schema.h"

namespace l4 {

namespace {

std::string pointer_part(std::string_view key) {
  std::string out = "/";
  for (char c : key) out += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return out;
}

}  // namespace

// Those the schema names, in its order, then those it only requires.
std::vector<SchemaCompiler::Property> SchemaCompiler::properties(const Json& schema, const std::string& at, int depth) {
  std::vector<Property> out;
  std::vector<std::string> required;
  if (const Json* names = schema.find("required")) {
    if (!names->is_array()) wrong(at + "/required", "expected a list of names");
    for (const Json& name : names->as_array()) {
      if (!name.is_string()) wrong(at + "/required", "expected a list of names");
      required.push_back(name.as_string());
    }
  }
  auto take_required = [&](const std::string& name) { return std::erase(required, name) > 0; };
  if (const Json* named = schema.find("properties")) {
    if (!named->is_object()) wrong(at + "/properties", "expected an object");
    for (const auto& [name, one] : named->as_object()) {
      ExprId value = compile(one, cat(at, "/properties", pointer_part(name)), depth + 1);
      out.push_back({name, value, take_required(name)});
    }
  }
  const Json* others = schema.find("additionalProperties");
  while (!required.empty()) {
    std::string name = required.front();
    take_required(name);
    out.push_back({name, others ? compile(*others, at + "/additionalProperties", depth + 1) : json_.value(), true});
  }
  return out;
}

ExprId SchemaCompiler::object(const Json& schema, const std::string& at, int depth) {
  std::vector<Property> named = properties(schema, at, depth);
  if (named.empty()) return free_object(schema, at, depth);
  for (const char* key : {"patternProperties", "propertyNames"}) {
    if (schema.find(key)) wrong(at, cat(key, " beside properties is not supported"));
  }
  std::vector<ExprId> parts;
  std::vector<bool> required;
  std::vector<std::string> names;
  for (Property& property : named) {
    parts.push_back(json_.pair(rules_.text(json_quote(property.name)), property.value));
    required.push_back(property.required);
    names.push_back(property.name);
  }
  int64_t n_required = std::count(required.begin(), required.end(), true), n_named = int64_t(required.size());
  const Json* others = schema.find("additionalProperties");
  bool open = others && !(others->is_bool() && !others->as_bool());
  int64_t max = count(schema, "maxProperties", at, GrammarRules::kNoLimit);
  if (count(schema, "minProperties", at, 0) > n_required ||
      (max != GrammarRules::kNoLimit && (open || max < n_named))) {
    wrong(at, "minProperties and maxProperties beside properties are not supported");
  }
  if (open) {
    for (const std::string& name : names) {
      constexpr size_t kMaxName = 200;  // the grammar of other names has a rule for each of its letters
      if (name.size() > kMaxName) wrong(at, "a property's name is longer than 200 bytes, beside additionalProperties");
    }
    ExprId value = compile(*others, at + "/additionalProperties", depth + 1);
    ExprId other = rules_.shared(json_.pair(json_.key_except(names), value), at + "/additionalProperties");
    parts.push_back(rules_.sequence({other, rules_.repeat(rules_.sequence({json_.comma(), other}), 0)}));
    required.push_back(false);
  }
  ExprId members = rules_.list(std::move(parts), std::move(required), json_.comma());
  members = rules_.sequence({members, json_.space()});
  return rules_.sequence(
      {rules_.text("{"), json_.space(), n_required > 0 ? members : rules_.optional(members), rules_.text("}")});
}

// No property has a name of its own.
ExprId SchemaCompiler::free_object(const Json& schema, const std::string& at, int depth) {
  const Json *others = schema.find("additionalProperties"), *patterns = schema.find("patternProperties");
  const Json* names = schema.find("propertyNames");
  bool closed = others && others->is_bool() && !others->as_bool();
  if (schema.find("properties") && !others) closed = true;
  int64_t min = count(schema, "minProperties", at, 0), max = count(schema, "maxProperties", at, GrammarRules::kNoLimit);
  if (closed && !patterns) max = 0;
  if (max != GrammarRules::kNoLimit && max < min) return rules_.nothing();
  if (max == 0) return rules_.sequence({rules_.text("{"), json_.space(), rules_.text("}")});

  std::vector<ExprId> members;
  if (patterns) {
    if (!patterns->is_object()) wrong(at + "/patternProperties", "expected an object");
    if (names || (others && !closed)) wrong(at, "patternProperties beside other names is not supported");
    if (patterns->as_object().size() > 1) wrong(at, "more than one of patternProperties is not supported");
    for (const auto& [pattern, one] : patterns->as_object()) {
      std::string here = cat(at, "/patternProperties", pointer_part(pattern));
      members.push_back(
          json_.pair(json_.pattern(pattern, false, shown_place(here), nullptr), compile(one, here, depth + 1)));
    }
  } else {
    bool any = min == 0 && max == GrammarRules::kNoLimit && !names;
    if (any && (!others || *others == Json(true))) return json_.object();
    ExprId key = json_.string();
    if (names) {
      if (!names->is_object()) wrong(at + "/propertyNames", "expected an object");
      Json of_strings = *names;
      of_strings.set("type", Json("string"));
      key = compile(of_strings, at + "/propertyNames", depth + 1);
    }
    members.push_back(
        json_.pair(key, others ? compile(*others, at + "/additionalProperties", depth + 1) : json_.value()));
  }
  ExprId member = rules_.shared(rules_.any_of(std::move(members)), at);
  ExprId more = rules_.repeat(rules_.sequence({json_.comma(), member}), std::max<int64_t>(min - 1, 0),
                              max == GrammarRules::kNoLimit ? max : max - 1);
  ExprId all = rules_.sequence({member, more, json_.space()});
  return rules_.sequence({rules_.text("{"), json_.space(), min > 0 ? all : rules_.optional(all), rules_.text("}")});
}

std::vector<SchemaCompiler::Property> SchemaCompiler::properties_of_root() {
  std::string at = cat(name_, "#");
  Json flat = merger_.flattened(document_, at, 1);
  if (!flat.is_object()) wrong(at, "expected the schema of an object");
  refuse_keywords(flat, at);
  std::vector<Property> out = properties(flat, at, 0);
  compile_references();
  return out;
}

ExprId add_json_schema(GrammarRules& rules, const Json& schema) {
  JsonRules json(rules, JsonDialect::json);
  return SchemaCompiler(rules, json, schema, "json_schema").compile();
}

}  // namespace l4
