#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>

#include "formats/json.h"

namespace l4 {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr int64_t kMaxHeaderValues = 4'000'000;  // some 400,000 tensors; bounds what a hostile header costs to 200 MB

// Reads the header of one file; every failure names the file.
class HeaderReader {
 public:
  HeaderReader(const MappedFile& file, uint32_t file_index)
      : file_(file), file_index_(file_index), source_(file.path().string() + ": safetensors header") {}

  std::vector<TensorInfo> tensors;
  std::vector<std::pair<std::string, std::string>> metadata;

  void read() {
    std::string_view text = header_text();
    if (text.empty() || text[0] != '{') fail_input(source_, ": not valid JSON: expected \"{\" as its first byte");
    Json header = parse_json(text, source_, {.max_depth = 8, .max_values = kMaxHeaderValues});
    for (Json::Member& member : header.as_object()) {
      if (member.first == "__metadata__")
        read_metadata(member.second);
      else
        read_tensor(std::move(member.first), member.second);
    }
    check_layout();
  }

 private:
  std::string_view header_text() {
    std::span<const std::byte> bytes = file_.bytes();
    if (bytes.size() < kLengthBytes)
      fail_input(file_.path().string(), ": not a safetensors file: ", bytes.size(), " bytes, expected at least 8");
    uint64_t length = 0;
    for (size_t i = kLengthBytes; i-- > 0;) length = length << 8 | uint64_t(bytes[i]);
    if (length > SafetensorsFile::kMaxHeaderBytes)
      fail_input(source_, ": ", length, " bytes long, expected at most ", SafetensorsFile::kMaxHeaderBytes);
    if (length > bytes.size() - kLengthBytes)
      fail_input(source_, ": ", length, " bytes long, but the file has ", bytes.size(), " bytes in all");
    data_begin_ = kLengthBytes + length;
    std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
    if (!is_valid_utf8(text)) fail_input(source_, ": not UTF-8");
    return text;
  }

  void read_metadata(const Json& value) {
    if (!value.is_object()) fail_input(source_, ": __metadata__: expected an object, found ", value.kind_name());
    for (const Json::Member& m : value.as_object()) {
      if (!m.second.is_string())
        fail_input(source_, ": __metadata__ ", shown(m.first), ": expected a string, found ", m.second.kind_name());
      metadata.emplace_back(m.first, m.second.as_string());
    }
  }

  // A member of a tensor's entry that must be a list of non-negative integers below 2^63.
  std::vector<int64_t> read_integers(const std::string& where, const Json& entry, const char* key) {
    const Json* list = entry.find(key);
    if (!list) fail_input(where, ": \"", key, "\" is missing");
    if (!list->is_array()) fail_input(where, ": \"", key, "\": expected a list, found ", list->kind_name());
    std::vector<int64_t> out;
    for (const Json& item : list->as_array()) {
      if (!item.is_integer() || item.as_integer() < 0)
        fail_input(where, ": \"", key, "\": expected integers from 0 to 2^63-1, found ", shown(dump_json(item)));
      out.push_back(item.as_integer());
    }
    return out;
  }

  void read_tensor(std::string name, const Json& entry) {
    std::string where = cat(file_.path().string(), ": tensor ", shown(name));
    if (!entry.is_object()) fail_input(where, ": expected an object, found ", entry.kind_name());
    TensorInfo info;
    info.name = std::move(name);
    info.file = file_index_;

    const Json* dtype = entry.find("dtype");
    if (!dtype || !dtype->is_string()) fail_input(where, ": \"dtype\" is missing or no string");
    std::optional<DType> known = dtype_from_name(dtype->as_string());
    if (!known) fail_input(where, ": dtype ", shown(dtype->as_string()), " is not one that this build knows");
    info.dtype = *known;

    std::vector<int64_t> dims = read_integers(where, entry, "shape");
    if (dims.size() > size_t(Shape::kMaxRank))
      fail_input(where, ": ", dims.size(), " dimensions, expected at most ", Shape::kMaxRank);
    // Axes of length 0 are left out of the product, so that no group of axes overflows later.
    int64_t elements = 1, bytes = 0;
    bool empty = false;
    for (int64_t d : dims) {
      info.shape.append(d);
      if (d == 0)
        empty = true;
      else if (__builtin_mul_overflow(elements, d, &elements))
        elements = -1;
      if (elements < 0) break;
    }
    if (elements < 0 || __builtin_mul_overflow(elements, int64_t(dtype_bytes(info.dtype)), &bytes))
      fail_input(where, ": \"shape\" ", shown(dump_json(*entry.find("shape"))), " has more than 2^63-1 bytes");
    if (empty) bytes = 0;

    std::vector<int64_t> offsets = read_integers(where, entry, "data_offsets");
    if (offsets.size() != 2) fail_input(where, ": \"data_offsets\": expected 2 numbers, found ", offsets.size());
    if (offsets[1] < offsets[0])
      fail_input(where, ": \"data_offsets\" end before they begin: [", offsets[0], ", ", offsets[1], "]");
    if (offsets[1] - offsets[0] != bytes)
      fail_input(where, ": ", dtype_name(info.dtype), " ", info.shape.str(), " takes ", bytes,
                 " bytes, but \"data_offsets\" [", offsets[0], ", ", offsets[1], "] are ", offsets[1] - offsets[0]);
    info.begin = uint64_t(offsets[0]);  // from the end of the header until check_layout()
    info.bytes = uint64_t(bytes);
    tensors.push_back(std::move(info));
  }

