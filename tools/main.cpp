// One program under five names: `l4-run ...` (a link to this program) and `l4 run ...` are the same. Here is the suite's one
// catch-all.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/version.h"
#include "tools/entry.h"

namespace {

struct Tool {
  const char* name;
  int (*main)(int argc, char** argv);
  const char* purpose;
};

constexpr Tool kTools[] = {
    {"run", l4_run_main, "chat with a model, or answer one prompt"},
    {"serve", l4_serve_main, "an HTTP server"},
    {"bench", l4_bench_main, "measure speed"},
    {"convert", l4_convert_main, "convert checkpoints"},
    {"eval", l4_eval_main, "measure quality"},
};

const Tool* find_tool(std::string_view name) {
  for (const Tool& tool : kTools)
    if (name == tool.name) return &tool;
  return nullptr;
}

void print_usage(std::FILE* to) {
  std::fputs("usage: l4 TOOL [ARGUMENTS], or l4-TOOL [ARGUMENTS]; TOOL --help says more\n", to);
  for (const Tool& tool : kTools) std::fprintf(to, "  %-8s %s\n", tool.name, tool.purpose);
  std::fputs("  l4 --version, l4 --help\n", to);
}

int run_tool(const Tool& tool, int argc, char** argv) {
  std::string name = std::string("l4-") + tool.name;
  argv[0] = name.data();
  auto say = [&](const char* what) { std::fprintf(stderr, "%s: error: %s\n", name.c_str(), what); };
  try {
    return tool.main(argc, argv);
  } catch (const l4::Error& error) {
    say(error.message().c_str());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    say("out of memory");
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view called = argc > 0 ? argv[0] : "l4";
  called = called.substr(called.rfind('/') + 1);
  if (called.substr(0, 3) == "l4-") {
    if (const Tool* tool = find_tool(called.substr(3))) return run_tool(*tool, argc, argv);
  }
  const std::string_view word = argc > 1 ? argv[1] : "";
  if (const Tool* tool = find_tool(word)) return run_tool(*tool, argc - 1, argv + 1);
  if (word == "--version") {
    std::printf("%s\n", l4::version_line("l4").c_str());
    return 0;
  }
  if (word == "--help" || word == "-h" || word == "help") {
    print_usage(stdout);
    return 0;
  }
  if (argc > 1) std::fprintf(stderr, "l4: no tool is called %s\n", l4::shown(word).c_str());
  print_usage(stderr);
  return 2;
}
