// The server's API without a server, for `l4-run --batch`: the same requests, checked and answered by the same code.
// Defined by tools/serve, which is in the same program; declared here because tools do not include each other.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "l4.h"
#include "tools/common/media/media.h"
#include "tools/common/sampling_flags.h"

namespace l4::tools {

struct ApiAnswer {
  int status = 500;  // of HTTP
  std::string body;  // JSON on one line, OpenAI's error object where the status is none of success
};

class OfflineApi {
 public:
  virtual ~OfflineApi() = default;                   // requests that still run are answered with status 503
  virtual bool has(std::string_view url) const = 0;  // "/v1/chat/completions": is it a path that answers POST
  // Returns at once; `answer` is called once, from a thread of the API. It must not throw.
  virtual void post(const std::string& url, std::string body, std::function<void(ApiAnswer)> answer) = 0;
};

struct OfflineApiOptions {
  fs::path model_dir;
  std::string model_name;  // what answers call the model
  SamplingFlags sampling;  // what requests do not say
  MediaOptions media;
};

std::unique_ptr<OfflineApi> make_offline_api(Engine& engine, const OfflineApiOptions& options);

}  // namespace l4::tools
