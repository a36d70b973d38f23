#include "tools/serve/http/keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "base/strings.h"

namespace l4::serve {

ApiKeys::Digest ApiKeys::digest(std::string_view key) {
  Digest out;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), out.data());
  return out;
}

ApiKeys::ApiKeys(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) digests_.push_back(digest(key));
}

bool ApiKeys::accept(std::string_view key) const {
  const Digest given = digest(key);
  bool found = false;
  for (const Digest& known : digests_) found |= CRYPTO_memcmp(known.data(), given.data(), given.size()) == 0;
  return found;
}

bool ApiKeys::accept(const HttpRequest& request) const {
  if (empty()) return true;
  if (const std::string* key = request.header("x-api-key"); key && accept(*key)) return true;
  const std::string* authorization = request.header("authorization");
  constexpr size_t kScheme = 7;  // "Bearer "
  return authorization && authorization->size() > kScheme && to_lower(authorization->substr(0, kScheme)) == "bearer " &&
         accept(trim(std::string_view(*authorization).substr(kScheme)));
}

}  // namespace l4::serve
