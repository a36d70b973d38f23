#include "tools/common/not_built.h"
#include "tools/entry.h"

int l4_bench_main(int argc, char** argv) {
  return l4::tools::not_built("l4-bench", argc, argv);
}
