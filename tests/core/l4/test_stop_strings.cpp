#include "l4/stop_strings.h"

#include <random>

#include "support/test.h"

using namespace l4;

namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> found;
  bool operator==(const Outcome&) const = default;
};

// `cuts`: where the text is cut into pieces.
Outcome run(const std::vector<std::string>& stops, const std::string& text, const std::vector<size_t>& cuts) {
  StopStrings s(stops);
  Outcome out;
  size_t begin = 0;
  for (size_t end : cuts) {
    out.text += s.push(std::string_view(text).substr(begin, end - begin));
    begin = end;
  }
  out.text += s.push(std::string_view(text).substr(begin));
  out.text += s.flush();
  out.found = s.found();
  return out;
}

// The rule as it is written: the first end at which any stop string ends, the longest of those.
Outcome by_rule(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : stops)
      if (!stop.empty() && stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        if (!best || stop.size() > best->size()) best = &stop;
    if (best) return {text.substr(0, end - best->size()), *best};
  }
  return {text, std::nullopt};
}

}  // namespace

TEST_CASE("stop_strings: found across pieces, held back no longer than needed") {
  StopStrings s({"END", "\n\n"});
  CHECK(s.push("the E") == "the ");
  CHECK(s.push("N") == "");
  CHECK(s.push("Emy\n") == "ENEmy");
  CHECK(s.push("E") == "\n");
  CHECK(s.push("ND of it") == "");
  CHECK(s.found() == "END");
  CHECK(s.push("more") == "");
  CHECK(s.flush() == "");
}

TEST_CASE("stop_strings: what waits at the end belongs to the answer") {
  StopStrings s({"STOP"});
  CHECK(s.push("a STO") == "a ");
  CHECK(s.flush() == "STO");
  CHECK(!s.found());
  StopStrings none({});
  CHECK(none.push("anything") == "anything");
  StopStrings empty({""});
  CHECK(empty.push("anything") == "anything");
}

TEST_CASE("stop_strings: overlapping stop strings, any cutting: as the rule says") {
  std::mt19937 random(1);
  auto word = [&](size_t max) {
    std::string w;
    for (size_t n = random() % (max + 1); n > 0; --n) w += char('a' + random() % 2);
    return w;
  };
  int n_found = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(word(5));
    const std::string text = word(12);
    std::vector<size_t> cuts;
    for (size_t p = 0; p <= text.size(); ++p)
      if (random() % 2) cuts.push_back(p);
    const Outcome expected = by_rule(stops, text);
    n_found += expected.found.has_value();
    CHECK(run(stops, text, cuts) == expected);
  }
  CHECK(n_found > 500);
}
