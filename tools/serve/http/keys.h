// API keys: compared by their digests, all of them, so that time tells nothing about how much of a key was right.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "tools/serve/exchange.h"

namespace l4::serve {

class ApiKeys {
 public:
  explicit ApiKeys(const std::vector<std::string>& keys);
  bool empty() const { return digests_.empty(); }
  bool accept(const HttpRequest& request) const;  // "Authorization: Bearer KEY" or "x-api-key: KEY"

 private:
  using Digest = std::array<unsigned char, 32>;
  static Digest digest(std::string_view key);
  bool accept(std::string_view key) const;
  std::vector<Digest> digests_;
};

}  // namespace l4::serve
