// A tool's command line. CLI11 cuts it into words (its header is included in flags.cpp alone, it is slow to compile);
// what people see is made here: one table gives --help, the shell completions, the L4_ARG_* variables and errors of one
// line.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "tools/common/config_file.h"

namespace l4::tools {

// `names` are separated by commas: "-c,--ctx-size,--max-model-len". Names of several letters behind one dash ("-tp")
// are known too. Each long name gives a variable, L4_ARG_CTX_SIZE; a flag beats its variables, of these the first
// name's wins, of two equal flags the last. `value` stands for the value in --help; "FILE" and "DIR" are completed by
// shells, so is "a|b|c".
class Flags {
 public:
  enum class Variables { read, ignored };  // L4_ARG_*
  Flags(std::string program, std::string about, Variables variables = Variables::read);
  ~Flags();
  Flags(const Flags&) = delete;
  Flags& operator=(const Flags&) = delete;

  void group(std::string heading);                              // of the flags that follow
  void usage(std::string lines) { usage_ = std::move(lines); }  // "[-m DIR] [-p TEXT]"
  void examples(std::string lines) { examples_ = std::move(lines); }

  // `set` gets the value and says by wrong_value() what was expected.
  using Set = std::function<void(const std::string& value)>;
  void value(const std::string& names, const std::string& value, const std::string& help, Set set);
  void list(const std::string& names, const std::string& value, const std::string& help, Set set);  // may be repeated
  void positional(const std::string& value, const std::string& help, Set set);
  void positionals(const std::string& value, const std::string& help, Set set);  // one or several, the last of all
  // "--x,!--no-x": the second turns it off.
  void toggle(const std::string& names, const std::string& help, bool* target);
  void count(const std::string& names, const std::string& help, std::function<void(int)> set);  // -v, -vv

  // Error{usage} where it is not UTF-8.
  void text(const std::string& names, const std::string& value, const std::string& help,
            std::optional<std::string>* target);
  void path(const std::string& names, const std::string& value, const std::string& help, fs::path* target);
  template <class T>  // integers and floats, in [low, high]
  void number(const std::string& names, const std::string& value, const std::string& help, std::optional<T>* target,
              T low, T high);
  // A flag that names a file of flags (tools/common/config_file.h). What is in it counts where neither the command line
  // nor a variable says something.
  void config_file(const std::string& names, const std::string& help);
  void size(const std::string& names, const std::string& help, int64_t* target, int64_t low);  // 4096, 8K, 1M

  // Reads the words. An exit status when --help, --version or --completion was all that was asked; Error{usage} when
  // the command line is wrong.
  std::optional<int> parse(int argc, char** argv);
  bool knows(const std::string& name) const;
  bool was_given(const std::string& name) const;  // on the command line, by its variable or in the file
  bool was_typed(const std::string& name) const;  // on the command line

 private:
  struct Flag;
  struct Parser;  // CLI11
  Flag& add(const std::string& names, const std::string& value, const std::string& help);
  const Flag* find(const std::string& name) const;
  void apply(Flag& flag);
  void read_config(const fs::path& path);
  std::string help_text() const;
  std::string completion_script(const std::string& shell) const;
  [[noreturn]] void unknown(const std::string& word) const;

  Variables variables_;
  std::string program_, about_, usage_, examples_, group_;
  std::vector<std::unique_ptr<Flag>> flags_;
  Flag* config_flag_ = nullptr;
  std::vector<ConfigEntry> config_;
  std::unique_ptr<Parser> parser_;
};

// Error{usage} "expected WHAT, found VALUE": the flag's name is put before it.
[[noreturn]] void wrong_value(const std::string& expected, const std::string& found);
void check_utf8(const std::string& text);
// "a,b", and vLLM's JSON: ["a", "b"]. No empty ones; wrong_value() otherwise.
std::vector<std::string> parse_names(const std::string& text);

}  // namespace l4::tools
