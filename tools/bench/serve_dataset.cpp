#include "tools/bench/serve_dataset.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"

namespace l4::bench {

namespace {

constexpr uint64_t kMostFileBytes = uint64_t(4) << 30;

constexpr const char* kWords =
    "able about above across act add after again against age ago air all almost alone along already also always among "
    "and "
    "animal another answer any appear area arm around art ask away baby back ball bank base bear beat beauty bed been "
    "before "
    "begin behind believe best better between big bird black blood blue board boat body bone book both bottom box boy "
    "branch "
    "bread break bridge bright bring brother brown build burn busy buy call came camp can capital captain car card "
    "care carry "
    "case cat catch cause cell center century certain chair chance change chart check chief child choose church circle "
    "city "
    "claim class clean clear climb clock close cloth cloud coast coat cold color come common company complete cook "
    "cool copy "
    "corn corner correct cost count country course cover cow create cross crowd cry current cut dance danger dark day "
    "dead "
    "deal dear death decide deep degree depend desert design develop die direct discuss distant divide doctor dog door "
    "double "
    "down draw dream dress drink drive drop dry during each ear early earth ease east eat edge effect egg electric end "
    "enemy "
    "energy engine enough enter equal even evening event ever every exact example except excite exercise expect "
    "experience "
    "eye face fact fair fall family famous far farm fast father favor fear feed feel few field fight figure fill final "
    "find "
    "fine finger finish fire first fish fit five flat floor flow flower fly follow food foot force forest form forward "
    "four "
    "free fresh friend front fruit full fun game garden gas gave general gentle girl give glad glass gold good grand "
    "grass "
    "gray great green ground group grow guess guide gun hair half hand happy hard hat head hear heart heat heavy held "
    "help "
    "high hill history hold hole home hope horse hot hour house huge human hundred hunt hurry ice idea imagine inch "
    "include "
    "industry insect instant iron island job join joy jump just keep key kill kind king knew know lady lake land "
    "language";

struct Word {
  std::string text;  // " word"
  int64_t tokens = 1;
};

// Words, the cheapest first. Most tokenizers have a token for each: then one question for all of them is enough.
std::vector<Word> words_with_costs(const CountTokens& count, std::string& note) {
  std::vector<Word> words;
  std::vector<std::string> texts{"the"};
  for (const std::string& word : split(kWords, ' ')) {
    words.push_back({" " + word});
    texts.push_back("the " + word);
  }
  const std::optional<std::vector<int64_t>> all = count({cat("the ", kWords), "the"});
  if (!all) {
    note = "the endpoint has no /tokenize: lengths of prompts are in words, about a token each";
  } else if (all->at(0) != all->at(1) + int64_t(words.size())) {
    const std::optional<std::vector<int64_t>> tokens = count(texts);
    for (size_t i = 0; tokens && i < words.size(); ++i)
      words[i].tokens = std::max<int64_t>(1, tokens->at(i + 1) - all->at(1));
  }
  std::stable_sort(words.begin(), words.end(), [](const Word& a, const Word& b) { return a.tokens < b.tokens; });
  return words;
}

// Words of `tokens` tokens together, or a few less where no word is short enough.
std::string text_of(int64_t tokens, const std::vector<Word>& words, std::mt19937_64& random) {
  std::string text;
  while (tokens > 0) {
    const auto end = std::upper_bound(words.begin(), words.end(), tokens,
                                      [](int64_t left, const Word& word) { return left < word.tokens; });
    if (end == words.begin()) break;
    const Word& word = words[std::uniform_int_distribution<size_t>(0, size_t(end - words.begin()) - 1)(random)];
    text += word.text;
    tokens -= word.tokens;
  }
  return text;
}

int64_t length_around(int64_t length, double ratio, std::mt19937_64& random) {
  const auto low = std::max<int64_t>(1, int64_t(std::floor(double(length) * (1 - ratio))));
  const auto high = std::max<int64_t>(low, int64_t(std::ceil(double(length) * (1 + ratio))));
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

// The first n in turn, again from the beginning where there are fewer.
Dataset taken(const std::vector<ServePrompt>& all, int64_t n) {
  Dataset out;
  for (int64_t i = 0; i < n; ++i) out.prompts.push_back(all[size_t(i) % all.size()]);
  if (int64_t(all.size()) < n)
    out.note = cat("the data set has ", all.size(), " prompts: they are asked again and again");
  return out;
}

}  // namespace

Dataset random_dataset(int64_t n, const RandomOptions& o, uint64_t seed, const CountTokens& count) {
  Dataset out;
  const std::vector<Word> words = words_with_costs(count, out.note);
  std::mt19937_64 random(seed);
  std::string prefix = text_of(o.prefix_len, words, random);
  for (int64_t i = 0; i < n; ++i) {
    std::string text = prefix + text_of(length_around(o.input_len, o.range_ratio, random), words, random);
    text.erase(0, 1);  // the space before the first word
    out.prompts.push_back({std::move(text), length_around(o.output_len, o.range_ratio, random)});
  }
  return out;
}

Dataset jsonl_dataset(const fs::path& path, int64_t n, int64_t output_len, uint64_t seed) {
  std::vector<ServePrompt> all;
  const std::vector<std::string> lines = split(read_file(path, kMostFileBytes), '\n');
  for (size_t i = 0; i < lines.size(); ++i) {
    if (trim(lines[i]).empty()) continue;
    const std::string where = cat(path.string(), ": line ", i + 1);
    const Json line = parse_json(lines[i], where);
    const Json *prompt = line.find("prompt"), *messages = line.find("messages"), *tokens = line.find("output_tokens");
    if (!tokens) tokens = line.find("max_tokens");
    if (!(prompt && prompt->is_string()) && !(messages && messages->is_array()))
      fail_input(where, ": expected a \"prompt\" (text) or \"messages\" (a list)");
    if (tokens && !(tokens->is_integer() && tokens->as_integer() > 0))
      fail_input(where, ": expected a number above 0 as \"output_tokens\"");
    all.push_back({prompt ? *prompt : *messages, tokens ? tokens->as_integer() : output_len});
  }
  if (all.empty()) fail_input(path.string(), ": no prompts in it");
  std::shuffle(all.begin(), all.end(), std::mt19937_64(seed));
  return taken(all, n);
}

Dataset sharegpt_dataset(const fs::path& path, int64_t n, std::optional<int64_t> output_len, uint64_t seed,
                         const CountTokens& count) {
  const Json file = parse_json(read_file(path, kMostFileBytes), path.string());
  if (!file.is_array()) fail_input(path.string(), ": expected a list of conversations");
  struct Turns {
    const std::string *question, *answer;
  };
  std::vector<Turns> turns;
  for (const Json& entry : file.as_array()) {
    const Json* list = entry.find("conversations");
    if (!list || !list->is_array() || list->as_array().size() < 2) continue;
    const Json *question = list->as_array()[0].find("value"), *answer = list->as_array()[1].find("value");
    if (question && answer && question->is_string() && answer->is_string())
      turns.push_back({&question->as_string(), &answer->as_string()});
  }
  std::shuffle(turns.begin(), turns.end(), std::mt19937_64(seed));
  std::vector<ServePrompt> all;
  bool asked = true;
  constexpr size_t kAtOnce = 64;  // no more are counted than are needed
  for (size_t begin = 0; begin < turns.size() && int64_t(all.size()) < n; begin += kAtOnce) {
    const size_t end = std::min(turns.size(), begin + kAtOnce);
    std::vector<std::string> texts;
    for (size_t i = begin; i < end; ++i) texts.insert(texts.end(), {*turns[i].question, *turns[i].answer});
    std::optional<std::vector<int64_t>> tokens = asked ? count(texts) : std::nullopt;
    if (!tokens) {
      asked = false;
      tokens.emplace();
      for (const std::string& text : texts) tokens->push_back(int64_t(text.size() + 3) / 4);
    }
    for (size_t i = begin; i < end && int64_t(all.size()) < n; ++i) {
      const int64_t input = tokens->at(2 * (i - begin)), output = tokens->at(2 * (i - begin) + 1);
      if (input < 4 || (output < 4 && !output_len) || input > 1024 || input + output_len.value_or(output) > 2048)
        continue;
      all.push_back({*turns[i].question, output_len.value_or(output)});
    }
  }
  if (all.empty()) fail_input(path.string(), ": no conversation of a question and an answer of fitting lengths in it");
  Dataset out = taken(all, n);
  if (!asked)
    out.note += cat(out.note.empty() ? "" : "; ", "the endpoint has no /tokenize: four bytes of text count as a token");
  return out;
}

}  // namespace l4::bench
