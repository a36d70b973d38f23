// The pictures of a request: from the addresses that a client wrote to what a prompt takes. Nobody's word is taken for
// anything: every rule below is checked before a byte is fetched, opened or decoded.
//
//   data:image/png;base64,...   strict base64, one picture
//   file:///srv/pictures/a.png  a plain file below --allowed-local-media-path, or (file://a.png) named from there
//   https://host/a.png          a host of --allowed-media-domains whose addresses are all public; no redirects
//
// Errors are of kind usage, input or unsupported (HTTP 400), one line that begins with the picture's place ("image 2:
// "), and hold no text of a library or another server, no address, no path of this machine and no byte of what was
// read.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "l4.h"
#include "tools/common/flags.h"

namespace l4::tools {

struct MediaOptions {
  fs::path local_root = {};                  // empty: no local files
  std::vector<std::string> domains = {};     // host names as check_domain() gives them; empty: nothing is fetched
  int64_t max_images = 10;                   // of one request
  ImageLimits image = {};                    // of one picture: bytes of the file, pixels
  int64_t max_tiles = 0;                     // of one request's pictures together; 0: as many as max_images may have
  double connect_timeout_s = 3;              // name, connection and TLS handshake
  double fetch_timeout_s = 10;               // all fetches of one request, connections included
  uint64_t cache_bytes = uint64_t(1) << 30;  // of pixels of prepared pictures kept; 0: none is kept
  int decoders = 0;                          // pictures decoded at once; 0: half the cores, at most 8

  // For tests alone, no flag sets them.
  bool allow_loopback = false;  // loopback addresses and any port
  fs::path ca_file = {};        // trusted besides the system's certificates
};

// --allowed-local-media-path, --allowed-media-domains, --limit-mm-per-prompt, ...
void add_media_flags(Flags& flags, MediaOptions& options);

struct MediaStats {
  uint64_t decoded = 0, from_cache = 0;  // pictures; one that waited for another request's decoding counts as cached
  uint64_t cached_bytes = 0;
};

// Any number of threads may load at once; each blocks its thread, for fetch_timeout_s and the decoding at most.
class MediaLoader {
 public:
  // Error{io | usage} when local_root is no directory.
  MediaLoader(std::shared_ptr<const Frontend> frontend, const fs::path& model_dir, MediaOptions options);
  ~MediaLoader();
  MediaLoader(const MediaLoader&) = delete;
  MediaLoader& operator=(const MediaLoader&) = delete;

  // In the order of the addresses, as image_parts(chat) gives them.
  std::vector<PreparedImage> load(std::span<const std::string> urls);
  std::vector<PreparedImage> load(const ChatRequest& chat);

  MediaStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace l4::tools
