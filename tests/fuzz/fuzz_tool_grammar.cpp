#include "tests/fuzz/grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  l4::fuzz::Input input(data, size);
  l4::fuzz::walk(
      [&] {
        return l4::compile_tool_calls(l4::fuzz::vocab(), l4::parse_json(input.text, "tools"), "", size % 2 == 0,
                                      l4::ToolCallForm(size % 3));
      },
      input.choices);
  return 0;
}
