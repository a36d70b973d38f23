// The bytes around an answer: status line and headers, chunks, server-sent events.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tools/serve/exchange.h"

namespace l4::serve {

const char* reason_phrase(int status);

// What a handler's headers may hold: no control characters, so that nothing a client sent ends a header early.
struct ResponseHead {
  int status = 200;
  std::string_view content_type;  // empty: none
  std::optional<uint64_t> content_length;
  bool chunked = false, close = false, keep_alive_1_0 = false;
};
std::string response_head(const ResponseHead& head, const HeaderList& headers);

std::string http_date();  // now, "Sun, 22 Nov 2026 20:00:00 GMT"

void append_chunk(std::string& out, std::string_view bytes);  // not empty: that would end the body
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";
inline constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
inline constexpr std::string_view kPing = ": ping\n\n";

// "event: NAME\ndata: LINE\n...\n\n". Line ends of all kinds cut lines, so that no text can forge a field.
void append_event(std::string& out, std::string_view data, std::string_view name);

}  // namespace l4::serve
