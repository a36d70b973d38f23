// The answer on its way from any thread to the connection: what handlers say gathers here, the connection is woken and
// takes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "tools/serve/api_error.h"
#include "tools/serve/exchange.h"

namespace l4::serve {

class ExchangeCore {
 public:
  using ErrorFormat = std::function<HttpResponse(const ErrorBody&)>;
  // `wake` must not wait, nor call back here: it is called under this object's lock, never after close().
  ExchangeCore(HttpRequest request, ErrorFormat error_format, int64_t max_unsent_bytes, std::function<void()> wake);

  // ---- whoever answers; any thread
  HttpRequest& request() { return request_; }
  void reply(HttpResponse response);
  void begin_events(HeaderList headers);
  void send_event(std::string_view data, std::string_view name);
  void end_events();
  void on_closed(std::function<void()> call);
  bool is_closed() const { return gone_; }
  void abandon(const ErrorBody& error);  // where the answer is not complete: that error is it, or its last event

  // ---- the connection; its I/O thread
  struct Output {
    std::optional<HttpResponse> response;    // the whole answer
    std::optional<HeaderList> events_begin;  // of an event stream
    std::string events;                      // as they are sent
    bool ended = false;
  };
  Output take();
  bool is_overflowed() const;  // more is unsent than may be: what came since is gone
  void sent(int64_t event_bytes);  // of what take() gave
  void client_gone();              // calls on_closed()'s function
  void close();                    // nothing is taken any more

 private:
  void wake_locked();

  HttpRequest request_;
  const ErrorFormat error_format_;
  const int64_t max_unsent_bytes_;
  std::function<void()> wake_;
  mutable std::mutex mutex_;
  enum class Phase { waiting, events, ended } phase_ = Phase::waiting;
  Output output_;
  int64_t unsent_bytes_ = 0;
  bool wake_is_due_ = false, is_open_ = true, overflowed_ = false;
  std::atomic<bool> gone_{false};
  std::function<void()> on_closed_;
};

// What a handler holds. Its end without a complete answer is abandon() with status 500.
std::shared_ptr<Exchange> make_exchange(std::shared_ptr<ExchangeCore> core);

}  // namespace l4::serve
