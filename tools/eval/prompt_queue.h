// Queries on their way to the engine: rendered, tokenised and their pictures decoded on threads of their own, a few
// ahead of need, so that the engine never waits for them and memory stays bounded.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "l4.h"
#include "tools/eval/task.h"

namespace l4::eval {

// Error{usage | io | input | unsupported}: no chat template, a picture that is not there or cannot be read, ...
Prompt prompt_of(const Frontend& frontend, const Query& query);

class PromptQueue {
 public:
  struct Ready {
    int64_t index = 0;
    Query query;
    Prompt prompt;
    std::string error;  // one line; empty: there is a prompt
  };

  // `on_ready` is called from any thread whenever take() may give something.
  PromptQueue(const Frontend& frontend, std::function<void()> on_ready);
  ~PromptQueue();
  PromptQueue(const PromptQueue&) = delete;
  PromptQueue& operator=(const PromptQueue&) = delete;

  bool has_room() const;
  void add(int64_t index, Query query);
  std::optional<Ready> take();  // in the order of add(); nothing while the next one is not ready

 private:
  struct Slot {
    Ready ready;
    bool taken = false, done = false;
  };
  void work();

  const Frontend& frontend_;
  const std::function<void()> on_ready_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Slot>> slots_;
  bool ends_ = false;
  std::vector<std::thread> threads_;  // last: they use the others
};

}  // namespace l4::eval
