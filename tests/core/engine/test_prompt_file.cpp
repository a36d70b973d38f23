#include "engine/prompt_file.h"

#include <cstring>

#include "base/checksum.h"
#include "core/engine/engine_bench.h"
#include "core/engine/sequence_bench.h"
#include "formats/safetensors.h"
#include "support/test.h"

using namespace l4;
using namespace l4::test;

namespace {

const KvOrigin kOrigin{{"config", "c0ffee"}, {"kv_dtype", "BF16"}};
constexpr int32_t kPicture = 1000;  // random_ids() are below

// One process: its pools, its cache and its KV memory.
struct Process {
  Process(int64_t chunk, int64_t n_chunked, int64_t n_global, int64_t block_pages = 0)
      : bench(4, chunk, n_chunked, n_global, block_pages), cache(bench.pools) {
    bench.limits.vocab = kPicture + 1;
    bench.limits.image_token_id = kPicture;
    bench.limits.tokens_per_tile = 3;
  }

  // Pictures are not computed: what is in their pages does not matter.
  void remember(const std::vector<int32_t>& ids, std::vector<SequenceImage> images = {}) {
    Sequence s(bench.pools, ids, std::move(images));
    PrefixCache::Cursor cursor;
    while (s.n_committed() < s.length()) {
      REQUIRE(s.reserve(std::min<int64_t>(5, s.length() - s.n_committed())));
      if (s.images().empty()) bench.run({&s});
      s.commit(s.n_reserved(), [&] { cache.insert(s, "", cursor, false); });
    }
    cache.insert(s, "", cursor, true);
  }
  int64_t write(const fs::path& path, const std::vector<int32_t>& ids, std::vector<SequenceImage> images = {}) {
    Sequence s(bench.pools, ids, std::move(images));
    const int64_t n = cache.adopt(s, "", s.length());
    write_prompt_file(path, kOrigin, s, bench.runner);
    return n;
  }
  int64_t read(const fs::path& path, const KvOrigin& origin = kOrigin, const std::string& salt = "") {
    return read_prompt_file(path, origin, bench.limits, bench.pools, cache, salt, bench.runner);
  }
  // How much of `ids` is known; what is found is computed further, which looks at every slot.
  int64_t known(const std::vector<int32_t>& ids, int64_t most, const std::string& salt = "") {
    Sequence s(bench.pools, ids, {});
    const int64_t n = cache.adopt(s, salt, most);
    bench.compute(s, 3);
    return n;
  }
  // Nothing was taken from the pools, nothing is known.
  bool is_empty() {
    return cache.n_nodes() == 0 && bench.used(AttentionKind::global) == 0 && bench.used(AttentionKind::chunked) == 0;
  }

  Bench bench;
  PrefixCache cache;
};

}  // namespace

TEST_CASE("prompt_file: what one process computed another one goes on from, around pages and chunks") {
  std::mt19937 random(1);
  const TempDir dir;
  for (int64_t block_pages : {0, 3})
    for (int64_t chunk : {0, 8, 16})
      for (int64_t n : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 50}) {
        CAPTURE(block_pages);
        CAPTURE(chunk);
        CAPTURE(n);
        const std::vector<int32_t> ids = random_ids(random, n);
        std::vector<int32_t> longer = ids;
        append(longer, random_ids(random, 10));
        Process one(chunk, 200, 200, block_pages), other(chunk, 90, 70, block_pages);
        one.remember(random_ids(random, 20));  // pages of other numbers
        one.remember(ids);
        CHECK(one.write(dir / "kv", ids) == n);
        CHECK(other.read(dir / "kv") == n);
        CHECK(other.bench.used(AttentionKind::global) == 0);
        CHECK(other.known(longer, 100) == n);
        CHECK(other.read(dir / "kv") == n);  // known already
        CHECK(other.known(longer, 100) == n);
        CHECK(other.known(ids, n, "somebody else's") == 0);
        CHECK(other.read(dir / "kv", kOrigin, "somebody else's") == n);
        CHECK(other.known(ids, n, "somebody else's") == n);
      }
}

