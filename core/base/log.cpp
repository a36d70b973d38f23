#include "base/log.h"

#include <atomic>
#include <cstdio>

namespace l4 {

namespace {
std::atomic<LogLevel> g_level{LogLevel::warning};
}

void set_log_level(LogLevel level) {
  g_level = level;
}
LogLevel log_level() {
  return g_level;
}
void log_line(LogLevel level, const std::string& line) {
  const char* names[] = {"error", "warning", "info", "debug"};
  std::string text = cat(names[int(level)], ": ", line, "\n");
  std::fwrite(text.data(), 1, text.size(), stderr);  // one write: lines of several threads do not mix
}

}  // namespace l4
