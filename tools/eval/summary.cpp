#include "tools/eval/summary.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace l4::eval {

namespace {

constexpr size_t kErrorsKept = 10;  // kinds

using Values = std::vector<std::vector<double>>;  // of each metric, of each answer

void count(const Record& r, Counts& c) {
  ++c.asked;
  c.prompt_tokens += r.reply.prompt_tokens;
  c.completion_tokens += r.reply.completion_tokens;
  if (!r.answered()) {
    ++c.failed;
    return;
  }
  ++c.answered;
  ++(r.right() ? c.right : c.wrong);
  c.without_answer += !r.right() && r.score.rule.empty();
  c.cut_off += r.reply.finish_reason == "length";
}

std::vector<Mean> means_of(const Values& values) {
  std::vector<Mean> means;
  for (const auto& x : values) means.push_back(mean_of(x));
  return means;
}

std::vector<std::pair<std::string, int64_t>> most_first(const std::map<std::string, int64_t>& counted) {
  std::vector<std::pair<std::string, int64_t>> list(counted.begin(), counted.end());
  std::stable_sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return list;
}

std::string names_of(const std::vector<Metric>& metrics) {
  std::vector<std::string> names;
  for (const Metric& m : metrics) names.push_back(m.name);
  return join(names, ", ");
}

std::vector<Record> sample_of_wrong(const RunFile& run) {
  std::vector<const Record*> wrong;
  for (const Record& r : run.records)
    if (r.answered() && !r.right()) wrong.push_back(&r);
  const size_t n = std::min(wrong.size(), kWrongAnswersKept);
  std::partial_sort(wrong.begin(), wrong.begin() + int64_t(n), wrong.end(), [](const Record* a, const Record* b) {
    return std::tie(a->prompt_sha256, a->id) < std::tie(b->prompt_sha256, b->id);
  });
  std::vector<Record> sample;
  for (size_t i = 0; i < n; ++i) sample.push_back(*wrong[i]);
  return sample;
}

}  // namespace

const Mean* Summary::find(std::string_view metric) const {
  for (const MetricSummary& m : metrics)
    if (m.name == metric) return &m.mean;
  return nullptr;
}

Summary summarise(const RunFile& run) {
  Summary s;
  s.header = run.header;
  std::string names, named_by;  // of the first answer
  Values all;
  struct Group {
    Counts counts;
    Values values;
  };
  std::map<std::string, Group> groups;
  std::map<std::string, int64_t> rules, errors;
  for (const Record& r : run.records) {
    Group& group = groups[r.group];
    count(r, s.counts);
    count(r, group.counts);
    if (!r.answered()) {
      ++errors[r.reply.error];
      continue;
    }
    ++rules[r.score.rule];
    const auto& metrics = r.score.metrics;
    if (s.metrics.empty()) {
      if (metrics.empty()) fail_input("question ", shown(r.id), ": expected metrics of its answer, found none");
      names = names_of(metrics), named_by = r.id;
      for (const Metric& m : metrics) s.metrics.push_back({m.name, {}});
      all.resize(metrics.size());
    }
    if (names_of(metrics) != names)
      fail_input("question ", shown(r.id), ": expected the metrics of ", shown(named_by), ", ", names, "; found ",
                 metrics.empty() ? "none" : names_of(metrics));
    group.values.resize(metrics.size());
    for (size_t m = 0; m < metrics.size(); ++m) {
      all[m].push_back(metrics[m].value);
      group.values[m].push_back(metrics[m].value);
    }
  }
  s.rules = most_first(rules);
  s.errors = most_first(errors);
  if (s.errors.size() > kErrorsKept) {
    int64_t others = 0;
    for (size_t i = kErrorsKept; i < s.errors.size(); ++i) others += s.errors[i].second;
    s.errors.resize(kErrorsKept);
    s.errors.emplace_back("(others)", others);
  }
  s.wrong_answers = sample_of_wrong(run);

  const bool has_groups = !groups.empty() && !(groups.size() == 1 && groups.begin()->first.empty());
  if (has_groups)
    for (auto& [name, group] : groups) {
      group.values.resize(all.size());
      s.groups.push_back({name, group.counts, means_of(group.values)});
    }
  for (size_t m = 0; m < s.metrics.size(); ++m) {
    std::vector<Mean> of_groups;
    for (const GroupSummary& g : s.groups) of_groups.push_back(g.means[m]);
    // Of a task of one piece, the error is that of all answers together.
    const Mean by_size =
        has_groups && lm_eval_task(s.header).groups_are_tasks ? mean_by_size(of_groups) : mean_of(all[m]);
    const Mean plain = has_groups ? plain_mean(of_groups) : by_size;
    s.metrics[m].mean = s.header.groups_weigh_by_size ? by_size : plain;
    if (m == 0) s.by_size = by_size, s.plain = plain;
  }
  return s;
}

}  // namespace l4::eval
