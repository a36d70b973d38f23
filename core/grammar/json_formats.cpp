#include <algorithm>
#include <array>
#include <string>

#include "base/strings.h"
#include "grammar/json_schema.h"

namespace l4 {

namespace {

// RFC 3339, 5321 (without quoted names), 1123, 4291, 3986, 9562.
const std::string kDate =
    "\\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|[12]\\d))";
const std::string kTime = "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)";
const std::string kDurationTime = "T(?:\\d{1,9}H(?:\\d{1,9}M(?:\\d{1,9}S)?)?|\\d{1,9}M(?:\\d{1,9}S)?|\\d{1,9}S)";
const std::string kDurationDate = "(?:\\d{1,9}Y(?:\\d{1,9}M(?:\\d{1,9}D)?)?|\\d{1,9}M(?:\\d{1,9}D)?|\\d{1,9}D)";
const std::string kLabel = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const std::string kAtom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}";
const std::string kByte = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const std::string kIpv4 = cat(kByte, "(?:\\.", kByte, "){3}");

std::string ipv6() {
  const std::string h = "[0-9A-Fa-f]{1,4}", tail = cat("(?:", h, ":", h, "|", kIpv4, ")");
  std::string out = cat("(?:", h, ":){6}", tail);  // n groups before "::", at most 7 - n behind it
  for (int before = 0; before <= 7; ++before) {
    std::string left = before == 0 ? "" : before == 1 ? h : cat(h, "(?::", h, "){", before - 1, "}");
    int after = 7 - before;
    std::string right = after == 0 ? "" : cat("(?:", h, "(?::", h, "){0,", after - 1, "})?");
    out += cat("|", left, "::", right);
    if (after >= 2) {
      std::string groups = after == 2 ? "" : cat("(?:", h, ":){0,", after - 2, "}");
      out += cat("|", left, "::", groups, kIpv4);
    }
  }
  return out;
}

const std::array<std::pair<std::string_view, std::string>, 11> kFormats = {{
    {"date", kDate},
    {"time", kTime},
    {"date-time", cat(kDate, "T", kTime)},
    {"duration", cat("P(?:\\d{1,9}W|", kDurationDate, "(?:", kDurationTime, ")?|", kDurationTime, ")")},
    {"email", cat(kAtom, "(?:\\.", kAtom, "){0,8}@", kLabel, "(?:\\.", kLabel, "){1,8}")},
    {"hostname", cat(kLabel, "(?:\\.", kLabel, "){0,8}")},
    {"ipv4", kIpv4},
    {"ipv6", ipv6()},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]{0,30}:(?:[A-Za-z0-9\\-._~:/?#@!$&'()*+,;=]|%[0-9A-Fa-f]{2}){1,600}"},
    {"uuid", "[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"},
    {"uuid4", "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-4[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"},
}};

}  // namespace

const char* format_pattern(std::string_view format) {
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) return pattern.c_str();
  }
  return nullptr;
}

}  // namespace l4
