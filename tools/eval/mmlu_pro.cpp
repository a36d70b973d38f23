#include "tools/eval/mmlu_pro.h"

#include <map>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "text/python_pattern.h"
#include "text/python_text.h"
#include "tools/eval/dataset.h"
#include "tools/eval/letter_answer.h"

namespace l4::eval {

namespace {

constexpr size_t kMaxOptions = 10;

struct Question {
  std::string id, text, subject, answer;
  std::vector<std::string> options;
  std::string reasoning;  // cot_content, of examples
};

// What one side says, and what parts it from the next when all is one text.
struct Part {
  std::string role, text, then;
};

struct Recipe {
  const char* name;
  const char* version;
  int64_t shots, max_tokens;
  bool weigh_by_size;
  std::vector<std::string> stop;
  std::vector<Part> (*parts)(const Question& question, const std::vector<const Question*>& shots);
  LetterAnswer (*letter)(const std::string& answer);
  bool guesses;
};

// ---- prompts

std::string with_all_replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

std::string instruction(const std::string& subject) {
  return cat(
      "The following are multiple choice questions (with answers) about ", subject,
      ". Think step by step and then finish your answer with \"the answer is (X)\" where X is the correct letter "
      "choice.\n");
}

constexpr std::string_view kReasoningBegins = "A: Let's think step by step.";  // cot_content
constexpr std::string_view kAnswerBegins = "Answer: Let's think step by step.";

std::string lm_eval_question(const Question& q) {
  std::string out = cat("Question:\n", q.text, "\nOptions:\n");
  for (size_t i = 0; i < q.options.size(); ++i) out += cat(char('A' + i), ". ", python_strip(q.options[i]), "\n");
  return out.append(kAnswerBegins);
}

std::vector<Part> lm_eval_parts(const Question& question, const std::vector<const Question*>& shots) {
  std::vector<Part> parts = {{"system", instruction(question.subject), ""}};
  for (const Question* shot : shots) {
    parts.push_back({"user", lm_eval_question(*shot), " "});
    parts.push_back({"assistant", with_all_replaced(shot->reasoning, cat(kReasoningBegins, " "), ""), "\n\n"});
  }
  parts.push_back({"user", lm_eval_question(question), ""});
  return parts;
}

std::string llama_question(const Question& q) {
  std::string out = cat("Given the following question and candidate answers, choose the best answer.\nQuestion: ",
                        python_strip(q.text), "\n");
  for (size_t i = 0; i < q.options.size(); ++i) out += cat(char('A' + i), ". ", q.options[i], "\n");
  return out +
         "\nYour response should end with \"The best answer is [the_answer_letter].\" where the [the_answer_letter] is "
         "a "
         "letter from the provided choices.\n\nLet's think step by step.";
}

std::string llama_reasoning(const Question& shot) {
  static const PythonPattern answer_is(R"(The answer is \(([A-Z])\)\.)");
  std::string_view text = shot.reasoning;
  if (text.starts_with(kReasoningBegins)) text.remove_prefix(kReasoningBegins.size());
  text = python_strip(text);
  std::string out;
  size_t copied = 0;
  for (const PythonPattern::Match& match : answer_is.all(text)) {
    out += cat(text.substr(copied, match.begin - copied), "The best answer is ", match.group, ".");
    copied = match.end;
  }
  return out.append(text.substr(copied));
}

std::vector<Part> llama_parts(const Question& question, const std::vector<const Question*>& shots) {
  std::vector<Part> parts;
  for (const Question* shot : shots) {
    parts.push_back({"user", llama_question(*shot), " "});
    parts.push_back({"assistant", llama_reasoning(*shot), "\n\n"});
  }
  parts.push_back({"user", llama_question(question), ""});
  return parts;
}

// Options that say "N/A" are taken out before letters are given, as the authors do.
std::string tiger_question(const Question& q) {
  std::string out = cat("Question:\n", q.text, "\nOptions:\n");
  char letter = 'A';
  for (const std::string& option : q.options)
    if (option != "N/A") out += cat(letter++, ". ", option, "\n");
  return out;
}

std::vector<Part> tiger_parts(const Question& question, const std::vector<const Question*>& shots) {
  std::string text = instruction(question.subject) + "\n\n\n";
  for (const Question* shot : shots)
    text += cat(tiger_question(*shot), with_all_replaced(shot->reasoning, kReasoningBegins, kAnswerBegins), "\n\n");
  return {{"user", cat(text, tiger_question(question), kAnswerBegins), ""}};
}

const Recipe kRecipes[] = {
    {"lm-eval", "3.1", 5, 2048, true, {"Question:"}, lm_eval_parts, letter_lm_eval, false},
    {"llama", "1.0", 0, 1024, false, {}, llama_parts, letter_llama, false},
    {"tiger", "2026-03", 5, 2048, true, {"Question:"}, tiger_parts, letter_tiger, true},
};

const Recipe& recipe_of(const std::string& name) {
  for (const Recipe& recipe : kRecipes)
    if (recipe.name == name) return recipe;
  fail(ErrorKind::usage, "--recipe: expected lm-eval, llama or tiger, found ", shown(name));
}

// Turns as they are, or everything but the system's in one turn of the user's, or all one text.
Query query_of(std::vector<Part> parts, const MmluProOptions& options) {
  Query query;
  for (Part& part : parts) {
    if (!options.chat) {
      query.text += part.text + part.then;
    } else if (options.fewshot_as_multiturn || part.role == "system") {
      query.turns.push_back({part.role, std::move(part.text)});
    } else {
      if (query.turns.empty() || query.turns.back().role != "user") query.turns.push_back({"user", ""});
      query.turns.back().text += part.text + part.then;
    }
  }
  return query;
}

// ---- data

Question read_question(const JsonFields& fields, bool is_example) {
  Question q;
  q.id = cat(fields.integer("question_id", std::nullopt, 0, INT64_MAX));
  q.text = text_of(fields, "question");
  q.subject = text_of(fields, "category");
  q.options = texts_of(fields, "options", kMaxOptions);
  q.answer = text_of(fields, "answer");
  if (q.answer.size() != 1 || q.answer[0] < 'A' || size_t(q.answer[0] - 'A') >= q.options.size())
    fields.wrong("answer", cat("a letter from A to ", char('A' + q.options.size() - 1)));
  if (is_example) q.reasoning = text_of(fields, "cot_content");
  return q;
}

using BySubject = std::map<std::string, std::vector<Question>>;

BySubject read_examples(const fs::path& file) {
  BySubject examples;
  const std::vector<BadLine> bad = read_jsonl(file, [&](int64_t, const JsonFields& fields) {
    Question q = read_question(fields, true);
    examples[q.subject].push_back(std::move(q));
  });
  if (!bad.empty()) fail_input(file.string(), ": line ", bad[0].line, ": ", bad[0].why);
  return examples;
}

std::vector<const Question*> shots_of(const BySubject& examples, const std::string& subject, int64_t n,
                                      const fs::path& file) {
  std::vector<const Question*> shots;
  const auto found = examples.find(subject);
  const size_t there = found == examples.end() ? 0 : found->second.size();
  if (there < size_t(n))
    fail_input(file.string(), ": expected ", n, " examples of ", shown(subject), " for --shots, found ", there);
  for (size_t i = 0; i < size_t(n); ++i) shots.push_back(&found->second[i]);
  return shots;
}

}  // namespace

Task mmlu_pro_task(const MmluProOptions& options) {
  const Recipe& recipe = recipe_of(options.recipe);
  Task task;
  task.name = "mmlu_pro";
  task.recipe = recipe.name;
  task.version = recipe.version;
  task.group_name = "subject";
  task.groups_weigh_by_size = recipe.weigh_by_size;
  task.metrics = {"exact_match"};
  task.shots = options.shots.value_or(recipe.shots);

  const fs::path test_file = options.data / "test.jsonl", examples_file = options.data / "validation.jsonl";
  BySubject questions;
  std::unordered_set<std::string> ids;
  task.bad_lines = read_jsonl(test_file, [&](int64_t, const JsonFields& fields) {
    Question q = read_question(fields, false);
    if (!ids.insert(q.id).second) fields.wrong("question_id", "an id of its own");
    questions[q.subject].push_back(std::move(q));
  });
  if (questions.empty())
    fail_input(test_file.string(), ": expected questions, found none",
               task.bad_lines.empty() ? "" : cat("; line ", task.bad_lines[0].line, ": ", task.bad_lines[0].why));
  std::vector<std::string> subjects;
  for (const auto& [subject, of_it] : questions) subjects.push_back(subject);
  check_wanted(options.categories, subjects, test_file);
  const BySubject examples = task.shots ? read_examples(examples_file) : BySubject{};

  std::unordered_map<std::string, int64_t> n_options;
  for (const auto& [subject, of_it] : questions) {
    if (!is_wanted(options.categories, subject)) continue;
    const std::vector<const Question*> shots = shots_of(examples, subject, task.shots, examples_file);
    for (const size_t i : chosen(of_it.size(), options.limit, options.seed)) {
      const Question& q = of_it[i];
      Query query = query_of(recipe.parts(q, shots), options);
      query.max_tokens = options.max_tokens.value_or(recipe.max_tokens);
      query.stop = recipe.stop;
      task.items.push_back({q.id, subject, std::move(query), q.answer});
      n_options[q.id] = int64_t(q.options.size());
    }
  }

  task.score = [letter_of = recipe.letter, guesses = recipe.guesses, seed = options.seed,
                n_options = std::move(n_options)](const Item& item, const std::string& answer) {
    const LetterAnswer said = letter_of(utf8_replace_invalid(answer));
    Score score{.extracted = std::nullopt, .rule = said.rule, .metrics = {}};
    std::optional<char> letter = said.letter;
    if (letter) score.extracted = std::string(1, *letter);
    if (!letter && guesses) {
      const auto known = n_options.find(item.id);
      letter = guessed_letter(item.id, known == n_options.end() ? int64_t(kMaxOptions) : known->second, seed);
      score.rule = "random guess";
    }
    score.metrics = {{"exact_match", letter && item.target == std::string(1, *letter) ? 1.0 : 0.0}};
    return score;
  };
  return task;
}

}  // namespace l4::eval
