#include "tools/serve/exchange.h"

#include "base/strings.h"

namespace l4::serve {

const std::string* find_header(const HeaderList& headers, std::string_view name) {
  for (const auto& [key, value] : headers)
    if (key.size() == name.size() && to_lower(key) == to_lower(name)) return &value;
  return nullptr;
}

}  // namespace l4::serve
