#include "tools/convert/target.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>

#include "base/error.h"
#include "formats/json_fields.h"

namespace l4::convert {

namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kExtra = "model-kv-scales.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr uint64_t kMaxNotesBytes = 100'000'000;

bool is_there(const fs::path& path) {
  std::error_code ec;
  return fs::exists(fs::symlink_status(path, ec));
}

struct stat stat_of(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail(ErrorKind::io, path.string(), ": cannot stat: ", std::strerror(errno));
  return info;
}

int64_t time_of(const struct stat& info) {
  return int64_t(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

void sync_folder(const fs::path& dir) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool ok = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!ok && error != EINVAL) fail(ErrorKind::io, dir.string(), ": cannot sync: ", std::strerror(error));
}

// Weights, in any container: not to be copied, and not to be left beside new ones.
bool is_weights(const std::string& name) {
  for (const char* end : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".gguf"})
    if (name.ends_with(end)) return true;
  return false;
}

bool is_our_shard(const std::string& name) {
  return name.starts_with("model") && name.ends_with(".safetensors");
}

// The name that "model-00001-of-00002.safetensors.tmp1234" would have got, had its writer not been killed; else empty.
std::string unfinished_name(const std::string& name) {
  const size_t dot = name.rfind(".tmp");
  if (dot == std::string::npos || name.find_first_not_of("0123456789", dot + 4) != std::string::npos) return {};
  return name.substr(0, dot);
}

template <class Visit>
void for_each_file(const fs::path& dir, Visit visit) {
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) visit(it->path());
  if (ec) fail(ErrorKind::io, dir.string(), ": cannot list: ", ec.message());
}

void remove_file(const fs::path& path) {
  std::error_code ec;
  fs::remove(path, ec);
  if (ec) fail(ErrorKind::io, path.string(), ": cannot remove: ", ec.message());
}

void copy_over(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  AtomicFile out(to);
  std::vector<std::byte> part(1 << 20);
  for (uint64_t done = 0; done < source.size();) {
    const std::span<std::byte> bytes =
        std::span(part).first(size_t(std::min<uint64_t>(part.size(), source.size() - done)));
    source.read_at(done, bytes);
    out.write(bytes);
    done += bytes.size();
  }
  out.commit();
}

}  // namespace

Json error_json(const QuantError& e) {
  return Json::Object{{"n", e.n},
                      {"squared", e.squared},
                      {"reference", e.reference},
                      {"max_error", double(e.max_error)},
                      {"max_weight", double(e.max_weight)}};
}

QuantError parse_error(const Json& json, const std::string& source) {
  const JsonFields fields(json, source);
  QuantError e;
  e.n = fields.integer("n", {}, 0, INT64_MAX);
  e.squared = fields.number("squared", {}, 0, 1e308);
  e.reference = fields.number("reference", {}, 0, 1e308);
  e.max_error = float(fields.number("max_error", {}, 0, 1e38));
  e.max_weight = float(fields.number("max_weight", {}, 0, 1e39));
  return e;
}

SourceStamp::SourceStamp(const HfCheckpoint& source) {
  std::set<fs::path> paths = {source.dir() / kConfig};
  for (const std::string& name : source.names()) paths.insert(source.shard(*source.find(name)).path());
  for (const fs::path& path : paths) {
    const struct stat info = stat_of(path);
    files_.push_back({path, uint64_t(info.st_size), time_of(info)});
  }
}

void SourceStamp::check() const {
  for (const File& file : files_) {
    const struct stat now = stat_of(file.path);
    if (uint64_t(now.st_size) != file.bytes || time_of(now) != file.time_ns)
      fail_input(file.path.string(), ": changed while it was being converted; the target is not finished");
  }
}

Json SourceStamp::json() const {
  Json list = Json::Array{};
  for (const File& file : files_)
    list.push_back(Json::Array{file.path.filename().string(), int64_t(file.bytes), file.time_ns});
  return list;
}

Target::Target(fs::path dir, const fs::path& source, bool overwrite)
    : dir_(std::move(dir)), source_(source), overwrite_(overwrite) {
  std::error_code ec;
  if (is_there(dir_) && !fs::is_directory(dir_, ec)) fail(ErrorKind::usage, dir_.string(), ": not a directory");
  if (fs::equivalent(dir_, source, ec)) fail(ErrorKind::usage, dir_.string(), ": the target is the source");
}

Target::~Target() {
  if (lock_ >= 0) ::close(lock_);
}

void Target::begin(const Plan& plan, const Json& identity) {
  refuse_what_is_there(identity);
  std::error_code ec;
  fs::create_directories(notes(), ec);
  if (ec) fail(ErrorKind::io, dir_.string(), ": cannot create: ", ec.message());
  const fs::path lock = notes() / "lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) fail(ErrorKind::io, lock.string(), ": cannot create: ", std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0)
    fail(ErrorKind::io, dir_.string(), ": another l4-convert is writing there");

  refuse_what_is_there(identity);  // it may have finished meanwhile
  if (overwrite_) clear();
  for_each_file(dir_, [&](const fs::path& path) {
    const std::string name = unfinished_name(path.filename().string());
    if (!name.empty() && (is_our_shard(name) || name == kIndex || is_there(source_ / name))) remove_file(path);
  });
  find_finished(plan);
  uint64_t missing = 0;
  for (size_t i = 0; i < plan.shards.size(); ++i)
    if (!finished(i)) missing += plan.shards[i].bytes;
  if (const fs::space_info space = fs::space(dir_, ec); !ec && space.available < missing)
    fail(ErrorKind::io, dir_.string(), ": ", human_bytes(missing), " are to be written, ", human_bytes(space.available),
         " are free");
  write_file_atomic(notes() / "plan.json", dump_json(identity, JsonStyle::python, 1) + "\n");
  sync_folder(notes());
}