TEST_CASE("prompt_file: pictures count as what they show, also where the file ends inside one") {
  const TempDir dir;
  std::mt19937 random(2);
  std::vector<int32_t> ids = random_ids(random, 3);
  ids.insert(ids.end(), 6, kPicture);
  append(ids, random_ids(random, 4));
  ids.insert(ids.end(), 3, kPicture);
  append(ids, random_ids(random, 6));
  const auto pictures = [&](uint32_t second) {
    return locate_images(ids, std::vector<ImageInput>{random_image(1, 2), random_image(second, 1)}, kPicture, 3);
  };
  for (int64_t n : {int64_t(ids.size()), int64_t(14), int64_t(12), int64_t(5), int64_t(2)}) {
    CAPTURE(n);
    Process one(32, 50, 50), other(32, 50, 50);
    one.remember(ids, pictures(2));
    {
      Sequence s(one.bench.pools, ids, pictures(2));
      CHECK(one.cache.adopt(s, "", n) == n);
      write_prompt_file(dir / "kv", kOrigin, s, one.bench.runner);
    }
    CHECK(other.read(dir / "kv") == n);
    Sequence same(other.bench.pools, ids, pictures(2)), another(other.bench.pools, ids, pictures(3));
    CHECK(other.cache.adopt(same, "", 100) == n);
    CHECK(other.cache.adopt(another, "", 100) == std::min<int64_t>(n, 13));
  }
}

TEST_CASE("prompt_file: what is not as it must be is refused by name, and changes nothing") {
  const TempDir dir;
  std::mt19937 random(3);
  const std::vector<int32_t> ids = random_ids(random, 22);
  Process one(16, 20, 20);
  one.remember(ids);
  one.write(dir / "kv", ids);
  const std::string path = (dir / "kv").string();
  Process other(16, 20, 20);
  const auto refused = [&](const KvOrigin& origin) {
    const std::string why = error_of([&] { other.read(dir / "kv", origin); });
    CHECK(other.is_empty());
    return why;
  };
  CHECK(refused({{"config", "decaf"}, {"kv_dtype", "BF16"}}) ==
        path + ": config: expected \"decaf\", found \"c0ffee\"");
  CHECK(refused({{"config", "c0ffee"}, {"kv_dtype", "F8"}}) == path + ": kv_dtype: expected \"F8\", found \"BF16\"");
  CHECK(refused({{"config", "c0ffee"}, {"ranks", "tp 2"}}) == path + ": ranks: expected \"tp 2\", found none");

  const auto wrong = [&](const std::function<void(EngineLimits&)>& change) {
    Process here(16, 20, 20);
    change(here.bench.limits);
    const std::string why = error_of([&] { here.read(dir / "kv"); });
    CHECK(here.is_empty());
    return why.substr(path.size());
  };
  CHECK(
      wrong([&](EngineLimits& l) { l.vocab = ids[3]; }).starts_with(cat(": tensor ids: expected ids below ", ids[3])));
  CHECK(wrong([&](EngineLimits& l) {
          l.image_token_id = ids[7];
        }).starts_with(": tensor ids: expected the image tokens of 0 pictures, found more at token "));

  // Two pictures of one tile: where a tile has more tokens, the first takes them all.
  std::vector<int32_t> shown(8, kPicture);
  shown[3] = 1;
  shown[4] = 2;
  one.remember(shown,
               locate_images(shown, std::vector<ImageInput>{random_image(1, 1), random_image(2, 1)}, kPicture, 3));
  one.write(dir / "kv", shown,
            locate_images(shown, std::vector<ImageInput>{random_image(1, 1), random_image(2, 1)}, kPicture, 3));
  CHECK(wrong([](EngineLimits& l) { l.tokens_per_tile = 6; }) ==
        ": tensor ids: expected image tokens of picture 2, found none");
  one.write(dir / "kv", ids);

  Process small(16, 20, 5);
  CHECK(error_of([&] { small.read(dir / "kv"); }) ==
        path + ": the KV of 22 tokens, for which the KV cache has no room");
  CHECK(small.is_empty());
  Process otherwise(32, 20, 20);  // other chunks, other pages
  CHECK(error_of([&] { otherwise.read(dir / "kv"); }) == path + ": tensor checksums: expected U64 [13], found U64 [9]");
}

TEST_CASE("prompt_file: every damaged byte and every lost end is noticed") {
  const TempDir dir;
  std::mt19937 random(4);
  const std::vector<int32_t> ids = random_ids(random, 6);
  Process one(16, 20, 20);
  one.remember(ids);
  one.write(dir / "kv", ids);
  const std::string whole = read_file(dir / "kv", 1 << 20);
  Process other(16, 20, 20);
  for (size_t at = 0; at < whole.size(); ++at)
    for (char flip : {'\x01', '\x20', '\x80'}) {
      std::string damaged = whole;
      damaged[at] = char(damaged[at] ^ flip);
      write_file_atomic(dir / "damaged", damaged);
      CAPTURE(at);
      CHECK(error_of([&] { other.read(dir / "damaged"); }).starts_with((dir / "damaged").string() + ": "));
      REQUIRE(other.is_empty());
    }
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file_atomic(dir / "damaged", whole.substr(0, size));
    CAPTURE(size);
    CHECK(error_of([&] { other.read(dir / "damaged"); }).starts_with((dir / "damaged").string() + ": "));
  }
  CHECK(other.read(dir / "kv") == 6);
}

