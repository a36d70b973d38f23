#include "tools/common/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <limits>

#include "base/version.h"
#include "formats/json.h"
#include "tools/common/completion.h"
#include "tools/common/terminal.h"

namespace l4::tools {

struct Flags::Flag : FlagInfo {
  enum class Kind { value, list, toggle, count } kind = Kind::value;
  Set set;
  CLI::Option* option = nullptr;
  bool given = false;
};

struct Flags::Parser {
  CLI::App app;
};

void wrong_value(const std::string& expected, const std::string& found) {
  fail(ErrorKind::usage, "expected ", expected, ", found ", shown(found));
}

void check_utf8(const std::string& text) {
  if (!is_valid_utf8(text)) wrong_value("UTF-8 text", text);
}

std::vector<std::string> parse_names(const std::string& text) {
  check_utf8(text);
  std::vector<std::string> out;
  if (text.starts_with('[')) {
    const Json json = parse_json(text, "the list");
    for (const Json& item : json.as_array()) {
      if (!item.is_string()) wrong_value("a list of texts like [\"a\", \"b\"]", text);
      out.push_back(item.as_string());
    }
  } else {
    for (const std::string& word : split(text, ',')) out.emplace_back(trim(word));
  }
  for (const std::string& word : out)
    if (word.empty()) wrong_value("names without empty ones among them", text);
  return out;
}

namespace {

bool is_long(const std::string& name) {
  return name.rfind("--", 0) == 0;
}
bool is_alias(const std::string& name) {
  return name[0] == '-' && !is_long(name) && name.size() > 2;
}  // "-tp"

std::string variable_of(const std::string& long_name) {
  std::string out = "L4_ARG_";
  for (char c : long_name.substr(2)) out += c == '-' ? '_' : char(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return out;
}

bool parse_truth(const std::string& text) {
  const std::string word = to_lower(text);
  for (const char* yes : {"1", "true", "on", "yes"})
    if (word == yes) return true;
  for (const char* no : {"0", "false", "off", "no"})
    if (word == no) return false;
  wrong_value("true or false", text);
}

// Letters to insert, remove or replace.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

Flags::Flags(std::string program, std::string about, Variables variables)
    : variables_(variables),
      program_(std::move(program)),
      about_(std::move(about)),
      parser_(std::make_unique<Parser>()) {
  parser_->app.set_help_flag();
  parser_->app.allow_extras();
}

Flags::~Flags() = default;

void Flags::group(std::string heading) {
  group_ = std::move(heading);
}

Flags::Flag& Flags::add(const std::string& names, const std::string& value, const std::string& help) {
  auto flag = std::make_unique<Flag>();
  flag->names = split(names, ',');
  flag->value = value;
  flag->help = help;
  flag->group = group_;
  for (std::string& name : flag->names) {
    flag->negated.push_back(name[0] == '!');
    if (name[0] == '!') name.erase(0, 1);
  }
  flags_.push_back(std::move(flag));
  return *flags_.back();
}

void Flags::value(const std::string& names, const std::string& value, const std::string& help, Set set) {
  Flag& flag = add(names, value, help);
  flag.set = std::move(set);
}

void Flags::list(const std::string& names, const std::string& value, const std::string& help, Set set) {
  Flag& flag = add(names, value, help);
  flag.kind = Flag::Kind::list;
  flag.set = std::move(set);
}

void Flags::positional(const std::string& value, const std::string& help, Set set) {
  Flag& flag = add(value, value, help);
  flag.is_positional = true;
  flag.set = std::move(set);
}

void Flags::positionals(const std::string& value, const std::string& help, Set set) {
  positional(value, help, std::move(set));
  flags_.back()->kind = Flag::Kind::list;
}

void Flags::toggle(const std::string& names, const std::string& help, bool* target) {
  Flag& flag = add(names, "", help);
  flag.kind = Flag::Kind::toggle;
  flag.set = [target](const std::string& text) { *target = parse_truth(text); };
}

void Flags::count(const std::string& names, const std::string& help, std::function<void(int)> set) {
  Flag& flag = add(names, "", help);
  flag.kind = Flag::Kind::count;
  flag.set = [set = std::move(set)](const std::string& text) {
    std::optional<int64_t> n = parse_int(text);
    if (!n || *n < 0 || *n > 9) wrong_value("a number from 0 to 9", text);
    set(int(*n));
  };
}

void Flags::text(const std::string& names, const std::string& name, const std::string& help,
                 std::optional<std::string>* target) {
  value(names, name, help, [target](const std::string& text) {
    check_utf8(text);
    *target = text;
  });
}

void Flags::path(const std::string& names, const std::string& name, const std::string& help, fs::path* target) {
  value(names, name, help, [target](const std::string& text) {
    if (text.empty()) wrong_value("a path", text);
    *target = text;
  });
}

template <class T>
void Flags::number(const std::string& names, const std::string& name, const std::string& help, std::optional<T>* target,
                   T low, T high) {
  value(names, name, help, [=](const std::string& text) {
    constexpr bool kWhole = std::is_integral_v<T>;
    const T most = std::numeric_limits<T>::max();
    const std::string range = high == most ? cat(" >= ", low) : cat(" from ", low, " to ", high);
    const std::string expected = cat(kWhole ? "a whole number" : high == most ? "a finite number" : "a number", range);
    if constexpr (kWhole) {
      const std::optional<int64_t> n = parse_int(text);
      if (!n || *n < int64_t(low) || *n > int64_t(high)) wrong_value(expected, text);
      *target = T(*n);
    } else {
      const std::optional<double> x = parse_double(text);
      if (!x || *x < double(low) || *x > double(high)) wrong_value(expected, text);
      *target = T(*x);
    }
  });
}

template void Flags::number<int>(const std::string&, const std::string&, const std::string&, std::optional<int>*, int,
                                 int);
template void Flags::number<int64_t>(const std::string&, const std::string&, const std::string&,
                                     std::optional<int64_t>*, int64_t, int64_t);
template void Flags::number<float>(const std::string&, const std::string&, const std::string&, std::optional<float>*,
                                   float, float);

void Flags::size(const std::string& names, const std::string& help, int64_t* target, int64_t low) {
  value(names, "N", help, [=](const std::string& text) {
    const std::optional<uint64_t> n = parse_size(text);
    if (!n || int64_t(*n) < low) wrong_value(cat("a number >= ", low, " like 4096, 8K or 1M"), text);
    *target = int64_t(*n);
  });
}

void Flags::config_file(const std::string& names, const std::string& help) {
  value(names, "FILE", help, [this](const std::string& path) { read_config(path); });
  config_flag_ = flags_.back().get();
}

void Flags::read_config(const fs::path& path) {
  constexpr uint64_t kMaxBytes = 1 << 20;
  config_ = parse_config(read_file(path, kMaxBytes), path.string());
  for (const ConfigEntry& entry : config_) {
    const Flag* flag = find("--" + entry.key);
    if (!flag || flag->group == "Other" || flag == config_flag_)
      fail(ErrorKind::usage, entry.where, ": there is no flag --", entry.key, " that it could set");
    if (entry.values.size() > 1 && flag->kind != Flag::Kind::list)
      fail(ErrorKind::usage, entry.where, ": ", entry.key, " takes one value, found ", entry.values.size());
  }
}

// ---- reading the words ----------------------------------------------------------------------------------------------

std::optional<int> Flags::parse(int argc, char** argv) {
  constexpr int kMostPositionals = 10000;
  bool help = false, version = false;
  std::optional<std::string> shell;
  group("Other");
  toggle("-h,--help", "show this text", &help);
  toggle("--version", "show version, commit and build", &version);
  value("--completion", "bash|zsh|fish", "print the script that completes this command in a shell",
        [&](const std::string& name) { shell = name; });

  std::map<std::string, std::string> aliases;  // "-tp" -> "--tensor-parallel-size"
  CLI::App& app = parser_->app;
  const auto accept = [](const CLI::results_t&) { return true; };
  for (auto& flag : flags_) {
    std::string names;
    for (size_t i = 0; i < flag->names.size(); ++i) {
      const std::string& name = flag->names[i];
      if (is_alias(name)) {
        aliases[name] = *std::find_if(flag->names.begin(), flag->names.end(), is_long);
        continue;
      }
      names += cat(names.empty() ? "" : ",", flag->negated[i] ? "!" : "", name);
    }
    const bool takes_value = flag->kind == Flag::Kind::value || flag->kind == Flag::Kind::list;
    flag->option = takes_value ? app.add_option(names, accept) : app.add_flag_callback(names, [] {});
    if (!takes_value) {
      flag->option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    } else if (flag->kind == Flag::Kind::value) {
      flag->option->expected(1)->take_last();
    } else {
      flag->option->expected(1, flag->is_positional ? kMostPositionals : 1)->take_all();
    }
    flag->option->allow_extra_args(flag->is_positional && flag->kind == Flag::Kind::list);
  }

  std::vector<std::string> words;
  for (int i = argc - 1; i > 0; --i) {  // CLI11 takes them from the end
    std::string word = argv[i];
    const std::string name = word.substr(0, word.find('='));
    if (auto alias = aliases.find(name); alias != aliases.end()) word = alias->second + word.substr(name.size());
    words.push_back(std::move(word));
  }
  try {
    app.parse(words);
  } catch (const CLI::ArgumentMismatch& e) {
    const std::string what = e.what();
    fail(ErrorKind::usage, what.substr(0, what.find(':')), ": expected a value");
  } catch (const CLI::Error& e) {
    std::string message = e.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    fail(ErrorKind::usage, message, "; ", program_, " --help says more");
  }
  for (auto& flag : flags_)  // these answer whatever else is wrong
    if (flag->names.back() == "--help" || flag->names.back() == "--version") apply(*flag);
  if (help) {
    write_stdout(help_text());
    return 0;
  }
  if (version) {
    write_stdout(version_line(program_) + "\n");
    return 0;
  }
  if (const auto extra = app.remaining(); !extra.empty()) unknown(extra.front());
  if (config_flag_) apply(*config_flag_);
  for (auto& flag : flags_)
    if (flag.get() != config_flag_) apply(*flag);
  if (shell) {
    write_stdout(completion_script(*shell));
    return 0;
  }
  return std::nullopt;
}

void Flags::apply(Flag& flag) {
  std::vector<std::string> values = flag.option->results();
  std::string name;
  bool turns_off = false;  // by the variable or the file's line of "!--no-x"
  for (const std::string& n : flag.names)
    if (name.empty() && (flag.is_positional || is_long(n))) name = n;
  if (values.empty()) {
    const bool may_read = variables_ == Variables::read && flag.group != "Other";
    for (size_t i = 0; may_read && values.empty() && i < flag.names.size(); ++i) {
      if (!is_long(flag.names[i])) continue;
      const std::string variable = variable_of(flag.names[i]);
      const char* given = std::getenv(variable.c_str());
      if (!given) continue;
      values = {given};
      name = variable;
      turns_off = flag.negated[i];
    }
    for (const ConfigEntry& entry : config_) {
      const auto at = std::find(flag.names.begin(), flag.names.end(), "--" + entry.key);
      if (!values.empty() || at == flag.names.end()) continue;
      values = entry.values;
      name = cat(entry.where, ": ", entry.key);
      turns_off = flag.negated[size_t(at - flag.names.begin())];
    }
    if (values.empty()) return;
  } else if (flag.kind == Flag::Kind::count) {
    values = {std::to_string(values.size())};
  }
  flag.given = true;
  try {
    if (flag.kind != Flag::Kind::list) values.erase(values.begin(), values.end() - 1);
    for (const std::string& text : values) flag.set(turns_off ? (parse_truth(text) ? "false" : "true") : text);
  } catch (const Error& e) {
    throw Error(e.kind(), cat(name, ": ", e.message()));
  }
}

bool Flags::knows(const std::string& name) const {
  return find(name) != nullptr;
}

bool Flags::was_given(const std::string& name) const {
  const Flag* flag = find(name);
  L4_CHECK(flag, "no flag ", name);
  return flag->given;
}

bool Flags::was_typed(const std::string& name) const {
  const Flag* flag = find(name);
  L4_CHECK(flag, "no flag ", name);
  return flag->option->count() > 0;
}

const Flags::Flag* Flags::find(const std::string& name) const {
  for (const auto& flag : flags_)
    if (std::find(flag->names.begin(), flag->names.end(), name) != flag->names.end()) return flag.get();
  return nullptr;
}

void Flags::unknown(const std::string& word) const {
  if (word.empty() || word[0] != '-' || word.size() == 1) fail(ErrorKind::usage, "unexpected argument ", shown(word));
  const std::string given = word.substr(0, word.find('='));
  std::string best;
  size_t best_distance = 3;
  for (const auto& flag : flags_)
    for (const std::string& name : flag->names) {
      const size_t distance = edit_distance(given, name);
      if (is_long(name) && is_long(given) && distance < best_distance) best = name, best_distance = distance;
    }
  fail(ErrorKind::usage, "unknown flag ", shown(word),
       best.empty() ? cat("; ", program_, " --help lists all flags") : cat("; did you mean ", best, "?"));
}

std::string Flags::help_text() const {
  std::vector<FlagInfo> flags;
  for (const auto& flag : flags_) flags.push_back(*flag);
  return format_help({program_, about_, usage_, examples_, std::move(flags)}, terminal_width(stdout));
}

std::string Flags::completion_script(const std::string& shell) const {
  std::vector<FlagInfo> flags;
  for (const auto& flag : flags_) flags.push_back(*flag);
  return format_completion({program_, about_, usage_, examples_, std::move(flags)}, shell);
}

}  // namespace l4::tools
