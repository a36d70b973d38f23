#include "tools/eval/record.h"

#include <unordered_map>

#include "base/error.h"
#include "formats/json_fields.h"

namespace l4::eval {

namespace {

constexpr int64_t kFormat = 1;
constexpr int64_t kMost = int64_t(1) << 53;
constexpr uint64_t kMostFileBytes = uint64_t(8) << 30;

Json json_of(const std::vector<BadLine>& bad_lines) {
  Json list{Json::Array{}};
  for (const BadLine& bad : bad_lines)
    list.push_back(Json::Object{{"line", bad.line}, {"why", utf8_replace_invalid(bad.why)}});
  return list;
}

std::vector<BadLine> bad_lines_from(const JsonFields& fields, const std::string& place) {
  std::vector<BadLine> bad_lines;
  const Json* list = fields.find("bad_lines");
  if (!list) return bad_lines;
  if (!list->is_array()) fields.wrong("bad_lines", "a list");
  for (size_t i = 0; i < list->as_array().size(); ++i) {
    const JsonFields bad(list->as_array()[i], place, cat("bad_lines[", i, "]."));
    bad_lines.push_back({bad.integer("line", {}, 1, kMost), bad.text("why", {})});
  }
  return bad_lines;
}

Score score_from(const JsonFields& fields, const std::string& place) {
  Score score;
  if (fields.has("extracted")) score.extracted = fields.text("extracted", {});
  score.rule = fields.text("rule", "");
  const Json* metrics = fields.find("metrics");
  if (!metrics || !metrics->is_object()) fields.wrong("metrics", "an object");
  const JsonFields values(*metrics, place, "metrics.");
  for (const auto& [name, value] : metrics->as_object()) score.metrics.push_back({name, values.number(name, {}, 0, 1)});
  return score;
}

}  // namespace

std::string to_line(const RunHeader& h) {
  Json line(Json::Object{{"l4_eval", kFormat},
                         {"task", h.task},
                         {"recipe", h.recipe},
                         {"version", h.version},
                         {"group_name", h.group_name},
                         {"groups_weigh_by_size", h.groups_weigh_by_size},
                         {"shots", h.shots},
                         {"model", h.model},
                         {"device", h.device},
                         {"n_items", h.n_items},
                         {"seed", int64_t(h.seed)},
                         {"settings", h.settings.is_object() ? h.settings : Json(Json::Object{})},
                         {"bad_lines", json_of(h.bad_lines)}});
  return dump_json(line);
}

std::string to_line(const Record& r) {
  Json line(Json::Object{{"id", r.id}, {"group", r.group}, {"prompt_sha256", r.prompt_sha256}});
  if (!r.answered()) {
    line.set("target", r.target);
    line.set("error", utf8_replace_invalid(r.reply.error));
    line.set("attempts", r.reply.attempts);
    return dump_json(line);
  }
  line.set("answer", utf8_replace_invalid(r.reply.text));
  line.set("finish_reason", r.reply.finish_reason);
  if (r.score.extracted) {
    line.set("extracted", utf8_replace_invalid(*r.score.extracted));
    line.set("rule", r.score.rule);
  } else {
    line.set("extracted", Json());
  }
  line.set("target", r.target);
  line.set("right", r.right());
  Json metrics{Json::Object{}};
  for (const Metric& metric : r.score.metrics) metrics.set(metric.name, metric.value);
  line.set("metrics", std::move(metrics));
  line.set("prompt_tokens", r.reply.prompt_tokens);
  line.set("completion_tokens", r.reply.completion_tokens);
  if (r.reply.attempts != 1) line.set("attempts", r.reply.attempts);
  return dump_json(line);
}

RunHeader header_from(const Json& line, const std::string& place) {
  const JsonFields fields(line, place);
  if (fields.integer("l4_eval", 0, 0, kMost) != kFormat)
    fail_input(place, ": l4_eval: expected ", kFormat, ", found ",
               fields.has("l4_eval") ? dump_json(*fields.find("l4_eval")) : "nothing: not a file of l4-eval");
  RunHeader h;
  h.task = fields.text("task", {});
  h.recipe = fields.text("recipe", {});
  h.version = fields.text("version", "");
  h.group_name = fields.text("group_name", "");
  h.groups_weigh_by_size = fields.flag("groups_weigh_by_size", true);
  h.shots = fields.integer("shots", 0, 0, kMost);
  h.model = fields.text("model", {});
  h.device = fields.text("device", "");
  h.n_items = fields.integer("n_items", {}, 0, kMost);
  h.seed = uint64_t(fields.integer("seed", 0, INT64_MIN, INT64_MAX));
  h.settings = Json::Object{};
  if (const Json* settings = fields.find("settings")) h.settings = *settings;
  if (!h.settings.is_object()) fields.wrong("settings", "an object");
  h.bad_lines = bad_lines_from(fields, place);
  return h;
}

Record record_from(const Json& line, const std::string& place) {
  const JsonFields fields(line, place);
  Record r;
  r.id = fields.text("id", {});
  r.group = fields.text("group", "");
  r.prompt_sha256 = fields.text("prompt_sha256", "");
  r.target = fields.text("target", "");
  r.reply.attempts = int(fields.integer("attempts", 1, 0, INT32_MAX));
  if (fields.has("error")) {
    r.reply.error = fields.text("error", {});
    if (r.reply.error.empty()) fields.wrong("error", "why there is no answer");
    return r;
  }
  r.reply.text = fields.text("answer", {});
  r.reply.finish_reason = fields.text("finish_reason", "");
  r.reply.prompt_tokens = fields.integer("prompt_tokens", 0, 0, kMost);
  r.reply.completion_tokens = fields.integer("completion_tokens", 0, 0, kMost);
  r.score = score_from(fields, place);
  return r;
}

RunFile read_run_file(const fs::path& path) {
  const std::string text = read_file(path, kMostFileBytes);
  RunFile run;
  std::unordered_map<std::string, size_t> place_of;
  int64_t number = 0;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string place = cat(path.string(), ": line ", ++number);
    const Json line = parse_json(std::string_view(text).substr(begin, end - begin), place);
    run.whole_bytes = end + 1;
    if (number == 1) {
      run.header = header_from(line, place);
      continue;
    }
    Record record = record_from(line, place);
    const auto [at, is_new] = place_of.try_emplace(record.id, run.records.size());
    if (is_new)
      run.records.push_back(std::move(record));
    else
      run.records[at->second] = std::move(record);
  }
  if (number == 0) fail_input(path.string(), ": line 1: expected the header of a run, found none");
  return run;
}

}  // namespace l4::eval
