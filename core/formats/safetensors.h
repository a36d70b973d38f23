// safetensors files: 8 bytes little-endian header length N, N bytes of JSON {name: {dtype, shape, data_offsets}}, then
// the tensors' bytes without holes. The file is mapped, every claim of the header is checked against the file before a
// tensor can be seen, and offsets are 64-bit (Maverick has single tensors of 21.5 GB).
// Format and its rules: github.com/huggingface/safetensors, README "Format" and safetensors/src/tensor.rs.
//
// The header goes through formats/json: 30,000 tensors (Maverick with its experts apart) take 0.13 s of one core.
//
// Files that change while they are open: data() and read() look at the file's size again and refuse a file that got
// shorter with one line. A file cut short after data() returned, while its bytes are read through the map, ends the
// process with one line (base/map_guard.h). Bytes overwritten in place are noticed by nobody.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/file.h"
#include "tensor/view.h"

namespace l4 {

struct TensorInfo {
  std::string name;  // as the file spells it
  DType dtype = DType::f32;
  Shape shape;         // rank 0 to Shape::kMaxRank
  uint32_t file = 0;   // shard of the checkpoint (HfCheckpoint::shard_names); 0 in a file on its own
  uint64_t begin = 0;  // from the start of the file
  uint64_t bytes = 0;
};

class SafetensorsFile {
 public:
  static constexpr uint64_t kMaxHeaderBytes = 100'000'000;

  // Error{io} when the file cannot be mapped, Error{input} "PATH: ..." when anything in it is not as it must be.
  explicit SafetensorsFile(const fs::path& path, uint32_t file_index = 0);

  const fs::path& path() const { return file_.path(); }
  const MappedFile& file() const { return file_; }
  uint64_t file_bytes() const { return file_.size(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorInfo* find(std::string_view name) const;                 // nullptr when there is none
  const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }

  // The tensor's bytes in the map, read-only (a write to them is a segmentation fault). `info` is one of tensors().
  // Error{input} when the file got shorter, or when the tensor does not begin at a multiple of its element size (read()
  // copes).
  View data(const TensorInfo& info) const;
  // Copies out.size() bytes of the tensor, from `offset` within it. Error{io|input} when they cannot be had.
  void read(const TensorInfo& info, uint64_t offset, std::span<std::byte> out) const;

 private:
  MappedFile file_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;  // views into tensors_
  std::vector<std::pair<std::string, std::string>> metadata_;
};

// Writes a file tensor by tensor, so that nothing larger than one piece is ever in memory:
//   SafetensorsWriter out(path, {{"a", DType::bf16, {4, 8}}, {"b", DType::f32, {}}});
//   out.write(bytes of a, in as many pieces as wanted); out.write(bytes of b); out.finish();
// The header is padded with spaces to a multiple of 8 bytes. Until finish() the file has a temporary name, which is
// removed when the writer goes away unfinished.
class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    DType dtype;
    Shape shape;
  };
  // Wide elements must come before narrow ones where the narrow ones would misalign them: Error{internal}.
  SafetensorsWriter(const fs::path& path, const std::vector<Tensor>& tensors,
                    const std::vector<std::pair<std::string, std::string>>& metadata = {{"format", "pt"}});

  void write(std::span<const std::byte> bytes);  // the next bytes, across tensors' borders if wanted
  // Bytes of one tensor, the k-th announced, from `offset` within it: in any order, any number of threads at once, each
  // byte once. Not together with write().
  void write_at(size_t tensor, uint64_t offset, std::span<const std::byte> bytes);
  void finish();  // Error{internal} unless every announced byte was written

 private:
  AtomicFile file_;
  std::atomic<uint64_t> left_{0};  // bytes still to come
  std::vector<uint64_t> begins_;   // of the tensors in the file, and the end of the last
};

}  // namespace l4
