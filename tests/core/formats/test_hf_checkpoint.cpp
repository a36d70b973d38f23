#include "formats/hf_checkpoint.h"

#include <cstring>
#include <map>

#include "base/log.h"
#include "formats/json.h"
#include "support/capture.h"
#include "support/test.h"

using namespace l4;
using l4::test::error_of;
using l4::test::shared_data;
using l4::test::stderr_of;
using l4::test::TempDir;

namespace {

// A file of one-byte tensors, each holding the first character of its name.
void write_shard(const fs::path& path, const std::vector<std::string>& names) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (const std::string& name : names) tensors.push_back({name, DType::u8, {1}});
  SafetensorsWriter out(path, tensors);
  for (const std::string& name : names) out.write(std::as_bytes(std::span(name).first(1)));
  out.finish();
}
std::string index_json(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string out = R"({"metadata": {"total_size": 12}, "weight_map": {)";
  for (size_t i = 0; i < map.size(); ++i)
    out += cat(i ? ", " : "", json_quote(map[i].first), ": ", json_quote(map[i].second));
  return out + "}}";
}
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kShard1 = "model-00001-of-00002.safetensors";
constexpr const char* kShard2 = "model-00002-of-00002.safetensors";

// Two shards with a, b and c, d.
void write_sharded(const TempDir& dir) {
  write_shard(dir / kShard1, {"a", "b"});
  write_shard(dir / kShard2, {"c", "d"});
  write_file_atomic(dir / kIndex, index_json({{"a", kShard1}, {"b", kShard1}, {"c", kShard2}, {"d", kShard2}}));
}
char value_of(const HfCheckpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  REQUIRE(info);
  std::byte copy[1];
  checkpoint.read(*info, 0, copy);
  CHECK(*checkpoint.data(*info).as<std::byte>(DType::u8) == copy[0]);
  return char(copy[0]);
}

}  // namespace

TEST_CASE("hf_checkpoint: one file") {
  TempDir dir;
  write_shard(dir / "model.safetensors", {"x", "y"});
  HfCheckpoint checkpoint(dir.path());
  CHECK(checkpoint.names() == std::vector<std::string>{"x", "y"});
  CHECK(checkpoint.n_shards() == 1);
  CHECK(checkpoint.total_bytes() == 2);
  CHECK(value_of(checkpoint, "y") == 'y');
  CHECK(checkpoint.find("z") == nullptr);
}

TEST_CASE("hf_checkpoint: several files and their index") {
  TempDir dir;
  write_sharded(dir);
  HfCheckpoint checkpoint(dir.path());
  CHECK(checkpoint.n_shards() == 2);
  CHECK(checkpoint.names() == std::vector<std::string>{"a", "b", "c", "d"});
  for (char c : {'a', 'b', 'c', 'd'}) CHECK(value_of(checkpoint, std::string(1, c)) == c);
  CHECK(checkpoint.shard(*checkpoint.find("d")).path().filename() == kShard2);
}

TEST_CASE("hf_checkpoint: links, as the hub's cache makes them, are followed") {
  TempDir dir;
  fs::create_directories(dir / "blobs");
  fs::create_directories(dir / "snapshots");
  write_shard(dir / "blobs" / "0123abc", {"x"});
  fs::create_symlink("../blobs/0123abc", dir / "snapshots" / "model.safetensors");
  CHECK(value_of(HfCheckpoint(dir / "snapshots"), "x") == 'x');
}

