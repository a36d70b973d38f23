// A comparison of two runs as people and programs read it.
#include <algorithm>
#include <cstdio>

#include "base/strings.h"
#include "tools/eval/compare.h"
#include "tools/eval/report_text.h"

namespace l4::eval {

namespace {

constexpr size_t kMostRows = 200, kMostOnTerminal = 25, kMostDrawn = 60;
constexpr size_t kLongName = 18;  // for the head of a column

std::string signed_percent(double share) {
  return cat(share >= 0 ? "+" : "", percent(share));
}

std::string p_text(double p) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", p);
  return p < 1e-300 ? "< 1e-300" : text;
}

std::string interval_of(const PairedDifference& d) {
  return cat(signed_percent(d.interval.low), " to ", signed_percent(d.interval.high));
}

std::string difference_of(const PairedDifference& d) {
  return cat(signed_percent(d.value), d.standard_error ? cat(" ± ", percent(*d.standard_error)) : "");
}

Document::Row row_of(const std::string& name, const PairedCounts& c) {
  return {name,
          human_count(uint64_t(c.n())),
          percent(c.first),
          percent(c.second),
          difference_of(c.difference),
          interval_of(c.difference),
          cat(c.only_first),
          cat(c.only_second),
          p_text(c.p)};
}

// "3 questions ...: "1", "5", "9"": nothing where there are none.
void named(Document& d, const std::vector<std::string>& ids, const std::string& what) {
  if (ids.empty()) return;
  std::vector<std::string> some(ids.begin(), ids.begin() + std::min<int64_t>(10, int64_t(ids.size())));
  for (std::string& id : some) id = shown(id);
  if (ids.size() > some.size()) some.push_back("…");
  d.warning(cat(ids.size(), ids.size() == 1 ? " question " : " questions ", what, ": ", join(some, ", ")));
}

// What the headers say in different words.
std::vector<Document::Row> settings_of(const RunComparison& c) {
  std::vector<Document::Row> rows = {{"setting", "first", "second"},
                                     {"model", c.first.model, c.second.model},
                                     {"recipe", variant_of(c.first), variant_of(c.second)},
                                     {"device", c.first.device, c.second.device}};
  const auto add = [&](const Json& from) {
    if (!from.is_object()) return;
    for (const auto& [key, value] : from.as_object()) {
      const auto known = [&, &name = key](const Document::Row& row) { return row[0] == name; };
      const Json *a = c.first.settings.find(key), *b = c.second.settings.find(key);
      if (a && b && *a == *b) continue;
      if (std::none_of(rows.begin(), rows.end(), known))
        rows.push_back({key, a ? setting_text(*a) : "", b ? setting_text(*b) : ""});
    }
  };
  add(c.first.settings);
  add(c.second.settings);
  return rows;
}

std::string verdict(const PairedCounts& c) {
  if (c.only_first + c.only_second == 0) return "No question is right in one run and wrong in the other.";
  return cat("Right in the second run alone: ", c.only_second, ", in the first alone: ", c.only_first,
             ". Were both as likely, counts as far apart or farther would come with probability ", p_text(c.p),
             " (McNemar's test, exact, two-sided).");
}

tools::BarPlot plot_of(const RunComparison& c, const std::string& first, const std::string& second) {
  tools::BarPlot plot{cat(c.metric, ", %"),
                      "of the questions that both answered; lines: 95 % intervals (Wilson)",
                      {first, second},
                      {},
                      {},
                      100};
  const auto add = [&](const std::string& name, const PairedCounts& p) {
    plot.rows.push_back({name, {bar_of({p.n(), p.first, {}}), bar_of({p.n(), p.second, {}})}});
  };
  if (c.groups.size() <= kMostDrawn)
    for (const auto& [name, p] : c.groups) add(name.empty() ? "(none)" : name, p);
  add("all", c.all);
  return plot;
}

Json json_of(const PairedCounts& c) {
  return Json::Object{{"pairs", c.n()},
                      {"first", c.first},
                      {"second", c.second},
                      {"difference", c.difference.value},
                      {"difference_stderr", c.difference.standard_error ? Json(*c.difference.standard_error) : Json()},
                      {"difference_95", Json::Array{c.difference.interval.low, c.difference.interval.high}},
                      {"both_right", c.both_right},
                      {"both_wrong", c.both_wrong},
                      {"only_first", c.only_first},
                      {"only_second", c.only_second},
                      {"mcnemar_p", c.p}};
}

Json json_of(const RunHeader& h) {
  return Json::Object{{"model", h.model},   {"recipe", h.recipe},      {"version", h.version},  {"shots", h.shots},
                      {"device", h.device}, {"seed", int64_t(h.seed)}, {"settings", h.settings}};
}

Json json_of(const std::vector<std::string>& ids) {
  return Json::Array(ids.begin(), ids.end());
}

Json text_or_null(const std::optional<std::string>& text) {
  return text ? Json(*text) : Json();
}

}  // namespace

