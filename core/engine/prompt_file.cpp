#include "engine/prompt_file.h"

#include <algorithm>

#include "base/checksum.h"
#include "formats/safetensors.h"

namespace l4 {

namespace {

constexpr AttentionKind kKinds[] = {AttentionKind::global, AttentionKind::chunked};  // in the file's order
constexpr char kFormat[] = "l4-prompt-kv-1";
constexpr size_t kDigestBytes = sizeof(ImageInput::digest);

const char* name_of(AttentionKind kind) {
  return kind == AttentionKind::global ? "global" : "chunked";
}

// What is in a file besides KV.
struct Described {
  std::vector<int32_t> ids;
  std::vector<int64_t> tiles;    // of each picture
  std::vector<uint8_t> digests;  // kDigestBytes of each

  uint64_t sum() const {
    return checksum(std::as_bytes(std::span(digests)),
                    checksum(std::as_bytes(std::span(tiles)), checksum(std::as_bytes(std::span(ids)))));
  }
};

Described describe(const Sequence& sequence) {
  Described d;
  const int64_t n = sequence.n_committed();
  d.ids.assign(sequence.ids().begin(), sequence.ids().begin() + n);
  for (const SequenceImage& image : sequence.images()) {
    if (image.positions.front() >= n) break;
    d.tiles.push_back(image.input.n_tiles);
    d.digests.insert(d.digests.end(), image.input.digest.begin(), image.input.digest.end());
  }
  return d;
}

}  // namespace

// ---- writing --------------------------------------------------------------------------------------------------------

void write_prompt_file(const fs::path& path, const KvOrigin& origin, const Sequence& sequence, StepRunner& runner) {
  const Described d = describe(sequence);
  const auto n_pages = [&](AttentionKind kind) { return int64_t(sequence.table(kind).pages.size()); };
  const auto pages = [&](AttentionKind kind) {
    return SafetensorsWriter::Tensor{name_of(kind), DType::u8, {n_pages(kind), runner.page_bytes(kind)}};
  };
  const int64_t n_pictures = int64_t(d.tiles.size());
  std::vector<std::pair<std::string, std::string>> metadata{{"format", kFormat}};
  metadata.insert(metadata.end(), origin.begin(), origin.end());
  SafetensorsWriter out(path,
                        {{"checksums", DType::u64, {1 + n_pages(kKinds[0]) + n_pages(kKinds[1])}},
                         {"image_tiles", DType::i64, {n_pictures}},
                         {"ids", DType::i32, {int64_t(d.ids.size())}},
                         {"image_digests", DType::u8, {n_pictures, int64_t(kDigestBytes)}},
                         pages(kKinds[0]),
                         pages(kKinds[1])},
                        metadata);
  out.write_at(1, 0, std::as_bytes(std::span(d.tiles)));
  out.write_at(2, 0, std::as_bytes(std::span(d.ids)));
  out.write_at(3, 0, std::as_bytes(std::span(d.digests)));
  std::vector<uint64_t> sums{d.sum()};
  std::vector<std::byte> page;
  size_t tensor = 4;
  for (AttentionKind kind : kKinds) {
    page.resize(size_t(runner.page_bytes(kind)));
    uint64_t offset = 0;
    for (int32_t id : sequence.table(kind).pages) {
      runner.read_page(kind, id, page);
      out.write_at(tensor, offset, page);
      offset += page.size();
      sums.push_back(checksum(page, sums.size()));
    }
    ++tensor;
  }
  out.write_at(0, 0, std::as_bytes(std::span(sums)));
  out.finish();
}

// ---- reading --------------------------------------------------------------------------------------------------------

namespace {

class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path.string()), file_(path) {}

  void check_origin(const KvOrigin& origin) const {
    check("format", kFormat);
    for (const auto& [name, value] : origin) check(name, value);
  }

  // A tensor of that type whose axes are as long as `dims` says, -1 being any length.
  const TensorInfo& find(const char* name, DType dtype, std::initializer_list<int64_t> dims) const {
    const TensorInfo* info = file_.find(name);
    if (!info) fail_input(path_, ": tensor ", name, ": expected, not found");
    bool fits = info->dtype == dtype && info->shape.rank() == int(dims.size());
    int axis = 0;
    for (int64_t dim : dims) fits = fits && (dim < 0 || dim == info->shape[axis]), ++axis;
    if (fits) return *info;
    std::string wanted;
    for (int64_t dim : dims) wanted += cat(wanted.empty() ? "" : ", ", dim < 0 ? "n" : cat(dim));
    fail_input(path_, ": tensor ", name, ": expected ", dtype_name(dtype), " [", wanted, "], found ",
               dtype_name(info->dtype), " ", info->shape.str());
  }

  template <class T>
  std::vector<T> values(const char* name, DType dtype, std::initializer_list<int64_t> dims) const {
    const TensorInfo& info = find(name, dtype, dims);
    std::vector<T> out(size_t(info.shape.elements()));
    file_.read(info, 0, std::as_writable_bytes(std::span(out)));
    return out;
  }

  Described described() const {
    Described d;
    d.ids = values<int32_t>("ids", DType::i32, {-1});
    d.tiles = values<int64_t>("image_tiles", DType::i64, {-1});
    d.digests = values<uint8_t>("image_digests", DType::u8, {int64_t(d.tiles.size()), int64_t(kDigestBytes)});
    return d;
  }

