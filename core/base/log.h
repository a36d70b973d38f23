// Messages for people, to stderr. Answers and data go to stdout and never through here.
#pragma once

#include <string>

#include "base/strings.h"

namespace l4 {

enum class LogLevel { error, warning, info, debug };

void set_log_level(LogLevel level);  // default: warning
LogLevel log_level();
void log_line(LogLevel level, const std::string& line);

template <class... Parts>
void log_warning(const Parts&... parts) {
  if (log_level() >= LogLevel::warning) log_line(LogLevel::warning, cat(parts...));
}
template <class... Parts>
void log_info(const Parts&... parts) {
  if (log_level() >= LogLevel::info) log_line(LogLevel::info, cat(parts...));
}
template <class... Parts>
void log_debug(const Parts&... parts) {
  if (log_level() >= LogLevel::debug) log_line(LogLevel::debug, cat(parts...));
}

}  // namespace l4