TEST_CASE("prompt_file: checksums see order, length, zeros and single bits") {
  std::vector<std::byte> bytes(100);
  const auto sum = [&](size_t n, uint64_t seed = 0) { return checksum(std::span(bytes).first(n), seed); };
  std::set<uint64_t> sums;
  for (size_t n = 0; n <= bytes.size(); ++n) CHECK(sums.insert(sum(n)).second);  // of zeros
  CHECK(sums.insert(sum(100, 1)).second);
  for (size_t bit = 0; bit < 800; ++bit) {
    bytes[bit / 8] ^= std::byte(1 << bit % 8);
    CHECK(sums.insert(sum(100)).second);
    bytes[bit / 8] ^= std::byte(1 << bit % 8);
  }
  bytes[0] = std::byte(1);
  const uint64_t first = sum(100);
  std::swap(bytes[0], bytes[8]);
  CHECK(sum(100) != first);
  CHECK(checksum(std::as_bytes(std::span("l4", 2))) == checksum(std::as_bytes(std::span("l4", 2))));
}

// ---- through the engine ---------------------------------------------------------------------------------------------

TEST_CASE("prompt_file: an engine saves what it has computed and goes on from what another one saved") {
  const TempDir dir;
  for (int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 64, 100}) {
    CAPTURE(n);
    const std::vector<int32_t> ids = random_ids(uint32_t(n), n);
    Loop one, other;
    const Answer first = collect(one.engine->submit(request_of(ids, 7)));
    // One token less where the next one to compute would begin a chunk: whoever asks again computes the last anew.
    const bool at_edge = n % 16 == 0;
    CHECK(one.engine->save_prompt(ids, {}, "", dir / "kv", kOrigin) == n - at_edge);
    CHECK(other.engine->load_prompt(dir / "kv", kOrigin, "") == n - at_edge);
    const Answer again = collect(other.engine->submit(request_of(ids, 7)));
    CHECK(again.ids == first.ids);
    CHECK(again.ids == reference_answer(ids, {}, 7, 16));
    CHECK(again.finished.usage.cached_tokens == n - 1);
    CHECK(other.runner->steps.front().n_rows() == 1);
    // The whole conversation, of which the last token was never computed.
    std::vector<int32_t> turn = ids;
    for (int32_t id : first.ids)
      if (id != kPatch) turn.push_back(id);
    const int64_t end = n + 7 - 1;
    if (int64_t(turn.size()) < n + 7) continue;  // says a picture's token, which a prompt may not without one
    CHECK(one.engine->save_prompt(turn, {}, "", dir / "kv", kOrigin) == end - (end % 16 == 0));
  }
}

TEST_CASE("prompt_file: an engine says why it cannot") {
  const TempDir dir;
  const std::vector<int32_t> ids = random_ids(1, 20);
  Loop off(small_limits(), {.prefix_cache = false});
  CHECK(error_of([&] { off.engine->save_prompt(ids, {}, "", dir / "kv", kOrigin); }) ==
        "a prompt's KV is kept by the prefix cache, which is turned off");
  Loop loop;
  CHECK(loop.engine->save_prompt(ids, {}, "", dir / "kv", kOrigin) == 0);  // never seen
  CHECK(!fs::exists(dir / "kv"));
  CHECK(error_of([&] { loop.engine->load_prompt(dir / "kv", kOrigin, ""); }).find("cannot open") != std::string::npos);
  CHECK(error_of([&] {
          loop.engine->save_prompt({1, kPatch}, {}, "", dir / "kv", kOrigin);
        }).find("image tokens") != std::string::npos);
  collect(loop.engine->submit(request_of(ids, 2)));
  CHECK(error_of([&] {
          loop.engine->save_prompt(ids, {}, "", dir / "no such" / "kv", kOrigin);
        }).find("cannot create") != std::string::npos);
  CHECK(loop.engine->save_prompt(ids, {}, "", dir / "kv", kOrigin) == 20);  // and goes on
  CHECK(collect(loop.engine->submit(request_of(ids, 2))).ids == reference_answer(ids, {}, 2, 16));
}
