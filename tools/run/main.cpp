#include "tools/common/not_built.h"
#include "tools/entry.h"

int l4_run_main(int argc, char** argv) {
  return l4::tools::not_built("l4-run", argc, argv);
}
