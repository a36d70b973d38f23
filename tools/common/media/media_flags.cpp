// The flags of pictures, in vLLM's names and llama.cpp's.
#include "formats/json.h"
#include "tools/common/media/media.h"
#include "tools/common/media/url.h"

namespace l4::tools {

namespace {

// "image=10", {"image": 10} as vLLM has it, or 10.
int64_t parse_limit(const std::string& text) {
  const std::string expected = "image=N or {\"image\": N}, N from 0 to 1000";
  std::optional<int64_t> n = parse_int(text.starts_with("image=") ? text.substr(6) : text);
  if (text.starts_with('{')) {
    const Json json = parse_json(text, "value");
    const Json* image = json.find("image");
    if (image && image->is_integer() && json.as_object().size() == 1) n = image->as_integer();
  }
  if (!n || *n < 0 || *n > 1000) wrong_value(expected, text);
  return *n;
}

double parse_positive(const std::string& text, const std::string& expected) {
  const std::optional<double> value = parse_double(text);
  if (!value || !(*value > 0) || *value > 1e6) wrong_value(expected, text);
  return *value;
}

}  // namespace

void add_media_flags(Flags& flags, MediaOptions& o) {
  flags.group("Pictures that requests name (data: addresses always, others where these say so)");
  flags.value("--limit-mm-per-prompt", "image=N", "at most N pictures in one request; default: 10",
              [&o](const std::string& text) { o.max_images = parse_limit(text); });
  flags.value("--limit-tiles-per-prompt", "N",
              "at most N tiles of 336 pixels in the pictures of one request; default: as many as --limit-mm-per-prompt "
              "pictures may have",
              [&o](const std::string& text) {
                const std::optional<int64_t> n = parse_int(text);
                if (!n || *n < 1 || *n > 1'000'000) wrong_value("a whole number from 1 to 1000000", text);
                o.max_tiles = *n;
              });
  flags.path("--allowed-local-media-path,--media-path", "DIR", "file:// addresses below this directory", &o.local_root);
  flags.list("--allowed-media-domains", "HOSTS", "http(s):// addresses of these hosts, a,b; no redirects; repeatable",
             [&o](const std::string& text) {
               for (const std::string& host : parse_names(text)) o.domains.push_back(check_domain(host));
             });
  flags.value("--image-fetch-timeout,--media-timeout", "SECONDS", "for all that one request fetches; default: 10",
              [&o](const std::string& text) { o.fetch_timeout_s = parse_positive(text, "seconds above 0"); });
  flags.value("--max-image-bytes", "N", "of one picture's file; default: 20M", [&o](const std::string& text) {
    const std::optional<uint64_t> n = parse_size(text);
    if (!n || *n == 0) wrong_value("a size like 20M", text);
    o.image.max_bytes = *n;
  });
  flags.value("--max-image-pixels", "N", "height x width of one picture; default: 50,000,000",
              [&o](const std::string& text) {
                const std::optional<uint64_t> n = parse_size(text);
                if (!n || *n == 0) wrong_value("a number of pixels", text);
                o.image.max_pixels = *n;
              });
  flags.value("--mm-processor-cache-gb", "GIB", "of prepared pictures kept for the next request; default: 1",
              [&o](const std::string& text) {
                const std::optional<double> gib = parse_double(text);
                if (!gib || !(*gib >= 0) || *gib > 1e6) wrong_value("GiB, 0 or more", text);
                o.cache_bytes = uint64_t(*gib * double(uint64_t(1) << 30));
              });
}

}  // namespace l4::tools
