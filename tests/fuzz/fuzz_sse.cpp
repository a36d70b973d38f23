// Server-sent events: bytes cut at a place of the input's choice give the events of the bytes whole.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "tools/common/sse.h"

using l4::tools::SseEvent;
using l4::tools::SseParser;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto events_of = [&](size_t step) {
    SseParser parser(1000);
    std::vector<std::string> events;
    bool ok = true;
    for (size_t i = 0; ok && i < bytes.size(); i += step)
      ok = parser.feed(bytes.substr(i, step), [&](const SseEvent& e) {
        events.push_back(std::string(e.type) + '\0' + std::string(e.data));
        if (e.data.size() > 1000 || e.type.find('\n') != std::string_view::npos) std::abort();
      });
    return std::pair(events, ok);
  };
  if (events_of(bytes.size() + 1) != events_of(size_t(data[0]) % 16 + 1)) std::abort();
  return 0;
}
