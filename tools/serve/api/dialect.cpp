#include "tools/serve/api/dialect.h"

#include <cmath>
#include <random>

#include "base/version.h"

namespace l4::serve {

std::string random_id() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (int word = 0; word < 2; ++word)
    for (uint64_t bits = random(), i = 0; i < 12; ++i, bits >>= 4) out.push_back(kDigits[bits & 15]);
  return out;
}

const std::string& system_fingerprint() {
  static const std::string name = cat("l4-", build_info().version, "-", build_info().commit);
  return name;
}

Json usage_json(const Usage& usage) {
  return Json(Json::Object{{"prompt_tokens", usage.prompt_tokens},
                           {"completion_tokens", usage.completion_tokens},
                           {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
                           {"prompt_tokens_details", Json::Object{{"cached_tokens", usage.cached_tokens}}}});
}

Json timings_json(const Totals& totals) {
  const Usage& u = totals.usage;
  const auto ms = [](double value) { return std::round(value * 1000) / 1000; };
  const auto rate = [&](int64_t n, double time_ms) { return time_ms > 0 ? ms(double(n) * 1000 / time_ms) : 0.0; };
  const int64_t prompt_n = u.prompt_tokens - u.cached_tokens;
  return Json(Json::Object{{"cache_n", u.cached_tokens},
                           {"prompt_n", prompt_n},
                           {"prompt_ms", ms(totals.timings.prompt_ms)},
                           {"prompt_per_second", rate(prompt_n, totals.timings.prompt_ms)},
                           {"predicted_n", u.completion_tokens},
                           {"predicted_ms", ms(totals.timings.predicted_ms)},
                           {"predicted_per_second", rate(u.completion_tokens, totals.timings.predicted_ms)}});
}

std::string event_text(const Json& value) {
  return dump_json(value, JsonStyle::compact);
}

}  // namespace l4::serve
