#include "tools/eval/gate.h"

#include <cstdio>

#include "base/error.h"
#include "formats/json_fields.h"

namespace l4::eval {

namespace {

constexpr uint64_t kMostBytes = 1 << 20;

std::string share(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", value);
  return text;
}

}  // namespace

Gate read_gate(const fs::path& path) {
  Gate gate{path.string(), {}};
  const Json json = parse_json(read_file(path, kMostBytes), gate.source);
  const JsonFields tasks(json, gate.source);
  for (const auto& [task, entry] : json.as_object()) {
    if (shown(task) != cat("\"", task, "\"")) fail_input(gate.source, ": not the name of a task: ", shown(task));
    Gate::Rule rule{task, 0, {}, {}, 0};
    if (entry.is_object()) {
      const JsonFields fields = tasks.object(task);
      for (const auto& [key, value] : entry.as_object())
        if (key != "min" && key != "metric" && key != "recipe" && key != "max_failed")
          fail_input(fields.where(shown(key)), ": unknown field; expected min, metric, recipe or max_failed");
      rule.min = fields.number("min", {}, 0, 1);
      rule.max_failed = fields.integer("max_failed", 0, 0, INT64_MAX);
      if (fields.has("metric")) rule.metric = fields.text("metric", {});
      if (fields.has("recipe")) rule.recipe = fields.text("recipe", {});
    } else {
      rule.min = tasks.number(task, {}, 0, 1);
    }
    gate.rules.push_back(std::move(rule));
  }
  if (gate.rules.empty()) fail_input(gate.source, ": expected a task and its minimum, found none");
  return gate;
}

std::vector<std::string> gate_failures(const Gate& gate, const Summary& s) {
  const std::string task = s.header.task;
  const Gate::Rule* rule = nullptr;
  std::vector<std::string> known, failures;
  for (const Gate::Rule& r : gate.rules) {
    if (r.task == task) rule = &r;
    known.push_back(shown(r.task));
  }
  if (!rule) return {cat(gate.source, ": no minimum for task ", shown(task), "; it has ", join(known, ", "))};
  if (rule->recipe && *rule->recipe != s.header.recipe)
    failures.push_back(
        cat(task, ": the gate is for recipe ", shown(*rule->recipe), ", this run is of ", shown(s.header.recipe)));
  if (s.not_asked() > 0)
    failures.push_back(cat(task, ": ", s.not_asked(), " of ", s.header.n_items, " questions were not asked"));
  if (s.counts.failed > rule->max_failed)
    failures.push_back(cat(task, ": ", s.counts.failed, " of ", s.counts.asked, " questions failed, the gate allows ",
                           rule->max_failed));
  if (!s.has_score()) {
    failures.push_back(cat(task, ": no score: nothing was answered"));
    return failures;
  }
  const std::string metric = rule->metric.value_or(s.metrics[0].name);
  const Mean* found = s.find(metric);
  if (!found) {
    std::vector<std::string> names;
    for (const MetricSummary& m : s.metrics) names.push_back(m.name);
    failures.push_back(cat(task, ": no metric ", shown(metric), "; the run has ", join(names, ", ")));
  } else if (!(found->value >= rule->min)) {
    failures.push_back(cat(task, ": ", metric, " ", share(found->value), " is below the gate's ", share(rule->min)));
  }
  return failures;
}

bool passes(const Gate& gate, const Summary& summary, const fs::path& run) {
  const std::vector<std::string> failures = gate_failures(gate, summary);
  for (const std::string& line : failures)
    std::fprintf(stderr, "l4-eval: gate: %s: %s\n", run.c_str(), line.c_str());
  return failures.empty();
}

}  // namespace l4::eval
