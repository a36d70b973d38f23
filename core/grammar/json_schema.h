// JSON schema (draft 2020-12) as a grammar of the JSON texts that fit it.
//
// Supported: type (also a list), enum, const, properties, required, additionalProperties, propertyNames,
// patternProperties (alone), minProperties, maxProperties, items, prefixItems, minItems, maxItems, minLength,
// maxLength, pattern, format (date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uuid, uuid4;
// password, binary, path: any string), minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, allOf, $ref
// within the document, $defs, recursion, nullable, true and false. Annotations are ignored; keywords that say more than
// the grammar could keep are refused by name.
//
// What is written is always valid under the schema. Some valid texts are never written:
//   * properties come in the schema's order; optional ones may be left out
//   * "properties" without additionalProperties: there are no others; "prefixItems" without "items": all of them and no
//     more; a schema without a type has the one its keywords belong to
//   * white space is one space or none; integers are written without point or exponent, numbers with minimum or maximum
//     without exponent; strings with a pattern or a format escape only what JSON demands
// And some texts are written that validators may judge differently: oneOf is read as anyOf, additional properties may
// come twice, February has 29 days.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/json_rules.h"

namespace l4 {

// Combining schemas: what allOf, $ref beside other keywords, and keywords beside anyOf mean.
class SchemaMerger {
 public:
  explicit SchemaMerger(const Json& document);

  // The schema without $ref and allOf at its top, unless it is nothing but a $ref.
  Json flattened(const Json& schema, std::string_view at, int depth = 0);
  Json merged(const Json& a, const Json& b, std::string_view at, int depth = 0);
  const Json& referred(std::string_view reference, std::string_view at) const;

 private:
  void merge_keyword(Json& out, const std::string& key, const Json& a, const Json& b, std::string_view at, int depth);
  void merge_properties(Json& out, const Json& a, const Json& b);
  void pay(const Json& made, std::string_view at);

  const Json& document_;
  size_t paid_ = 0;  // values copied
};

bool is_annotation(std::string_view keyword);
std::string shown_place(std::string_view at);  // a JSON pointer for error lines

class SchemaCompiler {
 public:
  // `name` of the document in error lines: "json_schema".
  SchemaCompiler(GrammarRules& rules, JsonRules& json, const Json& document, std::string name);

  // Error{usage} "NAME#/POINTER: ...".
  ExprId compile();
  // One property of an object as an expression: what stands for `"name": value`.
  struct Property {
    std::string name;
    ExprId value;
    bool required;
  };
  // The properties of an object schema, for calls written as f(a=1, b=2). Error{usage} when it is no closed object.
  std::vector<Property> properties_of_root();

 private:
  ExprId compile(const Json& schema, const std::string& at, int depth);
  ExprId compile_flat(const Json& schema, const std::string& at, int depth);
  ExprId reference(const std::string& target, const std::string& at);
  ExprId alternatives(const Json& schema, const char* key, const std::string& at, int depth);
  ExprId values(const Json& schema, const std::string& at);
  ExprId typed(const std::string& type, const Json& schema, const std::string& at, int depth);
  ExprId object(const Json& schema, const std::string& at, int depth);
  ExprId free_object(const Json& schema, const std::string& at, int depth);
  std::vector<Property> properties(const Json& schema, const std::string& at, int depth);
  ExprId array(const Json& schema, const std::string& at, int depth);
  ExprId string(const Json& schema, const std::string& at);
  ExprId number(const Json& schema, const std::string& at, bool whole);
  void refuse_keywords(const Json& schema, const std::string& at) const;
  void compile_references();
  int64_t count(const Json& schema, const char* key, const std::string& at, int64_t otherwise) const;
  std::optional<JsonRules::Bound> bound(const Json& schema, const char* key, const char* exclusive_key, bool low,
                                        const std::string& at) const;
  [[noreturn]] void wrong(const std::string& at, const std::string& what) const;

  GrammarRules& rules_;
  JsonRules& json_;
  const Json& document_;
  std::string name_;
  SchemaMerger merger_;
  struct Pending {
    RuleId rule;
    Json schema;
    std::string at;
  };
  std::unordered_map<std::string, RuleId> references_;
  std::vector<Pending> pending_;
};

// A regular expression for a format, or nullptr.
const char* format_pattern(std::string_view format);

}  // namespace l4
