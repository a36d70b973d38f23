// Prepared pictures by the digest of their files' bytes: a picture that is asked about again, in the next turn of its
// conversation or by many at once, is decoded once.
#pragma once

#include <array>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>

#include "l4.h"

namespace l4::tools {

using FileDigest = std::array<uint8_t, 32>;  // SHA-256: nobody can make two files with one digest

class PictureCache {
 public:
  explicit PictureCache(uint64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  struct Claim {
    std::shared_future<PreparedImage> picture;  // get() throws what finish_with_error() was told
    bool owner = false;                         // the first to ask: prepares it and calls one of the below, once
  };
  Claim claim(const FileDigest& digest);
  void finish(const FileDigest& digest, PreparedImage picture);
  void finish_with_error(const FileDigest& digest, std::exception_ptr error);  // the next one tries anew

  uint64_t bytes() const;  // of the pixels kept; least recently claimed pictures leave first

 private:
  struct Entry {
    std::promise<PreparedImage> promise;
    std::shared_future<PreparedImage> picture;
    uint64_t n_bytes = 0;                   // 0: being prepared
    std::list<FileDigest>::iterator order;  // of what is done
  };

  const uint64_t capacity_bytes_;
  mutable std::mutex mutex_;
  std::map<FileDigest, Entry> entries_;
  std::list<FileDigest> order_;  // last claimed first
  uint64_t bytes_ = 0;
};

}  // namespace l4::tools
