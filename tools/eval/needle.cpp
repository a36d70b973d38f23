#include "tools/eval/needle.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "tools/eval/needle_text.h"

namespace l4::eval {

namespace {

constexpr int64_t kMostKeys = 300, kMostValues = 50;

// 4K, 1M, 1000: what parse_size() reads.
std::string length_name(int64_t length) {
  constexpr int64_t k = 1024;
  if (length % (k * k) == 0) return cat(length / (k * k), "M");
  return length % k == 0 ? cat(length / k, "K") : std::to_string(length);
}

std::string group_of(int64_t length, double depth) {
  return cat(length_name(length), "/", depth);
}

void check(const NeedleOptions& o) {
  const auto in_range = [](const char* flag, int64_t value, int64_t most) {
    if (value < 1 || value > most)
      fail(ErrorKind::usage, flag, ": expected a number from 1 to ", most, ", found ", value);
  };
  in_range("--keys", o.keys, kMostKeys);
  in_range("--values", o.values, kMostValues);
  in_range("--samples", o.samples, 1'000'000);
  if (o.lengths.empty()) fail(ErrorKind::usage, "--lengths: expected lengths, found none");
  if (o.depths.empty()) fail(ErrorKind::usage, "--depths: expected depths, found none");
  for (const int64_t length : o.lengths) in_range("--lengths", length, int64_t(1) << 31);
  for (const double depth : o.depths)
    if (!(depth >= 0 && depth <= 100))
      fail(ErrorKind::usage, "--depths: expected percents from 0 to 100, found ", depth);
}

template <class T>
std::vector<T> descending(std::vector<T> values) {
  std::sort(values.rbegin(), values.rend());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

Score score_of(const Item& item, const std::string& answer) {
  const std::vector<std::string> wanted = split(item.target, ' '), found = numbers_in(answer);
  const std::set<std::string> given(found.begin(), found.end());
  const auto right = std::count_if(wanted.begin(), wanted.end(), [&](const auto& w) { return given.count(w) > 0; });
  Score score;
  if (!found.empty()) {
    score.extracted = join(found, " ");
    score.rule = "numbers";
  }
  score.metrics = {{"recall", double(right) / double(wanted.size())},
                   {"exact", given == std::set(wanted.begin(), wanted.end()) ? 1.0 : 0.0}};
  return score;
}

struct Cell {
  double sum = 0;
  int64_t n = 0;
};

// By length and depth; the answered questions.
std::map<std::pair<double, double>, Cell> cells_of(const RunFile& run) {
  std::map<std::pair<double, double>, Cell> cells;
  for (const Record& record : run.records) {
    const std::vector<std::string> parts = split(record.group, '/');
    const std::optional<uint64_t> length = parts.size() == 2 ? parse_size(parts[0]) : std::nullopt;
    const std::optional<double> depth = parts.size() == 2 ? parse_double(parts[1]) : std::nullopt;
    if (!length || !depth) fail_input(record.id, ": group: expected LENGTH/DEPTH, found ", shown(record.group));
    Cell& cell = cells[{double(*length), *depth}];
    if (!record.answered() || record.score.metrics.empty()) continue;
    cell.sum += record.score.metrics.front().value;
    ++cell.n;
  }
  return cells;
}

}  // namespace

int64_t answer_tokens(const NeedleOptions& options) {
  return options.max_tokens.value_or(16 + 16 * options.values);
}

int64_t tokens_by_bytes(const Query& query) {
  size_t bytes = query.text.size();
  for (const Query::Turn& turn : query.turns) bytes += turn.text.size();
  return int64_t(bytes / 4);
}

std::vector<std::string> numbers_in(std::string_view answer) {
  const auto is_digit = [&](size_t i) { return i < answer.size() && answer[i] >= '0' && answer[i] <= '9'; };
  const auto digits_at = [&](size_t i) {
    size_t n = 0;
    while (is_digit(i + n)) ++n;
    return n;
  };
  std::vector<std::string> numbers;
  for (size_t i = 0; i < answer.size();) {
    size_t n = digits_at(i);
    if (n == 0) {
      ++i;
      continue;
    }
    std::string number(answer.substr(i, n));
    i += n;
    // Thousands: one to three digits, then groups of three.
    const bool grouped = n <= 3;
    while (grouped && i < answer.size() && answer[i] == ',' && digits_at(i + 1) == 3) {
      number += answer.substr(i + 1, 3);
      i += 4;
    }
    if (number.size() >= 3) numbers.push_back(std::move(number));
  }
  return numbers;
}

Task needle_task(const NeedleOptions& o, const CountQuery& count_tokens,
                 const std::function<void(int64_t done, int64_t total)>& on_progress) {
  check(o);
  Task task;
  task.name = "needle";
  task.recipe = o.keys > 1 ? cat("one of ", o.keys, " keys") : "pass key";
  if (o.values > 1) task.recipe += cat(", ", o.values, " values");
  task.recipe += cat(", ", filler_kind_name(o.filler), o.chat ? "" : ", continued");
  task.version = "1";
  task.group_name = "length/depth";
  task.metrics = {"recall", "exact"};
  task.score = score_of;
  const std::vector<int64_t> lengths = descending(o.lengths);
  const std::vector<double> depths = descending(o.depths);
  const int64_t total = o.samples * int64_t(lengths.size() * depths.size());
  for (int64_t sample = 0; sample < o.samples; ++sample) {
    Filler filler(o.filler, o.seed, uint64_t(sample));
    for (const int64_t length : lengths) {
      NeedleText text(o, count_tokens, filler, uint64_t(sample), length);
      for (const double depth : depths) {
        const Needle needle = text.at(depth);
        const std::string group = group_of(length, depth);
        task.items.push_back({cat(group, "/", sample), group, text.query(needle.prompt), join(needle.values, " ")});
        if (on_progress) on_progress(int64_t(task.items.size()), total);
      }
    }
  }
  return task;
}

tools::HeatMap needle_heat_map(const RunFile& run) {
  const auto cells = cells_of(run);
  std::set<double> lengths, depths;
  for (const auto& [place, cell] : cells) {
    lengths.insert(place.first);
    depths.insert(place.second);
  }
  tools::HeatMap map;
  map.title = cat("Recall in long texts: ", run.header.model);
  int64_t answered = 0, failed = int64_t(run.records.size());
  double sum = 0;
  for (const auto& [place, cell] : cells) {
    answered += cell.n;
    sum += cell.sum;
  }
  failed -= answered;
  map.subtitle = run.header.recipe;
  if (answered > 0)
    map.subtitle += cat("; mean of ", answered, " answers ", tools::percent_text(sum / double(answered)), " %");
  if (failed > 0) map.subtitle += cat("; ", failed, " without an answer");
  map.x_label = "prompt, tokens";
  map.y_label = "depth, %";
  map.value_label = "recall, %";
  for (const double length : lengths) map.columns.push_back(length_name(int64_t(length)));
  for (const double depth : depths) {
    map.rows.push_back(cat(depth));
    for (const double length : lengths) {
      const auto cell = cells.find({length, depth});
      map.values.push_back(cell != cells.end() && cell->second.n > 0
                               ? std::optional(cell->second.sum / double(cell->second.n))
                               : std::nullopt);
    }
  }
  return map;
}

std::string needle_table(const RunFile& run) {
  const tools::HeatMap map = needle_heat_map(run);
  const auto cell = [](const std::string& text) {
    return std::string(text.size() < 8 ? 8 - text.size() : 1, ' ') + text;
  };
  std::string out = cat(map.title, "\n", map.subtitle, "\n", cell("depth"));
  for (const std::string& column : map.columns) out += cell(column);
  out += '\n';
  for (size_t y = 0; y < map.rows.size(); ++y) {
    out += cell(map.rows[y] + " %");
    for (size_t x = 0; x < map.columns.size(); ++x) {
      const std::optional<double> value = map.values[y * map.columns.size() + x];
      out += cell(value ? tools::percent_text(*value) : "-");
    }
    out += '\n';
  }
  return out;
}

}  // namespace l4::eval
