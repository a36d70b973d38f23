#include "tools/eval/compare.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace l4::eval {

namespace {

constexpr size_t kMostNamed = 5;

struct Pairs {
  std::vector<double> first, second;
  PairedCounts counts;

  void add(const Record& a, const Record& b) {
    first.push_back(a.score.metrics[0].value);
    second.push_back(b.score.metrics[0].value);
    ++(a.right() ? (b.right() ? counts.both_right : counts.only_first)
                 : (b.right() ? counts.only_second : counts.both_wrong));
  }
  PairedCounts result() const {
    PairedCounts c = counts;
    c.first = mean_of(first).value;
    c.second = mean_of(second).value;
    c.difference = paired_difference(first, second);
    c.p = mcnemar_exact(c.only_first, c.only_second);
    return c;
  }
};

std::map<std::string, const Record*> by_id(const RunFile& run) {
  std::map<std::string, const Record*> ids;
  for (const Record& r : run.records) ids[r.id] = &r;
  return ids;
}

const std::string& main_metric(const Record& r, const std::string& name) {
  if (r.score.metrics.empty()) fail_input(name, ": question ", shown(r.id), ": has no metrics");
  return r.score.metrics[0].name;
}

std::string first_of(const std::vector<std::string>& ids) {
  std::vector<std::string> some;
  for (size_t i = 0; i < std::min(ids.size(), kMostNamed); ++i) some.push_back(shown(ids[i]));
  if (ids.size() > kMostNamed) some.push_back("…");
  return join(some, ", ");
}

}  // namespace

RunComparison compare_runs(const RunFile& first, const RunFile& second, bool allow_different_prompts,
                           const std::string& first_name, const std::string& second_name) {
  if (first.header.task != second.header.task)
    fail_input(first_name, " is of task ", shown(first.header.task), ", ", second_name, " of ",
               shown(second.header.task));
  RunComparison out;
  out.first = first.header, out.second = second.header;
  const auto firsts = by_id(first), seconds = by_id(second);
  for (const auto& [id, r] : seconds)
    if (!firsts.count(id)) out.only_in_second.push_back(id);
  Pairs all;
  std::map<std::string, Pairs> groups;
  for (const auto& [id, a] : firsts) {
    const auto found = seconds.find(id);
    if (found == seconds.end()) {
      out.only_in_first.push_back(id);
      continue;
    }
    const Record* b = found->second;
    if (a->prompt_sha256 != b->prompt_sha256 || a->target != b->target) out.different.push_back(id);
    if (!a->answered() || !b->answered()) {
      out.failed.push_back(id);
      continue;
    }
    const std::string &metric = main_metric(*a, first_name), &other = main_metric(*b, second_name);
    if (out.metric.empty()) out.metric = metric;
    if (metric != out.metric || other != out.metric)
      fail_input(metric != out.metric ? first_name : second_name, ": question ", shown(id), ": expected the metric ",
                 shown(out.metric), ", found ", shown(metric != out.metric ? metric : other));
    all.add(*a, *b);
    groups[a->group].add(*a, *b);
    out.same_text += a->reply.text == b->reply.text;
    if (a->right() != b->right())
      out.flips.push_back({id, a->group, a->target, a->score.extracted, b->score.extracted, b->right()});
  }
  if (!out.different.empty() && !allow_different_prompts)
    fail_input(first_name, " and ", second_name, ": ", out.different.size(), " of ",
               firsts.size() - out.only_in_first.size(),
               " questions do not have the same prompt and target: ", first_of(out.different),
               "; --allow-different-prompts compares them all the same");
  if (firsts.size() == out.only_in_first.size())
    fail_input(first_name, " and ", second_name, ": no question is in both");
  std::stable_sort(out.flips.begin(), out.flips.end(), [](const Flip& a, const Flip& b) {
    return a.id.size() < b.id.size();  // numbers by their value
  });
  out.all = all.result();
  if (groups.size() > 1 || (groups.size() == 1 && !groups.begin()->first.empty()))
    for (const auto& [name, pairs] : groups) out.groups.emplace_back(name, pairs.result());
  return out;
}

}  // namespace l4::eval
