#include "base/error.h"

namespace l4 {

void check_failed(const char* condition, const char* file, int line, const std::string& detail) {
  std::string where = file;
  if (size_t slash = where.find_last_of('/'); slash != std::string::npos) where = where.substr(slash + 1);
  fail(ErrorKind::internal, "internal error at ", where, ":", line, ": ", condition, detail.empty() ? "" : ": ", detail);
}

}  // namespace l4
