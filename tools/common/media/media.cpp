#include "tools/common/media/media.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <thread>

#include "base/error.h"
#include "tools/common/media/data_uri.h"
#include "tools/common/media/fetch.h"
#include "tools/common/media/local_file.h"
#include "tools/common/media/picture_cache.h"
#include "tools/common/media/url.h"
#include "vision/sha256.h"

namespace l4::tools {

namespace {

using Clock = std::chrono::steady_clock;

// A number of threads that take jobs in the order in which they came. Jobs that nobody has begun are dropped at the
// end.
class Decoders {
 public:
  explicit Decoders(int n_threads) {
    for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Decoders() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  void add(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
      if (ending_) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

// How core/vision's errors begin; what a client sees begins with the picture's place.
constexpr std::string_view kSource = "image";

[[noreturn]] void fail_at(size_t i, const Error& error) {
  std::string_view message = error.message();
  if (message.starts_with(cat(kSource, ": "))) message.remove_prefix(kSource.size() + 2);
  fail(error.kind(), "image ", i + 1, ": ", message);
}

FileDigest digest_of(std::string_view bytes) {
  Sha256 sha;
  sha.update({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  return sha.finish();
}

}  // namespace

struct MediaLoader::Impl {
  Impl(std::shared_ptr<const Frontend> f, const fs::path& model_dir, MediaOptions o)
      : frontend(std::move(f)), options(std::move(o)), cache(options.cache_bytes), decoders(n_decoders()) {
    if (frontend->takes_images()) tiling = load_tiling_config(model_dir, frontend->config().vision->image_size);
    if (!options.local_root.empty()) local_files.emplace(options.local_root);
    if (!options.domains.empty()) {
      fetcher.emplace(FetchOptions{options.domains, options.image.max_bytes, options.connect_timeout_s,
                                   options.allow_loopback, options.ca_file});
    }
  }

  int n_decoders() const {
    if (options.decoders > 0) return options.decoders;
    return std::clamp(int(std::thread::hardware_concurrency()) / 2, 1, 8);
  }

  // Files of all pictures; addresses are all read before the first one is fetched.
  std::vector<std::string> read_files(std::span<const std::string> urls) {
    std::vector<std::string> files(urls.size());
    std::vector<PictureUrl> to_fetch;
    std::vector<size_t> fetched_for;
    for (size_t i = 0; i < urls.size(); ++i) {
      try {
        if (is_http_url(urls[i])) {
          if (!fetcher)
            fail(ErrorKind::usage, "nothing is fetched from the web by this server (--allowed-media-domains)");
          to_fetch.push_back(parse_picture_url(urls[i]));
          fetched_for.push_back(i);
          fetcher->check(to_fetch.back());
        } else {
          files[i] = read_here(urls[i]);
        }
      } catch (const Error& error) {
        fail_at(i, error);
      }
    }
    if (to_fetch.empty()) return files;
    const auto limit = std::chrono::duration<double>(options.fetch_timeout_s);
    std::vector<Fetcher::Fetched> fetched =
        fetcher->fetch(to_fetch, Clock::now() + std::chrono::duration_cast<Clock::duration>(limit));
    for (size_t k = 0; k < fetched.size(); ++k) {
      if (!fetched[k].problem.empty()) fail_input("image ", fetched_for[k] + 1, ": ", fetched[k].problem);
      files[fetched_for[k]] = std::move(fetched[k].body);
    }
    return files;
  }

  std::string read_here(const std::string& url) const {
    if (url.empty()) fail(ErrorKind::usage, "no address");
    if (is_data_uri(url)) return decode_data_uri(url, options.image.max_bytes);
    if (is_file_url(url)) {
      if (!local_files) fail(ErrorKind::usage, "no files of this server are read (--allowed-local-media-path)");
      return local_files->read(url, options.image.max_bytes);
    }
    fail(ErrorKind::usage, "expected an address that begins with data:, http://, https:// or file://");
  }

  // From the headers alone, before anything is decoded.
  void check_files(const std::vector<std::string>& files) const {
    int64_t n_tiles = 0;
    for (size_t i = 0; i < files.size(); ++i) {
      try {
        const ImageInfo info = read_image_info(std::as_bytes(std::span(files[i])), kSource, options.image);
        n_tiles += plan_tiles(info.height, info.width, tiling).n_tiles;
        if (options.max_tiles > 0 && n_tiles > options.max_tiles)
          fail(ErrorKind::usage, n_tiles, " tiles up to here, at most ", options.max_tiles, " in one request");
      } catch (const Error& error) {
        fail_at(i, error);
      }
    }
  }

  std::vector<PreparedImage> prepare(std::vector<std::string> files) {
    std::vector<std::shared_future<PreparedImage>> pictures;
    for (std::string& file : files) {
      const FileDigest digest = digest_of(file);
      const PictureCache::Claim claim = cache.claim(digest);
      pictures.push_back(claim.picture);
      ++(claim.owner ? decoded : from_cache);
      if (claim.owner) decoders.add([this, digest, bytes = std::move(file)] { decode(digest, bytes); });
    }
    std::vector<PreparedImage> out;
    for (size_t i = 0; i < pictures.size(); ++i) {
      try {
        out.push_back(pictures[i].get());
      } catch (const Error& error) {
        fail_at(i, error);
      }
    }
    return out;
  }

  void decode(const FileDigest& digest, const std::string& bytes) {
    PreparedImage picture;
    try {
      picture = frontend->prepare_image(std::as_bytes(std::span(bytes)), kSource, options.image);
    } catch (const std::bad_alloc&) {
      const Error error(ErrorKind::input, "too large for the memory that is left");
      return cache.finish_with_error(digest, std::make_exception_ptr(error));
    } catch (...) {
      return cache.finish_with_error(digest, std::current_exception());
    }
    cache.finish(digest, std::move(picture));
  }

  std::shared_ptr<const Frontend> frontend;
  MediaOptions options;
  TilingConfig tiling;
  std::optional<LocalFiles> local_files;
  std::optional<Fetcher> fetcher;
  std::atomic<uint64_t> decoded{0}, from_cache{0};
  PictureCache cache;
  Decoders decoders;  // last: its jobs use the others
};

MediaLoader::MediaLoader(std::shared_ptr<const Frontend> frontend, const fs::path& model_dir, MediaOptions options)
    : impl_(std::make_unique<Impl>(std::move(frontend), model_dir, std::move(options))) {}
MediaLoader::~MediaLoader() = default;

std::vector<PreparedImage> MediaLoader::load(std::span<const std::string> urls) {
  if (urls.empty()) return {};
  if (!impl_->frontend->takes_images()) fail(ErrorKind::unsupported, "image 1: this model takes no images");
  const int64_t most = impl_->options.max_images;
  if (int64_t(urls.size()) > most)
    fail(ErrorKind::usage, "image ", most + 1, ": at most ", most, " images in one request, found ", urls.size());
  std::vector<std::string> files = impl_->read_files(urls);
  impl_->check_files(files);
  return impl_->prepare(std::move(files));
}

std::vector<PreparedImage> MediaLoader::load(const ChatRequest& chat) {
  std::vector<std::string> urls;
  for (const ContentPart* part : image_parts(chat)) urls.push_back(part->image_url);
  return load(urls);
}

MediaStats MediaLoader::stats() const {
  return {impl_->decoded, impl_->from_cache, impl_->cache.bytes()};
}

}  // namespace l4::tools
