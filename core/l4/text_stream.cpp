#include "l4/text_stream.h"

#include <algorithm>
#include <utility>

namespace l4 {

using Clock = std::chrono::steady_clock;

TextStream::TextStream(RequestHandle handle, std::shared_ptr<const Frontend> frontend, const GenerationOptions& options)
    : handle_(std::move(handle)),
      frontend_(std::move(frontend)),
      stops_(options.stop),
      min_tokens_(options.min_tokens) {
  if (!options.show_stop_id) silent_ids_ = options.stop_ids;
  if (frontend_->has_tokenizer()) decoder_.emplace(frontend_->tokenizer(), !options.show_special);
}

// No stop string is looked for in the text of the first min_tokens tokens.
std::string TextStream::text_of(const TokenChoice& token) {
  ++n_tokens_;
  if (std::find(silent_ids_.begin(), silent_ids_.end(), token.id) != silent_ids_.end()) return {};
  std::string piece = decoder_ ? decoder_->push(token.id) : std::string();
  return n_tokens_ <= min_tokens_ ? piece : stops_.push(piece);
}

std::optional<GenerationEvent> TextStream::next(std::optional<Clock::time_point> deadline) {
  while (!done_) {
    std::optional<Event> event;
    if (deadline)
      event = handle_.next(std::max(std::chrono::milliseconds(0),
                                    std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now())));
    else
      event = handle_.next();
    if (!event) return std::nullopt;
    const bool stopped = stops_.found().has_value();

    GenerationEvent out;
    if (auto* progress = std::get_if<PromptProgress>(&*event)) {
      out.kind = GenerationEvent::Kind::prompt;
      out.prompt = std::move(*progress);
    } else if (auto* token = std::get_if<TokenChoice>(&*event)) {
      if (stopped) continue;  // chosen before the engine heard of it
      out.text = text_of(*token);
      out.token = std::move(*token);
      if (stops_.found()) handle_.cancel();
    } else {
      done_ = true;
      out.kind = GenerationEvent::Kind::finished;
      out.finished = std::get<Finished>(std::move(*event));
      if (!stopped && decoder_) {
        out.text = stops_.push(decoder_->flush());
        out.text += stops_.flush();
      }
      if (stops_.found()) {
        out.finished.reason = FinishReason::stop;
        out.finished.error.clear();
        out.finished.usage.completion_tokens = n_tokens_;
        out.stop_text = stops_.found();
      }
    }
    return out;
  }
  return std::nullopt;
}

}  // namespace l4
