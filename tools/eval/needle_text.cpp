#include "tools/eval/needle_text.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace l4::eval {

namespace {

// A key's name is one of each, which gives more names than keys are allowed.
const std::vector<const char*> kFirst{"amber",  "brave",  "calm",  "dusty", "early",  "frozen",
                                      "golden", "hollow", "ivory", "jolly", "little", "misty",
                                      "noble",  "orange", "proud", "quiet", "royal",  "silver"};
const std::vector<const char*> kSecond{"anchor",  "basket", "castle", "dragon", "engine",  "falcon", "guitar",
                                       "hammer",  "island", "jacket", "kettle", "lantern", "meadow", "needle",
                                       "orchard", "pillow", "rocket", "saddle", "temple",  "violin"};
constexpr int64_t kMostPadding = 20;  // tokens, where another sentence would not fit anyway

// Common words, a token each in most vocabularies, that make no number and name nothing.
std::string padding_text(int64_t n_words) {
  const std::vector<const char*> words{"and", "it", "is", "so", "and", "it", "was", "so"};
  std::string out;
  for (int64_t i = 0; i < n_words; ++i) out += i == 0 ? " And" : cat(" ", words[size_t(i) % words.size()]);
  return out.empty() ? out : out + ".";
}

std::vector<std::string> draw_names(Draws& draws, int64_t n) {
  std::vector<std::string> all;
  for (const char* first : kFirst)
    for (const char* second : kSecond) all.push_back(cat(first, " ", second));
  for (size_t i = 0; i < size_t(n); ++i) std::swap(all[i], all[i + draws.below(all.size() - i)]);
  all.resize(size_t(n));
  return all;
}

}  // namespace

NeedleText::NeedleText(const NeedleOptions& options, const CountQuery& count, Filler& filler, uint64_t sample,
                       int64_t length)
    : options_(options), count_(count), sample_(sample), length_(length) {
  Draws draws{options.seed, sample, uint64_t(length), 1};
  const std::vector<std::string> names = draw_names(draws, options.keys);
  if (options.keys > 1) name_ = names[0];
  const auto hide = [&](const std::string& name, const std::string& value) {
    others_.push_back(line(name, value));
    other_depths_.push_back(double(draws.below(1000)) / 1000);
  };
  for (int64_t i = 1; i < options.values; ++i) {
    other_values_.push_back(new_value(draws));
    hide(name_, other_values_.back());
  }
  for (size_t i = 1; i < names.size(); ++i) hide(names[i], new_value(draws));
  fill(filler);
}

std::string NeedleText::new_value(Draws& draws) {
  for (;;) {
    std::string value = std::to_string(10000 + draws.below(90000));
    if (used_.insert(value).second) return value;
  }
}

std::string NeedleText::line(const std::string& name, const std::string& value) const {
  if (name.empty() && options_.values == 1)
    return cat("The pass key is ", value, ". Remember it. ", value, " is the pass key.");
  return cat(options_.values > 1 ? "One" : "The", " pass key", name.empty() ? "" : " of the " + name, " is ", value,
             ". Remember it.");
}

std::string NeedleText::question() const {
  const std::string of = name_.empty() ? "" : " of the " + name_;
  if (options_.values > 1)
    return cat("What are all ", options_.values, " pass keys", of, "?",
               options_.chat ? "" : cat(" The ", options_.values, " pass keys", of, " are"));
  return cat("What is the pass key", of, "?", options_.chat ? "" : cat(" The pass key", of, " is"));
}

// Padding stands at the end of the filler: what is before it is the same in all prompts of a text. A needle at 100 %
// stands behind it.
std::string NeedleText::text(size_t place, const std::string& needle, int64_t padding) const {
  std::string out = options_.keys * options_.values > 1 ? "Pass keys are hidden in this text. Remember them.\n\n"
                                                        : "A pass key is hidden in this text. Remember it.\n\n";
  const auto add = [&out](const std::string& text) {
    if (out.back() != '\n') out += ' ';
    out += text;
  };
  for (size_t i = 0; i < lines_.size(); ++i) {
    if (i == place) add(needle);
    add(lines_[i]);
  }
  out += padding_text(padding);
  if (place >= lines_.size()) add(needle);
  return cat(out, "\n\n", question());
}

