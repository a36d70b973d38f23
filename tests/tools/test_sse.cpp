#include "tools/common/sse.h"

#include "support/test.h"

using namespace l4;
using namespace l4::tools;

namespace {

struct Heard {
  std::string type, data;
  bool operator==(const Heard&) const = default;
};

// The events of a text fed in these pieces.
std::vector<Heard> events_of(const std::vector<std::string_view>& pieces) {
  SseParser parser;
  std::vector<Heard> events;
  for (const std::string_view piece : pieces)
    CHECK(parser.feed(piece, [&](const SseEvent& e) { events.push_back({std::string(e.type), std::string(e.data)}); }));
  return events;
}

}  // namespace

TEST_CASE("sse: what the standard's examples say") {
  CHECK(events_of({"data: YHOO\ndata: +2\ndata: 10\n\n"}) == std::vector<Heard>{{"", "YHOO\n+2\n10"}});
  CHECK(events_of({": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"}) ==
        std::vector<Heard>{{"", "first event"}, {"", "second event"}, {"", " third event"}});
  // "data" twice without a colon: an empty line each; a last block without an empty line is no event.
  CHECK(events_of({"data\n\ndata\ndata\n\ndata:"}) == std::vector<Heard>{{"", ""}, {"", "\n"}});
  CHECK(events_of({"data:test\n\ndata: test\n\n"}) == std::vector<Heard>{{"", "test"}, {"", "test"}});
}

TEST_CASE("sse: types, comments, other fields, line ends") {
  CHECK(events_of({"event: add\r\ndata: 1\r\n\r\n: ping\r\n\r\nevent: gone\r\n\r\ndata: 2\r\n\r\n"}) ==
        std::vector<Heard>{{"add", "1"}, {"", "2"}});
  CHECK(events_of({"data: a\rdata: b\r\rdata: c\n\r\n"}) == std::vector<Heard>{{"", "a\nb"}, {"", "c"}});
  CHECK(events_of({"\xEF\xBB\xBF"
                   "data: x\n\n\xEF\xBB\xBF"
                   "data: y\n\n"}) == std::vector<Heard>{{"", "x"}});
  CHECK(events_of({"retry: 10\ndatas: no\n data: no\ndata: yes: 1\n\n"}) == std::vector<Heard>{{"", "yes: 1"}});
}

TEST_CASE("sse: every cut into three pieces gives the same events") {
  const std::string text =
      "\xEF\xBB\xBF: hi\r\ndata: {\"a\": \"\xC3\xA9\"}\r\n\r\nevent: end\ndata: 1\rdata: 2\n\n\r\r\ndata\r\n\r\ndata: "
      "[DONE]\n\n";
  const std::vector<Heard> whole = events_of({text});
  REQUIRE(whole == std::vector<Heard>{{"", "{\"a\": \"\xC3\xA9\"}"}, {"end", "1\n2"}, {"", ""}, {"", "[DONE]"}});
  const std::string_view all = text;
  for (size_t i = 0; i <= text.size(); ++i)
    for (size_t j = i; j <= text.size(); ++j)
      CHECK(events_of({all.substr(0, i), all.substr(i, j - i), all.substr(j)}) == whole);
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < text.size(); ++i) bytes.push_back(all.substr(i, 1));
  CHECK(events_of(bytes) == whole);
}

TEST_CASE("sse: an endless event is refused") {
  const std::string kilobyte(1000, 'x');
  for (const bool lines : {false, true}) {
    SseParser parser(10'000);
    int fed = 0;
    const auto none = [](const SseEvent&) {};
    while (fed < 20 && parser.feed(lines ? "data: " + kilobyte + "\n" : kilobyte, none)) ++fed;
    CHECK(fed == (lines ? 9 : 10));
  }
}
