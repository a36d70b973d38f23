// Files: mapped read-only, read whole, written so that a crash leaves either the old file or the new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace l4 {

namespace fs = std::filesystem;

// A file mapped read-only; the bytes live as long as this object. Symlinks are followed.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);  // throws Error{io} naming the path
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  uint64_t size() const { return size_; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The whole file; Error{io} when it cannot be read, Error{input} when it is larger than max_bytes.
std::string read_file(const fs::path& path, uint64_t max_bytes);

// Writes to a temporary name beside `path`, syncs, renames.
void write_file_atomic(const fs::path& path, std::string_view bytes);

}  // namespace l4
