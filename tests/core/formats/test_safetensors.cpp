#include "formats/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <ctime>
#include <random>

#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::TempDir;

namespace {

std::string length_prefix(uint64_t n) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(char(n >> (8 * i) & 0xFF));
  return out;
}
std::string file_of(const std::string& header, size_t data_bytes = 0) {
  return length_prefix(header.size()) + header + std::string(data_bytes, '\1');
}

// What opening a file with these bytes says; the path is cut off.
struct Opened {
  std::string error;  // empty: it opened
  size_t n_tensors = 0;
};
Opened open_path(const fs::path& path) {
  try {
    SafetensorsFile file(path);
    for (const TensorInfo& info : file.tensors()) {  // whatever opens can be read
      std::vector<std::byte> copy(info.bytes);
      file.read(info, 0, copy);
      REQUIRE(file.find(info.name) == &info);
    }
    return {"", file.tensors().size()};
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::input);
    CHECK(e.message().find('\n') == std::string::npos);
    REQUIRE(e.message().rfind(path.string() + ": ", 0) == 0);
    return {e.message().substr(path.string().size() + 2)};
  }
}
Opened open_bytes(const std::string& bytes) {
  int fd = memfd_create("f.safetensors", MFD_CLOEXEC);  // no disk: this runs thousands of times
  REQUIRE(fd >= 0);
  REQUIRE(write(fd, bytes.data(), bytes.size()) == ssize_t(bytes.size()));
  Opened result = open_path(cat("/proc/self/fd/", fd));
  close(fd);
  return result;
}
std::string refusal(const std::string& bytes) {
  return open_bytes(bytes).error;
}
std::string refusal_of_header(const std::string& header, size_t data_bytes = 0) {
  return refusal(file_of(header, data_bytes));
}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, uint64_t begin,
                  uint64_t end) {
  return cat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ",", end,
             "]}");
}
std::string header_of(const std::vector<std::string>& entries) {
  return cat("{", join(entries, ","), "}");
}
std::string one_tensor(const std::string& dtype, const std::string& shape, uint64_t begin, uint64_t end) {
  return header_of({entry("t", dtype, shape, begin, end)});
}

std::vector<std::byte> counting_bytes(size_t n, int first = 0) {
  std::vector<std::byte> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = std::byte((first + int(i)) & 0xFF);
  return out;
}

}  // namespace

TEST_CASE("safetensors: what the writer wrote comes back") {
  TempDir dir;
  fs::path path = dir / "f.safetensors";
  std::vector<std::byte> a = counting_bytes(2 * 3 * 4), b = counting_bytes(4, 100), c = counting_bytes(5 * 2, 7);
  {
    SafetensorsWriter out(path,
                          {{"a", DType::f32, {2, 3}},
                           {"b \"quoted\" é", DType::f32, {}},
                           {"none", DType::f32, {0, 7}},
                           {"c", DType::bf16, {5}}},
                          {{"format", "pt"}, {"made by", "test"}});
    out.write(std::span(a).first(5));  // pieces of any size
    out.write(std::span(a).subspan(5));
    out.write(b);
    out.write(c);
    CHECK_FALSE(fs::exists(path));  // nothing under the final name before finish()
    out.finish();
  }
  SafetensorsFile file(path);
  CHECK(std::distance(fs::directory_iterator(dir.path()), {}) == 1);
  REQUIRE(file.tensors().size() == 4);
  CHECK(file.metadata() == std::vector<std::pair<std::string, std::string>>{{"format", "pt"}, {"made by", "test"}});
  const TensorInfo* info = file.find("a");
  REQUIRE(info);
  CHECK(info->begin % 8 == 0);
  CHECK(info->dtype == DType::f32);
  CHECK(info->shape == Shape{2, 3});
  CHECK(std::memcmp(file.data(*info).data, a.data(), a.size()) == 0);
  std::vector<std::byte> piece(7);
  file.read(*info, 10, piece);
  CHECK(std::memcmp(piece.data(), a.data() + 10, 7) == 0);
  REQUIRE(file.find("b \"quoted\" é"));
  CHECK(file.find("b \"quoted\" é")->shape.rank() == 0);
  CHECK(file.data(*file.find("b \"quoted\" é")).bytes() == 4);
  CHECK(file.find("none")->bytes == 0);
  CHECK(std::memcmp(file.data(*file.find("c")).data, c.data(), c.size()) == 0);
  CHECK(file.find("d") == nullptr);
}

