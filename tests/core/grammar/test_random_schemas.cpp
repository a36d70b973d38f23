// Random schemas against a checker written here, apart from the compiler: every valid value is accepted, changed values
// exactly when they are still valid, and whatever a walk over the masks writes is valid.
#include <regex>

#include "base/error.h"
#include "core/grammar/small_vocab.h"

using namespace l4;
using namespace l4::test;

namespace {

using Random = std::mt19937;
int below(Random& random, int n) {
  return int(random() % unsigned(n));
}
template <class T>
const T& one_of(Random& random, const std::vector<T>& items) {
  return items[size_t(below(random, int(items.size())))];
}

const std::vector<std::string> kNames = {"a", "ab", "name", "é", "q\"", "x y"};
const std::vector<std::string> kPatterns = {"^[a-c]{1,4}$", "b", "^(ab|c)*$", "^\\d{2}-\\d", "[\"\\n]$", "^[^a]*$"};

Json object(std::vector<std::pair<std::string, Json>> members) {
  return Json(Json::Object(members.begin(), members.end()));
}

Json random_schema(Random& random, int depth) {
  switch (below(random, depth > 0 ? 12 : 7)) {
    case 0: {
      Json out = object({{"type", "integer"}});
      if (below(random, 2)) out.set(below(random, 2) ? "minimum" : "exclusiveMinimum", Json(below(random, 60) - 30));
      if (below(random, 2)) out.set(below(random, 2) ? "maximum" : "exclusiveMaximum", Json(below(random, 60) + 31));
      return out;
    }
    case 1: {
      Json out = object({{"type", "number"}});
      if (below(random, 2))
        out.set(below(random, 2) ? "minimum" : "exclusiveMinimum", Json(double(below(random, 400) - 200) / 8));
      if (below(random, 2))
        out.set(below(random, 2) ? "maximum" : "exclusiveMaximum", Json(double(below(random, 400) + 201) / 8));
      return out;
    }
    case 2: {
      Json out = object({{"type", "string"}});
      bool far = below(random, 4) == 0;  // longer than the longest token
      if (below(random, 2)) out.set("minLength", Json(far ? 25 + below(random, 20) : below(random, 4)));
      if (below(random, 2)) out.set("maxLength", Json(far ? 50 + below(random, 50) : 4 + below(random, 12)));
      return out;
    }
    case 3:
      return object({{"type", "string"}, {"pattern", Json(one_of(random, kPatterns))}});
    case 4:
      return object({{"type", Json(Json::Array{Json(one_of(random, std::vector<std::string>{"string", "integer"})),
                                               Json(one_of(random, std::vector<std::string>{"null", "boolean"}))})}});
    case 5:
      return object({{"enum", Json(Json::Array{Json("ab"), Json("abc"), Json(3), Json(), Json(true),
                                               Json(Json::Array{Json(1), Json("x")})})}});
    case 6:
      return below(random, 3) ? object({{"$ref", "#/$defs/one"}}) : object({{"const", Json(one_of(random, kNames))}});
    case 7:
    case 8: {
      Json out = object({{"type", "object"}});
      Json properties{Json::Object{}};
      Json::Array required;
      for (const std::string& name : kNames) {
        if (below(random, 2)) continue;
        properties.set(name, random_schema(random, depth - 1));
        if (below(random, 2)) required.push_back(Json(name));
      }
      if (!properties.as_object().empty()) out.set("properties", properties);
      if (!required.empty()) out.set("required", Json(required));
      int others = below(random, 4);
      if (others == 0) out.set("additionalProperties", Json(false));
      if (others == 1) out.set("additionalProperties", random_schema(random, depth - 1));
      return out;
    }
    case 9:
    case 10: {
      Json out = object({{"type", "array"}});
      bool prefix = below(random, 3) == 0;
      if (prefix)
        out.set("prefixItems", Json(Json::Array{random_schema(random, depth - 1), random_schema(random, depth - 1)}));
      if (below(random, 2)) out.set("items", random_schema(random, depth - 1));
      if (below(random, 2)) out.set("minItems", Json(below(random, 3)));
      if (below(random, 2)) out.set("maxItems", Json(2 + below(random, 8)));
      return out;
    }
    default: {
      Json list(Json::Array{random_schema(random, depth - 1), random_schema(random, depth - 1)});
      return object({{"anyOf", list}});
    }
  }
}

struct Checker {
  const Json& document;

