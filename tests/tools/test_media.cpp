#include "tools/common/media/media.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "base/base64.h"
#include "base/paths.h"
#include "support/test.h"
#include "tools/common/media/data_uri.h"
#include "tools/common/media/local_file.h"
#include "tools/common/media/picture_cache.h"

using namespace l4;
using namespace l4::test;
using namespace l4::tools;

namespace {

std::string picture_file(const std::string& name) {
  return read_file(golden("vision/files/" + name), 1 << 20);
}

std::string data_uri(const std::string& name, const std::string& type = "image/png") {
  return cat("data:", type, ";base64,", to_base64(picture_file(name)));
}

void write(const fs::path& path, std::string_view bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::shared_ptr<const Frontend> demo() {
  static const auto frontend = Frontend::load(demo_model_dir());
  return frontend;
}

// Everything that a client could be told, on one line, with nothing of this machine.
std::string load_error(MediaLoader& loader, const std::vector<std::string>& urls) {
  try {
    loader.load(urls);
  } catch (const Error& e) {
    CHECK((e.kind() == ErrorKind::usage || e.kind() == ErrorKind::input || e.kind() == ErrorKind::unsupported));
    CHECK(e.message().starts_with("image "));
    CHECK(!contains(e.message(), "\n"));
    CHECK(e.message().size() < 300);
    return e.message();
  }
  FAIL("expected an error");
  return {};
}

// Stands in for a checkpoint's: counts how many pictures are prepared at once.
class SlowFrontend final : public Frontend {
 public:
  explicit SlowFrontend(bool takes_images = true) : takes_images_(takes_images) {}
  const ModelConfig& config() const override { return demo()->config(); }
  bool has_tokenizer() const override { return demo()->has_tokenizer(); }
  const Tokenizer& tokenizer() const override { return demo()->tokenizer(); }
  std::optional<ChatTemplate> chat_template() const override { return demo()->chat_template(); }
  bool takes_images() const override { return takes_images_; }
  SamplingParams default_sampling() const override { return demo()->default_sampling(); }
  PreparedImage prepare_image(std::span<const std::byte> file, std::string_view source,
                              const ImageLimits& limits) const override {
    const int now = ++running;
    for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ++prepared;
    --running;
    return demo()->prepare_image(file, source, limits);
  }
  std::vector<TextSegment> render(const ChatRequest& chat) const override { return demo()->render(chat); }
  Prompt prompt_from_chat(const ChatRequest& chat, std::span<const PreparedImage> images) const override {
    return demo()->prompt_from_chat(chat, images);
  }
  Prompt prompt_from_text(std::string_view text, bool special, std::span<const PreparedImage> images) const override {
    return demo()->prompt_from_text(text, special, images);
  }
  Prompt prompt_from_ids(std::vector<int32_t> ids, std::span<const PreparedImage> images) const override {
    return demo()->prompt_from_ids(std::move(ids), images);
  }

  mutable std::atomic<int> running{0}, most{0}, prepared{0};

 private:
  bool takes_images_;
};

}  // namespace

TEST_CASE("media: base64, whole or not at all") {
  for (const std::string& bytes : {std::string("f"), std::string("fo"), std::string("foo"),
                                   std::string("\0\xFF\x80", 3), std::string("foob"), picture_file("rgb8.png")})
    CHECK(decode_base64(to_base64(bytes), 1 << 20) == bytes);
  for (const char* name : {"rgb8.png", "lossless.webp"}) {
    std::string bytes = picture_file(name);
    for (int i = 0; i < 3; ++i, bytes += 'x') {  // what follows a picture does not matter to its type
      const std::string uri = encode_data_uri(bytes, name);
      CHECK(uri.starts_with(cat("data:image/", std::string(name).substr(std::string(name).find('.') + 1), ";base64,")));
      CHECK(decode_data_uri(uri, 1 << 20) == bytes);
    }
  }
  CHECK(contains(error_of([] { encode_data_uri("no picture", "a.png"); }), "a.png"));
  // RFC 4648, section 10
  CHECK(decode_base64("Zm9vYg==", 100) == "foob");
  CHECK(decode_base64("Zm9vYmE=", 100) == "fooba");
  CHECK(decode_base64("Zm9vYmFy", 100) == "foobar");
  using namespace std::string_literals;
  for (const std::string& text :
       {""s,      "="s,       "=="s,        "===="s,       "Z"s,     "Zg"s,      "Zg="s,     "Zg==="s, "Zg==Zg=="s,
        "Zg=g"s,  "=Zg="s,    "Zm9v\n"s,    "Zm9v\nYmFy"s, " Zm9v"s, "Zm9v "s,   "Zm-v"s,    "Zm_v"s,  "Zm%2Bv"s,
        "Zm9\0"s, "Zm9\xC3"s, "Zm9v,Zm9v"s, "Zh=="s,       "Zm9="s,  "Zm9vYmF"s, "Zm9v===="s}) {
    CAPTURE(text);
    error_of([&] { decode_base64(text, 100); });
  }
  CHECK(error_of([] { decode_base64("Zm9v\nYmFy", 100); }) == "not base64: character 5 is \"\\x0a\"");
  CHECK(decode_base64("Zm9vYmFy", 6).size() == 6);
  CHECK(contains(error_of([] { decode_base64("Zm9vYmFy", 5); }), "limit"));
  // Said before it is decoded: what it is made of is not looked at.
  CHECK(contains(error_of([] { decode_base64(std::string(1 << 20, '!'), 1000); }), "limit"));
}

TEST_CASE("media: data addresses of pictures") {
  const std::string bytes = picture_file("rgb8.png");
  for (const char* head : {"data:image/png;base64,", "DATA:Image/PNG;BASE64,", "data:image/jpeg;base64,",
                           "data:image/jpg;base64,", "data:image/webp;base64,", "data:image/bmp;base64,"})
    CHECK(decode_data_uri(head + to_base64(bytes), 1 << 20) == bytes);
  for (const std::string& head :
       {std::string("data:"), std::string("data:,"), std::string("data:image/png,"),
        std::string("data:image/png;base64"), std::string("data:;base64,"), std::string("data:image/gif;base64,"),
        std::string("data:image/svg+xml;base64,"), std::string("data:video/jpeg;base64,"),
        std::string("data:text/html;base64,"), std::string("data:application/octet-stream;base64,"),
        std::string("data:image/*;base64,"), std::string("data:image/png;charset=utf-8;base64,"),
        std::string("data:image/png;base64;base64,"), std::string("data:image/png; base64,"),
        std::string("data: image/png;base64,"), std::string("data:image/png;base64,data:image/png;base64,"),
        std::string("data://image/png;base64,"), std::string("data:image/png;" + std::string(100, 'x') + ";base64,")}) {
    CAPTURE(head);
    error_of([&] { decode_data_uri(head + to_base64(bytes), 1 << 20); });
  }
  CHECK(contains(error_of([] { decode_data_uri("data:video/jpeg;base64,AAAA", 100); }), "video/jpeg"));
  CHECK(!is_data_uri("dat"));
}

TEST_CASE("media: local files lie below their directory, whatever the address says") {
  using namespace std::string_literals;
  TempDir dir;
  const fs::path root = dir / "pictures";
  write(root / "a.png", "A");
  write(root / "deep/er/b.png", "B");
  write(root / "with space#?.png", "C");
  write(dir / "secret.png", "S");
  write(dir / "pictures-too/d.png", "D");
  fs::create_symlink(dir / "secret.png", root / "link.png");
  fs::create_symlink("a.png", root / "inner_link.png");
  fs::create_directory_symlink(dir.path(), root / "up");
  fs::create_directory_symlink("deep", root / "inner_up");
  fs::create_symlink("loop", root / "loop");
  fs::create_directory(root / "folder.png");
  REQUIRE(mkfifo((root / "pipe.png").c_str(), 0600) == 0);
  const LocalFiles files(root);
  const auto url = [&](const std::string& below) { return cat("file://", root.string(), below); };

  CHECK(files.read(url("/a.png"), 10) == "A");
  CHECK(files.read("FILE://" + root.string() + "/a.png", 10) == "A");
  CHECK(files.read(url("/deep/er/b.png"), 10) == "B");
  CHECK(files.read("file://a.png", 10) == "A");
  CHECK(files.read("file://deep/er/b.png", 10) == "B");
  CHECK(files.read(url("/%61.png"), 10) == "A");
  CHECK(files.read(url("/with%20space%23%3F.png"), 10) == "C");

  SUBCASE("addresses that name no place below it are refused before anything is opened") {
    const std::string sibling = cat("file://", (dir / "secret.png").string());
    for (const std::string& bad : {sibling,
                                   cat("file://", (dir / "pictures-too/d.png").string()),
                                   "file:///etc/passwd"s,
                                   url(""),
                                   url("/"),
                                   url("/../secret.png"),
                                   url("/deep/../../secret.png"),
                                   url("/%2e%2e/secret.png"),
                                   url("/%2E./secret.png"),
                                   url("/..%2fsecret.png"),
                                   url("/deep%2fer/b.png"),
                                   url("/./a.png"),
                                   url("//a.png"),
                                   url("/a.png/"),
                                   url("/a.png?x"),
                                   url("/a.png#x"),
                                   url("/..\\secret.png"),
                                   url("/a.png%00.png"),
                                   url("/%"),
                                   "file://"s,
                                   "file:///"s,
                                   "file://../secret.png"s,
                                   "file://localhost/../secret.png"s,
                                   "file:////etc/passwd"s,
                                   url("/" + std::string(5000, 'a'))}) {
      CAPTURE(bad);
      try {
        files.read(bad, 10);
        FAIL("was read");
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::usage);
        CHECK(!contains(e.message(), dir.path().string()));
      }
    }
  }
  SUBCASE("what is there but no plain file, and what is not there, look the same") {
    const std::string expected = error_of([&] { files.read(url("/none.png"), 10); });
    CHECK(contains(expected, "no such picture"));
    for (const char* below :
         {"/link.png", "/inner_link.png", "/up/secret.png", "/up/pictures/a.png", "/inner_up/er/b.png", "/loop",
          "/loop/a.png", "/folder.png", "/pipe.png", "/a.png/b.png", "/deep/none.png", "/%252e%252e/secret.png"}) {
      CAPTURE(below);
      CHECK(error_of([&] { files.read(url(below), 10); }) == expected);
    }
    CHECK(error_of([&] { files.read(url("/" + std::string(300, 'a')), 10); }) == expected);
  }
  SUBCASE("no larger than may be") {
    write(root / "ten.png", "0123456789");
    CHECK(files.read(url("/ten.png"), 10) == "0123456789");
    CHECK(contains(error_of([&] { files.read(url("/ten.png"), 9); }), "limit"));
    write(root / "empty.png", "");
    CHECK(files.read(url("/empty.png"), 10).empty());
  }
  SUBCASE("the directory may be named through a link, with a slash at its end, and stays the one that was opened") {
    fs::create_directory_symlink(root, dir / "alias");
    const LocalFiles alias(cat((dir / "alias").string(), "/"));
    CHECK(alias.read(url("/a.png"), 10) == "A");
    CHECK(alias.read(cat("file://", (dir / "alias").string(), "/a.png"), 10) == "A");
    fs::rename(root, dir / "moved");
    write(root / "a.png", "other");
    CHECK(alias.read(url("/a.png"), 10) == "A");
  }
  CHECK(contains(error_of([&] { LocalFiles(dir / "none"); }), "--allowed-local-media-path"));
  CHECK(contains(error_of([&] { LocalFiles(dir / "secret.png"); }), "is no directory"));
}

