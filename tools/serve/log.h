// The server's log: one line an event on standard error, as text or as JSON. Prompts and answers are never in it; what
// comes from clients (paths, ids) is shown escaped and short.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "formats/json.h"

namespace l4::serve {

enum class LogFormat { text, json };

using LogFields = std::vector<std::pair<std::string, Json>>;

// Written whole, so that lines of several threads do not mix. Any thread. Levels as base/log.h has them.
class ServeLog {
 public:
  explicit ServeLog(LogFormat format = LogFormat::text, int fd = 2) : format_(format), fd_(fd) {}
  // text: "2026-11-22T20:00:00.123Z info request id=ab12 method=POST ...", JSON: {"time":...,"level":...,"event":...}.
  void write(LogLevel level, std::string_view event, const LogFields& fields = {}) const;
  // One line for people, given the level: what the server will serve, why a request failed.
  void say(LogLevel level, std::string_view text) const { write(level, "message", {{"text", Json(text)}}); }

 private:
  LogFormat format_;
  int fd_;
};

}  // namespace l4::serve