  bool fits(const Json& value, const Json& schema) const {
    if (schema.find("$ref")) return fits(value, *document.find("$defs")->find("one"));
    if (const Json* list = schema.find("anyOf")) {
      for (const Json& one : list->as_array()) {
        if (fits(value, one)) return true;
      }
      return false;
    }
    if (const Json* list = schema.find("enum")) return contains(list->as_array(), value);
    if (const Json* only = schema.find("const")) return *only == value;
    const Json* type = schema.find("type");
    if (!type) return true;
    bool right_type = false;
    for (const Json& name : type->is_array() ? type->as_array() : Json::Array{*type}) {
      right_type |= name == Json(value.kind_name()) || (name == Json("number") && value.is_number());
    }
    if (!right_type) return false;
    if (value.is_number()) return number(value.as_number(), schema);
    if (value.is_string()) return string(value.as_string(), schema);
    if (value.is_array()) return array(value.as_array(), schema);
    if (value.is_object()) return object_fits(value.as_object(), schema);
    return true;
  }

 private:
  static bool contains(const Json::Array& list, const Json& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  }
  static bool number(double value, const Json& schema) {
    const Json* bound;
    if ((bound = schema.find("minimum")) && value < bound->as_number()) return false;
    if ((bound = schema.find("exclusiveMinimum")) && value <= bound->as_number()) return false;
    if ((bound = schema.find("maximum")) && value > bound->as_number()) return false;
    if ((bound = schema.find("exclusiveMaximum")) && value >= bound->as_number()) return false;
    return true;
  }
  static bool string(const std::string& value, const Json& schema) {
    const Json* bound;
    int64_t length = std::count_if(value.begin(), value.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; });
    if ((bound = schema.find("minLength")) && length < bound->as_integer()) return false;
    if ((bound = schema.find("maxLength")) && length > bound->as_integer()) return false;
    if (!(bound = schema.find("pattern"))) return true;
    return std::regex_search(value, std::regex(bound->as_string()));
  }
  bool array(const Json::Array& items, const Json& schema) const {
    const Json *prefix = schema.find("prefixItems"), *rest = schema.find("items"), *bound;
    size_t n_prefix = prefix ? prefix->as_array().size() : 0;
    if ((bound = schema.find("maxItems")) && int64_t(items.size()) > bound->as_integer()) return false;
    bound = schema.find("minItems");
    if (items.size() < (bound ? size_t(bound->as_integer()) : n_prefix)) return false;
    if (prefix && !rest && items.size() > n_prefix) return false;
    for (size_t i = 0; i < items.size(); ++i) {
      const Json* one = i < n_prefix ? &prefix->as_array()[i] : rest;
      if (one && !fits(items[i], *one)) return false;
    }
    return true;
  }
  bool object_fits(const Json::Object& members, const Json& schema) const {
    const Json *named = schema.find("properties"), *others = schema.find("additionalProperties");
    const Json* required = schema.find("required");
    for (const Json& name : required ? required->as_array() : Json::Array{}) {
      if (std::none_of(members.begin(), members.end(), [&](const auto& m) { return m.first == name.as_string(); }))
        return false;
    }
    for (const auto& [name, value] : members) {
      const Json* one = named ? named->find(name) : nullptr;
      if (one ? !fits(value, *one) : others ? (*others == Json(false) || !fits(value, *others)) : named != nullptr)
        return false;
    }
    return true;
  }
};

Json random_value(Random& random, int depth) {
  switch (below(random, depth > 0 ? 8 : 6)) {
    case 0:
      return Json(below(random, 100) - 50);
    case 1:
      return Json(double(below(random, 800) - 400) / 16 + 0.03125);
    case 2:
    case 3:
      return Json(one_of(random, std::vector<std::string>{"", "a", "ab", "abc", "cab", "b\n", "12-3", "日本", "\"",
                                                          "aaaaaaaaaaaaaaaa", "x y"}));
    case 4:
      return Json(below(random, 2) == 0);
    case 5:
      return Json();
    case 6: {
      Json::Array items;
      for (int n = below(random, 4); n > 0; --n) items.push_back(random_value(random, depth - 1));
      return Json(items);
    }
    default: {
      Json::Object members;
      for (const std::string& name : kNames) {
        if (below(random, 3) == 0) members.emplace_back(name, random_value(random, depth - 1));
      }
      return Json(members);
    }
  }
}