TEST_CASE("media: the cache keeps what was claimed last, within its bytes, and no failures") {
  const auto picture = [](size_t n_pixels) {
    auto tiles = std::make_shared<ImageTiles>();
    tiles->pixels.resize(n_pixels);
    return tiles;
  };
  const uint64_t one = sizeof(ImageTiles) + 2 * 1000;
  PictureCache cache(2 * one);
  const FileDigest a{1}, b{2}, c{3}, d{4};
  PictureCache::Claim first = cache.claim(a), second = cache.claim(a);
  CHECK(first.owner);
  CHECK(!second.owner);
  CHECK(second.picture.wait_for(std::chrono::seconds(0)) == std::future_status::timeout);
  const PreparedImage pa = picture(1000);
  cache.finish(a, pa);
  CHECK(second.picture.get() == pa);
  CHECK(cache.bytes() == one);
  REQUIRE(cache.claim(b).owner);
  cache.finish(b, picture(1000));
  CHECK(cache.claim(a).picture.get() == pa);  // b is now the older one
  REQUIRE(cache.claim(c).owner);
  cache.finish(c, picture(1000));
  CHECK(cache.bytes() == 2 * one);
  CHECK(!cache.claim(a).owner);
  CHECK(!cache.claim(c).owner);
  CHECK(cache.claim(b).owner);
  cache.finish_with_error(b, std::make_exception_ptr(Error(ErrorKind::input, "damaged")));
  PictureCache::Claim again = cache.claim(b);
  CHECK(again.owner);
  cache.finish_with_error(b, std::make_exception_ptr(Error(ErrorKind::input, "damaged")));
  CHECK(error_of([&] { again.picture.get(); }) == "damaged");
  PictureCache::Claim large = cache.claim(d);
  cache.finish(d, picture(100000));  // larger than all: handed out, not kept, nothing leaves for it
  CHECK(large.picture.get()->pixels.size() == 100000);
  CHECK(cache.claim(d).owner);
  CHECK(cache.bytes() == 2 * one);
}