TEST_CASE("safetensors: a writer that is not finished leaves nothing behind, and counts its bytes") {
  TempDir dir;
  {
    SafetensorsWriter out(dir / "f", {{"a", DType::f32, {2}}});
    out.write(counting_bytes(4));
    CHECK(error_of([&] { out.finish(); }).find("4 announced bytes were never written") != std::string::npos);
    CHECK(error_of([&] { out.write(counting_bytes(5)); }).find("5 bytes to write, 4 announced") != std::string::npos);
  }
  CHECK(fs::is_empty(dir.path()));
  CHECK(error_of([&] {
          SafetensorsWriter out(dir / "f", {{"a", DType::u8, {1}}, {"b", DType::f32, {1}}});
        }).find("tensor b would begin at byte 1") != std::string::npos);
  CHECK(error_of([&] { SafetensorsWriter out(dir / "no" / "f", {}); }) ==
        (dir / "no" / "f").string() + ": cannot create: No such file or directory");
}

// The reference implementation's tests, by name.

TEST_CASE("safetensors: test_header_too_large") {
  CHECK(refusal(length_prefix(100'000'001) + "{}") ==
        "safetensors header: 100000001 bytes long, expected at most 100000000");
  CHECK(refusal(length_prefix(UINT64_MAX) + "{}").find("18446744073709551615 bytes long") != std::string::npos);
  CHECK(refusal(length_prefix(UINT64_MAX - 7) + "{}") != "");  // + 8 wraps
}

TEST_CASE("safetensors: test_header_too_small") {
  CHECK(refusal("") == "not a safetensors file: 0 bytes, expected at least 8");
  CHECK(refusal("1234567") == "not a safetensors file: 7 bytes, expected at least 8");
}

TEST_CASE("safetensors: test_invalid_header_length") {
  CHECK(refusal(length_prefix(60)) == "safetensors header: 60 bytes long, but the file has 8 bytes in all");
  CHECK(refusal(length_prefix(3) + "{}") == "safetensors header: 3 bytes long, but the file has 10 bytes in all");
}

TEST_CASE("safetensors: test_invalid_header_non_utf8") {
  CHECK(refusal_of_header("\xff") == "safetensors header: not UTF-8");
  CHECK(refusal_of_header("{\"a\xc3\":1}") == "safetensors header: not UTF-8");
}

TEST_CASE("safetensors: test_invalid_header_not_json") {
  CHECK(refusal_of_header("{").rfind("safetensors header: not valid JSON", 0) == 0);
  CHECK(refusal_of_header("").rfind("safetensors header: not valid JSON", 0) == 0);
  for (const char* header : {"[]", "1", "\"t\"", " {}", "\t\n{}", "{} x", "{}{}", "{]", "{\"a\"}", "null"}) {
    INFO(header);
    CHECK(refusal_of_header(header).rfind("safetensors header: not valid JSON", 0) == 0);
  }
  CHECK(refusal_of_header(" {}").find("expected \"{\" as its first byte") != std::string::npos);
  CHECK(refusal_of_header("[]").find("expected \"{\" as its first byte") != std::string::npos);
  CHECK(refusal_of_header(std::string("{}\0\0", 4)) != "");
}

TEST_CASE("safetensors: test_whitespace_padded_header") {
  CHECK(refusal_of_header("{}\r \t\n") == "");
  CHECK(refusal_of_header("{" + entry("t", "F32", "[1]", 0, 4) + "}       ", 4) == "");
}

TEST_CASE("safetensors: test_zero_sized_tensor and test_zero_rank") {
  CHECK(refusal_of_header(one_tensor("I32", "[2,0]", 0, 0)) == "");
  CHECK(refusal_of_header(one_tensor("I32", "[]", 0, 4), 4) == "");
  CHECK(refusal_of_header("{}") == "");
  // Empty tensors may sit between others.
  CHECK(refusal_of_header(
            header_of({entry("b", "U8", "[2]", 1, 3), entry("z", "U8", "[0]", 1, 1), entry("a", "U8", "[1]", 0, 1)}),
            3) == "");
}