Document to_document(const RunComparison& c) {
  const bool by_place =
      c.first.model == c.second.model || std::max(c.first.model.size(), c.second.model.size()) > kLongName;
  const std::string first = by_place ? "first" : c.first.model, second = by_place ? "second" : c.second.model;
  Document d(cat(c.first.task, ": ", c.first.model, " and ", c.second.model),
             cat(c.metric.empty() ? "" : c.metric + ", ", variant_of(c.first),
                 variant_of(c.first) == variant_of(c.second) ? "" : " and " + variant_of(c.second)));
  named(d, c.different, "do not have the same prompt and target in both runs");
  named(d, c.only_in_first, "asked in the first run only");
  named(d, c.only_in_second, "asked in the second run only");
  named(d, c.failed, "failed in one of the runs and in no pair");
  if (c.all.n() == 0) {
    d.warning("no question was answered in both runs: there is nothing to compare");
    d.table(settings_of(c));
    return d;
  }
  std::vector<Document::Row> rows = {{c.first.group_name.empty() ? "questions" : c.first.group_name, "pairs", first,
                                      second, "difference", "95 % interval", "right to wrong", "wrong to right", "p"}};
  for (const auto& [name, counts] : c.groups)
    if (rows.size() <= kMostRows) rows.push_back(row_of(name.empty() ? "(none)" : name, counts));
  rows.push_back(row_of("all", c.all));
  d.table(std::move(rows));
  if (c.groups.size() > kMostRows) d.text(cat("and ", c.groups.size() - kMostRows, " more groups"));
  d.text(verdict(c.all));
  d.text(cat("Answers equal letter by letter: ", share_of(c.same_text, c.all.n()), "."));
  d.chart(plot_of(c, first, second));
  if (!c.flips.empty()) {
    d.heading(cat("Flips: ", c.flips.size()));
    rows = {{"question", "group", "first", "second", "expected", "second is"}};
    const auto found = [](const std::optional<std::string>& text) { return text ? shown(*text) : "nothing found"; };
    for (const Flip& f : c.flips)
      if (rows.size() <= kMostRows)
        rows.push_back({shown(f.id), f.group, found(f.first), found(f.second), shown(f.target),
                        f.second_is_right ? "right" : "wrong"});
    d.table(std::move(rows), kMostOnTerminal);
    if (c.flips.size() > kMostRows) d.text(cat("and ", c.flips.size() - kMostRows, " more, in the JSON"));
  }
  d.heading("Runs");
  d.table(settings_of(c));
  return d;
}

Json to_json(const RunComparison& c) {
  Json groups = Json::Object{}, flips = Json::Array{};
  for (const auto& [name, counts] : c.groups) groups.set(name, json_of(counts));
  for (const Flip& f : c.flips)
    flips.push_back(Json::Object{{"id", f.id},
                                 {"group", f.group},
                                 {"target", f.target},
                                 {"first", text_or_null(f.first)},
                                 {"second", text_or_null(f.second)},
                                 {"right", f.second_is_right ? "second" : "first"}});
  Json out = Json::Object{{"task", c.first.task},
                          {"metric", c.metric},
                          {"first", json_of(c.first)},
                          {"second", json_of(c.second)},
                          {"all", json_of(c.all)}};
  out.set("groups", std::move(groups));
  out.set("same_text", c.same_text);
  out.set("flips", std::move(flips));
  out.set("different_prompts", json_of(c.different));
  out.set("only_in_first", json_of(c.only_in_first));
  out.set("only_in_second", json_of(c.only_in_second));
  out.set("failed", json_of(c.failed));
  return out;
}

}  // namespace l4::eval