TEST_CASE("media: pictures come in the order of their addresses, as the frontend makes them") {
  TempDir dir;
  write(dir / "grey.jpg", picture_file("grey.jpg"));
  MediaOptions options;
  options.local_root = dir.path();
  MediaLoader loader(demo(), demo_model_dir(), options);
  CHECK(loader.load(std::vector<std::string>{}).empty());
  const std::vector<std::string> urls = {data_uri("rgb8.png"), cat("file://", (dir / "grey.jpg").string()),
                                         data_uri("lossy.webp", "image/webp"), data_uri("rgb8.png", "image/jpeg")};
  const std::vector<PreparedImage> images = loader.load(urls);
  REQUIRE(images.size() == 4);
  size_t i = 0;
  for (const char* name : {"rgb8.png", "grey.jpg", "lossy.webp", "rgb8.png"}) {
    const std::string bytes = picture_file(name);
    CHECK(images[i++]->digest == demo()->prepare_image(std::as_bytes(std::span(bytes)), name)->digest);
  }
  CHECK(images[0] == images[3]);
  CHECK(loader.stats().decoded == 3);
  CHECK(loader.stats().from_cache == 1);
  CHECK(loader.load(urls)[1] == images[1]);
  CHECK(loader.stats().decoded == 3);
  CHECK(loader.stats().cached_bytes > 0);

  ChatRequest chat;
  ChatMessage message;
  message.role = "user";
  message.content =
      std::vector<ContentPart>{{ContentPart::Kind::image, "", urls[0]}, {ContentPart::Kind::text, "x", ""}};
  chat.messages.push_back(message);
  CHECK(loader.load(chat).at(0) == images[0]);
}