TEST_CASE("safetensors: test_metadata_incomplete_buffer") {
  CHECK(refusal_of_header(one_tensor("I32", "[2,2]", 0, 16), 16) == "");
  CHECK(refusal_of_header(one_tensor("I32", "[2,2]", 0, 16), 15) ==
        "tensor \"t\" ends at byte 16 of the data, but the file has 15 (an incomplete download?)");
  // Behind the last tensor there must be nothing: a file that is also of another format ends otherwise.
  CHECK(refusal_of_header(one_tensor("I32", "[2,2]", 0, 16), 17) == "1 bytes behind the last tensor, expected none");
  CHECK(refusal(file_of(one_tensor("I32", "[2,2]", 0, 16), 16) + "PK\x05\x06 a zip file's end") ==
        "21 bytes behind the last tensor, expected none");
  CHECK(refusal_of_header("{}", 1) == "1 bytes behind the last tensor, expected none");
}

TEST_CASE("safetensors: test_invalid_info") {
  CHECK(refusal_of_header(one_tensor("F32", "[2,2]", 0, 4), 4) ==
        "tensor \"t\": F32 [2, 2] takes 16 bytes, but \"data_offsets\" [0, 4] are 4");
  CHECK(refusal_of_header(one_tensor("F32", "[1]", 4, 0), 4) ==
        "tensor \"t\": \"data_offsets\" end before they begin: [4, 0]");
  const char* const bad[] = {
      R"({"t":1})",
      R"({"t":{}})",
      R"({"t":{"dtype":"F32","shape":[1]}})",
      R"({"t":{"dtype":"F32","data_offsets":[0,4]}})",
      R"({"t":{"shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1,1,1,1,1,1],"data_offsets":[0,4]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}})",
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":{"0":0}}})",
      R"({"t":{"dtype":null,"shape":[1],"data_offsets":[0,4]}})",
  };
  for (const char* header : bad) {
    INFO(header);
    CHECK(refusal_of_header(header, 4).rfind("tensor \"t\": ", 0) == 0);
  }
}

TEST_CASE("safetensors: test_validation_overflow") {
  CHECK(refusal_of_header(one_tensor("F32", "[2,18446744073709551615]", 0, 4), 4).find("2^63-1") != std::string::npos);
  CHECK(refusal_of_header(one_tensor("F32", "[2,9223372036854775807]", 0, 4), 4).find("more than 2^63-1 bytes") !=
        std::string::npos);
  CHECK(refusal_of_header(one_tensor("F32", "[4294967296,4294967296]", 0, 0)).find("more than 2^63-1 bytes") !=
        std::string::npos);
  CHECK(refusal_of_header(one_tensor("F32", "[2305843009213693952]", 0, 0)).find("more than 2^63-1 bytes") !=
        std::string::npos);
  // A zero hides no overflow, whichever axes a reader multiplies first.
  CHECK(refusal_of_header(one_tensor("F32", "[4294967296,4294967296,0]", 0, 0)).find("more than 2^63-1 bytes") !=
        std::string::npos);
  CHECK(refusal_of_header(one_tensor("F32", "[0,4294967296,4294967296]", 0, 0)).find("more than 2^63-1 bytes") !=
        std::string::npos);
  CHECK(refusal_of_header(one_tensor("U8", "[4611686018427387904]", 0, 4611686018427387904), 4)
            .find("ends at byte 4611686018427387904") != std::string::npos);
}

TEST_CASE("safetensors: test_json_attack: tensors that share bytes") {
  std::string header = "{";
  for (int i = 0; i < 10; ++i) header += cat(i ? "," : "", entry(cat("weight_", i), "F32", "[2,2]", 0, 16));
  CHECK(refusal_of_header(header + "}", 16)
            .find("begins at byte 0 of the data, expected 16 (it overlaps the tensor before it)") != std::string::npos);
}

TEST_CASE("safetensors: holes and a late begin") {
  CHECK(refusal_of_header(header_of({entry("a", "U8", "[1]", 0, 1), entry("b", "U8", "[1]", 2, 3)}), 3) ==
        "tensor \"b\" begins at byte 2 of the data, expected 1 (a hole)");
  CHECK(refusal_of_header(one_tensor("U8", "[1]", 1, 2), 2) ==
        "tensor \"t\" begins at byte 1 of the data, expected 0 (a hole)");
  CHECK(refusal_of_header(header_of({entry("a", "U8", "[2]", 0, 2), entry("b", "U8", "[2]", 1, 3)}), 3)
            .find("overlaps") != std::string::npos);
}

