#include "tools/eval/questions.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "tools/eval/dataset.h"
#include "tools/eval/letter_answer.h"
#include "tools/eval/relaxed_accuracy.h"

namespace l4::eval {

namespace {

constexpr std::array kMatches = {"exact", "contains", "number", "letter", "relaxed"};

struct Rule {
  std::string match = "exact";
  std::vector<std::string> answers;
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Lower case, words one space apart, no full stop at the end.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : to_lower(text)) {
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    if (!space)
      out += c;
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  while (out.ends_with(' ') || out.ends_with('.')) out.pop_back();
  return out;
}

// "B", "(B)", "B." or "... the answer is (B)".
std::optional<std::string> letter_of(const std::string& answer) {
  std::string bare = answer;
  std::erase_if(bare, [](char c) { return c == '(' || c == ')' || c == '.'; });
  if (bare.size() == 1 && bare[0] >= 'A' && bare[0] <= 'J') return bare;
  const LetterAnswer found = letter_lm_eval(answer);
  return found.letter ? std::optional(std::string(1, *found.letter)) : std::nullopt;
}

Score score_of(const Rule& rule, const std::string& answer) {
  Score score;
  const std::string all(trim(answer));
  const auto any = [&](auto&& holds) { return std::any_of(rule.answers.begin(), rule.answers.end(), holds); };
  bool right = false;
  if (rule.match == "exact" || rule.match == "contains") {
    if (!all.empty()) score.extracted = all;
    const std::string text = rule.match == "exact" ? plain(all) : to_lower(all);
    right = any([&](const std::string& a) {
      return rule.match == "exact" ? text == plain(a) : text.find(to_lower(a)) != text.npos;
    });
  } else if (rule.match == "number") {
    score.extracted = last_number(all);
    right = score.extracted && any([&](const std::string& a) {
              return parse_double(*score.extracted) == parse_double(last_number(a).value_or(""));
            });
  } else if (rule.match == "letter") {
    score.extracted = letter_of(all);
    right = score.extracted && any([&](const std::string& a) { return a == *score.extracted; });
  } else {
    std::string said = final_answer(answer);
    if (said.empty()) said = all;
    if (!said.empty()) score.extracted = said;
    right = score.extracted && any([&](const std::string& a) { return relaxed_equal(said, a); });
  }
  if (score.extracted) score.rule = rule.match;
  score.metrics = {{"accuracy", right ? 1.0 : 0.0}};
  return score;
}

// ---- one line -------------------------------------------------------------------------------------------------------

std::string text_or_number(const JsonFields& fields, std::string_view key, const Json& value) {
  if (value.is_string() && !value.as_string().empty()) return value.as_string();
  if (!value.is_number()) fields.wrong(key, "text that is not empty, or a number");
  return dump_json(value);
}

Rule rule_from(const JsonFields& fields) {
  Rule rule;
  rule.match = fields.text("match", "exact");
  if (std::find(kMatches.begin(), kMatches.end(), rule.match) == kMatches.end())
    fields.wrong("match", "exact, contains, number, letter or relaxed");
  const Json *one = fields.find("answer"), *list = fields.find("answers");
  if (!one == !list) fail_input("expected \"answer\" or \"answers\", found ", one ? "both" : "neither");
  if (one) {
    rule.answers = {text_or_number(fields, "answer", *one)};
  } else {
    if (!list->is_array() || list->as_array().empty()) fields.wrong("answers", "a list of texts");
    for (const Json& answer : list->as_array()) rule.answers.push_back(text_or_number(fields, "answers", answer));
  }
  const char* key = one ? "answer" : "answers";
  for (const std::string& answer : rule.answers) {
    if (rule.match == "number" && !last_number(answer))
      fail_input(key, ": expected a number for match \"number\", found ", shown(answer));
    if (rule.match == "letter" && (answer.size() != 1 || answer[0] < 'A' || answer[0] > 'J'))
      fail_input(key, ": expected a letter from A to J for match \"letter\", found ", shown(answer));
  }
  return rule;
}

std::vector<Query::Turn> turns_from(const JsonFields& fields) {
  const Json& list = *fields.find("messages");
  if (!list.is_array() || list.as_array().empty()) fields.wrong("messages", "a list of messages");
  std::vector<Query::Turn> turns;
  for (size_t i = 0; i < list.as_array().size(); ++i) {
    const std::string place = cat("messages[", i, "]");
    const JsonFields message(list.as_array()[i], place);
    const std::string role = message.text("role", {});
    if (role != "system" && role != "user" && role != "assistant") message.wrong("role", "system, user or assistant");
    turns.push_back({role, message.text("content", {})});
  }
  if (turns.back().role != "user") fail_input("messages: expected the user's message as the last one");
  return turns;
}

Query query_from(const JsonFields& fields, const QuestionsOptions& options) {
  Query query;
  query.max_tokens = options.max_tokens;
  if (fields.has("prompt") == fields.has("messages"))
    fail_input("expected \"prompt\" or \"messages\", found ", fields.has("prompt") ? "both" : "neither");
  if (fields.has("images"))
    for (const std::string& name : texts_of(fields, "images", 100))
      query.images.push_back(options.data.parent_path() / name);
  if (!options.chat) {
    if (fields.has("messages")) fail_input("messages: they need the chat template");
    if (fields.has("images")) fail_input("images: they need the chat template");
    query.text = text_of(fields, "prompt");
  } else if (fields.has("messages")) {
    query.turns = turns_from(fields);
  } else {
    query.turns = {{"user", text_of(fields, "prompt")}};
  }
  return query;
}

struct Line {
  Item item;
  Rule rule;
};

Line line_from(int64_t number, const JsonFields& fields, const QuestionsOptions& options) {
  Line line;
  const Json* id = fields.find("id");
  line.item.id = id ? text_or_number(fields, "id", *id) : cat(number);
  line.item.group = fields.text("group", "");
  line.item.query = query_from(fields, options);
  line.rule = rule_from(fields);
  line.item.target = join(line.rule.answers, " | ");
  return line;
}

// The lines that are asked, in their order.
std::vector<Line> wanted_lines(std::vector<Line> lines, const QuestionsOptions& options) {
  std::map<std::string, std::vector<size_t>> groups;
  for (size_t i = 0; i < lines.size(); ++i) groups[lines[i].item.group].push_back(i);
  std::vector<std::string> names;
  for (const auto& [name, of_group] : groups) names.push_back(name);
  check_wanted(options.categories, names, options.data);
  std::set<size_t> wanted;
  for (const auto& [name, of_group] : groups)
    if (is_wanted(options.categories, name))
      for (const size_t k : chosen(of_group.size(), options.limit, options.seed)) wanted.insert(of_group[k]);
  std::vector<Line> out;
  for (const size_t i : wanted) out.push_back(std::move(lines[i]));
  return out;
}

}  // namespace

std::optional<std::string> last_number(std::string_view text) {
  std::string all(text);
  std::erase(all, ',');
  size_t end = all.size();
  while (end > 0 && !is_digit(all[end - 1])) --end;
  if (end == 0) return std::nullopt;
  size_t begin = end;
  while (begin > 0 && is_digit(all[begin - 1])) --begin;
  if (begin > 1 && all[begin - 1] == '.' && is_digit(all[begin - 2])) {
    --begin;
    while (begin > 0 && is_digit(all[begin - 1])) --begin;
  }
  if (begin > 0 && all[begin - 1] == '-') --begin;
  return all.substr(begin, end - begin);
}

Task questions_task(const QuestionsOptions& options) {
  Task task;
  task.name = "questions";
  task.recipe = "own";
  task.version = "1";
  task.group_name = "group";
  task.metrics = {"accuracy"};
  std::vector<Line> lines;
  std::unordered_map<std::string, int64_t> line_of;
  task.bad_lines = read_jsonl(options.data, [&](int64_t number, const JsonFields& fields) {
    Line line = line_from(number, fields, options);
    const auto [at, is_new] = line_of.try_emplace(line.item.id, number);
    if (!is_new) fail_input("id: ", shown(line.item.id), " was line ", at->second, "'s");
    lines.push_back(std::move(line));
  });
  const auto rules = std::make_shared<std::unordered_map<std::string, Rule>>();
  for (Line& line : wanted_lines(std::move(lines), options)) {
    rules->emplace(line.item.id, std::move(line.rule));
    task.items.push_back(std::move(line.item));
  }
  task.score = [rules](const Item& item, const std::string& answer) { return score_of(rules->at(item.id), answer); };
  return task;
}

}  // namespace l4::eval
