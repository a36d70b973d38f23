#include "support/golden_model.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "formats/safetensors.h"
#include "support/test.h"

namespace l4::test {

namespace fs = std::filesystem;

uint64_t fnv1a64(std::span<const std::byte> bytes, uint64_t hash) {
  for (std::byte b : bytes) hash = (hash ^ uint64_t(b)) * 0x100000001B3;
  return hash;
}

uint64_t golden_stream(uint64_t seed, std::string_view name) {
  std::string text = cat(seed, "/", name);
  return fnv1a64(std::as_bytes(std::span(text)));
}

uint64_t golden_word(uint64_t stream, uint64_t i) {
  uint64_t z = stream + (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

namespace {

double unit(uint64_t stream, uint64_t i) {
  return double(int64_t(golden_word(stream, i) >> 40) - (1 << 23)) * 0x1p-23;
}

std::vector<int64_t> integers(const Json& list) {
  std::vector<int64_t> out;
  for (const Json& v : list.as_array()) out.push_back(v.as_integer());
  return out;
}

const Json& at(const Json& object, std::string_view key) {
  const Json* member = object.find(key);
  L4_CHECK(member, "golden case has no ", key);
  return *member;
}

Json read_json(const fs::path& path) {
  return parse_json(read_file(path, 1 << 20), path.string());
}

void read_expected(const fs::path& path, std::map<std::string, GoldenMatrix>& f32,
                   std::map<std::string, std::vector<int32_t>>& i32) {
  SafetensorsFile file(path);
  for (const TensorInfo& info : file.tensors()) {
    if (info.dtype == DType::i32) {
      std::vector<int32_t>& out = i32[info.name];
      out.resize(info.bytes / 4);
      file.read(info, 0, std::as_writable_bytes(std::span(out)));
    } else {
      L4_CHECK(info.dtype == DType::f32 && info.shape.rank() == 2, info.name);
      GoldenMatrix& out = f32[info.name];
      out = {info.shape[0], info.shape[1], std::vector<float>(info.bytes / 4)};
      file.read(info, 0, std::as_writable_bytes(std::span(out.values)));
    }
  }
}

void write_weights(const fs::path& path, const std::vector<GoldenTensor>& tensors, uint64_t seed, DType dtype) {
  std::vector<SafetensorsWriter::Tensor> announced;
  for (const GoldenTensor& t : tensors) {
    Shape shape;
    for (int64_t d : t.shape) shape.append(d);
    announced.push_back({t.name, dtype, shape});
  }
  SafetensorsWriter out(path, announced);
  for (const GoldenTensor& t : tensors) {
    std::vector<BFloat16> narrow = t.values(seed);
    std::vector<float> wide;
    for (BFloat16 value : narrow) wide.push_back(to_float(value));
    out.write(dtype == DType::bf16 ? std::as_bytes(std::span(narrow)) : std::as_bytes(std::span(wide)));
  }
  out.finish();
}

double norm(std::span<const float> x) {
  double sum = 0;
  for (float v : x) sum += double(v) * v;
  return std::sqrt(sum);
}

}  // namespace

int64_t GoldenTensor::elements() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::vector<BFloat16> GoldenTensor::values(uint64_t seed) const {
  std::vector<BFloat16> out(static_cast<size_t>(elements()));
  uint64_t stream = golden_stream(seed, name);
  // The product of two 24-bit numbers is exact in double: fused or not, the sum is rounded once.
  for (size_t i = 0; i < out.size(); ++i) out[i] = to_bf16(float(offset + scale * unit(stream, i)));
  return out;
}

std::vector<std::string> GoldenModel::names() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(golden("models")))
    if (fs::exists(entry.path() / "case.json")) out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

GoldenModel::GoldenModel(const std::string& case_name) : name(case_name), dir_(golden("models/" + case_name)) {
  Json c = read_json(dir_ / "case.json");
  about = at(c, "about").as_string();
  seed = uint64_t(at(c, "seed").as_integer());
  stored = at(c, "stored").as_bool();
  vocab = at(c, "vocab").as_integer();
  config = read_json((stored ? dir_ / "checkpoint" : dir_) / "config.json");
  for (const Json& row : at(c, "tensors").as_array()) {
    const Json::Array& cells = row.as_array();  // name, dimensions..., offset, scale
    GoldenTensor t;
    t.name = cells[0].as_string();
    for (size_t i = 1; i + 2 < cells.size(); ++i) t.shape.push_back(cells[i].as_integer());
    t.offset = cells[cells.size() - 2].as_number();
    t.scale = cells[cells.size() - 1].as_number();
    tensors.push_back(std::move(t));
  }
  for (int64_t id : integers(at(c, "prompt"))) prompt.push_back(int32_t(id));
  for (int64_t id : integers(at(c, "greedy"))) greedy.push_back(int32_t(id));
  for (const Json& i : at(c, "images").as_array())
    images.push_back({at(i, "rows").as_integer(), at(i, "cols").as_integer(), at(i, "first_tile").as_integer(),
                      at(i, "n_tiles").as_integer(), at(i, "first_id").as_integer(), at(i, "n_ids").as_integer()});
  pixel_shape = integers(at(c, "pixels"));
  logit_positions = integers(at(c, "logit_positions"));
  for (const auto& [activation, rows] : at(c, "row_positions").as_object()) {
    activations_.push_back(activation);
    row_positions_[activation] = integers(rows);
  }
  if (const Json* distance = at(c, "bf16").find("relative_distance_to_fp32")) bf16_distance = distance->as_number();
  weights_checksum = at(c, "weights_checksum").as_string();
  pixels_checksum = at(c, "pixels_checksum").as_string();
  for (const Json& s : at(c, "weight_samples").as_array())
    samples.push_back(
        {s.as_array()[0].as_string(), s.as_array()[1].as_integer(), uint16_t(s.as_array()[2].as_integer())});

  read_expected(dir_ / "expected.safetensors", f32_, i32_);
  logits = f32("logits");
  if (auto half = f32_.find("bf16.logits"); half != f32_.end()) bf16_logits = half->second;
}

const GoldenMatrix& GoldenModel::f32(const std::string& tensor) const {
  auto found = f32_.find(tensor);
  L4_CHECK(found != f32_.end(), name, " has no ", tensor);
  return found->second;
}

std::vector<uint8_t> GoldenModel::pixels() const {
  if (pixel_shape.empty()) return {};
  int64_t n = 1;
  for (int64_t d : pixel_shape) n *= d;
  std::vector<uint8_t> out(static_cast<size_t>(n));
  uint64_t stream = golden_stream(seed, "pixel_values");
  for (size_t i = 0; i < out.size(); ++i) out[i] = uint8_t(golden_word(stream, i) >> 56);
  return out;
}

std::vector<float> GoldenModel::pixel_values() const {
  std::vector<float> out;
  for (uint8_t level : pixels()) out.push_back(round_bf16(round_bf16(float(level) * (1.0f / 255)) - 0.5f) * 2);
  return out;
}

fs::path GoldenModel::checkpoint(const fs::path& scratch, DType dtype) const {
  if (stored) return dir_ / "checkpoint";
  L4_CHECK(dtype == DType::f32 || dtype == DType::bf16);
  Json written = config;
  written.set("dtype", dtype == DType::f32 ? "float32" : "bfloat16");
  write_file_atomic(scratch / "config.json", dump_json(written, JsonStyle::python, 2));
  write_weights(scratch / "model.safetensors", tensors, seed, dtype);
  return scratch;
}

std::vector<std::string> GoldenModel::activation_names() const {
  return activations_;
}

int64_t GoldenModel::activation_rows(const std::string& activation) const {
  return f32("digest." + activation).rows;
}

std::string GoldenModel::difference(const std::string& activation, int64_t first_row, std::span<const float> found,
                                    double tolerance) const {
  const GoldenMatrix& digests = f32("digest." + activation);
  const GoldenMatrix& full = f32("rows." + activation);
  const std::vector<int64_t>& full_rows = row_positions_.at(activation);
  const size_t width = size_t(full.cols);
  L4_CHECK(found.size() % width == 0 && first_row >= 0 && first_row + int64_t(found.size() / width) <= digests.rows,
           name, " ", activation, ": rows of ", width, " elements, ", digests.rows, " in all");
  const uint64_t stream = golden_stream(0, "digest");
  for (size_t r = 0; r < found.size() / width; ++r) {
    const int64_t row = first_row + int64_t(r);
    std::span<const float> x = found.subspan(r * width, width);
    std::span<const float> expected = digests.row(row);
    double weighted = 0;
    for (size_t i = 0; i < width; ++i) weighted += double(x[i]) * unit(stream, i);
    const double got[4] = {norm(x), weighted, x.front(), x.back()};
    const char* what[4] = {"norm", "weighted sum", "first element", "last element"};
    for (int i = 0; i < 4; ++i)
      if (!(std::abs(got[i] - expected[size_t(i)]) <= tolerance * expected[0]))
        return cat(name, " ", activation, " row ", row, ": ", what[i], " is ", got[i], ", expected ",
                   expected[size_t(i)]);
    auto known = std::find(full_rows.begin(), full_rows.end(), row);
    if (known == full_rows.end()) continue;
    std::span<const float> wanted = full.row(known - full_rows.begin());
    for (size_t i = 0; i < width; ++i)
      if (!(std::abs(x[i] - wanted[i]) <= tolerance * expected[0]))
        return cat(name, " ", activation, " row ", row, " element ", i, ": ", x[i], ", expected ", wanted[i]);
  }
  return {};
}

std::vector<int32_t> GoldenModel::experts(int64_t layer) const {
  auto found = i32_.find(cat("experts.", layer));
  return found == i32_.end() ? std::vector<int32_t>{} : found->second;
}

double relative_distance(std::span<const float> a, std::span<const float> b) {
  double diff = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    diff += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(diff / norm);
}

std::string GoldenModel::logits_difference(std::span<const float> found, double tolerance,
                                           int64_t first_position) const {
  const size_t width = size_t(vocab);
  L4_CHECK(found.size() % width == 0);
  for (size_t k = 0; k < logit_positions.size(); ++k) {
    const int64_t r = logit_positions[k] - first_position;
    if (r < 0 || size_t(r) >= found.size() / width) continue;
    std::span<const float> wanted = logits.row(int64_t(k)), got = found.subspan(size_t(r) * width, width);
    if (double distance = relative_distance(got, wanted); !(distance <= tolerance))
      return cat(name, " logits at position ", logit_positions[k], ": relative distance ", distance, ", allowed ",
                 tolerance);
  }
  return {};
}

double GoldenModel::logits_distance(std::span<const float> found, const GoldenMatrix& expected) const {
  L4_CHECK(found.size() == prompt.size() * size_t(vocab) && expected.rows == int64_t(logit_positions.size()));
  double difference = 0, size = 0;
  for (size_t k = 0; k < logit_positions.size(); ++k) {
    std::span<const float> wanted = expected.row(int64_t(k));
    std::span<const float> got = found.subspan(size_t(logit_positions[k]) * size_t(vocab), size_t(vocab));
    for (size_t i = 0; i < wanted.size(); ++i) {
      difference += (double(got[i]) - wanted[i]) * (double(got[i]) - wanted[i]);
      size += double(wanted[i]) * wanted[i];
    }
  }
  return std::sqrt(difference / size);
}

}  // namespace l4::test