TEST_CASE("safetensors: duplicate keys") {
  CHECK(refusal_of_header(header_of({entry("a", "U8", "[1]", 0, 1), entry("a", "U8", "[1]", 1, 2)}), 2) ==
        "safetensors header: not valid JSON: duplicate key \"a\"");
  CHECK(refusal_of_header(R"({"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1)
            .find("duplicate key \"dtype\"") != std::string::npos);
  CHECK(refusal_of_header(R"({"__metadata__":{},"__metadata__":{}})").find("duplicate key") != std::string::npos);
}

TEST_CASE("safetensors: __metadata__ holds strings") {
  CHECK(refusal_of_header(R"({"__metadata__":{"a":"b"}})") == "");
  CHECK(refusal_of_header(R"({"__metadata__":{"a":1}})") ==
        "safetensors header: __metadata__ \"a\": expected a string, found integer");
  CHECK(refusal_of_header(R"({"__metadata__":{"a":null}})").find("expected a string, found null") != std::string::npos);
  CHECK(refusal_of_header(R"({"__metadata__":[]})") ==
        "safetensors header: __metadata__: expected an object, found array");
}

TEST_CASE("safetensors: nesting") {
  CHECK(refusal_of_header("{\"a\":" + std::string(1'000'000, '[')).find("nested deeper than 8 levels") !=
        std::string::npos);
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  CHECK(refusal_of_header(deep).find("nested deeper than 8 levels") != std::string::npos);
}