Query NeedleText::query(const std::string& prompt) const {
  Query query;
  if (options_.chat)
    query.turns.push_back({"user", prompt});
  else
    query.text = prompt;
  query.max_tokens = answer_tokens(options_);
  return query;
}

int64_t NeedleText::tokens(size_t place, const std::string& needle, int64_t padding) const {
  return count_(query(text(place, needle, padding)));
}

void NeedleText::take_sentences(Filler& filler, size_t n) {
  std::vector<std::vector<size_t>> before(n + 1);  // needles, by the sentence that they stand before
  for (size_t i = 0; i < others_.size(); ++i) before[size_t(std::lround(other_depths_[i] * double(n)))].push_back(i);
  lines_.clear();
  for (size_t i = 0; i <= n; ++i) {
    for (const size_t other : before[i]) lines_.push_back(others_[other]);
    if (i < n) lines_.push_back(filler.sentence(i));
  }
}

// As many sentences as fit. Their number is guessed by the mean of those counted so far, between what is known to fit
// and what is known not to: a few counts of the whole text, however long it is.
void NeedleText::fill(Filler& filler) {
  const std::string needle = line(name_, "10000");
  const auto count = [&](size_t n) {
    take_sentences(filler, n);
    return tokens(lines_.size(), needle, 0);
  };
  const int64_t least = count(0);
  // Needles may tokenise a little differently; padding fills what they leave, nothing can be taken away.
  const int64_t most = length_ - 4;
  if (least > most)
    fail(ErrorKind::usage, "--lengths: ", length_, " tokens are too few: what is hidden and asked takes ", least + 4);
  size_t fits = 0, too_many = size_t(length_) + 1, n = size_t(most - least) / 16;
  int64_t taken = least;
  while (most - taken > kMostPadding && too_many - fits > 1) {
    n = std::clamp(n, fits + 1, too_many - 1);
    const int64_t now = count(n);
    const double each = std::max(1.0, double(now - least) / double(n));
    if (now <= most) {
      fits = n;
      taken = now;
    } else {
      too_many = n;
    }
    const double more = (double(most - now) - 0.5 * kMostPadding) / each;
    n = size_t(std::max(0.0, double(n) + more));
  }
  take_sentences(filler, fits);
}

// By bytes first, which comes near; then the tokens before that place are counted.
size_t NeedleText::place_of(double depth) const {
  if (depth <= 0) return 0;
  if (depth >= 100 || lines_.empty()) return lines_.size();
  const auto tokens_before = [&](size_t place) {
    std::string before;
    for (size_t i = 0; i < place; ++i) before += cat(" ", lines_[i]);
    Query query;
    query.text = before;
    return double(count_(query));
  };
  const double none = tokens_before(0), all = tokens_before(lines_.size()) - none, wanted = all * depth / 100;
  const double each = std::max(1.0, all / double(lines_.size()));
  size_t place = size_t(std::lround(double(lines_.size()) * depth / 100));
  for (int i = 0; i < 4; ++i) {
    const long step = std::lround((wanted - (tokens_before(place) - none)) / each);
    if (step == 0) break;
    place = size_t(std::clamp<long>(long(place) + step, 0, long(lines_.size())));
  }
  return place;
}

Needle NeedleText::at(double depth) {
  Draws draws{options_.seed, sample_, uint64_t(length_), uint64_t(std::llround(depth * 1000)), 2};
  Needle out;
  out.values = {new_value(draws)};
  used_.erase(out.values[0]);  // the same whatever other depths were asked for
  const std::string needle = line(name_, out.values[0]);
  out.values.insert(out.values.end(), other_values_.begin(), other_values_.end());
  const size_t place = place_of(depth);
  int64_t padding = 0, best = 0;
  int64_t best_tokens = 0;
  for (int i = 0; i < 8 && best_tokens != length_; ++i) {
    const int64_t now = tokens(place, needle, padding);
    if (now <= length_ && now > best_tokens) {
      best = padding;
      best_tokens = now;
    }
    padding = std::max<int64_t>(0, padding + length_ - now);
  }
  out.prompt = text(place, needle, best);
  return out;
}

}  // namespace l4::eval