TEST_CASE("hf_checkpoint: the names of text-only checkpoints are mapped to canonical ones") {
  CHECK(canonical_tensor_name("model.layers.0.x") == "language_model.model.layers.0.x");
  CHECK(canonical_tensor_name("lm_head.weight") == "language_model.lm_head.weight");
  CHECK(canonical_tensor_name("language_model.model.norm.weight") == "language_model.model.norm.weight");
  CHECK(canonical_tensor_name("vision_model.class_embedding") == "vision_model.class_embedding");
  CHECK(canonical_tensor_name("multi_modal_projector.linear_1.weight") == "multi_modal_projector.linear_1.weight");
  CHECK(canonical_tensor_name("models.x") == "models.x");
  TempDir dir;
  write_shard(dir / "model.safetensors", {"model.norm.weight", "lm_head.weight"});
  HfCheckpoint checkpoint(dir.path());
  CHECK(value_of(checkpoint, "language_model.model.norm.weight") == 'm');
  CHECK(checkpoint.find("language_model.lm_head.weight")->name == "lm_head.weight");
  CHECK(checkpoint.find("lm_head.weight") == nullptr);
  write_shard(dir / "model.safetensors", {"model.norm.weight", "language_model.model.norm.weight"});
  CHECK(error_of([&] { HfCheckpoint c(dir.path()); }).find("twice, with and without \"language_model.\"") !=
        std::string::npos);
  write_file_atomic(dir / kIndex, index_json({{"lm_head.a", kShard1}, {"language_model.lm_head.a", kShard1}}));
  CHECK(error_of([&] { read_checkpoint_index(dir.path()); }).find("twice, with and without") != std::string::npos);
}

TEST_CASE("hf_checkpoint: missing pieces are named") {
  TempDir dir;
  CHECK(error_of([&] { HfCheckpoint c(dir / "none"); }) == (dir / "none").string() + ": not a directory");
  CHECK(error_of([&] { HfCheckpoint c(dir.path()); }) ==
        dir.path().string() + ": no weights: neither model.safetensors nor model.safetensors.index.json is there");
  write_sharded(dir);
  fs::remove(dir / kShard2);
  CHECK(error_of([&] { HfCheckpoint c(dir.path()); }) ==
        dir.path().string() + ": 1 of 2 weight files are missing: \"" + kShard2 + "\" (an incomplete download?)");
  fs::remove(dir / kShard1);
  CHECK(error_of([&] {
          HfCheckpoint c(dir.path());
        }).find(cat("2 of 2 weight files are missing: \"", kShard1, "\" and others")) != std::string::npos);
}

TEST_CASE("hf_checkpoint: a damaged shard is named") {
  TempDir dir;
  write_sharded(dir);
  fs::resize_file(dir / kShard2, fs::file_size(dir / kShard2) - 1);
  CHECK(error_of([&] { HfCheckpoint c(dir.path()); }) ==
        (dir / kShard2).string() +
            ": tensor \"d\" ends at byte 2 of the data, but the file has 1 (an incomplete download?)");
}

TEST_CASE("hf_checkpoint: index and shards must agree") {
  TempDir dir;
  write_sharded(dir);
  write_file_atomic(dir / kIndex,
                    index_json({{"a", kShard1}, {"b", kShard1}, {"c", kShard2}, {"d", kShard2}, {"e", kShard2}}));
  CHECK(error_of([&] { HfCheckpoint c(dir.path()); }) ==
        (dir / kShard2).string() + ": tensor \"e\" is missing, though model.safetensors.index.json says it is there");
  write_file_atomic(dir / kIndex, index_json({{"a", kShard2}, {"b", kShard1}, {"c", kShard2}, {"d", kShard2}}));
  std::string message;
  stderr_of([&] { message = error_of([&] { HfCheckpoint c(dir.path()); }); });
  CHECK(message.find(cat(kShard2, ": tensor \"a\" is missing")) != std::string::npos);

  // What the index does not name is left out; where two shards have a tensor, the index says which.
  write_shard(dir / kShard1, {"a", "b", "extra"});
  write_shard(dir / kShard2, {"b", "c", "d"});
  write_file_atomic(dir / kIndex, index_json({{"a", kShard1}, {"b", kShard2}, {"c", kShard2}, {"d", kShard2}}));
  std::string warning = stderr_of([&] { HfCheckpoint c(dir.path()); });
  CHECK(warning.find(cat("leaves out 2 tensors that the weight files have, first \"b\" in ", kShard1,
                         ": not loaded")) != std::string::npos);
  set_log_level(LogLevel::error);
  HfCheckpoint checkpoint(dir.path());
  set_log_level(LogLevel::warning);
  CHECK(checkpoint.names() == std::vector<std::string>{"a", "b", "c", "d"});
  CHECK(checkpoint.find("b")->file == 1);
  CHECK(checkpoint.find("extra") == nullptr);
}

