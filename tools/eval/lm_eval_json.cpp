// Summaries in lm-eval's layout (0.4.13: result_schema.py, evaluator_utils.py, api/group.py).
#include "base/strings.h"
#include "tools/eval/summary.h"

namespace l4::eval {

namespace {

struct Known {
  const char *task, *recipe, *name, *filter;
  bool groups_are_tasks;
};
constexpr Known kKnown[] = {
    {"mmlu_pro", "lm-eval", "mmlu_pro", "custom-extract", true},
    {"mmlu_pro", "llama", "mmlu_pro_llama", "strict_match", true},
    {"mmlu_pro", "tiger", "mmlu_pro_tiger", "none", true},
    {"chartqa", "lm-eval", "chartqa", "none", false},
    {"chartqa", "llama", "chartqa_llama", "none", false},
};

// "computer science" is mmlu_pro_computer_science.
std::string as_name(std::string_view text) {
  std::string out = utf8_replace_invalid(text);
  for (char& c : out)
    if (c == ' ' || c == '-' || c == '/') c = '_';
  return out;
}

Json number_or_text(const std::string& version) {
  const std::optional<double> number = parse_double(version);
  return number ? Json(*number) : Json(version);
}

Json error_of(const Mean& mean) {
  return mean.standard_error ? Json(*mean.standard_error) : Json("N/A");
}

Json counts_json(const Counts& c) {
  return Json::Object{{"asked", c.asked},
                      {"answered", c.answered},
                      {"right", c.right},
                      {"wrong", c.wrong},
                      {"without_answer", c.without_answer},
                      {"cut_off", c.cut_off},
                      {"failed", c.failed},
                      {"prompt_tokens", c.prompt_tokens},
                      {"completion_tokens", c.completion_tokens}};
}

Json counted(const std::vector<std::pair<std::string, int64_t>>& list) {
  Json out = Json::Object{};
  for (const auto& [name, n] : list) out.set(name.empty() ? "(none)" : name, n);
  return out;
}

Json our_own(const Summary& s) {
  Json bad_lines = Json::Array{}, groups = Json::Object{};
  for (const BadLine& b : s.header.bad_lines) bad_lines.push_back(Json::Object{{"line", b.line}, {"why", b.why}});
  for (const GroupSummary& g : s.groups) groups.set(g.name, counts_json(g.counts));
  return Json::Object{{"task", s.header.task},        {"recipe", s.header.recipe},
                      {"model", s.header.model},      {"questions", s.header.n_items},
                      {"not_asked", s.not_asked()},   {"counts", counts_json(s.counts)},
                      {"groups", std::move(groups)},  {"rules", counted(s.rules)},
                      {"errors", counted(s.errors)},  {"bad_lines", std::move(bad_lines)},
                      {"settings", s.header.settings}};
}

// The tables that have an entry for the task and for each of its groups.
struct Tables {
  Json results = Json::Object{}, configs = Json::Object{}, versions = Json::Object{}, shots = Json::Object{},
       better = Json::Object{}, samples = Json::Object{};
};

}  // namespace

LmEvalTask lm_eval_task(const RunHeader& header) {
  for (const Known& k : kKnown)
    if (header.task == k.task && header.recipe == k.recipe) return {k.name, k.filter, k.groups_are_tasks};
  return {as_name(header.recipe.empty() ? header.task : cat(header.task, "_", header.recipe)), "none", false};
}

Json to_lm_eval_json(const Summary& s) {
  const LmEvalTask task = lm_eval_task(s.header);
  const RunHeader& h = s.header;
  Json metric_list = Json::Array{}, better = Json::Object{};
  for (const MetricSummary& m : s.metrics) {
    metric_list.push_back(Json::Object{{"metric", m.name}, {"aggregation", "mean"}, {"higher_is_better", true}});
    better.set(m.name, true);
  }

  Tables t;
  Json sample_count = Json::Object{};
  const auto add = [&](const std::string& name, const std::string& alias, const Counts& counts, int64_t original,
                       const auto& mean_of_metric) {
    Json entry = Json::Object{{"name", name}, {"alias", alias}, {"sample_len", counts.answered}};
    for (size_t m = 0; m < s.metrics.size(); ++m) {
      const Mean mean = mean_of_metric(m);
      if (mean.n == 0) continue;
      const std::string& metric = s.metrics[m].name;
      entry.set(cat(metric, ",", task.filter), mean.value);
      entry.set(cat(metric, "_stderr,", task.filter), error_of(mean));
      if (name == task.name) sample_count.set(cat(metric, ",", task.filter), mean.n);
    }
    t.results.set(name, std::move(entry));
    t.configs.set(name, Json::Object{{"task", name},
                                     {"task_alias", alias},
                                     {"output_type", "generate_until"},
                                     {"num_fewshot", h.shots},
                                     {"metric_list", metric_list},
                                     {"metadata", Json::Object{{"version", number_or_text(h.version)}}}});
    t.versions.set(name, number_or_text(h.version));
    t.shots.set(name, h.shots);
    t.better.set(name, better);
    t.samples.set(name, Json::Object{{"original", original}, {"effective", counts.answered}});
  };
  Json children = Json::Array{};
  for (const GroupSummary& g : s.groups) {
    const std::string alias = as_name(g.name.empty() ? "(none)" : g.name);
    std::string name = cat(task.name, "_", alias);
    while (t.results.find(name)) name += "_";  // "a b" and "a_b"
    add(name, alias, g.counts, g.counts.asked, [&](size_t m) { return g.means[m]; });
    children.push_back(name);
  }
  add(task.name, task.name, s.counts, h.n_items, [&](size_t m) { return s.metrics[m].mean; });

  Json out = Json::Object{{"results", t.results}};
  if (!s.groups.empty()) {
    Json group = *t.results.find(task.name);
    group.set("sample_count", std::move(sample_count));
    out.set("groups", Json::Object{{task.name, std::move(group)}});
    out.set("group_subtasks", Json::Object{{task.name, std::move(children)}});
  } else {
    out.set("group_subtasks", Json::Object{});
  }
  out.set("configs", std::move(t.configs));
  out.set("versions", std::move(t.versions));
  out.set("n-shot", std::move(t.shots));
  out.set("higher_is_better", std::move(t.better));
  out.set("n-samples", std::move(t.samples));
  const Json* limit = h.settings.find("limit");
  out.set("config", Json::Object{{"model", "l4"},
                                 {"model_args", h.model},
                                 {"batch_size", nullptr},
                                 {"batch_sizes", Json::Array{}},
                                 {"device", h.device},
                                 {"use_cache", nullptr},
                                 {"limit", limit ? *limit : Json()},
                                 {"bootstrap_iters", 0},
                                 {"gen_kwargs", nullptr},
                                 {"random_seed", int64_t(h.seed)}});
  out.set("model_source", "l4");
  out.set("model_name", h.model);
  out.set("model_name_sanitized", as_name(h.model));
  out.set("l4", our_own(s));
  return out;
}

}  // namespace l4::eval