TEST_CASE("media: what is wrong with a picture names its place, and nothing else is touched") {
  TempDir dir;
  write(dir / "text.png", "root:x:0:0");
  MediaOptions options;
  options.max_images = 3;
  options.image.max_bytes = 4096;
  options.image.max_pixels = 64 * 64;
  options.local_root = dir.path();
  MediaLoader loader(demo(), demo_model_dir(), options);
  const std::string good = data_uri("rgb8.png");
  CHECK(load_error(loader, {good, good, good, good}) == "image 4: at most 3 images in one request, found 4");
  CHECK(contains(load_error(loader, {good, ""}), "image 2: no address"));
  CHECK(contains(load_error(loader, {"/etc/passwd"}), "image 1: expected an address that begins with data:"));
  CHECK(contains(load_error(loader, {to_base64(picture_file("rgb8.png"))}), "begins with data:"));
  CHECK(contains(load_error(loader, {good, "http://example.com/a.png"}), "image 2: nothing is fetched"));
  CHECK(contains(load_error(loader, {good, "data:image/png;base64,AAAA"}), "image 2: unknown image format"));
  CHECK(!contains(load_error(loader, {"file://text.png"}), "root"));  // a file's bytes are nobody's to see
  const std::string truncated = to_base64(picture_file("rgb8.png").substr(0, 60));
  CHECK(contains(load_error(loader, {good, "data:image/png;base64," + truncated}), "image 2: PNG is truncated"));
  CHECK(contains(load_error(loader, {"data:image/png;base64," + to_base64(std::string(5000, 'x'))}), "limit of 4.00 KiB"));
  CHECK(contains(load_error(loader, {"data:image/gif;base64," + to_base64("GIF89a")}), "image/gif"));
  CHECK(contains(load_error(loader, {"data:image/png;base64," + to_base64("GIF89a....")}), "image 1: this is GIF"));
  CHECK(loader.stats().decoded == 0);  // one bad picture and none is decoded
}

