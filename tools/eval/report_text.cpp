#include "tools/eval/report_text.h"

#include <algorithm>
#include <cstdio>

#include "base/strings.h"

namespace l4::eval {

std::string percent(double share) {
  char text[40];
  std::snprintf(text, sizeof text, "%.2f", 100 * share);
  return text;
}

std::string percent(const Mean& mean) {
  return cat(percent(mean.value), mean.standard_error ? cat(" ± ", percent(*mean.standard_error)) : "");
}

std::string variant_of(const RunHeader& h) {
  std::string text = cat(h.recipe, h.version.empty() ? "" : " ", h.version,
                         h.recipe.empty() && h.version.empty() ? "" : ", ", h.shots, "-shot");
  const Json *chat = h.settings.find("chat"), *limit = h.settings.find("limit");
  if (chat && chat->is_bool() && !chat->as_bool()) text += ", no chat template";
  if (limit && limit->is_integer() && limit->as_integer() > 0) text += cat(", limit ", limit->as_integer());
  const Json* categories = h.settings.find("categories");
  if (categories && categories->is_string() && !categories->as_string().empty())
    text += cat(", only ", categories->as_string());
  return text;
}

std::vector<std::string> labels_of(std::span<const Summary> summaries) {
  std::vector<std::string> labels;
  std::vector<int> numbers;  // of runs that nothing else tells apart
  for (const Summary& s : summaries) {
    std::string label = s.header.model;
    if (s.header.settings.is_object())
      for (const auto& [key, value] : s.header.settings.as_object()) {
        const bool differs =
            std::any_of(summaries.begin(), summaries.end(), [&, &name = key, &mine = value](const Summary& o) {
              const Json* theirs = o.header.settings.find(name);
              return o.header.model == s.header.model && kind_of(o.header) == kind_of(s.header) &&
                     (!theirs || *theirs != mine);
            });
        if (differs) label += cat(", ", key, " ", setting_text(value));
      }
    const auto same = [&](size_t i) { return labels[i] == label && kind_of(summaries[i].header) == kind_of(s.header); };
    int n = 1;
    for (size_t i = 0; i < labels.size(); ++i) n += same(i);
    numbers.push_back(n);
    labels.push_back(std::move(label));
  }
  for (size_t i = 0; i < labels.size(); ++i)
    if (numbers[i] > 1) labels[i] += cat(" (", numbers[i], ")");
  return labels;
}

std::string kind_of(const RunHeader& h) {
  return cat(h.task, ", ", variant_of(h));
}

std::string setting_text(const Json& value) {
  if (value.is_object()) {
    std::vector<std::string> members;
    for (const auto& [key, inner] : value.as_object()) members.push_back(cat(key, " ", setting_text(inner)));
    return join(members, ", ");
  }
  const std::string text = value.is_string() ? value.as_string() : dump_json(value);
  const bool is_digest = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
  return is_digest ? text.substr(0, 12) + "…" : text;
}

std::string share_of(int64_t n, int64_t all) {
  return all > 0 ? cat(human_count(uint64_t(n)), " (", percent(double(n) / double(all)), " %)") : cat(n);
}

std::string wilson_text(const Mean& m) {
  const Interval i = wilson_interval(m.value, m.n);
  return cat(percent(i.low), " to ", percent(i.high));
}

tools::BarPlot::Bar bar_of(const Mean& m) {
  const Interval i = wilson_interval(m.value, m.n);
  return {100 * m.value, 100 * std::min(i.low, m.value), 100 * std::max(i.high, m.value)};
}

}  // namespace l4::eval