void Target::refuse_what_is_there(const Json& identity) const {
  if (overwrite_ || !is_there(dir_)) return;
  const auto refuse = [&](const char* name) {
    if (is_there(dir_ / name))
      fail(ErrorKind::usage, dir_.string(), ": has a ", name, " already (--overwrite replaces the model there)");
  };
  refuse(kConfig);
  if (is_there(notes() / "plan.json")) {
    const std::string found = read_file(notes() / "plan.json", kMaxNotesBytes);
    if (found == dump_json(identity, JsonStyle::python, 1) + "\n") return;
    const Json* files = nullptr;
    Json other;
    try {
      other = parse_json(found, "plan.json");
      files = other.find("source");
    } catch (const Error&) {  // a disk that lost it
    }
    fail(ErrorKind::usage, dir_.string(), ": holds an unfinished conversion ",
         files && *files == *identity.find("source") ? "with other options" : "of other files",
         " (--overwrite begins anew)");
  }
  refuse(kIndex);
  for_each_file(dir_, [&](const fs::path& path) {
    if (is_weights(path.filename().string()))
      fail(ErrorKind::usage, path.string(), ": there are weights in the target (--overwrite removes a model's)");
  });
}

// What makes it a model goes first.
void Target::clear() const {
  std::error_code ec;
  fs::remove_all(calibration(), ec);
  if (ec) fail(ErrorKind::io, calibration().string(), ": cannot remove: ", ec.message());
  for (const char* name : {kConfig, kIndex}) remove_file(dir_ / name);
  for_each_file(dir_, [](const fs::path& path) {
    if (is_our_shard(path.filename().string())) remove_file(path);
  });
  for_each_file(notes(), [](const fs::path& path) {
    if (path.filename() != "lock") remove_file(path);
  });
  sync_folder(dir_);
}

namespace {

fs::path errors_path(const fs::path& notes, const OutputShard& shard) {
  return notes / (shard.file_name + ".json");
}

std::vector<QuantError> parse_errors(const fs::path& path, size_t n_items) {
  const Json list = parse_json(read_file(path, kMaxNotesBytes), path.string());
  std::vector<QuantError> errors;
  if (!list.is_array() || list.as_array().size() != n_items) return {};
  for (const Json& entry : list.as_array()) errors.push_back(parse_error(entry, path.string()));
  return errors;
}

}  // namespace

void Target::find_finished(const Plan& plan) {
  finished_.assign(plan.shards.size(), {});
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    const OutputShard& shard = plan.shards[i];
    const fs::path notes_path = errors_path(notes(), shard);
    if (!is_there(dir_ / shard.file_name) || !is_there(notes_path)) continue;
    try {  // what is not as it should be is made again
      const SafetensorsFile file(dir_ / shard.file_name);
      bool same = file.tensors().size() == shard.tensors.size();
      for (const SafetensorsWriter::Tensor& t : shard.tensors) {
        const TensorInfo* found = same ? file.find(t.name) : nullptr;
        same = found && found->dtype == t.dtype && found->shape == t.shape;
      }
      if (same) finished_[i] = parse_errors(notes_path, shard.items.size());
    } catch (const Error&) {
    }
  }
}

const std::vector<QuantError>* Target::finished(size_t shard) const {
  return finished_[shard].empty() ? nullptr : &finished_[shard];
}

void Target::save_errors(const OutputShard& shard, const std::vector<QuantError>& errors) const {
  Json list = Json::Array{};
  for (const QuantError& e : errors) list.push_back(error_json(e));
  write_file_atomic(errors_path(notes(), shard), dump_json(list));
}

void Target::finish(const Plan& plan, const std::vector<NamedValue>& extra) const {
  for_each_file(source_, [&](const fs::path& path) {
    std::error_code ec;
    const std::string name = path.filename().string();
    if (name[0] == '.' || name == kConfig || is_weights(name) || !fs::is_regular_file(path, ec)) return;
    copy_over(path, dir_ / name);
  });
  sync();

  std::map<std::string, std::string> of_extra;
  if (!extra.empty()) {
    std::vector<SafetensorsWriter::Tensor> tensors;
    std::vector<float> values;
    for (const NamedValue& value : extra) {
      tensors.push_back({value.name, DType::f32, {1}});
      values.push_back(value.value);
      of_extra.emplace(value.name, kExtra);
    }
    SafetensorsWriter out(dir_ / kExtra, tensors);
    out.write(std::as_bytes(std::span(values)));
    out.finish();
  }
  const Json index = index_json(plan, of_extra, extra.size() * sizeof(float));
  Json config = parse_json(read_file(source_ / kConfig, kMaxNotesBytes), (source_ / kConfig).string());
  config.set("quantization_config", plan.quantization);
  write_file_atomic(dir_ / kIndex, dump_json(index, JsonStyle::python, 2) + "\n");
  write_file_atomic(dir_ / kConfig, dump_json(config, JsonStyle::python, 2) + "\n");
  sync();
  std::error_code ec;
  fs::remove_all(notes(), ec);  // it is complete; what is left of the notes harms nobody
}

void Target::sync() const {
  sync_folder(dir_);
}

}  // namespace l4::convert
