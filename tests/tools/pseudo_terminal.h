// A program in a pseudo-terminal, as a person would use it: type, wait for what appears.
#pragma once

#include <sys/types.h>
#include <termios.h>

#include <string>
#include <vector>

namespace l4::test {

class PseudoTerminal {
 public:
  // env: "NAME=value" sets, "NAME" unsets. 100 columns, TERM=xterm.
  explicit PseudoTerminal(const std::vector<std::string>& command, const std::vector<std::string>& env = {});
  ~PseudoTerminal();  // kills what still runs
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;

  void type(const std::string& keys);
  void signal(int number);
  // Waits until `text` appears behind what was waited for before. False after 40 s, or when the program has ended
  // without.
  bool wait_for(const std::string& text);
  // The exit status; 128 + n after signal n; -1 when it has not ended after 40 s. All output is read until then.
  int wait();

  const std::string& screen() const { return screen_; }  // all that came, escape sequences included
  bool echoes() const;                                   // the terminal shows what is typed

 private:
  bool read_more();  // false: at the end, or too late

  pid_t pid_ = -1;
  int fd_ = -1;
  size_t seen_ = 0;
  int status_ = -1;
  std::string screen_;
};

}  // namespace l4::test
