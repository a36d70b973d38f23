// l4-serve: the flags are in flags.cpp, what they set in motion in service.cpp.
#include <cstdio>

#include "tools/entry.h"
#include "tools/serve/service.h"

int l4_serve_main(int argc, char** argv) {
  l4::serve::ServeOptions options;
  if (const std::optional<int> status = l4::serve::parse_serve_flags(argc, argv, options)) return *status;
  if (options.dry_run) {
    std::fputs(l4::describe_plan(options.model.load).c_str(), stdout);
    return 0;
  }
  return l4::serve::run_service(options);
}
