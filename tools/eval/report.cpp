#include "tools/eval/report.h"

#include <algorithm>
#include <map>

#include "base/strings.h"
#include "tools/eval/document.h"
#include "tools/eval/published.h"
#include "tools/eval/report_text.h"

namespace l4::eval {

using tools::BarPlot;

namespace {

constexpr size_t kMostGroupsDrawn = 60, kMostGroupsListed = 200, kMostBadLines = 10;
constexpr size_t kLongLabel = 24;  // for the head of a column
constexpr double kGuess = 0.1;     // MMLU-Pro: one of ten letters

using Runs = std::vector<size_t>;  // of the summaries, by index

class Report {
 public:
  explicit Report(std::span<const Summary> summaries) : all_(summaries), labels_(labels_of(summaries)) {
    for (size_t i = 0; i < all_.size(); ++i) kinds_[kind_of(all_[i].header)].push_back(i);
  }

  Document whole() {
    Document d = begin();
    scores(d);
    for (const auto& [kind, runs] : kinds_) of_kind(d, kind, runs);
    for (size_t i = 0; i < all_.size(); ++i) answers(d, i);
    settings(d);
    return d;
  }

  Document short_one() {
    Document d = begin();
    scores(d);
    for (const auto& [kind, runs] : kinds_)
      if (!all_[runs[0]].groups.empty()) {
        d.heading(kind);
        groups(d, runs);
      }
    return d;
  }

 private:
  Document begin() const {
    if (all_.empty()) return {"l4-eval: no runs", ""};
    if (all_.size() > 1) return {cat("l4-eval: ", all_.size(), " runs side by side"), ""};
    const RunHeader& h = all_[0].header;
    return {cat(h.task, ": ", h.model), cat(variant_of(h), ", on ", h.device)};
  }

  std::string named(size_t i, const std::string& text) const {
    return all_.size() > 1 ? cat("run ", i + 1, ": ", text) : text;
  }

  void scores(Document& d) const {
    const bool several = all_.size() > 1;  // one run's model and task are the title
    std::vector<Document::Row> rows(1);
    if (several) rows[0] = {"run", "model", "task"};
    rows[0].insert(rows[0].end(),
                   {"recipe", "metric", "score", "95 % interval", "asked", "no answer", "cut off", "failed"});
    for (size_t i = 0; i < all_.size(); ++i) {
      const Summary& s = all_[i];
      const Counts& c = s.counts;
      const std::string mark = c.failed > 0 || s.not_asked() > 0 ? " (!)" : "";
      for (size_t m = 0; m == 0 || m < s.metrics.size(); ++m) {
        Document::Row row;
        if (several) row = m == 0 ? Document::Row{cat(i + 1), labels_[i], s.header.task} : Document::Row{"", "", ""};
        row.push_back(m == 0 ? variant_of(s.header) : "");
        if (s.has_score()) {
          const Mean& mean = s.metrics[m].mean;
          row.insert(row.end(), {s.metrics[m].name, percent(mean) + mark, wilson_text(mean)});
        } else {
          row.insert(row.end(), {"none", "n/a", "n/a"});
        }
        if (m == 0)
          for (const int64_t n : {c.asked, c.without_answer, c.cut_off, c.failed})
            row.push_back(human_count(uint64_t(n)));
        row.resize(rows[0].size());
        rows.push_back(std::move(row));
      }
    }
    if (all_.empty()) return;
    d.table(std::move(rows));
    d.text(
        "Percent, ± one standard error. A question that failed is in no score; no answer: nothing was found in what "
        "was "
        "said, which is wrong.");
    for (size_t i = 0; i < all_.size(); ++i) warnings(d, i);
    published(d);
  }

  void warnings(Document& d, size_t i) const {
    const Summary& s = all_[i];
    const Counts& c = s.counts;
    if (s.not_asked() > 0)
      d.warning(named(i, cat("(!) not complete: ", c.asked, " of ", s.header.n_items,
                             " questions were asked; the score is of these.")));
    if (c.failed > 0) {
      std::string why;
      for (const auto& [error, n] : s.errors)
        if (why.size() < 400)
          why += cat(why.empty() ? "" : "; ",
                     error.substr(0, utf8_whole_prefix(std::string_view(error).substr(0, 160))), " (", n, ")");
      d.warning(
          named(i, cat("(!) the score leaves out ", share_of(c.failed, c.asked), " questions that failed: ", why)));
    }
    if (!s.header.bad_lines.empty()) {
      std::string list;
      for (size_t b = 0; b < std::min(kMostBadLines, s.header.bad_lines.size()); ++b)
        list += cat(b ? "; " : "", "line ", s.header.bad_lines[b].line, ": ", s.header.bad_lines[b].why);
      if (s.header.bad_lines.size() > kMostBadLines) list += "; …";
      d.warning(named(i, cat(s.header.bad_lines.size(), s.header.bad_lines.size() == 1 ? " line" : " lines",
                             " of the data could not be used: ", list)));
    }
    if (c.cut_off > 0)
      d.warning(named(i, cat(share_of(c.cut_off, c.answered), " answers were cut off at the longest length allowed.")));
    if (is_guessing(s))
      d.warning(named(i, "no better than guessing: one of ten letters is right in about 10 % of the questions."));
  }

