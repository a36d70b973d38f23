#include "tools/convert/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace l4::convert {

namespace {

std::string to_name(const Item& item, int64_t group) {
  if (item.scheme == Scheme::int4) return cat("INT4 g", group);
  return item.scheme == Scheme::fp8 ? "FP8" : dtype_name(item.info->dtype);
}

// Columns as wide as their widest cell; the first to the left, the others to the right.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> width;
  for (const auto& row : rows)
    for (size_t c = 0; c < row.size(); ++c) {
      if (c >= width.size()) width.push_back(0);
      width[c] = std::max(width[c], row[c].size());
    }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string space(width[c] - row[c].size(), ' ');
      line += cat(c ? "  " : "", c ? space : "", row[c], c ? "" : space);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

Json number(double value) {  // JSON has no infinity; weights of 1e30 give one
  return std::isfinite(value) ? Json(value) : Json();
}

// Sums over what shares a part and a result.
struct Part {
  ModelPart part;
  std::string from, to;
  int64_t n_tensors = 0;
  uint64_t bytes_from = 0, bytes_to = 0;
  QuantError error;
};

std::vector<Part> parts_of(const Plan& plan, const std::vector<QuantError>* errors) {
  std::map<std::pair<ModelPart, std::string>, Part> parts;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const Item& item = plan.items[i];
    Part& part = parts[{item.part, to_name(item, plan.recipe.group)}];
    part.part = item.part;
    part.from = dtype_name(item.info->dtype);
    part.to = to_name(item, plan.recipe.group);
    ++part.n_tensors;
    part.bytes_from += plan.source_bytes_of(item);
    part.bytes_to += plan.bytes_of(item);
    if (errors) part.error.add((*errors)[i]);
  }
  std::vector<Part> list;
  for (auto& [key, part] : parts) list.push_back(std::move(part));
  return list;
}

std::string bytes_text(uint64_t bytes) {
  return human_count(bytes);
}

}  // namespace

std::string describe_plan(const Plan& plan) {
  std::vector<std::vector<std::string>> rows = {{"tensor", "from", "shape", "to", "bytes", "becoming"}};
  for (size_t i = 0; i < plan.items.size();) {
    const Item& item = plan.items[i];
    const size_t first = i;
    uint64_t from = 0, to = 0;
    for (; i < plan.items.size() && plan.items[i].info == item.info; ++i) {
      from += plan.source_bytes_of(plan.items[i]);
      to += plan.bytes_of(plan.items[i]);
    }
    const std::string apart = item.is_transposed() ? cat(i - first, " x ") : "";
    rows.push_back({item.info->name, dtype_name(item.info->dtype), item.info->shape.str(),
                    apart + to_name(item, plan.recipe.group), bytes_text(from), bytes_text(to)});
  }
  std::string out = table(rows) + "\n";
  rows = {{"part", "tensors", "from", "to", "bytes", "becoming"}};
  for (const Part& p : parts_of(plan, nullptr))
    rows.push_back(
        {model_part_name(p.part), cat(p.n_tensors), p.from, p.to, bytes_text(p.bytes_from), bytes_text(p.bytes_to)});
  rows.push_back({"all", cat(plan.items.size()), "", "", bytes_text(plan.source_bytes), bytes_text(plan.bytes)});
  out += table(rows);
  return out + cat("\n", plan.shards.size(), plan.shards.size() == 1 ? " file, " : " files, ", human_bytes(plan.bytes),
                   " from ", human_bytes(plan.source_bytes), "\n");
}

std::string error_table(const Plan& plan, const std::vector<QuantError>& errors) {
  std::vector<std::vector<std::string>> rows = {
      {"part", "tensors", "to", "size", "mean squared error", "largest error", "relative error"}};
  for (const Part& p : parts_of(plan, &errors)) {
    const bool kept = p.error.n == 0;
    rows.push_back({model_part_name(p.part), cat(p.n_tensors), p.to, human_bytes(p.bytes_to),
                    kept ? "-" : short_number(p.error.mean_squared()), kept ? "-" : short_number(p.error.max_error),
                    kept ? "-" : short_number(p.error.relative())});
  }
  return table(rows);
}

