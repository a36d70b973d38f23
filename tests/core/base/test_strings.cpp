#include "base/strings.h"

#include "support/test.h"

using namespace l4;

TEST_CASE("strings: sizes as people write them") {
  CHECK(parse_size("4096") == 4096);
  CHECK(parse_size("1k") == 1000);
  CHECK(parse_size("1K") == 1024);
  CHECK(parse_size("2M") == 2 * 1024 * 1024);
  CHECK(parse_size("1.5K") == 1536);
  for (const char* bad : {"", "k", "-1", "1kk", "1.3", "1e30", "nan", "0x10"}) CHECK_FALSE(parse_size(bad).has_value());
}

TEST_CASE("strings: numbers are written in their shortest exact form") {
  CHECK(cat("a", 1, ' ', 0.1, " ", true, " ", int64_t(-5)) == "a1 0.1 true -5");
  CHECK(human_count(1048576) == "1,048,576");
  CHECK(human_bytes(1536) == "1.50 KiB");
}

TEST_CASE("strings: UTF-8 is checked by RFC 3629") {
  CHECK(is_valid_utf8("héllo 🙂"));
  for (const char* bad : {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xE2\x82", "\x80"})
    CHECK_FALSE(is_valid_utf8(bad));
  CHECK(utf8_whole_prefix("ab\xF0\x9F\x99") == 2);
  CHECK(utf8_whole_prefix("ab\xF0\x9F\x99\x82") == 6);
  CHECK(utf8_whole_prefix("ab\xFF") == 3);  // invalid, not cut off: nothing to wait for
  // Python: b"a\xf0\x9f\x99b\xff".decode("utf-8", "replace")
  CHECK(utf8_replace_invalid("a\xF0\x9F\x99"
                             "b\xFF") == "a\uFFFDb\uFFFD");
}

TEST_CASE("strings: error lines show untrusted text printable and short") {
  CHECK(shown("a\nb\x01") == "\"a\\x0ab\\x01\"");
  CHECK(shown(std::string(1000, 'x')).size() < 140);
}