  static bool is_guessing(const Summary& s) {
    return s.header.task == "mmlu_pro" && s.has_score() && wilson_interval(s.by_size.value, s.by_size.n).low <= kGuess;
  }

  void published(Document& d) const {
    std::vector<Document::Row> rows = {{"beside", "published by", "metric", "their score", "ours", "measured how"}};
    for (size_t i = 0; i < all_.size(); ++i)
      for (const Published& p : published_for(all_[i])) {
        const Mean& ours = p.of_groups ? all_[i].plain : *all_[i].find(p.metric);
        rows.push_back({all_.size() > 1 ? cat("run ", i + 1) : "this run", p.source,
                        cat(p.metric, p.of_groups ? ", mean over groups" : ""), percent(p.value), percent(ours),
                        p.how});
      }
    if (rows.size() > 1) d.table(std::move(rows));
  }

  void of_kind(Document& d, const std::string& kind, const Runs& runs) const {
    d.heading(kind);
    if (runs.size() > 1 || all_[runs[0]].groups.empty()) overall_chart(d, kind, runs);
    group_chart(d, kind, runs);
    groups(d, runs);
  }

  std::vector<BarPlot::Mark> marks(const Runs& runs) const {
    std::vector<BarPlot::Mark> out;
    if (all_[runs[0]].header.task == "mmlu_pro") out.push_back({"guessing", 100 * kGuess});
    for (const size_t i : runs)
      for (const Published& p : published_for(all_[i])) {
        if (!all_[i].has_score() || all_[i].metrics[0].name != p.metric) continue;
        const BarPlot::Mark mark{cat(p.source, ", ", p.model), 100 * p.value};
        if (std::none_of(out.begin(), out.end(), [&](const auto& m) { return m.name == mark.name; }))
          out.push_back(mark);
      }
    return out;
  }

  std::string metric_of(const Runs& runs) const {
    for (const size_t i : runs)
      if (all_[i].has_score()) return all_[i].metrics[0].name;
    return "score";
  }

  void overall_chart(Document& d, const std::string& kind, const Runs& runs) const {
    BarPlot plot{
        cat(metric_of(runs), ", %"), cat(kind, "; lines: 95 % intervals (Wilson)"), {""}, {}, marks(runs), 100};
    for (const size_t i : runs)
      plot.rows.push_back(
          {labels_[i], {all_[i].has_score() ? std::optional(bar_of(all_[i].metrics[0].mean)) : std::nullopt}});
    d.chart(plot);
  }

  // Of all runs, by name.
  std::vector<std::string> group_names(const Runs& runs) const {
    std::vector<std::string> names;
    for (const size_t i : runs)
      for (const GroupSummary& g : all_[i].groups) names.push_back(g.name);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
  }

  static const GroupSummary* find_group(const Summary& s, const std::string& name) {
    const auto at = std::lower_bound(s.groups.begin(), s.groups.end(), name,
                                     [](const GroupSummary& g, const std::string& n) { return g.name < n; });
    return at != s.groups.end() && at->name == name ? &*at : nullptr;
  }

  std::string group_word(const Runs& runs) const {
    const std::string& word = all_[runs[0]].header.group_name;
    return word.empty() ? "group" : word;
  }

  void group_chart(Document& d, const std::string& kind, const Runs& runs) const {
    const std::vector<std::string> names = group_names(runs);
    if (names.empty() || names.size() > kMostGroupsDrawn || runs.size() > tools::kMostBarSeries) return;
    BarPlot plot{cat(metric_of(runs), " by ", group_word(runs), ", %"),
                 cat(kind, "; lines: 95 % intervals (Wilson)"),
                 {},
                 {},
                 runs.size() == 1 ? marks(runs) : std::vector<BarPlot::Mark>{},
                 100};
    for (const size_t i : runs) plot.series.push_back(labels_[i]);
    for (const std::string& name : names) {
      BarPlot::Row row{name.empty() ? "(none)" : name, {}};
      for (const size_t i : runs) {
        const GroupSummary* g = find_group(all_[i], name);
        const bool known = g && !g->means.empty() && g->means[0].n > 0;
        row.bars.push_back(known ? std::optional(bar_of(g->means[0])) : std::nullopt);
      }
      plot.rows.push_back(std::move(row));
    }
    d.chart(plot);
  }

  static std::string group_score(const GroupSummary* g) {
    return g && !g->means.empty() && g->means[0].n > 0 ? percent(g->means[0]) : "n/a";
  }

