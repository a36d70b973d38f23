// Server-sent events as bytes come, cut anywhere (WHATWG HTML, 9.2.6): lines end in LF, CR or CRLF, an event in an
// empty line; lines of data are joined by LF; comments, ids and retry times are read over.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace l4::tools {

struct SseEvent {
  std::string_view type;  // "" where none was named (a browser says "message")
  std::string_view data;
};

class SseParser {
 public:
  explicit SseParser(size_t max_event_bytes = size_t(64) << 20) : max_event_bytes_(max_event_bytes) {}

  // Calls `on_event` for each event that these bytes complete; its views live until it returns. False when an event is
  // larger than the limit: nothing more can be read then. What a stream leaves unfinished at its end is no event.
  [[nodiscard]] bool feed(std::string_view bytes, const std::function<void(const SseEvent&)>& on_event);

 private:
  void take_line(std::string_view line, const std::function<void(const SseEvent&)>& on_event);

  const size_t max_event_bytes_;
  std::string line_, type_, data_;
  bool has_data_ = false, after_cr_ = false, at_start_ = true;
};

}  // namespace l4::tools
