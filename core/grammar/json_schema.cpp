#include "grammar/json_schema.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/limits.h"

namespace l4 {

namespace {

constexpr std::array<std::string_view, 17> kRefused = {"not",
                                                       "if",
                                                       "then",
                                                       "else",
                                                       "dependentSchemas",
                                                       "dependentRequired",
                                                       "dependencies",
                                                       "contains",
                                                       "minContains",
                                                       "maxContains",
                                                       "multipleOf",
                                                       "unevaluatedItems",
                                                       "$dynamicRef",
                                                       "$recursiveRef",
                                                       "contentEncoding",
                                                       "contentSchema",
                                                       "additionalItems"};

struct KeywordType {
  std::string_view keyword, type;
};
constexpr std::array<KeywordType, 20> kKeywordTypes = {
    {{"properties", "object"},        {"required", "object"},      {"additionalProperties", "object"},
     {"patternProperties", "object"}, {"propertyNames", "object"}, {"minProperties", "object"},
     {"maxProperties", "object"},     {"items", "array"},          {"prefixItems", "array"},
     {"minItems", "array"},           {"maxItems", "array"},       {"minLength", "string"},
     {"maxLength", "string"},         {"pattern", "string"},       {"format", "string"},
     {"minimum", "number"},           {"maximum", "number"},       {"exclusiveMinimum", "number"},
     {"exclusiveMaximum", "number"},  {"uniqueItems", "array"}}};

// Formats that say what a string is for, not how it is written.
bool says_nothing(std::string_view format) {
  return format == "password" || format == "binary" || format == "path" || format == "file-path" ||
         format == "directory-path";
}

size_t check_size(const Json& value, const std::string& name) {
  constexpr size_t kMaxValues = 50'000, kMaxMembers = 2'000;
  size_t n = 1;
  if (value.is_array()) {
    for (const Json& item : value.as_array()) n += check_size(item, name);
  } else if (value.is_object()) {
    if (value.as_object().size() > kMaxMembers) {
      fail(ErrorKind::usage, name, ": an object has more than ", kMaxMembers, " members");
    }
    for (const auto& [key, member] : value.as_object()) n += check_size(member, name);
  }
  if (n > kMaxValues) fail(ErrorKind::usage, name, ": more than ", kMaxValues, " values");
  return n;
}

Json only_without(const Json& schema, std::string_view key) {
  Json::Object out;
  for (const auto& member : schema.as_object()) {
    if (member.first != key && !is_annotation(member.first)) out.push_back(member);
  }
  return Json(std::move(out));
}

}  // namespace

SchemaCompiler::SchemaCompiler(GrammarRules& rules, JsonRules& json, const Json& document, std::string name)
    : rules_(rules), json_(json), document_(document), name_(std::move(name)), merger_(document) {
  check_size(document, name_);
}

void SchemaCompiler::wrong(const std::string& at, const std::string& what) const {
  fail(ErrorKind::usage, shown_place(at), ": ", what);
}

ExprId SchemaCompiler::compile() {
  ExprId out = compile(document_, cat(name_, "#"), 0);
  compile_references();
  return out;
}

void SchemaCompiler::compile_references() {
  while (!pending_.empty()) {
    Pending next = std::move(pending_.back());
    pending_.pop_back();
    rules_.define(next.rule, compile_flat(next.schema, next.at, 0));
  }
}

// A schema that may be met again inside itself is a rule, compiled later and once.
ExprId SchemaCompiler::reference(const std::string& target, const std::string& at) {
  auto [place, is_new] = references_.try_emplace(target, -1);
  if (is_new) {
    std::string where = cat(name_, target);
    place->second = rules_.new_rule(where);
    RuleId rule = place->second;
    pending_.push_back({rule, merger_.flattened(merger_.referred(target, at), at), where});
    return rules_.rule(rule);
  }
  return rules_.rule(place->second);
}

ExprId SchemaCompiler::compile(const Json& schema, const std::string& at, int depth) {
  if (depth > grammar_limits::kMaxNesting) wrong(at, "too many schemas in each other");
  if (!schema.is_object() || (!schema.find("$ref") && !schema.find("allOf"))) return compile_flat(schema, at, depth);
  Json flat = merger_.flattened(schema, at);
  if (!flat.is_object() || flat.find("$ref")) return compile_flat(flat, at, depth);
  auto [place, is_new] = references_.try_emplace(cat("merged ", dump_json(flat, JsonStyle::compact)), -1);
  if (is_new) {
    place->second = rules_.new_rule(at);
    pending_.push_back({place->second, std::move(flat), at});
  }
  return rules_.rule(place->second);
}

ExprId SchemaCompiler::compile_flat(const Json& schema, const std::string& at, int depth) {
  if (schema.is_bool()) return schema.as_bool() ? json_.value() : rules_.nothing();
  if (!schema.is_object()) wrong(at, cat("expected an object or a boolean, found ", schema.kind_name()));
  if (const Json* target = schema.find("$ref")) return reference(target->as_string(), at);
  refuse_keywords(schema, at);
  if (const Json* nullable = schema.find("nullable")) {
    if (!nullable->is_bool()) wrong(at + "/nullable", "expected a boolean");
    ExprId plain = compile_flat(only_without(schema, "nullable"), at, depth);
    return nullable->as_bool() ? rules_.any_of({plain, json_.null()}) : plain;
  }
  for (const char* key : {"anyOf", "oneOf"}) {
    if (schema.find(key)) return alternatives(schema, key, at, depth);
  }
  if (schema.find("enum") || schema.find("const")) return values(schema, at);
  const Json* type = schema.find("type");
  if (!type) {
    std::string inferred;
    for (auto [keyword, of] : kKeywordTypes) {
      if (!schema.find(keyword)) continue;
      if (!inferred.empty() && inferred != of) wrong(at, "keywords of several types, and no type is given");
      inferred = of;
    }
    return inferred.empty() ? json_.value() : typed(inferred, schema, at, depth);
  }
  std::vector<ExprId> ways;
  if (type->is_array()) {
    for (const Json& one : type->as_array()) {
      if (!one.is_string()) wrong(at + "/type", "expected a string or a list of strings");
      ways.push_back(typed(one.as_string(), schema, at, depth));
    }
    return rules_.any_of(std::move(ways));
  }
  if (!type->is_string()) wrong(at + "/type", "expected a string or a list of strings");
  return typed(type->as_string(), schema, at, depth);
}

void SchemaCompiler::refuse_keywords(const Json& schema, const std::string& at) const {
  for (const auto& [key, value] : schema.as_object()) {
    bool refused = std::find(kRefused.begin(), kRefused.end(), key) != kRefused.end();
    refused |= key == "uniqueItems" && !(value == Json(false));
    refused |= key == "unevaluatedProperties" && !(value == Json(false));
    if (refused) wrong(at, cat("keyword ", shown(key), " is not supported"));
  }
}

ExprId SchemaCompiler::alternatives(const Json& schema, const char* key, const std::string& at, int depth) {
  const Json& list = *schema.find(key);
  std::string here = cat(at, "/", key);
  if (!list.is_array() || list.as_array().empty()) wrong(here, "expected a list of schemas");
  Json rest = only_without(schema, key);
  std::vector<ExprId> ways;
  for (size_t i = 0; i < list.as_array().size(); ++i) {
    const Json& one = list.as_array()[i];
    std::string place = cat(here, "/", i);
    if (rest.as_object().empty()) {
      ways.push_back(compile(one, place, depth + 1));
    } else {  // what stands beside anyOf holds for each of its schemas
      ways.push_back(compile(Json(Json::Object{{"allOf", Json(Json::Array{rest, one})}}), place, depth + 1));
    }
  }
  return rules_.any_of(std::move(ways));
}

ExprId SchemaCompiler::values(const Json& schema, const std::string& at) {
  Json::Array values;
  const Json *list = schema.find("enum"), *only = schema.find("const"), *type = schema.find("type");
  if (list && (!list->is_array() || list->as_array().empty()))
    wrong(at + "/enum", "expected a list of values, not empty");
  if (list) values = list->as_array();
  if (only && (!list || std::find(values.begin(), values.end(), *only) != values.end())) {
    values = {*only};
  } else if (only) {
    values = {};
  }
  for (const auto& [key, value] : schema.as_object()) {
    if (key != "enum" && key != "const" && key != "type" && !is_annotation(key)) {
      wrong(at, cat("keyword ", shown(key), " beside enum or const is not supported"));
    }
  }
  auto fits = [&](const Json& value) {
    auto is = [&](const Json& name) {
      if (!name.is_string()) return false;
      const std::string& t = name.as_string();
      return t == value.kind_name() || (t == "number" && value.is_number());
    };
    if (!type) return true;
    if (!type->is_array()) return is(*type);
    return std::any_of(type->as_array().begin(), type->as_array().end(), is);
  };
  std::vector<ExprId> ways;
  std::vector<std::string> strings;  // share their beginnings
  for (const Json& value : values) {
    if (!fits(value)) continue;
    value.is_string() ? strings.push_back(json_quote(value.as_string())) : ways.push_back(json_.literal(value));
  }
  if (!strings.empty()) ways.push_back(rules_.one_of_texts(std::move(strings)));
  return rules_.any_of(std::move(ways));
}

ExprId SchemaCompiler::typed(const std::string& type, const Json& schema, const std::string& at, int depth) {
  if (type == "object") return object(schema, at, depth);
  if (type == "array") return array(schema, at, depth);
  if (type == "string") return string(schema, at);
  if (type == "number") return number(schema, at, false);
  if (type == "integer") return number(schema, at, true);
  if (type == "boolean") return json_.boolean();
  if (type == "null") return json_.null();
  wrong(at + "/type", cat("unknown type ", shown(type)));
}

int64_t SchemaCompiler::count(const Json& schema, const char* key, const std::string& at, int64_t otherwise) const {
  const Json* value = schema.find(key);
  if (!value) return otherwise;
  double number = value->is_number() ? value->as_number() : -1;
  if (number < 0 || number != double(int64_t(std::min(number, 1e18)))) {
    wrong(cat(at, "/", key), "expected a whole number, 0 or more");
  }
  if (number > double(grammar_limits::kMaxRepeat)) {
    if (std::string_view(key).starts_with("max")) return GrammarRules::kNoLimit;
    wrong(cat(at, "/", key), "more than 1,000,000,000");
  }
  return int64_t(number);
}

ExprId SchemaCompiler::string(const Json& schema, const std::string& at) {
  int64_t min = count(schema, "minLength", at, 0), max = count(schema, "maxLength", at, GrammarRules::kNoLimit);
  if (max != GrammarRules::kNoLimit && max < min) return rules_.nothing();
  const Json *pattern = schema.find("pattern"), *format = schema.find("format");
  if (format && format->is_string() && says_nothing(format->as_string())) format = nullptr;
  if (pattern && format) wrong(at, "pattern and format together are not supported");
  if (const Json* regex = pattern ? pattern : format) {
    std::string here = at + (pattern ? "/pattern" : "/format");
    if (!regex->is_string()) wrong(here, "expected a string");
    const char* known = pattern ? regex->as_string().c_str() : format_pattern(regex->as_string());
    if (!known) wrong(here, cat("format ", shown(regex->as_string()), " is not supported"));
    RegexLengths lengths;
    ExprId out = pattern ? json_.pattern(regex->as_string(), false, shown_place(here), &lengths)
                         : json_.pattern(known, true, shown_place(here), &lengths);
    bool too_short = lengths.min < min, no_limit = max == GrammarRules::kNoLimit;
    bool too_long = !no_limit && (lengths.max == GrammarRules::kNoLimit || lengths.max > max);
    // A format's own limits are close enough to what people mean; a pattern has to say the lengths itself.
    if (pattern && (too_short || too_long)) {
      wrong(at,
            "minLength or maxLength beside a pattern that allows other lengths is not supported: write them as {n,m}");
    }
    if (format && (too_short || too_long)) wrong(at, "minLength or maxLength beside this format is not supported");
    return out;
  }
  if (min == 0 && max == GrammarRules::kNoLimit) return json_.string();
  return rules_.sequence({rules_.text("\""), rules_.repeat(json_.string_char(), min, max), rules_.text("\"")});
}

std::optional<JsonRules::Bound> SchemaCompiler::bound(const Json& schema, const char* key, const char* exclusive_key,
                                                      bool low, const std::string& at) const {
  const Json *plain = schema.find(key), *exclusive = schema.find(exclusive_key);
  if (plain && !plain->is_number()) wrong(cat(at, "/", key), "expected a number");
  if (exclusive && !exclusive->is_number()) wrong(cat(at, "/", exclusive_key), "expected a number");
  if (!plain && !exclusive) return std::nullopt;
  if (!exclusive) return JsonRules::Bound{*plain, false};
  if (!plain) return JsonRules::Bound{*exclusive, true};
  double a = plain->as_number(), b = exclusive->as_number();
  return (low ? a > b : a < b) ? JsonRules::Bound{*plain, false} : JsonRules::Bound{*exclusive, true};
}

ExprId SchemaCompiler::number(const Json& schema, const std::string& at, bool whole) {
  auto low = bound(schema, "minimum", "exclusiveMinimum", true, at);
  auto high = bound(schema, "maximum", "exclusiveMaximum", false, at);
  if (!low && !high) return whole ? json_.integer() : json_.number();
  return whole ? json_.integer_between(low, high) : json_.number_between(low, high);
}

ExprId SchemaCompiler::array(const Json& schema, const std::string& at, int depth) {
  constexpr size_t kMaxOptional = 32;  // they are expressions in each other
  std::vector<ExprId> first;
  if (const Json* prefix = schema.find("prefixItems")) {
    if (!prefix->is_array()) wrong(at + "/prefixItems", "expected a list of schemas");
    for (size_t i = 0; i < prefix->as_array().size(); ++i) {
      first.push_back(compile(prefix->as_array()[i], cat(at, "/prefixItems/", i), depth + 1));
    }
  }
  const Json* items = schema.find("items");
  if (items && items->is_array()) wrong(at + "/items", "a list of schemas is written prefixItems");
  int64_t n_first = int64_t(first.size());
  int64_t min = count(schema, "minItems", at, n_first), max = count(schema, "maxItems", at, GrammarRules::kNoLimit);
  bool no_more = !items && n_first > 0;
  if (items && items->is_bool() && !items->as_bool()) no_more = true;
  if (no_more) max = max == GrammarRules::kNoLimit ? n_first : std::min(max, n_first);
  if (max != GrammarRules::kNoLimit && !schema.find("minItems")) min = std::min(min, max);
  if (max != GrammarRules::kNoLimit && max < min) return rules_.nothing();
  if (max != GrammarRules::kNoLimit && max < n_first) first.resize(size_t(max));
  n_first = int64_t(first.size());

  ExprId item = -1;
  if (max == GrammarRules::kNoLimit || max > n_first) {
    item = items ? rules_.shared(compile(*items, at + "/items", depth + 1), at + "/items") : json_.value();
  }
  // From the last item to the first: what follows may be missing where enough items are there.
  if (n_first > 0 && min < n_first && n_first - min > int64_t(kMaxOptional)) {
    wrong(at + "/prefixItems", cat("more than ", kMaxOptional, " optional items are not supported"));
  }
  auto rest_max = [&](int64_t there) { return max == GrammarRules::kNoLimit ? max : max - there; };
  ExprId body = -1;  // items from number n on, with the comma before the first of them
  if (item >= 0 && n_first > 0) {
    body =
        rules_.repeat(rules_.sequence({json_.comma(), item}), std::max<int64_t>(min - n_first, 0), rest_max(n_first));
  } else if (item >= 0) {
    ExprId more = rules_.repeat(rules_.sequence({json_.comma(), item}), std::max<int64_t>(min - 1, 0), rest_max(1));
    body = rules_.sequence({item, more});
  }
  for (int64_t i = n_first; i-- > 0;) {
    ExprId one = i == 0 ? first[0] : rules_.sequence({json_.comma(), first[size_t(i)]});
    body = body < 0 ? one : rules_.sequence({one, body});
    if (i >= min && i > 0) body = rules_.optional(body);
  }
  if (max == 0) return rules_.sequence({rules_.text("["), json_.space(), rules_.text("]")});
  if (min > 0) return json_.braces('[', body, ']');
  return rules_.sequence(
      {rules_.text("["), json_.space(), rules_.optional(rules_.sequence({body, json_.space()})), rules_.text("]")});
}

}  // namespace l4
