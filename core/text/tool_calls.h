// Finds the tool calls in what the model wrote. Llama 4 writes them in three forms, whatever the prompt asked for, so
// one parser knows them all:
//   [get_weather(city="Paris", days=2), get_time()]                 pythonic
//   {"name": "get_weather", "parameters": {"city": "Paris"}}        JSON, one or several, also in a JSON array
//   <|python_start|> either of these <|python_end|>                 wrapped (the marks, whole or alone, are dropped)
// Prose before the calls is kept as content. Text that only resembles a call is left alone: nothing is ever guessed and
// nothing throws.
#pragma once

#include <memory>
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
  std::string content;          // what is no call; white space at its end is dropped when calls were found
  std::vector<ToolCall> calls;  // in the order written
};

// `tool_names`: the functions the request offered; a call to any other name is left in the text. Empty: any name.
ParsedReply parse_tool_calls(std::string_view reply, std::span<const std::string> tool_names = {});

// The same while the reply is being written: however it is cut into pieces, the deltas put together are what
// parse_tool_calls says of the whole. Only what may still become a call is held back, so a call comes as a whole: a
// list of calls is known to be one when it ends.
struct ToolCallDelta {
  enum class Kind {
    content,    // text: more content
    call,       // text: the name of call number `index`
    arguments,  // text: more of that call's arguments, as JSON
  };
  Kind kind;
  int index = -1;
  std::string text;
  bool operator==(const ToolCallDelta&) const = default;
};

class ToolCallStream {
 public:
  explicit ToolCallStream(std::vector<std::string> tool_names = {});
  ~ToolCallStream();
  ToolCallStream(ToolCallStream&&) noexcept;
  ToolCallStream& operator=(ToolCallStream&&) noexcept;

  std::vector<ToolCallDelta> push(std::string_view text);
  std::vector<ToolCallDelta> finish();  // the reply is over: what was held back is decided
  int n_calls() const;                  // so far; finish_reason "tool_calls" when not 0

 private:
  friend ParsedReply parse_tool_calls(std::string_view reply, std::span<const std::string> tool_names);
  std::vector<ToolCallDelta> read(std::string_view text, bool at_end);

  class Reader;
  std::unique_ptr<Reader> reader_;
};

}  // namespace l4