  // The tensors must fill the rest of the file: no hole, no overlap, nothing behind the last one.
  void check_layout() {
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
    });
    uint64_t data_bytes = file_.size() - data_begin_, end = 0;
    for (TensorInfo& info : tensors) {
      if (info.begin != end)
        fail_input(file_.path().string(), ": tensor ", shown(info.name), " begins at byte ", info.begin,
                   " of the data, expected ", end,
                   info.begin < end ? " (it overlaps the tensor before it)" : " (a hole)");
      end += info.bytes;  // at most 2^63 after the check below, so that this cannot wrap
      if (end > data_bytes)
        fail_input(file_.path().string(), ": tensor ", shown(info.name), " ends at byte ", end,
                   " of the data, but the file has ", data_bytes, " (an incomplete download?)");
      info.begin += data_begin_;
    }
    if (end != data_bytes)
      fail_input(file_.path().string(), ": ", data_bytes - end, " bytes behind the last tensor, expected none");
  }

  const MappedFile& file_;
  uint32_t file_index_;
  std::string source_;
  uint64_t data_begin_ = 0;
};

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path, uint32_t file_index) : file_(path) {
  HeaderReader reader(file_, file_index);
  reader.read();
  tensors_ = std::move(reader.tensors);
  metadata_ = std::move(reader.metadata);
  by_name_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

View SafetensorsFile::data(const TensorInfo& info) const {
  if (uint64_t now = file_.size_now(); now < file_.size())
    fail_input(path().string(), ": ", now, " bytes, but ", file_.size(),
               " when it was opened: somebody changed the file while it was in use");
  if (info.begin % dtype_bytes(info.dtype) != 0)
    fail_input(path().string(), ": tensor ", shown(info.name), " begins at byte ", info.begin,
               ", expected a multiple of ", dtype_bytes(info.dtype), " for ", dtype_name(info.dtype));
  const std::byte* begin = file_.bytes().data() + info.begin;
  return {const_cast<std::byte*>(begin), info.dtype, info.shape};
}

void SafetensorsFile::read(const TensorInfo& info, uint64_t offset, std::span<std::byte> out) const {
  L4_CHECK(offset <= info.bytes && out.size() <= info.bytes - offset, "tensor ", info.name, ": ", out.size(),
           " bytes from ", offset, " of ", info.bytes);
  file_.read_at(info.begin + offset, out);
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, const std::vector<Tensor>& tensors,
                                     const std::vector<std::pair<std::string, std::string>>& metadata)
    : file_(path) {
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (size_t i = 0; i < metadata.size(); ++i)
      header += cat(i ? "," : "", json_quote(metadata[i].first), ":", json_quote(metadata[i].second));
    header += "}";
  }
  uint64_t end = 0;
  for (const Tensor& t : tensors) {
    uint64_t element = dtype_bytes(t.dtype), bytes = uint64_t(t.shape.elements()) * element;
    L4_CHECK(end % element == 0, "tensor ", t.name, " would begin at byte ", end, " of the data");
    if (header.size() > 1) header += ",";
    header += cat(json_quote(t.name), ":{\"dtype\":\"", dtype_name(t.dtype), "\",\"shape\":[");
    for (int axis = 0; axis < t.shape.rank(); ++axis) header += cat(axis ? "," : "", t.shape[axis]);
    header += cat("],\"data_offsets\":[", end, ",", end + bytes, "]}");
    begins_.push_back(end);
    end += bytes;
  }
  begins_.push_back(end);
  left_ = end;
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  L4_CHECK(header.size() <= SafetensorsFile::kMaxHeaderBytes, path.string(), ": header of ", header.size(), " bytes");
  std::byte length[kLengthBytes];
  for (size_t i = 0; i < kLengthBytes; ++i) length[i] = std::byte(header.size() >> (8 * i) & 0xFF);
  file_.write(length);
  file_.write(header);
  for (uint64_t& begin : begins_) begin += kLengthBytes + header.size();
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  L4_CHECK(bytes.size() <= left_, file_.path().string(), ": ", bytes.size(), " bytes to write, ", left_.load(),
           " announced");
  file_.write(bytes);
  left_ -= bytes.size();
}

void SafetensorsWriter::write_at(size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
  L4_CHECK(tensor + 1 < begins_.size() && begins_[tensor] + offset + bytes.size() <= begins_[tensor + 1],
           file_.path().string(), ": tensor ", tensor, ": ", bytes.size(), " bytes from ", offset);
  file_.write_at(begins_[tensor] + offset, bytes);
  left_ -= bytes.size();
}

void SafetensorsWriter::finish() {
  L4_CHECK(left_ == 0, file_.path().string(), ": ", left_.load(), " announced bytes were never written");
  file_.commit();
}

}  // namespace l4
