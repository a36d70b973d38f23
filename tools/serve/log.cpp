#include "tools/serve/log.h"

#include <unistd.h>

#include <chrono>
#include <ctime>

namespace l4::serve {

namespace {

std::string utc_now() {
  using namespace std::chrono;
  const auto now = system_clock::now();
  const std::time_t seconds = system_clock::to_time_t(now);
  const int ms = int(duration_cast<milliseconds>(now.time_since_epoch()).count() % 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  const size_t n = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + n, sizeof text - n, ".%03dZ", ms);
  return text;
}

std::string as_text(const Json& value) {
  if (!value.is_string()) return dump_json(value, JsonStyle::compact);
  for (unsigned char c : value.as_string())
    if (c <= ' ' || c == '"' || c == '=' || c >= 0x7f) return json_quote(utf8_replace_invalid(value.as_string()));
  return value.as_string().empty() ? "\"\"" : value.as_string();
}

}  // namespace

void ServeLog::write(LogLevel level, std::string_view event, const LogFields& fields) const {
  if (level > log_level()) return;
  static constexpr const char* kNames[] = {"error", "warning", "info", "debug"};
  std::string line;
  if (format_ == LogFormat::json) {
    Json object;
    object.set("time", utc_now());
    object.set("level", kNames[int(level)]);
    object.set("event", event);
    for (const auto& [name, value] : fields)
      object.set(name, value.is_string() ? Json(utf8_replace_invalid(value.as_string())) : value);
    line = dump_json(object, JsonStyle::compact);
  } else {
    line = cat(utc_now(), " ", kNames[int(level)]);
    const bool is_message = event == "message" && fields.size() == 1 && fields[0].second.is_string();
    if (is_message)  // for people: the text as it is, on one line
      for (char c : " " + fields[0].second.as_string()) line += (unsigned char)c < ' ' ? ' ' : c;
    else
      line += cat(" ", event);
    if (!is_message)
      for (const auto& [name, value] : fields) line += cat(" ", name, "=", as_text(value));
  }
  line += '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::write(fd_, line.data() + at, line.size() - at);
    if (n <= 0) return;  // nobody reads the log: no reason to stop serving
    at += size_t(n);
  }
}

}  // namespace l4::serve