TEST_CASE("hf_checkpoint: a single file comes before an index, as in transformers") {
  TempDir dir;
  write_sharded(dir);
  write_shard(dir / "model.safetensors", {"x"});
  CHECK(HfCheckpoint(dir.path()).names() == std::vector<std::string>{"x"});
}

TEST_CASE("hf_checkpoint: an index names files of its own directory and nothing else") {
  TempDir dir;
  fs::create_directories(dir / "inside");
  write_shard(dir / "outside.safetensors", {"a"});
  const fs::path inside = dir / "inside";
  for (std::string bad :
       {"../outside.safetensors", "/etc/passwd", "", ".", "..", "sub/x.safetensors", "model.bin", "pytorch_model.pt"})
    for (std::string name : {bad, bad + std::string("\0.safetensors", 13)}) {
      write_file_atomic(inside / kIndex, index_json({{"a", name}}));
      std::string message = error_of([&] { HfCheckpoint c(inside); });
      INFO(message);
      bool refused = message.rfind((inside / kIndex).string() + ": ", 0) == 0;
      CHECK(refused);
    }
  write_file_atomic(inside / kIndex, index_json({{"a", (dir / "outside.safetensors").string()}}));
  CHECK(error_of([&] { HfCheckpoint c(inside); }).find("expected the name of a file in the same directory") !=
        std::string::npos);
  write_file_atomic(inside / kIndex, index_json({{"a", std::string(300, 'x') + ".safetensors"}}));
  CHECK(error_of([&] { HfCheckpoint c(inside); }).find("weight_map \"a\"") != std::string::npos);
}

TEST_CASE("hf_checkpoint: a broken index is refused") {
  TempDir dir;
  for (const char* bad :
       {"", "[]", "{}", R"({"weight_map": null})", R"({"weight_map": []})", R"({"weight_map": {}})",
        R"({"weight_map": {"a": 1}})", R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})",
        R"({"weight_map": {"a": {"b": "x.safetensors"}}})"}) {
    write_file_atomic(dir / kIndex, bad);
    INFO(bad);
    CHECK(error_of([&] { HfCheckpoint c(dir.path()); }).rfind((dir / kIndex).string() + ": ", 0) == 0);
  }
  for (const char* total : {"-1", "1e300", "\"x\"", "null", "[]"}) {  // informative only
    write_file_atomic(dir / kIndex,
                      cat(R"({"metadata": {"total_size": )", total, R"(}, "weight_map": {"a": "x.safetensors"}})"));
    CHECK_FALSE(read_checkpoint_index(dir.path()).total_bytes);
  }
  write_file_atomic(dir / kIndex,
                    R"({"metadata": {"total_size": 217283587072}, "weight_map": {"a": "x.safetensors"}})");
  CHECK(read_checkpoint_index(dir.path()).total_bytes == 217'283'587'072u);
}

TEST_CASE("hf_checkpoint: the official index can be read without any weights") {
  CheckpointIndex index = read_checkpoint_index(shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct"));
  CHECK(index.entries.size() == 1133);
  CHECK(index.file_names.size() == 50);
  CHECK(index.file_names.front() == "model-00001-of-00050.safetensors");
  CHECK(index.total_bytes == 217'283'587'072u);
  REQUIRE(index.find("language_model.lm_head.weight"));
  CHECK(index.find("language_model.lm_head.weight")->file_name == "model-00050-of-00050.safetensors");
  CHECK(index.find("nothing") == nullptr);
}
