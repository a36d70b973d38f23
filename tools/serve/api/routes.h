// The endpoints of the API, put before a Router:
//   POST /v1/chat/completions  /v1/completions  /v1/responses  /v1/messages  /v1/messages/count_tokens
//   POST /tokenize  /detokenize
//   GET  /v1/models  /v1/models/NAME  /
#pragma once

#include <memory>

#include "tools/serve/api/completion.h"
#include "tools/serve/api/request_fields.h"
#include "tools/serve/router.h"

namespace l4::serve {

class Api {
 public:
  struct Options {
    ApiSettings settings = {};
    bool page = true;  // the chat page at /
    int threads = 0;   // that write answers; 0: 1 on up to 4 cores, else 2
    CompletionHooks hooks = {};
  };
  // What is given lives as long as the Api. `media` may be null: no pictures.
  Api(AnswerSource& source, tools::MediaLoader* media, Options options);
  ~Api();

  void add_routes(Router& router);  // before the server starts; the router must not outlive this
  size_t n_running() const { return completions_.n_running(); }

 private:
  using Read = Ask (*)(const Json& body, const ReadContext& context, std::unique_ptr<Dialect>& dialect);
  void answer(Read read, std::shared_ptr<Exchange> exchange);
  void check_ready() const;
  Json models() const;

  AnswerSource& source_;
  Options options_;
  Grammars grammars_;
  ReadContext context_;
  int64_t created_;
  Completions completions_;
};

// Sets what is counted by the engine; for Metrics::on_collect().
class EngineStatsCollector {
 public:
  EngineStatsCollector(const AnswerSource& source, Metrics& metrics, EngineMetrics& engine_metrics);
  void collect();

 private:
  const AnswerSource& source_;
  EngineMetrics& m_;
  Counter &steps_, &step_seconds_, &host_seconds_, &drafts_, &accepted_drafts_;
  int64_t steps_seen_ = 0, rows_seen_ = 0;
};

}  // namespace l4::serve