  void groups(Document& d, const Runs& runs) const {
    const std::vector<std::string> names = group_names(runs);
    if (names.empty()) return;
    const bool one = runs.size() == 1;
    std::vector<Document::Row> rows = {{group_word(runs)}};
    if (one)
      rows[0].insert(rows[0].end(),
                     {"score", "95 % interval", "answered", "right", "wrong", "no answer", "cut off", "failed"});
    else
      for (const size_t i : runs) rows[0].push_back(labels_[i].size() > kLongLabel ? cat("run ", i + 1) : labels_[i]);
    for (const std::string& name : names) {
      if (rows.size() > kMostGroupsListed) break;
      Document::Row row = {name.empty() ? "(none)" : name};
      for (const size_t i : runs) {
        const GroupSummary* g = find_group(all_[i], name);
        row.push_back(group_score(g));
        if (!one || !g) continue;
        const Counts& c = g->counts;
        row.push_back(c.answered > 0 && !g->means.empty() ? wilson_text(g->means[0]) : "n/a");
        for (const int64_t n : {c.answered, c.right, c.wrong, c.without_answer, c.cut_off, c.failed})
          row.push_back(cat(n));
      }
      rows.push_back(std::move(row));
    }
    const auto total = [&](const std::string& name, Mean Summary::*mean) {
      Document::Row row = {name};
      for (const size_t i : runs) row.push_back(all_[i].has_score() ? percent(all_[i].*mean) : "n/a");
      row.resize(rows[0].size());
      rows.push_back(std::move(row));
    };
    total("all questions", &Summary::by_size);
    total(cat("mean of the ", names.size()), &Summary::plain);
    d.table(std::move(rows));
    if (names.size() > kMostGroupsListed) d.text(cat("and ", names.size() - kMostGroupsListed, " more"));
  }

  void answers(Document& d, size_t i) const {
    const Summary& s = all_[i];
    if (s.counts.answered == 0) return;
    d.heading(all_.size() > 1 ? cat("Answers of ", labels_[i], ", ", kind_of(s.header)) : "Answers");
    std::vector<Document::Row> rows = {{"found by", "answers"}};
    for (const auto& [rule, n] : s.rules)
      if (rows.size() <= kMostGroupsListed)
        rows.push_back({rule.empty() ? "nothing found" : rule, share_of(n, s.counts.answered)});
    d.table(std::move(rows));
    if (s.wrong_answers.empty()) return;
    d.text(cat("Wrong: ", share_of(s.counts.wrong, s.counts.answered),
               s.wrong_answers.size() < size_t(s.counts.wrong) ? "; some of them:" : ""));
    for (const Record& r : s.wrong_answers)
      d.quote(cat("question ", r.id, r.group.empty() ? "" : cat(" (", r.group, ")"), ": ",
                  r.score.extracted ? cat("found ", shown(*r.score.extracted)) : "no answer", ", expected ",
                  shown(r.target), r.reply.finish_reason == "length" ? ", cut off" : ""),
              r.reply.text);
  }

  void settings(Document& d) const {
    if (all_.empty()) return;
    d.heading(all_.size() > 1 ? "Runs" : "Run");
    std::vector<Document::Row> rows = {{"setting"}};
    const auto row_of = [&](const std::string& name) -> Document::Row& {
      for (size_t r = 1; r < rows.size(); ++r)
        if (rows[r][0] == name) return rows[r];
      rows.push_back({name});
      return rows.back();
    };
    for (size_t i = 0; i < all_.size(); ++i) {
      const RunHeader& h = all_[i].header;
      const Counts& c = all_[i].counts;
      rows[0].push_back(all_.size() > 1 ? cat("run ", i + 1) : "value");
      std::vector<std::pair<std::string, std::string>> list = {
          {"model", h.model},
          {"device", h.device},
          {"task", h.task},
          {"recipe", variant_of(h)},
          {"seed", std::to_string(h.seed)},
          {"questions", human_count(uint64_t(std::max<int64_t>(0, h.n_items)))},
          {"tokens of prompts", human_count(uint64_t(std::max<int64_t>(0, c.prompt_tokens)))},
          {"tokens of answers", human_count(uint64_t(std::max<int64_t>(0, c.completion_tokens)))}};
      if (h.settings.is_object())
        for (const auto& [key, value] : h.settings.as_object()) list.emplace_back(key, setting_text(value));
      for (auto& [name, value] : list) {
        Document::Row& row = row_of(name);
        row.resize(i + 1);
        row.push_back(std::move(value));
      }
    }
    for (Document::Row& row : rows) row.resize(all_.size() + 1);
    d.table(std::move(rows));
  }

  std::span<const Summary> all_;
  std::vector<std::string> labels_;
  std::map<std::string, Runs> kinds_;
};

}  // namespace

std::string to_table(std::span<const Summary> summaries) {
  return Report(summaries).short_one().to_terminal();
}
std::string to_table(const Summary& summary) {
  return to_table(std::span(&summary, 1));
}
std::string to_markdown(std::span<const Summary> summaries) {
  return Report(summaries).whole().to_markdown();
}
std::string to_html(std::span<const Summary> summaries) {
  return Report(summaries).whole().to_html();
}

}  // namespace l4::eval
