// Finds the tool calls in what the model wrote. Llama 4 writes them in three forms, whatever the prompt asked for, so
// one parser knows them all:
//   [get_weather(city="Paris", days=2), get_time()]                 pythonic
//   {"name": "get_weather", "parameters": {"city": "Paris"}}        JSON, one or several, also in a JSON array
//   <|python_start|> either of these <|python_end|>                 wrapped (the marks, whole or alone, are dropped)
// Prose before the calls is kept as content. Text that only resembles a call is left alone: nothing is ever guessed and
// nothing throws.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/json.h"

namespace l4 {

struct ToolCall {
  std::string name;
  Json arguments = Json(Json::Object{});  // always an object
  bool operator==(const ToolCall&) const = default;
};

struct ParsedReply {
  std::string content;          // what is no call, without white space at both ends when calls were found
  std::vector<ToolCall> calls;  // in the order written
};

// `tool_names`: the functions the request offered; a call to any other name is left in the text. Empty: any name.
ParsedReply parse_tool_calls(std::string_view reply, std::span<const std::string> tool_names = {});

}  // namespace l4
