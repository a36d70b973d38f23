// Ctrl+C or a request to end while questions are answered: what is done is kept, so the run is left by an exception.
#pragma once

#include <exception>

namespace l4::eval {

class Interrupted : public std::exception {
 public:
  explicit Interrupted(int exit_status) : exit_status_(exit_status) {}
  int exit_status() const { return exit_status_; }  // 128 + the signal's number
  const char* what() const noexcept override { return "interrupted"; }

 private:
  int exit_status_;
};

// Respondents call it several times a second. Needs tools::install_signal_handlers().
void throw_if_interrupted();

}  // namespace l4::eval
