#include "tools/eval/prompt_queue.h"

#include <algorithm>

#include "tools/common/model_flags.h"

namespace l4::eval {

Prompt prompt_of(const Frontend& frontend, const Query& query) {
  std::vector<PreparedImage> images;
  for (const fs::path& image : query.images) images.push_back(tools::read_image(frontend, image));
  if (query.turns.empty()) {
    if (!images.empty()) fail(ErrorKind::usage, "a text that is continued has no pictures; they need a chat");
    return frontend.prompt_from_text(query.text);
  }
  ChatRequest chat;
  for (const Query::Turn& turn : query.turns) chat.messages.push_back({turn.role, turn.text, {}});
  if (!images.empty()) {
    std::vector<ContentPart> parts(images.size(), ContentPart{ContentPart::Kind::image, {}, {}});
    parts.push_back({ContentPart::Kind::text, query.turns.back().text, {}});
    chat.messages.back().content = std::move(parts);
  }
  return frontend.prompt_from_chat(chat, images);
}

PromptQueue::PromptQueue(const Frontend& frontend, std::function<void()> on_ready)
    : frontend_(frontend), on_ready_(std::move(on_ready)) {
  const int n_threads = std::clamp(int(std::thread::hardware_concurrency()) / 2, 1, 8);
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
}

PromptQueue::~PromptQueue() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool PromptQueue::has_room() const {
  constexpr size_t kAheadOfEachThread = 4;
  const std::lock_guard lock(mutex_);
  return slots_.size() < kAheadOfEachThread * threads_.size();
}

void PromptQueue::add(int64_t index, Query query) {
  auto slot = std::make_shared<Slot>();
  slot->ready.index = index;
  slot->ready.query = std::move(query);
  {
    const std::lock_guard lock(mutex_);
    slots_.push_back(std::move(slot));
  }
  changed_.notify_one();
}

std::optional<PromptQueue::Ready> PromptQueue::take() {
  const std::lock_guard lock(mutex_);
  if (slots_.empty() || !slots_.front()->done) return std::nullopt;
  Ready ready = std::move(slots_.front()->ready);
  slots_.pop_front();
  return ready;
}

void PromptQueue::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    std::shared_ptr<Slot> slot;
    changed_.wait(lock, [&] {
      const auto found = std::find_if(slots_.begin(), slots_.end(), [](const auto& s) { return !s->taken; });
      if (found != slots_.end()) slot = *found;
      return ends_ || slot;
    });
    if (ends_) return;
    slot->taken = true;
    lock.unlock();
    Ready& ready = slot->ready;
    try {
      ready.prompt = prompt_of(frontend_, ready.query);
    } catch (const Error& error) {
      ready.error = error.message();
    } catch (const std::bad_alloc&) {
      ready.error = "too large for the memory that is left";
    }
    lock.lock();
    slot->done = true;
    lock.unlock();
    on_ready_();
    lock.lock();
  }
}

}  // namespace l4::eval
