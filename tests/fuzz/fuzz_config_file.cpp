// Files of --config: entries with names that flags could have, or one line that says what is wrong.
#include <cstdlib>
#include <set>
#include <string_view>

#include "base/error.h"
#include "tools/common/config_file.h"

using namespace l4;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto require = [](bool holds) {
    if (!holds) std::abort();
  };
  try {
    std::set<std::string> keys;
    for (const tools::ConfigEntry& entry : tools::parse_config({reinterpret_cast<const char*>(data), size}, "f")) {
      require(!entry.key.empty() && entry.key[0] != '-');
      require(keys.insert(entry.key).second);
      for (const std::string& value : entry.values) require(value.size() <= 2 * size + 10 && is_valid_utf8(value));
    }
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::input);
    require(error.message().starts_with("f"));
    require(error.message().find('\n') == std::string::npos);
  }
  return 0;
}
