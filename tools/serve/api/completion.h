// One request being answered: takes the engine's events where they come, and hands what they bring to the request's
// Dialect. It costs no thread: the engine's wake puts it before a few threads that all requests share.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "tools/serve/api/dialect.h"
#include "tools/serve/api/tasks.h"
#include "tools/serve/log.h"
#include "tools/serve/metrics.h"

namespace l4::serve {

class Completion;

struct CompletionHooks {
  EngineMetrics* metrics = nullptr;  // none: nothing is counted
  const ServeLog* log = nullptr;     // none: base/log.h, errors alone
  bool log_texts = false;            // prompts and answers into the log
  // The device has failed: nothing will be answered any more. Any thread, perhaps several times.
  std::function<void(const std::string& what)> on_device_failure = {};
};

// The requests being answered now. Each keeps itself in here until its end.
class Completions {
 public:
  Completions(AnswerSource& source, CompletionHooks hooks, int n_threads);
  ~Completions();  // gives up what still runs

  // Starts the answer and returns. Throws ApiError or Error where the engine refuses; nothing was sent then.
  void start(Ask ask, std::unique_ptr<Dialect> dialect, std::shared_ptr<Exchange> exchange);
  size_t n_running() const;

 private:
  friend class Completion;
  void report(const Error& error, const std::string& request_id) const;

  AnswerSource& source_;
  const CompletionHooks hooks_;
  mutable std::mutex mutex_;
  std::set<std::shared_ptr<Completion>> running_;
  const std::shared_ptr<Tasks> tasks_;  // shared with wakes on their way, which may come after our end
};

}  // namespace l4::serve
