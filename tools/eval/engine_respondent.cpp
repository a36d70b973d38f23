#include "tools/eval/engine_respondent.h"

#include <condition_variable>
#include <mutex>
#include <unordered_map>

#include "base/log.h"
#include "tools/common/signals.h"
#include "tools/common/terminal.h"
#include "tools/eval/interrupt.h"
#include "tools/eval/prompt_queue.h"

namespace l4::eval {

namespace {

// Which answers have news. Shared with the engine, whose last call may come after the answer is gone.
class News {
 public:
  void add(int64_t index) {
    {
      const std::lock_guard lock(mutex_);
      indices_.push_back(index);
      if (std::exchange(rung_, true)) return;
    }
    changed_.notify_one();
  }
  void ring() {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(rung_, true)) return;
    }
    changed_.notify_one();
  }
  // What came since the last call; waits for something, but not for long.
  std::vector<int64_t> take() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return rung_; });
    rung_ = false;
    return std::exchange(indices_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int64_t> indices_;
  bool rung_ = false;
};

GenerationOptions greedy(const Query& query) {
  GenerationOptions options;
  options.sampling.temperature = 0;
  options.max_tokens = query.max_tokens;
  options.stop = query.stop;
  return options;
}

class Asking {
 public:
  Asking(Engine& engine, int64_t max_in_flight, const std::function<void(int64_t, Reply)>& done)
      : engine_(engine),
        max_in_flight_(max_in_flight),
        done_(done),
        prompts_(engine.frontend(), [news = news_] { news->ring(); }) {}

  void run(int64_t n, const std::function<Query(int64_t)>& query) {
    for (int64_t next = 0; n_done_ < n;) {
      throw_if_interrupted();
      while (int64_t(live_.size()) < max_in_flight_ && start_next()) {
      }
      while (next < n && prompts_.has_room()) {
        Query q = query(next);
        if (!q.turns.empty() && !engine_.frontend().chat_template())
          fail(ErrorKind::usage, "the checkpoint has no chat template, which a conversation needs");
        prompts_.add(next++, std::move(q));
      }
      for (const int64_t index : news_->take()) read(index);
    }
  }

 private:
  struct Live {
    Generation generation;
    Reply reply;
  };

  // False: the next prompt is not ready.
  bool start_next() {
    std::optional<PromptQueue::Ready> ready = prompts_.take();
    if (!ready) return false;
    const int64_t index = ready->index;
    std::string error = std::move(ready->error);
    if (error.empty()) {
      try {
        live_[index].generation =
            engine_.start(std::move(ready->prompt), greedy(ready->query), [news = news_, index] { news->add(index); });
        return true;
      } catch (const Error& e) {
        live_.erase(index);
        if (e.kind() == ErrorKind::device) throw;
        error = e.message();
      }
    }
    Reply reply;
    reply.error = std::move(error);
    ++n_done_;
    done_(index, std::move(reply));
    return true;
  }

  void read(int64_t index) {
    const auto found = live_.find(index);
    if (found == live_.end()) return;  // this news was read with the one before
    Reply& reply = found->second.reply;
    while (const std::optional<GenerationEvent> event = found->second.generation.next(std::chrono::milliseconds(0))) {
      reply.text += event->text;
      if (event->kind != GenerationEvent::Kind::finished) continue;
      const Finished& end = event->finished;
      if (end.reason == FinishReason::error && end.error_kind == ErrorKind::device)
        throw Error(end.error_kind, end.error);
      reply.error = end.reason == FinishReason::cancelled ? "cancelled" : end.error;
      reply.finish_reason = finish_reason_name(end.reason);
      reply.prompt_tokens = end.usage.prompt_tokens;
      reply.completion_tokens = end.usage.completion_tokens;
      Reply whole = std::move(reply);
      live_.erase(found);
      ++n_done_;
      return done_(index, std::move(whole));
    }
  }

  Engine& engine_;
  const int64_t max_in_flight_;
  const std::function<void(int64_t, Reply)>& done_;
  const std::shared_ptr<News> news_ = std::make_shared<News>();
  std::unordered_map<int64_t, Live> live_;
  int64_t n_done_ = 0;
  PromptQueue prompts_;  // last: its threads end first
};

}  // namespace

std::string EngineRespondent::name_of(const fs::path& model_dir) {
  const fs::path plain = fs::absolute(model_dir).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).filename().string();
}

EngineRespondent::EngineRespondent(LoadOptions load, int64_t concurrency) : model_(name_of(load.model_dir)) {
  const tools::EndAtInterrupt end_at_interrupt;
  tools::ProgressLine progress;
  load.on_progress = [&](uint64_t bytes, uint64_t total) { progress.bytes("loading", bytes, total); };
  load.kv_fills_memory = true;
  if (concurrency > 0) load.max_num_seqs = concurrency;
  engine_ = Engine::load(load);
  progress.clear();
  log_info(engine_->summary());
  const int64_t at_once = engine_->concurrent_sequences(1);
  max_in_flight_ = at_once + at_once / 4 + 1;
}

void EngineRespondent::ask(int64_t n, const std::function<Query(int64_t)>& query,
                           const std::function<void(int64_t, Reply)>& done) {
  Asking(*engine_, max_in_flight_, done).run(n, query);
}

}  // namespace l4::eval