  void read_page(const TensorInfo& info, size_t index, std::span<std::byte> out) const {
    file_.read(info, uint64_t(index) * out.size(), out);
  }
  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    fail_input(path_, ": ", parts...);
  }
  const std::string& path() const { return path_; }

 private:
  void check(const std::string& name, const std::string& expected) const {
    const auto& metadata = file_.metadata();
    const auto found =
        std::find_if(metadata.begin(), metadata.end(), [&](const auto& entry) { return entry.first == name; });
    if (found == metadata.end()) fail_input(path_, ": ", name, ": expected ", shown(expected), ", found none");
    if (found->second != expected)
      fail_input(path_, ": ", name, ": expected ", shown(expected), ", found ", shown(found->second));
  }

  std::string path_;
  SafetensorsFile file_;
};

// The pictures' tokens among the ids; the last picture's may end early.
std::vector<SequenceImage> locate(const Reader& file, const Described& d, const EngineLimits& limits) {
  std::vector<SequenceImage> images;
  size_t at = 0;
  for (size_t i = 0; i < d.tiles.size(); ++i) {
    const int64_t n_tiles = d.tiles[i];
    if (n_tiles < 1 || n_tiles > int64_t(d.ids.size()))
      file.wrong("tensor image_tiles: expected 1 tile or more of each picture, found ", n_tiles);
    SequenceImage image;
    image.input.n_tiles = n_tiles;
    std::copy_n(d.digests.begin() + int64_t(i * kDigestBytes), kDigestBytes, image.input.digest.begin());
    image.slots.resize(size_t(n_tiles));
    for (; at < d.ids.size() && int64_t(image.positions.size()) < n_tiles * limits.tokens_per_tile; ++at)
      if (d.ids[at] == limits.image_token_id) image.positions.push_back(int64_t(at));
    if (image.positions.empty()) file.wrong("tensor ids: expected image tokens of picture ", i + 1, ", found none");
    images.push_back(std::move(image));
  }
  for (; at < d.ids.size(); ++at)
    if (limits.image_token_id >= 0 && d.ids[at] == limits.image_token_id)
      file.wrong("tensor ids: expected the image tokens of ", images.size(), " pictures, found more at token ", at);
  return images;
}

// Pages of its own for n tokens, to be filled.
void take_pages(Sequence& sequence, KvPools& pools, int64_t n, const PageCounts& n_pages) {
  std::array<std::vector<int32_t>, kNumAttentionKinds> pages;
  for (AttentionKind kind : kKinds)
    for (int64_t i = 0; i < n_pages[size_t(kind)]; ++i) pages[size_t(kind)].push_back(*pools.pool.allocate(kind));
  sequence.adopt(n, pages[size_t(AttentionKind::global)], pages[size_t(AttentionKind::chunked)]);
  for (AttentionKind kind : kKinds)
    for (int32_t page : pages[size_t(kind)]) pools.pool.release(kind, page);
}

}  // namespace

int64_t read_prompt_file(const fs::path& path, const KvOrigin& origin, const EngineLimits& limits, KvPools& pools,
                         PrefixCache& cache, const std::string& salt, StepRunner& runner) {
  const Reader file(path);
  file.check_origin(origin);
  Described d = file.described();
  const int64_t n = int64_t(d.ids.size());
  if (n == 0) file.wrong("tensor ids: expected tokens, found none");
  PageCounts n_pages;
  n_pages[size_t(AttentionKind::global)] = pools.pages_for(n);
  n_pages[size_t(AttentionKind::chunked)] = pools.pages_for(n - pools.chunk_start(n));
  const auto sums =
      file.values<uint64_t>("checksums", DType::u64, {1 + n_pages[size_t(kKinds[0])] + n_pages[size_t(kKinds[1])]});
  std::array<const TensorInfo*, kNumAttentionKinds> parts;
  for (AttentionKind kind : kKinds)
    parts[size_t(kind)] = &file.find(name_of(kind), DType::u8, {n_pages[size_t(kind)], runner.page_bytes(kind)});
  if (sums[0] != d.sum()) file.wrong("tensors ids, image_tiles, image_digests: damaged (the checksum differs)");
  for (int32_t id : d.ids)
    if (id < 0 || id >= limits.vocab) file.wrong("tensor ids: expected ids below ", limits.vocab, ", found ", id);
  std::vector<SequenceImage> images = locate(file, d, limits);
  if (!pools.pool.has_room(n_pages))
    fail(ErrorKind::memory, file.path(), ": the KV of ", n, " tokens, for which the KV cache has no room");

  Sequence sequence(pools, std::move(d.ids), std::move(images));
  take_pages(sequence, pools, n, n_pages);
  std::vector<std::byte> page;
  size_t sum = 1;
  for (AttentionKind kind : kKinds) {
    page.resize(size_t(runner.page_bytes(kind)));
    const std::vector<int32_t>& ids = sequence.table(kind).pages;
    for (size_t i = 0; i < ids.size(); ++i, ++sum) {
      file.read_page(*parts[size_t(kind)], i, page);
      if (checksum(page, sum) != sums[sum])
        file.wrong("tensor ", name_of(kind), ": page ", i, ": damaged (the checksum differs)");
      runner.write_page(kind, ids[i], page);
    }
  }
  PrefixCache::Cursor cursor;
  cache.insert(sequence, salt, cursor, true);
  return n;
}

}  // namespace l4
