#include "formats/hf_checkpoint.h"

#include <algorithm>
#include <set>

#include "base/log.h"
#include "formats/json.h"

namespace l4 {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr uint64_t kMaxIndexBytes = 100'000'000;

bool is_there(const fs::path& path) {
  std::error_code ec;
  return fs::exists(path, ec);
}

// A name in the same directory and nothing else, so that an index cannot make us open any other file.
void check_file_name(const std::string& source, const std::string& tensor, const std::string& name) {
  bool plain = !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
               name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
  if (!plain)
    fail_input(source, ": weight_map ", shown(tensor), ": expected the name of a file in the same directory, found ",
               shown(name));
  if (!name.ends_with(".safetensors"))
    fail_input(source, ": weight_map ", shown(tensor), ": expected a .safetensors file, found ", shown(name));
}

}  // namespace

std::string canonical_tensor_name(std::string_view name) {
  if (name.starts_with("model.") || name.starts_with("lm_head.")) return cat("language_model.", name);
  return std::string(name);
}

const CheckpointIndex::Entry* CheckpointIndex::find(std::string_view canonical_name) const {
  auto it = by_name_.find(std::string(canonical_name));
  return it == by_name_.end() ? nullptr : &entries[it->second];
}

CheckpointIndex read_checkpoint_index(const fs::path& path) {
  std::error_code ec;
  fs::path file = fs::is_directory(path, ec) ? path / kIndexFile : path;
  CheckpointIndex index;
  index.source = file.string();
  Json document = parse_json(read_file(file, kMaxIndexBytes), index.source, {.max_depth = 8});
  const Json* map = document.find("weight_map");
  if (!map || !map->is_object())
    fail_input(index.source, ": \"weight_map\": expected an object, found ", map ? map->kind_name() : "nothing");
  if (map->as_object().empty()) fail_input(index.source, ": \"weight_map\" names no tensor");
  std::set<std::string> files;
  for (const Json::Member& m : map->as_object()) {
    if (!m.second.is_string())
      fail_input(index.source, ": weight_map ", shown(m.first), ": expected a file name, found ", m.second.kind_name());
    check_file_name(index.source, m.first, m.second.as_string());
    files.insert(m.second.as_string());
    index.entries.push_back({canonical_tensor_name(m.first), m.second.as_string()});
    if (!index.by_name_.emplace(index.entries.back().name, index.entries.size() - 1).second)
      fail_input(index.source, ": weight_map ", shown(m.first),
                 ": the same tensor twice, with and without \"language_model.\"");
  }
  index.file_names.assign(files.begin(), files.end());
  if (const Json* metadata = document.find("metadata"))
    if (const Json* total = metadata->find("total_size");
        total && total->is_number() && total->as_number() >= 0 && total->as_number() < 9e18)
      index.total_bytes = total->is_integer() ? uint64_t(total->as_integer()) : uint64_t(total->as_number());
  return index;
}

HfCheckpoint::HfCheckpoint(const fs::path& dir) : dir_(dir) {
  std::error_code ec;
  if (!fs::is_directory(dir, ec)) fail(ErrorKind::io, dir.string(), ": not a directory");

  if (is_there(dir / kSingleFile)) {
    shards_.emplace_back(dir / kSingleFile);
    for (const TensorInfo& info : shards_[0].tensors()) add(canonical_tensor_name(info.name), info);
    return;
  }
  if (!is_there(dir / kIndexFile))
    fail_input(dir.string(), ": no weights: neither ", kSingleFile, " nor ", kIndexFile, " is there");

  CheckpointIndex index = read_checkpoint_index(dir);
  std::vector<std::string> missing;
  for (const std::string& name : index.file_names)
    if (!is_there(dir / name)) missing.push_back(name);
  if (!missing.empty())
    fail_input(dir.string(), ": ", missing.size(), " of ", index.file_names.size(),
               " weight files are missing: ", shown(missing[0]), missing.size() > 1 ? " and others" : "",
               " (an incomplete download?)");

  shards_.reserve(index.file_names.size());
  size_t n_unnamed = 0;
  std::string unnamed;
  for (const std::string& name : index.file_names) {
    const SafetensorsFile& file = shards_.emplace_back(dir / name, uint32_t(shards_.size()));
    for (const TensorInfo& info : file.tensors()) {
      std::string canonical = canonical_tensor_name(info.name);
      const CheckpointIndex::Entry* entry = index.find(canonical);
      if (entry && entry->file_name == name)
        add(canonical, info);
      else if (n_unnamed++ == 0)
        unnamed = cat(shown(info.name), " in ", name);
    }
  }
  for (const CheckpointIndex::Entry& entry : index.entries)
    if (!by_name_.contains(entry.name))
      fail_input((dir / entry.file_name).string(), ": tensor ", shown(entry.name), " is missing, though ", kIndexFile,
                 " says it is there");
  if (n_unnamed > 0)
    log_warning(index.source, ": leaves out ", n_unnamed, n_unnamed == 1 ? " tensor" : " tensors",
                " that the weight files have, first ", unnamed, ": not loaded");
}

void HfCheckpoint::add(const std::string& name, const TensorInfo& info) {
  if (!by_name_.emplace(name, &info).second)
    fail_input(shard(info).path().string(), ": tensor ", shown(info.name),
               " twice, with and without \"language_model.\"");
  names_.push_back(name);
  total_bytes_ += info.bytes;
}

const TensorInfo* HfCheckpoint::find(std::string_view canonical_name) const {
  auto it = by_name_.find(std::string(canonical_name));
  return it == by_name_.end() ? nullptr : it->second;
}

}  // namespace l4
