// The engine's events of one request -> events with text: what is behind a Generation (core/l4.h).
#pragma once

#include "engine/engine_loop.h"
#include "l4.h"
#include "l4/stop_strings.h"
#include "text/stream_decoder.h"

namespace l4 {

class TextStream {
 public:
  TextStream(RequestHandle handle, std::shared_ptr<const Frontend> frontend, const GenerationOptions& options);

  // As Generation::next(), until `deadline`.
  std::optional<GenerationEvent> next(std::optional<std::chrono::steady_clock::time_point> deadline);
  bool done() const { return done_; }
  void cancel() { handle_.cancel(); }

 private:
  std::string text_of(const TokenChoice& token);

  RequestHandle handle_;
  std::shared_ptr<const Frontend> frontend_;  // outlives the decoder, whatever becomes of the engine
  std::optional<StreamDecoder> decoder_;      // nothing: ids only
  StopStrings stops_;
  std::vector<int32_t> silent_ids_;  // end the answer without a text
  int64_t min_tokens_, n_tokens_ = 0;
  bool done_ = false;
};

}  // namespace l4
