// Needles: what is hidden where, in texts of how many tokens, and what an answer is worth.
#include <cmath>
#include <set>

#include "l4.h"
#include "tools/eval/needle.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

const Frontend& demo() {
  static const std::shared_ptr<const Frontend> frontend = Frontend::load(demo_model());
  return *frontend;
}

int64_t demo_tokens(const Query& query) {
  if (query.turns.empty()) return int64_t(demo().prompt_from_text(query.text).ids.size());
  ChatRequest chat;
  for (const Query::Turn& turn : query.turns) chat.messages.push_back({turn.role, turn.text, {}});
  return int64_t(demo().prompt_from_chat(chat).ids.size());
}

NeedleOptions options_of(std::vector<int64_t> lengths, std::vector<double> depths) {
  NeedleOptions o;
  o.lengths = std::move(lengths);
  o.depths = std::move(depths);
  return o;
}

const std::string& text_of(const Item& item) {
  return item.query.turns.empty() ? item.query.text : item.query.turns.at(0).text;
}

size_t occurrences(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

size_t shared_bytes(const std::string& a, const std::string& b) {
  return size_t(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

Metric metric_of(const Score& score, size_t i) {
  return score.metrics.at(i);
}

}  // namespace

TEST_CASE("needle: prompts have exactly the tokens that were asked for") {
  for (const FillerKind filler : {FillerKind::sentences, FillerKind::essay})
    for (const bool chat : {true, false})
      for (const int64_t keys : {1, 5}) {
        NeedleOptions o = options_of({300, 1000, 1024, 4096, 9999}, {0, 33.3, 50, 100});
        o.filler = filler;
        o.chat = chat;
        o.keys = keys;
        o.values = keys == 1 ? 1 : 3;
        const Task task = needle_task(o, demo_tokens);
        REQUIRE(task.items.size() == 20);
        for (const Item& item : task.items) {
          CAPTURE(item.id);
          const std::vector<std::string> parts = split(item.id, '/');
          CHECK(demo_tokens(item.query) == int64_t(*parse_size(parts[0])));
          CHECK(item.group == parts[0] + "/" + parts[1]);
          CHECK(item.query.turns.size() == (chat ? 1 : 0));
          CHECK(is_valid_utf8(text_of(item)));
        }
      }
}

TEST_CASE("needle: it stands at its depth, to the nearest sentence") {
  for (const FillerKind filler : {FillerKind::sentences, FillerKind::essay}) {
    NeedleOptions o = options_of({2048, 16384}, {0, 10, 25, 50, 77, 90, 100});
    o.filler = filler;
    const Task task = needle_task(o, demo_tokens);
    for (const Item& item : task.items) {
      CAPTURE(item.id);
      const std::vector<std::string> parts = split(item.id, '/');
      const std::string& text = text_of(item);
      const std::string needle =
          "The pass key is " + item.target + ". Remember it. " + item.target + " is the pass key.";
      const size_t at = text.find(needle), begin = text.find("\n\n") + 2, end = text.rfind("\n\n");
      REQUIRE(at != std::string::npos);
      CHECK(occurrences(text, item.target) == 2);
      const auto tokens = [&](size_t from, size_t to) {
        Query query;
        query.text = text.substr(from, to - from);
        return double(demo_tokens(query) - 1);
      };
      const double before = at > begin ? tokens(begin, at - 1) : 0;
      const double all = tokens(begin, end) - tokens(at, at + needle.size());
      // Half a sentence, and padding of up to a sentence at the end.
      CHECK(std::abs(before / all * 100 - *parse_double(parts[1])) < 100 * 40 / all);
    }
  }
}

TEST_CASE("needle: the seed decides, and nothing else") {
  NeedleOptions o = options_of({1024, 512}, {0, 50, 100});
  o.samples = 2;
  o.keys = 3;
  o.values = 2;
  const Task a = needle_task(o, demo_tokens), b = needle_task(o, demo_tokens);
  o.seed = 1;
  const Task c = needle_task(o, demo_tokens);
  o.seed = 0;
  o.depths = {50};
  const Task one = needle_task(o, demo_tokens);
  REQUIRE(a.items.size() == 12);
  std::set<std::string> ids, targets;
  for (size_t i = 0; i < a.items.size(); ++i) {
    CHECK(a.items[i].id == b.items[i].id);
    CHECK(text_of(a.items[i]) == text_of(b.items[i]));
    CHECK(a.items[i].target == b.items[i].target);
    CHECK(text_of(a.items[i]) != text_of(c.items[i]));
    ids.insert(a.items[i].id);
    targets.insert(a.items[i].target);
    for (const Item& item : one.items)
      if (item.id == a.items[i].id) CHECK(text_of(item) == text_of(a.items[i]));  // whatever else is asked
  }
  CHECK(ids.size() == 12);
  CHECK(targets.size() == 12);
  // Of the same bits wherever this is built: mt19937_64 is the standard's.
  CHECK(one.items[0].id == "1K/50/0");
  CHECK(one.items[0].target == "53228 37288");
}

TEST_CASE("needle: prompts of a text share their beginning, the first has the most of it") {
  const Task task = needle_task(options_of({4096, 1024}, {0, 50, 100}), demo_tokens);
  std::vector<std::string> ids;
  for (const Item& item : task.items) ids.push_back(item.id);
  CHECK(ids == std::vector<std::string>{"4K/100/0", "4K/50/0", "4K/0/0", "1K/100/0", "1K/50/0", "1K/0/0"});
  const std::string& first = text_of(task.items[0]);
  CHECK(double(shared_bytes(first, text_of(task.items[1]))) > 0.45 * double(first.size()));
  for (size_t i : {3, 4}) {  // of another length too
    const std::string& shorter = text_of(task.items[i]);
    CHECK(double(shared_bytes(first, shorter)) > (i == 3 ? 0.8 : 0.4) * double(shorter.size()));
  }
}

TEST_CASE("needle: other keys and values are hidden too, and the question names its own") {
  NeedleOptions o = options_of({2048}, {50});
  o.keys = 4;
  const Item one = needle_task(o, demo_tokens).items.at(0);
  CHECK(occurrences(text_of(one), "The pass key of the ") == 4);
  const std::string needle = " is " + one.target + ". Remember it.";
  const size_t at = text_of(one).find(needle);
  REQUIRE(at != std::string::npos);
  const size_t name = text_of(one).rfind("of the ", at);
  CHECK(text_of(one).ends_with("What is the pass key " + text_of(one).substr(name, at - name) + "?"));
  o.values = 3;
  const Item several = needle_task(o, demo_tokens).items.at(0);
  CHECK(occurrences(text_of(several), "One pass key of the ") == 6);
  const std::vector<std::string> wanted = split(several.target, ' ');
  CHECK(wanted.size() == 3);
  for (const std::string& value : wanted) CHECK(occurrences(text_of(several), value) == 1);
  CHECK(several.query.max_tokens > one.query.max_tokens);
}

TEST_CASE("needle: what an answer is worth") {
  NeedleOptions o = options_of({2048}, {50});
  o.values = 2;
  const Task task = needle_task(o, demo_tokens);
  Item item = task.items.at(0);
  item.target = "48213 60077";
  const auto score = [&](const std::string& answer) { return task.score(item, answer); };
  struct Case {
    std::string answer, extracted;
    double recall, exact;
  };
  const Case cases[] = {
      {"The pass keys are 48213 and 60077.", "48213 60077", 1, 1},
      {"60,077, 48,213", "60077 48213", 1, 1},
      {"60077,48213", "60077 48213", 1, 1},
      {"48213", "48213", 0.5, 0},
      {"There are 2: 48213 and 60077", "48213 60077", 1, 1},
      {"48213, 60077 and 11111", "48213 60077 11111", 1, 0},
      {"482130, 6007", "482130 6007", 0, 0},
      {"4821 3", "4821", 0, 0},
      {"1,234,567", "1234567", 0, 0},
      {"1,23", "", 0, 0},
  };
  for (const Case& c : cases) {
    CAPTURE(c.answer);
    const Score s = score(c.answer);
    CHECK(s.extracted.value_or("") == c.extracted);
    CHECK(s.rule == (c.extracted.empty() ? "" : "numbers"));
    CHECK(metric_of(s, 0).name == "recall");
    CHECK(metric_of(s, 0).value == c.recall);
    CHECK(metric_of(s, 1).name == "exact");
    CHECK(metric_of(s, 1).value == c.exact);
  }
  for (const std::string nothing : {"", "I do not know.", "\xff\xfe", "forty-eight"}) {
    CHECK(!score(nothing).extracted);
    CHECK(metric_of(score(nothing), 0).value == 0);
  }
}

TEST_CASE("needle: options that cannot be are refused by name") {
  const auto error = [](auto change) {
    NeedleOptions o = options_of({1024}, {50});
    change(o);
    return error_of([&] { needle_task(o, demo_tokens); });
  };
  CHECK(error([](auto& o) { o.lengths = {}; }).starts_with("--lengths: "));
  CHECK(error([](auto& o) { o.lengths = {0}; }).starts_with("--lengths: "));
  CHECK(error([](auto& o) { o.lengths = {40}; }).starts_with("--lengths: 40 tokens are too few"));
  CHECK(error([](auto& o) { o.keys = 100; }).starts_with("--lengths: 1024 tokens are too few"));
  CHECK(error([](auto& o) { o.depths = {}; }).starts_with("--depths: "));
  CHECK(error([](auto& o) { o.depths = {100.5}; }).starts_with("--depths: "));
  CHECK(error([](auto& o) { o.depths = {-1}; }).starts_with("--depths: "));
  CHECK(error([](auto& o) { o.depths = {double(NAN)}; }).starts_with("--depths: "));
  CHECK(error([](auto& o) { o.keys = 0; }).starts_with("--keys: "));
  CHECK(error([](auto& o) { o.keys = 301; }).starts_with("--keys: "));
  CHECK(error([](auto& o) { o.values = 0; }).starts_with("--values: "));
  CHECK(error([](auto& o) { o.samples = 0; }).starts_with("--samples: "));
  CHECK(error_of([] { parse_filler_kind("novel"); }).find("novel") != std::string::npos);
}

TEST_CASE("needle: where nobody counts tokens, lengths are by bytes") {
  const Task task = needle_task(options_of({4096}, {50}), tokens_by_bytes);
  const size_t bytes = text_of(task.items.at(0)).size();
  CHECK(bytes / 4 <= 4096);
  CHECK(bytes / 4 >= 4090);
}

TEST_CASE("needle: the heat map has the mean of each cell, and leaves out what was not answered") {
  RunFile run;
  run.header.model = "demo";
  run.header.recipe = "pass key, sentences";
  const auto add = [&](const std::string& group, double recall, const std::string& problem = "") {
    Record record;
    record.id = cat(group, "/", run.records.size());
    record.group = group;
    record.reply.error = problem;
    if (problem.empty()) record.score.metrics = {{"recall", recall}, {"exact", 0}};
    run.records.push_back(record);
  };
  add("4K/100", 1);
  add("1K/0", 1);
  add("1K/0", 0.5);
  add("1K/100", 0, "HTTP 500");
  const tools::HeatMap map = needle_heat_map(run);
  CHECK(map.columns == std::vector<std::string>{"1K", "4K"});
  CHECK(map.rows == std::vector<std::string>{"0", "100"});
  REQUIRE(map.values.size() == 4);
  CHECK(map.values[0] == 0.75);
  CHECK(!map.values[1]);
  CHECK(!map.values[2]);
  CHECK(map.values[3] == 1.0);
  CHECK(map.subtitle == "pass key, sentences; mean of 3 answers 83.3 %; 1 without an answer");
  CHECK(needle_table(run).find("75") != std::string::npos);
  add("nonsense", 1);
  CHECK(error_of([&] { needle_heat_map(run); }).find("nonsense") != std::string::npos);
}