std::string calibration_summary(const Calibration& calibration) {
  std::string out;
  std::vector<std::string> rounded;
  for (const auto& [module, linear] : calibration.linears)
    if (!linear.gptq) rounded.push_back(cat(module, " (", linear.n_rows, linear.n_rows == 1 ? " row)" : " rows)"));
  if (!calibration.linears.empty()) out += cat("\nGPTQ  ", calibration.linears.size() - rounded.size(), " linears");
  if (!rounded.empty()) {
    constexpr size_t kMost = 20;
    out += cat("; rounded, for want of inputs in the text: ", rounded.size(), "\n");
    for (size_t i = 0; i < std::min(kMost, rounded.size()); ++i) out += cat("  ", rounded[i], "\n");
    if (rounded.size() > kMost) out += cat("  and ", rounded.size() - kMost, " more, see the report\n");
  } else if (!out.empty()) {
    out += "\n";
  }
  const auto most = [](const std::vector<float>& values) {
    return short_number(double(*std::max_element(values.begin(), values.end())));
  };
  if (!calibration.k_max.empty())
    out += cat("\nFP8 cache  largest key ", most(calibration.k_max), ", largest value ", most(calibration.v_max), "\n");
  return out;
}

Json error_report(const Plan& plan, const std::vector<QuantError>& errors, const Calibration& calibration) {
  const auto fields_of = [](const QuantError& e) {
    return Json::Object{{"weights", e.n},
                        {"mean_squared_error", number(e.mean_squared())},
                        {"max_error", number(double(e.max_error))},
                        {"relative_error", number(e.relative())},
                        {"max_weight", number(double(e.max_weight))}};
  };
  Json parts = Json::Array{}, tensors = Json::Array{};
  for (const Part& p : parts_of(plan, &errors)) {
    Json entry = Json::Object{{"part", model_part_name(p.part)},
                              {"to", p.to},
                              {"tensors", p.n_tensors},
                              {"bytes_from", int64_t(p.bytes_from)},
                              {"bytes_to", int64_t(p.bytes_to)}};
    if (p.error.n > 0)
      for (const auto& [key, value] : fields_of(p.error)) entry.set(key, value);
    parts.push_back(std::move(entry));
  }
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const Item& item = plan.items[i];
    if (item.scheme == Scheme::keep) continue;
    Json entry = Json::Object{{"module", item.module},
                              {"part", model_part_name(item.part)},
                              {"from", dtype_name(item.info->dtype)},
                              {"to", item.scheme == Scheme::fp8 ? "FP8" : "INT4"},
                              {"shape", Json::Array{item.n, item.k}},
                              {"bytes", int64_t(plan.bytes_of(item))}};
    for (const auto& [key, value] : fields_of(errors[i])) entry.set(key, value);
    if (const CalibratedLinear* made = calibration.find(item.module)) {
      entry.set("method", made->gptq ? "gptq" : "rtn");
      entry.set("calibration_rows", made->n_rows);
      if (made->gptq)
        entry.set("mean_squared_output_error", number(made->loss / (double(made->n_rows) * double(item.n))));
    }
    tensors.push_back(std::move(entry));
  }
  Json rules = Json::Array{};
  for (const Rule& rule : plan.recipe.rules) rules.push_back(rule.text());
  Json report = Json::Object{{"preset", plan.recipe.preset},    {"group_size", plan.recipe.group},
                             {"rules", std::move(rules)},       {"bytes_from", int64_t(plan.source_bytes)},
                             {"bytes_to", int64_t(plan.bytes)}, {"parts", std::move(parts)},
                             {"tensors", std::move(tensors)}};
  if (!calibration.k_max.empty()) {
    Json::Array k(calibration.k_max.begin(), calibration.k_max.end()),
        v(calibration.v_max.begin(), calibration.v_max.end());
    report.set("largest_key", std::move(k));
    report.set("largest_value", std::move(v));
  }
  return report;
}

}  // namespace l4::convert
