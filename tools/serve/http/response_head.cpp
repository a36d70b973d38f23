#include "tools/serve/http/response_head.h"

#include <charconv>
#include <ctime>

#include "base/strings.h"

namespace l4::serve {

const char* reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    case 529:
      return "Overloaded";
    default:
      return status < 400 ? "OK" : status < 500 ? "Client Error" : "Server Error";
  }
}

namespace {

void append_header(std::string& out, std::string_view name, std::string_view value) {
  for (char c : name)
    if ((unsigned char)c > ' ' && c != ':' && (unsigned char)c < 0x7f) out += c;
  out += ": ";
  for (char c : value)
    if ((unsigned char)c >= ' ' && c != 0x7f) out += c;
  out += "\r\n";
}

}  // namespace

std::string http_date() {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  thread_local std::time_t made_at = 0;
  thread_local std::string text;
  if (now == made_at) return text;
  std::tm t{};
  gmtime_r(&now, &t);
  char format[64], line[64];
  std::snprintf(format, sizeof format, "%s, %%d %s %%Y %%H:%%M:%%S GMT", kDays[t.tm_wday], kMonths[t.tm_mon]);
  std::strftime(line, sizeof line, format, &t);  // names from above: strftime's follow the locale
  made_at = now;
  return text = line;
}

std::string response_head(const ResponseHead& head, const HeaderList& headers) {
  std::string out = cat("HTTP/1.1 ", head.status, " ", reason_phrase(head.status), "\r\n");
  append_header(out, "Date", http_date());
  if (!head.content_type.empty()) {
    append_header(out, "Content-Type", head.content_type);
    append_header(out, "X-Content-Type-Options", "nosniff");
  }
  if (head.content_length) append_header(out, "Content-Length", cat(*head.content_length));
  if (head.chunked) append_header(out, "Transfer-Encoding", "chunked");
  if (head.close) append_header(out, "Connection", "close");
  if (head.keep_alive_1_0 && !head.close) append_header(out, "Connection", "keep-alive");
  for (const auto& [name, value] : headers) append_header(out, name, value);
  return out += "\r\n";
}

void append_chunk(std::string& out, std::string_view bytes) {
  char size[20];
  out.append(size, std::to_chars(size, size + sizeof size, bytes.size(), 16).ptr);
  out += "\r\n";
  out += bytes;
  out += "\r\n";
}

void append_event(std::string& out, std::string_view data, std::string_view name) {
  if (!name.empty()) {
    out += "event: ";
    for (char c : name)
      if ((unsigned char)c >= ' ') out += c;
    out += '\n';
  }
  for (size_t begin = 0; begin <= data.size();) {
    const size_t end = std::min(data.find_first_of("\r\n", begin), data.size());
    out += "data: ";
    out += data.substr(begin, end - begin);
    out += '\n';
    begin = end + (data.substr(end, 2) == "\r\n" ? 2 : 1);
  }
  out += '\n';
}

}  // namespace l4::serve
