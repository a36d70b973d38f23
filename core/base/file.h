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

// A file mapped read-only; the bytes live as long as this object. Symlinks are followed. The file stays open, so that
// what happened to it since can be asked. Reading mapped bytes that the file has lost ends the process with one line
// (base/map_guard.h): ask for size_now() first, or use read_at().
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
  int descriptor() const { return fd_; }  // for what this class does not do
  uint64_t size_now() const;              // of the open file, which may have changed since it was mapped
  // Copies bytes [offset, offset + out.size()) without the map: Error{input} where the file ends before that.
  void read_at(uint64_t offset, std::span<std::byte> out) const;

 private:
  fs::path path_;
  int fd_ = -1, watch_ = -1;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The whole file; Error{io} when it cannot be read, Error{input} when it is larger than max_bytes.
std::string read_file(const fs::path& path, uint64_t max_bytes);

// Written under a temporary name beside `path`; commit() syncs and renames, so that a crash leaves either the old file
// or the new one. Without commit() the temporary file is removed.
class AtomicFile {
 public:
  explicit AtomicFile(const fs::path& path);  // throws Error{io} naming the path, as all members do
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);  // at the end
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void write_at(uint64_t offset, std::span<const std::byte> bytes);  // anywhere; write() goes on where it was
  void commit();
  const fs::path& path() const { return path_; }

 private:
  [[noreturn]] void give_up(const char* what);

  fs::path path_, temporary_;
  int fd_ = -1;
};

// The whole content at once, through AtomicFile.
void write_file_atomic(const fs::path& path, std::string_view bytes);

}  // namespace l4
