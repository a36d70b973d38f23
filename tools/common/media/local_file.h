// Pictures on this machine's disk, below one directory that the operator named.
#pragma once

#include <string>
#include <string_view>

#include "base/file.h"

namespace l4::tools {

bool is_file_url(std::string_view url);

// Paths are walked from an open directory one component at a time, none of which may be a symbolic link, so that what
// is opened lies below the directory whatever happens to the tree meanwhile. (A hard link is the file itself.)
class LocalFiles {
 public:
  explicit LocalFiles(const fs::path& root);  // Error{usage} when it is no directory
  ~LocalFiles();
  LocalFiles(const LocalFiles&) = delete;
  LocalFiles& operator=(const LocalFiles&) = delete;

  // The bytes of file:///ROOT/a/b.png, or of file://a/b.png below the root. Error{usage} for an address that is not
  // below the root, before anything is opened; one and the same Error{input} whether there is no such file, a link, or
  // no plain file, so that nobody learns what else lies there; Error{input} for one of more than max_bytes.
  std::string read(std::string_view url, uint64_t max_bytes) const;

 private:
  fs::path given_, canonical_;  // both may begin an address
  int fd_ = -1;
};

}  // namespace l4::tools
