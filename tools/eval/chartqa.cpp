#include "tools/eval/chartqa.h"

#include <algorithm>

#include "base/error.h"
#include "tools/eval/dataset.h"
#include "tools/eval/relaxed_accuracy.h"

namespace l4::eval {

namespace {

struct Recipe {
  const char* name;
  const char* version;
  const char* before;
  const char* after;  // of the question
  int64_t max_tokens;
  std::vector<std::string> metrics;
  Score (*score)(const std::string& answer, const std::string& target);
};

Score lm_eval_score(const std::string& answer, const std::string& label) {
  const std::string target = lm_eval_target(label), final = final_answer(answer);
  Score score;
  if (!final.empty()) score = {.extracted = final, .rule = "final answer", .metrics = {}};
  score.metrics = {{"relaxed_accuracy", double(relaxed_accuracy(answer, target))},
                   {"exact_match", double(exact_final_answer(answer, target))},
                   {"anywhere_accuracy", double(anywhere_accuracy(answer, target))}};
  return score;
}

Score lmms_eval_score(const std::string& answer, const std::string& label) {
  Score score;
  if (!trim(answer).empty()) score = {.extracted = answer, .rule = "whole answer", .metrics = {}};
  score.metrics = {{"relaxed_overall", double(relaxed_equal_lmms(answer, label))}};
  return score;
}

const Recipe kRecipes[] = {
    {"lm-eval",
     "0.0",
     "",
     "\n"
     "Analyze the image and question carefully, using step-by-step reasoning.\n"
     "First, describe any image provided in detail. Then, present your reasoning. And finally your final answer in "
     "this "
     "format:\n"
     "Final Answer: <answer>\n"
     "where <answer> follows the following instructions:\n"
     "- <answer> should should be a single phrase or number.\n"
     "- <answer> should not paraphrase or reformat the text in the image.\n"
     "- If <answer> is a ratio, it should be a decimal value like 0.25 instead of 1:4.\n"
     "- If the question is a Yes/No question, <answer> should be Yes/No.\n"
     "- If <answer> is a number, it should not contain any units.\n"
     "- If <answer> is a percentage, it should include a % sign.\n"
     "- If <answer> is an entity, it should include the full label from the graph.\n"
     "IMPORTANT: Remember, to end your answer with Final Answer: <answer>.\n",
     512,
     {"relaxed_accuracy", "exact_match", "anywhere_accuracy"},
     lm_eval_score},
    {"llama",
     "0.0",
     "You are provided a chart image and will be asked a question. You have to think through your answer and provide a "
     "step-by-step solution. Once you have the solution, write the final answer in at most a few words at the end with "
     "the phrase \"FINAL ANSWER:\". The question is: ",
     "\nLet's think step by step.",
     512,
     {"relaxed_accuracy", "exact_match", "anywhere_accuracy"},
     lm_eval_score},
    {"lmms-eval", "0.0", "", "\nAnswer the question with a single word.", 16, {"relaxed_overall"}, lmms_eval_score},
};

const Recipe& recipe_of(const std::string& name) {
  for (const Recipe& recipe : kRecipes)
    if (recipe.name == name) return recipe;
  fail(ErrorKind::usage, "--recipe: expected lm-eval, llama or lmms-eval, found ", shown(name));
}

// The hub's label is a list of one text, of which both harnesses take the first.
std::string label_of(const JsonFields& fields) {
  const Json* label = fields.find("label");
  return label && label->is_array() ? texts_of(fields, "label", 100).front() : text_of(fields, "label");
}

}  // namespace

Task chartqa_task(const ChartQaOptions& options) {
  const Recipe& recipe = recipe_of(options.recipe);
  Task task;
  task.name = "chartqa";
  task.recipe = recipe.name;
  task.version = recipe.version;
  task.group_name = "split";
  task.metrics = recipe.metrics;

  std::vector<Item> items;
  task.bad_lines = read_jsonl(options.data, [&](int64_t line, const JsonFields& fields) {
    Item item;
    item.id = cat(line - 1);
    item.target = label_of(fields);
    if (fields.has("human_or_machine"))
      item.group = fields.integer("human_or_machine", std::nullopt, 0, 1) ? "augmented" : "human";
    const fs::path image = options.data.parent_path() / text_of(fields, "image");
    std::error_code error;
    if (!fs::is_regular_file(image, error)) fail_input("item ", item.id, ": image: ", image.string(), " is not there");
    item.query.turns = {{"user", cat(recipe.before, text_of(fields, "query"), recipe.after)}};
    item.query.images = {image};
    item.query.max_tokens = options.max_tokens.value_or(recipe.max_tokens);
    items.push_back(std::move(item));
  });
  if (items.empty())
    fail_input(options.data.string(), ": expected questions, found none",
               task.bad_lines.empty() ? "" : cat("; line ", task.bad_lines[0].line, ": ", task.bad_lines[0].why));

  std::vector<std::string> groups;
  for (const Item& item : items)
    if (!item.group.empty() && std::find(groups.begin(), groups.end(), item.group) == groups.end())
      groups.push_back(item.group);
  check_wanted(options.categories, groups, options.data);
  std::erase_if(items, [&](const Item& item) { return !is_wanted(options.categories, item.group); });
  for (const size_t i : chosen(items.size(), options.limit, options.seed)) task.items.push_back(std::move(items[i]));

  task.score = [score = recipe.score](const Item& item, const std::string& answer) {
    return score(utf8_replace_invalid(answer), item.target);
  };
  return task;
}

}  // namespace l4::eval
