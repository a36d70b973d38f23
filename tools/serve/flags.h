// l4-serve's command line, also from a file (--config) and from L4_ARG_* variables. A flag beats its variable, which beats
// the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/common/media/media.h"
#include "tools/common/model_flags.h"
#include "tools/common/sampling_flags.h"
#include "tools/serve/http/server.h"
#include "tools/serve/log.h"

namespace l4::serve {

struct ServeOptions {
  tools::ModelFlags model;       // complete() has been called; its load holds max_num_seqs, prefix_cache, ...
  tools::SamplingFlags sampling;  // defaults for requests that do not say: --temp, --top-p, --seed, ...
  ServerOptions server;
  std::vector<std::string> served_model_names;  // at least one; the first is what answers name
  LogFormat log_format = LogFormat::text;
  bool log_prompts = false;                     // asked for: prompt and answer texts in the log
  ServerOptions::Seconds drain_timeout{30};
  tools::MediaOptions media;                    // --limit-mm-per-prompt, --allowed-local-media-path, ...
  int max_logprobs = 20;
  std::vector<fs::path> prompt_caches;          // read before the first request
  bool page = true;                             // the chat page at /
  bool dry_run = false;                         // print what would be served, and end
};

// An exit status when --help, --version or --completion was all that was asked. Error{usage | input | io}.
std::optional<int> parse_serve_flags(int argc, char** argv, ServeOptions& options);

}  // namespace l4::serve