TEST_CASE("media: pixels and tiles are counted from the headers") {
  // A black BMP of any size: 1 bit a pixel.
  const auto bmp = [](uint32_t width, uint32_t height) {
    const uint32_t row = (width + 31) / 32 * 4;
    const auto le = [](uint32_t n) { return std::string{char(n), char(n >> 8), char(n >> 16), char(n >> 24)}; };
    std::string bytes = "BM" + le(62 + row * height) + le(0) + le(62) + le(40) + le(width) + le(height) +
                        std::string("\1\0\1\0", 4) + le(0) + le(row * height) + le(0) + le(0) + le(2) + le(0) + le(0) +
                        le(0xFFFFFF);
    return "data:image/bmp;base64," + to_base64(bytes + std::string(size_t(row) * height, '\0'));
  };
  MediaOptions options;
  options.image.max_pixels = 1'000'000;
  options.max_tiles = 10;
  MediaLoader loader(demo(), demo_model_dir(), options);
  CHECK(contains(load_error(loader, {bmp(1001, 1000)}), "image 1: BMP"));
  // 672 x 672: 2 x 2 tiles and the whole
  CHECK(loader.load(std::vector{bmp(672, 672), bmp(672, 672)}).at(1)->n_tiles == 5);
  CHECK(load_error(loader, {bmp(672, 672), bmp(1, 1), bmp(672, 672)}) ==
        "image 3: 11 tiles up to here, at most 10 in one request");
  // Odd shapes
  for (const auto& [width, height] : {std::pair{1u, 1u}, {1u, 3000u}, {3000u, 1u}, {7u, 2u}})
    CHECK(loader.load(std::vector{bmp(width, height)}).at(0)->n_tiles >= 1);
}

TEST_CASE("media: many at once decode a picture once, no more than so many at a time") {
  const auto frontend = std::make_shared<SlowFrontend>();
  MediaOptions options;
  options.decoders = 2;
  MediaLoader loader(frontend, demo_model_dir(), options);
  const std::vector<std::string> same = {data_uri("rgb8.png")};
  const std::vector<std::string> several = {data_uri("rgb8.png"), data_uri("grey8.png"), data_uri("grey.jpg"),
                                            data_uri("filters.png"), data_uri("lossy.webp")};
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 12; ++i)
    threads.emplace_back([&, i] { right += loader.load(i % 2 ? same : several).size() == (i % 2 ? 1u : 5u); });
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 12);
  CHECK(frontend->prepared == 5);
  CHECK(frontend->most == 2);
  CHECK(loader.stats().decoded == 5);
  CHECK(loader.stats().from_cache == 6 * 5 + 6 - 5);

  MediaLoader text_only(std::make_shared<SlowFrontend>(false), demo_model_dir(), {});
  CHECK(load_error(text_only, same) == "image 1: this model takes no images");
}

TEST_CASE("media: flags") {
  const auto parse = [](std::vector<std::string> words) {
    MediaOptions options;
    Flags flags("test", "", Flags::Variables::ignored);
    add_media_flags(flags, options);
    words.insert(words.begin(), "test");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    flags.parse(int(argv.size()), argv.data());
    return options;
  };
  CHECK(parse({}).max_images == 10);
  CHECK(parse({"--limit-mm-per-prompt", "image=3"}).max_images == 3);
  CHECK(parse({"--limit-mm-per-prompt", "{\"image\": 0}"}).max_images == 0);
  CHECK(parse({"--limit-mm-per-prompt", "5"}).max_images == 5);
  for (const char* bad : {"image=", "image=-1", "image=x", "video=1", "{\"video\": 1}", "{\"image\": 1, \"video\": 1}",
                          "{", "image=1001"}) {
    CAPTURE(bad);
    error_of([&] { parse({"--limit-mm-per-prompt", bad}); });
  }
  const MediaOptions o =
      parse({"--allowed-media-domains", "A.com, b.org", "--allowed-media-domains", "[\"c.net\"]",
             "--allowed-local-media-path", "/srv", "--image-fetch-timeout", "2.5", "--max-image-bytes", "1M",
             "--max-image-pixels", "1000", "--mm-processor-cache-gb", "0.5", "--limit-tiles-per-prompt", "34"});
  CHECK(o.max_tiles == 34);
  CHECK(contains(error_of([&] { parse({"--limit-tiles-per-prompt", "0"}); }), "from 1 to 1000000"));
  CHECK(o.domains == std::vector<std::string>{"a.com", "b.org", "c.net"});
  CHECK(o.local_root == "/srv");
  CHECK(o.fetch_timeout_s == 2.5);
  CHECK(o.image.max_bytes == 1 << 20);
  CHECK(o.image.max_pixels == 1000);
  CHECK(o.cache_bytes == 1 << 29);
  CHECK(contains(error_of([&] { parse({"--allowed-media-domains", "127.0.0.1"}); }), "an address, not a name"));
}
