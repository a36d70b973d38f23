// Pictures from the web, from hosts that the operator named.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "tools/common/media/url.h"

namespace l4::tools {

struct FetchOptions {
  std::vector<std::string> domains;  // as check_domain() gives them
  uint64_t max_bytes = 0;            // of one answer's body
  double connect_timeout_s = 0;      // name, connection and TLS handshake
  bool allow_loopback = false;       // tests: loopback addresses and any port
  fs::path ca_file = {};             // tests: trusted besides the system's certificates
};

// GET of one address: a domain of the list at its scheme's own port; the name is resolved once, and the connection goes
// to an address that was checked; every address must be public. No proxy, no redirects, no compressed bodies, no
// cookies; TLS 1.2 or later with the host's name verified. One thread does all input and output.
class Fetcher {
 public:
  explicit Fetcher(FetchOptions options);
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  // Error{usage} for a host or port that is not allowed.
  void check(const PictureUrl& url) const;

  // A body, or why there is none: one line that is ours.
  struct Fetched {
    std::string body, problem;
  };
  // All at once, in order; what has not come by then has a problem. Any thread may call it; it waits.
  std::vector<Fetched> fetch(std::span<const PictureUrl> urls, std::chrono::steady_clock::time_point deadline);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4::tools