// A value made after the schema, mostly valid.
Json guided_value(Random& random, const Json& schema, const Json& document, int depth) {
  if (depth <= 0 || below(random, 25) == 0) return random_value(random, 1);
  if (schema.find("$ref")) return guided_value(random, *document.find("$defs")->find("one"), document, depth - 1);
  if (const Json* list = schema.find("anyOf"))
    return guided_value(random, one_of(random, list->as_array()), document, depth - 1);
  if (const Json* list = schema.find("enum")) return one_of(random, list->as_array());
  if (const Json* only = schema.find("const")) return *only;
  const Json* type = schema.find("type");
  if (!type) return random_value(random, 1);
  if (type->is_array())
    return guided_value(random, object({{"type", one_of(random, type->as_array())}}), document, depth);
  const std::string& name = type->as_string();
  if (name == "array") {
    Json::Array items;
    const Json *prefix = schema.find("prefixItems"), *rest = schema.find("items");
    if (prefix) {
      for (const Json& one : prefix->as_array()) items.push_back(guided_value(random, one, document, depth - 1));
    }
    for (int n = below(random, 4); n > 0 && (rest || !prefix); --n) {
      items.push_back(rest ? guided_value(random, *rest, document, depth - 1) : random_value(random, 1));
    }
    return Json(items);
  }
  if (name == "object") {
    Json::Object members;
    const Json *named = schema.find("properties"), *others = schema.find("additionalProperties"),
               *required = schema.find("required");
    if (named) {
      for (const auto& [key, one] : named->as_object()) {
        bool needed = required && std::find(required->as_array().begin(), required->as_array().end(), Json(key)) !=
                                      required->as_array().end();
        if (needed || below(random, 2)) members.emplace_back(key, guided_value(random, one, document, depth - 1));
      }
    }
    if (others && others->is_object() && below(random, 2))
      members.emplace_back("other", guided_value(random, *others, document, depth - 1));
    return Json(members);
  }
  for (int i = 0; i < 40; ++i) {
    Json value = random_value(random, 0);
    if (Checker{document}.fits(value, schema)) return value;
  }
  return random_value(random, 0);
}

// JSON with a space or none wherever one may be.
std::string written(const Json& value, Random& random) {
  auto space = [&] { return below(random, 2) ? " " : ""; };
  if (!value.is_array() && !value.is_object()) return dump_json(value);
  bool is_array = value.is_array();
  std::string out = is_array ? "[" : "{", before = space();
  bool first = true;
  auto put = [&](const std::string& text) {
    out += first ? before : cat(",", space());
    out += text;
    first = false;
  };
  if (is_array) {
    for (const Json& item : value.as_array()) put(written(item, random));
  } else {
    for (const auto& [key, member] : value.as_object())
      put(cat(json_quote(key), ":", space(), written(member, random)));
  }
  return cat(out, space(), is_array ? "]" : "}");
}

}  // namespace

TEST_CASE("random schemas: accepted exactly when valid") {
  SmallVocab vocab = json_vocab();
  Random random(20);
  int n_valid = 0, n_invalid = 0, n_walks = 0, n_compiled = 0;
  for (int round = 0; round < 400; ++round) {
    Json schema = random_schema(random, 3);
    schema.set("$defs",
               object({{"one", object({{"type", "object"},
                                       {"properties", object({{"v", random_schema(random, 0)},
                                                              {"next", object({{"$ref", "#/$defs/one"}})}})}})}}));
    INFO(dump_json(schema));
    GrammarPtr grammar;
    try {
      grammar = compile_json_schema(vocab.vocab, schema);
    } catch (const Error& e) {
      CHECK((e.message().find("matches no text") != std::string::npos ||
             e.message().find("left recursion") != std::string::npos));
      continue;
    }
    ++n_compiled;
    Checker checker{schema};
    for (int i = 0; i < 30; ++i) {
      Json value = guided_value(random, schema, schema, 6);
      bool valid = checker.fits(value, schema);
      std::string text = written(value, random);
      if (matches(grammar, text) != valid) {
        INFO(text);
        CHECK(matches(grammar, text) == valid);
      }
      ++(valid ? n_valid : n_invalid);
      // One character changed: never accepted unless it is a valid text still.
      size_t at = random() % text.size();
      text[at] = "{}[]\",: 01-.eaxn\\"[random() % 17];
      if (!matches(grammar, text)) continue;
      INFO(text);
      Json changed;
      REQUIRE_NOTHROW(changed = parse_json(text, "changed"));
      CHECK(checker.fits(changed, schema));
    }
    for (int i = 0; i < 3; ++i) {
      Walk walk = random_walk(grammar, vocab, random, 20 + 20 * i, round % 5 == 0);
      if (!walk.ended) continue;
      INFO(walk.text);
      Json value;
      try {
        value = parse_json(walk.text, "walk");
      } catch (const Error& e) {
        CHECK(e.message().find("duplicate key") != std::string::npos);  // an additional property
        continue;
      }
      CHECK(checker.fits(value, schema));
      ++n_walks;
    }
  }
  CHECK(n_compiled > 250);
  CHECK(n_valid > 2000);
  CHECK(n_invalid > 500);
  CHECK(n_walks > 500);
  MESSAGE(n_compiled, " schemas, ", n_valid, " valid and ", n_invalid, " invalid values, ", n_walks, " walks");
}
