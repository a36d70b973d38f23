#include "tests/fuzz/grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  l4::fuzz::Input input(data, size);
  l4::fuzz::walk([&] { return l4::compile_gbnf(l4::fuzz::vocab(), input.text); }, input.choices);
  return 0;
}
