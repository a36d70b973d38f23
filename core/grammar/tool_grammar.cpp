// Calls as Llama 4 writes them (core/text/tool_calls.h reads them back), with arguments that fit each tool's schema.
#include <optional>

#include "base/error.h"
#include "grammar/compiled.h"
#include "grammar/json_schema.h"

namespace l4 {

namespace {

struct Tool {
  std::string name, at;
  Json parameters;
};

std::vector<Tool> read_tools(const Json& tools, std::string_view wanted) {
  if (!tools.is_array()) fail(ErrorKind::usage, "tools: expected a list");
  std::vector<Tool> out;
  for (size_t i = 0; i < tools.as_array().size(); ++i) {
    std::string at = cat("tools[", i, "]");
    const Json* tool = &tools.as_array()[i];
    if (const Json* function = tool->find("function")) tool = function, at += ".function";
    const Json *name = tool->find("name"), *parameters = tool->find("parameters");
    if (!name || !name->is_string() || name->as_string().empty())
      fail(ErrorKind::usage, at, ".name: expected a string");
    if (!wanted.empty() && name->as_string() != wanted) continue;
    // Without parameters there are no arguments; what lists no properties takes any.
    const Json none(Json::Object{{"type", "object"}, {"properties", Json::Object{}}});
    Json schema = parameters && !parameters->is_null() ? *parameters : none;
    if (!schema.is_object()) fail(ErrorKind::usage, at, ".parameters: expected an object");
    if (schema.as_object().empty()) schema.set("type", "object");
    out.push_back({name->as_string(), at + ".parameters", std::move(schema)});
  }
  if (out.empty() && !wanted.empty()) fail(ErrorKind::usage, "tool_choice: no tool is named ", shown(wanted));
  if (out.empty()) fail(ErrorKind::usage, "tool_choice: there are no tools");
  return out;
}

bool is_name(std::string_view text, std::string_view extra) {
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    bool inner = (c >= '0' && c <= '9') || extra.find(c) != std::string_view::npos;
    if (!letter && !(i > 0 && inner)) return false;
  }
  return !text.empty();
}

// {"name": "f", "parameters": {...}}
ExprId json_call(GrammarRules& rules, JsonRules& json, const Tool& tool) {
  ExprId arguments = SchemaCompiler(rules, json, tool.parameters, tool.at).compile();
  ExprId name = json.pair(rules.text("\"name\""), rules.text(json_quote(tool.name)));
  return json.braces('{', rules.sequence({name, json.comma(), json.pair(rules.text("\"parameters\""), arguments)}),
                     '}');
}

// Names that the schema does not list may come.
bool is_open(const Json& schema) {
  const Json* others = schema.find("additionalProperties");
  if (others && !(*others == Json(false))) return true;
  const bool refers = schema.find("$ref") || schema.find("allOf");  // to what lists them
  return !schema.find("properties") && !others && !refers;
}

// f(a=1, b="x"); nothing where the tool's name, an argument's, or the schema's shape cannot be written so.
std::optional<ExprId> python_call(GrammarRules& rules, JsonRules& python, const Tool& tool) {
  for (const char* key : {"anyOf", "oneOf", "patternProperties", "propertyNames"}) {
    if (tool.parameters.find(key)) return std::nullopt;
  }
  if (is_open(tool.parameters) || !is_name(tool.name, ".-")) return std::nullopt;
  std::vector<ExprId> parts;
  std::vector<bool> required;
  bool needs_one = false;
  for (const auto& [name, value, is_required] :
       SchemaCompiler(rules, python, tool.parameters, tool.at).properties_of_root()) {
    if (!is_name(name, "-")) return std::nullopt;
    parts.push_back(rules.sequence({rules.text(name + "="), value}));
    required.push_back(is_required);
    needs_one |= is_required;
  }
  std::vector<ExprId> call = {rules.text(tool.name + "(")};
  if (!parts.empty()) {
    ExprId arguments = rules.list(std::move(parts), std::move(required), python.comma());
    call.push_back(needs_one ? arguments : rules.optional(arguments));
  }
  call.push_back(rules.text(")"));
  return rules.sequence(std::move(call));
}

}  // namespace

ExprId add_tool_calls(GrammarRules& rules, const Json& tools, std::string_view name, bool parallel, ToolCallForm form) {
  std::vector<Tool> offered = read_tools(tools, name);
  JsonRules json(rules, JsonDialect::json), python(rules, JsonDialect::python);
  std::vector<ExprId> json_calls, python_calls;
  for (const Tool& tool : offered) {
    if (form != ToolCallForm::pythonic) json_calls.push_back(json_call(rules, json, tool));
    if (form == ToolCallForm::json) continue;
    if (std::optional<ExprId> call = python_call(rules, python, tool)) {
      python_calls.push_back(*call);
    } else if (form == ToolCallForm::pythonic) {
      fail(ErrorKind::usage, tool.at, ": a call of ", shown(tool.name), " cannot be written as f(a=1)");
    }
  }
  int64_t more = parallel ? GrammarRules::kNoLimit : 0;
  std::vector<ExprId> forms;
  if (!json_calls.empty()) {
    ExprId call = rules.shared(rules.any_of(json_calls), "call");
    ExprId separator = rules.one_of_texts({"", ";", "; ", "\n"});
    forms.push_back(rules.sequence({call, rules.repeat(rules.sequence({separator, call}), 0, more)}));
  }
  if (!python_calls.empty()) {
    ExprId call = rules.shared(rules.any_of(python_calls), "call");
    ExprId more_calls = rules.repeat(rules.sequence({python.comma(), call}), 0, more);
    forms.push_back(rules.sequence({rules.text("["), call, more_calls, rules.text("]")}));
  }
  return rules.any_of(std::move(forms));
}

}  // namespace l4
