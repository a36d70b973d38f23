// Errors that end an operation the user asked for. Normal outcomes of service are enums and optionals, not exceptions.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "base/strings.h"

namespace l4 {

enum class ErrorKind {
  usage,        // the command line or a request field is wrong                 -> exit 2, HTTP 400
  input,        // a file or its content is wrong (checkpoint, image, template) -> exit 1, HTTP 400
  io,           // the system refused to read or write                          -> exit 1
  memory,       // does not fit, said before anything is loaded                 -> exit 1
  unsupported,  // understood, and not something this build or suite does       -> exit 1, HTTP 400
  device,       // CUDA or NCCL failed: every request fails, the process ends   -> exit 1
  internal,     // a broken promise inside the suite: a bug                     -> exit 1, HTTP 500
};

// One clear line naming file, tensor, flag or field, what was expected and what was found.
class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  const char* what() const noexcept override { return message_.c_str(); }
  int exit_code() const { return kind_ == ErrorKind::usage ? 2 : 1; }

 private:
  ErrorKind kind_;
  std::string message_;
};

template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, cat(parts...));
}
template <class... Parts>
[[noreturn]] void fail_input(const Parts&... parts) {
  throw Error(ErrorKind::input, cat(parts...));
}

}  // namespace l4

// A promise between parts of the suite; never used for what a user or a file may get wrong.
#define L4_CHECK(condition, ...)                                                                                  \
  do {                                                                                                            \
    if (!(condition)) ::l4::check_failed(#condition, __FILE__, __LINE__ __VA_OPT__(, ::l4::cat(__VA_ARGS__)));     \
  } while (0)

namespace l4 {
[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& detail = {});
}