TEST_CASE("safetensors: abuse attempts") {
  SUBCASE("1: a length that the file does not have") {
    std::string bytes = file_of(one_tensor("F32", "[2,2]", 0, 16), 16);
    bytes.replace(0, 8, length_prefix(1000));
    CHECK(refusal(bytes).find("1000 bytes long, but the file has") != std::string::npos);
  }
  SUBCASE("2, 3: 100,000 tensors that are the same bytes") {
    std::string header = "{";
    for (int i = 0; i < 100'000; ++i)
      header += cat(i ? "," : "", entry(cat("weight_", i), "F32", "[200,200]", 0, 160'000));
    CHECK(refusal_of_header(header + "}", 160'000).find("overlaps the tensor before it") != std::string::npos);
  }
  SUBCASE("a header of nothing but values is not turned into gigabytes") {
    std::string header = "{\"a\":[0";
    for (int i = 0; i < 4'000'000; ++i) header += ",0";
    CHECK(refusal_of_header(header + "]}") == "safetensors header: not valid JSON: more than 4,000,000 values");
  }
}

TEST_CASE("safetensors: a header of 30,000 tensors takes well under a second") {
  std::string header = "{";
  const int n = 30'000;  // Maverick's experts apart, with scales
  for (int i = 0; i < n; ++i)
    header +=
        cat(i ? "," : "",
            entry(cat("language_model.model.layers.", i % 48, ".feed_forward.experts.", i, ".gate_proj.weight_scale"),
                  "U8", "[1,1]", uint64_t(i), uint64_t(i) + 1));
  TempDir dir;
  write_file_atomic(dir / "f", file_of(header + "}", n));
  std::clock_t begin = std::clock();  // processor time: other processes do not count
  SafetensorsFile file(dir / "f");
  double seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
  CHECK(file.tensors().size() == n);
  CHECK(seconds < 2);  // 0.13 s measured; room for slow machines and sanitizers
}

TEST_CASE("safetensors: a tensor that is not aligned can be read but not viewed") {
  TempDir dir;
  std::string header = header_of({entry("a", "U8", "[1]", 0, 1), entry("b", "F32", "[1]", 1, 5)});
  header.resize((header.size() + 7) / 8 * 8, ' ');
  write_file_atomic(dir / "f", length_prefix(header.size()) + header + "x" + std::string("\0\0\x80\x3f", 4));
  SafetensorsFile file(dir / "f");
  CHECK(error_of([&] { file.data(*file.find("b")); }).find("expected a multiple of 4 for F32") != std::string::npos);
  float value = 0;
  file.read(*file.find("b"), 0, std::as_writable_bytes(std::span(&value, 1)));
  CHECK(value == 1.0f);
  CHECK(error_of([&] {
          file.read(*file.find("b"), 2, std::as_writable_bytes(std::span(&value, 1)));
        }).find("internal error") == 0);
}

TEST_CASE("safetensors: a file that shrinks under the map is noticed") {
  TempDir dir;
  fs::path path = dir / "f";
  std::string bytes = file_of(one_tensor("U8", "[100000]", 0, 100'000), 100'000);
  write_file_atomic(path, bytes);
  SafetensorsFile file(path);
  const TensorInfo& info = file.tensors()[0];
  CHECK(static_cast<const char*>(file.data(info).data)[99'999] == 1);
  fs::resize_file(path, 50'000);
  CHECK(error_of([&] { file.data(info); }) ==
        cat(path.string(), ": 50000 bytes, but ", bytes.size(),
            " when it was opened: somebody changed the file while it was in use"));
  std::vector<std::byte> copy(info.bytes);
  CHECK(error_of([&] { file.read(info, 0, copy); }) ==
        cat(path.string(), ": ends at byte 50000, expected ", bytes.size(), " bytes"));
  file.read(info, 0, std::span(copy).first(1000));  // what is still there
}

TEST_CASE("safetensors: what cannot be opened is named") {
  TempDir dir;
  CHECK(error_of([&] { SafetensorsFile f(dir / "none"); }) ==
        (dir / "none").string() + ": cannot open: No such file or directory");
  CHECK(error_of([&] { SafetensorsFile f(dir.path()); }) == dir.path().string() + ": not a regular file");
}

// Whatever happens to the bytes of a file, opening it ends in tensors that can be read or in one line.
TEST_CASE("safetensors: thousands of random mutations never crash") {
  std::mt19937 random(42);
  auto pick = [&](size_t n) { return size_t(random() % n); };
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + entry("a", "F32", "[2,3]", 0, 24) + "," +
                       entry("b", "BF16", "[4]", 24, 32) + "," + entry("c", "U8", "[0,5]", 32, 32) + "," +
                       entry("d", "I64", "[]", 32, 40) + "}";
  const std::string original = file_of(header, 40);
  CHECK(open_bytes(original).n_tensors == 4);
  const std::vector<std::string> tokens = {
      "0", "-1", "24", "9223372036854775807", "18446744073709551616", "null", "[]", "{}", "\"F32\"", "1e9", ""};
  int opened = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = original;
    switch (pick(4)) {
      case 0:  // other bytes anywhere
        for (size_t n = 1 + pick(4); n-- > 0;) bytes[pick(bytes.size())] = char(random());
        break;
      case 1:  // other JSON characters in the header
        for (size_t n = 1 + pick(3); n-- > 0;) bytes[8 + pick(header.size())] = "0123456789[]{},:\"-"[pick(18)];
        break;
      case 2: {  // one number replaced, lengths kept right
        size_t digit = bytes.find_first_of("0123456789", 8 + pick(header.size() - 10));
        size_t end = bytes.find_first_not_of("0123456789", digit);
        bytes.replace(digit, end - digit, tokens[pick(tokens.size())]);
        bytes.replace(0, 8, length_prefix(bytes.size() - 8 - 40));
        break;
      }
      default:  // cut short or made longer
        bytes.resize(pick(bytes.size() + 20), '\2');
    }
    (open_bytes(bytes).error.empty() ? opened : refused) += 1;
  }
  CHECK(opened > 100);
  CHECK(refused > 2000);
}

TEST_CASE("safetensors: random files survive a round trip") {
  std::mt19937 random(7);
  TempDir dir;
  for (int i = 0; i < 50; ++i) {
    std::vector<SafetensorsWriter::Tensor> tensors;
    for (DType dtype : {DType::i64, DType::f32, DType::bf16, DType::u8})  // wide before narrow
      for (uint32_t n = random() % 4; n-- > 0;) {
        Shape shape;
        for (uint32_t rank = random() % 4; rank-- > 0;) shape.append(random() % 4);
        tensors.push_back({cat("t", tensors.size(), "é\n\"", random() % 1000), dtype, shape});
      }
    size_t bytes = 0;
    for (const auto& t : tensors) bytes += size_t(t.shape.elements()) * dtype_bytes(t.dtype);
    std::vector<std::byte> data = counting_bytes(bytes, i);
    SafetensorsWriter out(dir / "f", tensors, {});
    out.write(data);
    out.finish();
    SafetensorsFile file(dir / "f");
    REQUIRE(file.tensors().size() == tensors.size());
    size_t at = 0;
    for (const auto& t : tensors) {
      const TensorInfo* info = file.find(t.name);
      REQUIRE(info);
      CHECK(info->shape == t.shape);
      CHECK(info->dtype == t.dtype);
      View v = file.data(*info);
      CHECK(std::memcmp(v.data, data.data() + at, v.bytes()) == 0);
      at += v.bytes();
    }
  }
}
