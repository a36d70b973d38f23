// However a reply is cut into pieces, its tool calls and content are the same.
#include <cstdlib>

#include "text/tool_calls.h"

using namespace l4;

namespace {

ParsedReply streamed(const std::vector<std::string_view>& pieces, const std::vector<std::string>& names) {
  ToolCallStream stream(names);
  ParsedReply out;
  auto take = [&](const std::vector<ToolCallDelta>& deltas) {
    for (const ToolCallDelta& delta : deltas) {
      if (delta.kind == ToolCallDelta::Kind::content) out.content += delta.text;
      if (delta.kind == ToolCallDelta::Kind::call) out.calls.push_back({delta.text});
      if (delta.kind == ToolCallDelta::Kind::arguments)
        out.calls.at(size_t(delta.index)).arguments = parse_json(delta.text, "arguments");
    }
  };
  for (std::string_view piece : pieces) take(stream.push(piece));
  take(stream.finish());
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view reply(reinterpret_cast<const char*>(data), size);
  for (const std::vector<std::string>& names :
       {std::vector<std::string>{}, std::vector<std::string>{"f", "get_weather"}}) {
    ParsedReply whole = parse_tool_calls(reply, names);
    auto check = [&](const std::vector<std::string_view>& pieces) {
      ParsedReply result = streamed(pieces, names);
      if (result.content != whole.content || result.calls != whole.calls) std::abort();
    };
    std::vector<std::string_view> bytes, some;
    for (size_t i = 0; i < size; ++i) bytes.push_back(reply.substr(i, 1));
    for (size_t i = 0; i < size;) {
      size_t n = 1 + data[i] % 23;
      some.push_back(reply.substr(i, n));
      i += n;
    }
    check(bytes);
    check(some);
    for (size_t i = 0; i <= size && size <= 300; ++i) check({reply.substr(0, i), reply.substr(i)});
  }
  return 0;
}
