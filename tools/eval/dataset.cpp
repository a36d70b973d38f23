#include "tools/eval/dataset.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "base/error.h"

namespace l4::eval {

namespace {

constexpr std::string_view kHere = "line";  // stands for the file in messages, of which a BadLine keeps what follows

std::string as_spoken(std::string_view group) {
  std::string out(group);
  std::replace(out.begin(), out.end(), '_', ' ');
  return out;
}

}  // namespace

std::vector<BadLine> read_jsonl(const fs::path& file,
                                const std::function<void(int64_t line, const JsonFields& fields)>& use) {
  const MappedFile mapped(file);
  const std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.size());
  std::vector<BadLine> bad;
  int64_t line = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view json = text.substr(at, end - at);
    at = end + 1;
    ++line;
    if (trim(json).empty()) continue;
    try {
      const Json object = parse_json(json, kHere);
      use(line, JsonFields(object, std::string(kHere)));
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::input) throw;
      std::string why = e.message();
      if (why.starts_with(cat(kHere, ": "))) why.erase(0, kHere.size() + 2);
      bad.push_back({line, std::move(why)});
    }
  }
  return bad;
}

std::string text_of(const JsonFields& fields, std::string_view key) {
  std::string text = fields.text(key, std::nullopt);
  if (text.empty()) fields.wrong(key, "a string that is not empty");
  return text;
}

std::vector<std::string> texts_of(const JsonFields& fields, std::string_view key, size_t most) {
  const Json* list = fields.find(key);
  std::vector<std::string> texts;
  bool good = list && list->is_array() && !list->as_array().empty() && list->as_array().size() <= most;
  for (size_t i = 0; good && i < list->as_array().size(); ++i) {
    const Json& item = list->as_array()[i];
    good = item.is_string();
    if (good) texts.push_back(item.as_string());
  }
  if (!good) fields.wrong(key, cat("a list of 1 to ", most, " strings"));
  return texts;
}

std::vector<size_t> chosen(size_t n, int64_t limit, uint64_t seed) {
  std::vector<size_t> positions(n);
  std::iota(positions.begin(), positions.end(), size_t{0});
  if (limit <= 0 || size_t(limit) >= n) return positions;
  if (seed) {
    // The first steps of a Fisher-Yates shuffle, with a generator that is the same everywhere.
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < size_t(limit); ++i) std::swap(positions[i], positions[i + random() % (n - i)]);
  }
  positions.resize(size_t(limit));
  std::sort(positions.begin(), positions.end());
  return positions;
}

bool is_wanted(const std::vector<std::string>& wanted, std::string_view group) {
  if (wanted.empty()) return true;
  return std::any_of(wanted.begin(), wanted.end(),
                     [&](const std::string& name) { return as_spoken(name) == as_spoken(group); });
}

void check_wanted(const std::vector<std::string>& wanted, const std::vector<std::string>& groups,
                  const fs::path& file) {
  for (const std::string& name : wanted)
    if (std::none_of(groups.begin(), groups.end(), [&](const std::string& group) { return is_wanted({name}, group); }))
      fail(ErrorKind::usage, "--categories: ", file.string(), " has no questions of ", shown(name), "; it has ",
           join(groups, ", "));
}

}  // namespace l4::eval
