#include "tools/serve/http/exchange_core.h"

#include "base/strings.h"
#include "tools/serve/http/response_head.h"

namespace l4::serve {

ExchangeCore::ExchangeCore(HttpRequest request, ErrorFormat error_format, int64_t max_unsent_bytes,
                           std::function<void()> wake)
    : request_(std::move(request)),
      error_format_(std::move(error_format)),
      max_unsent_bytes_(max_unsent_bytes),
      wake_(std::move(wake)) {}

void ExchangeCore::wake_locked() {
  if (wake_is_due_ || !is_open_) return;
  wake_is_due_ = true;
  wake_();
}

void ExchangeCore::reply(HttpResponse response) {
  std::function<void()> forgotten;  // ends outside the lock: it may hold the last reference to anything
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::waiting) return;
  phase_ = Phase::ended;
  forgotten.swap(on_closed_);
  output_.response = std::move(response);
  output_.ended = true;
  wake_locked();
}

void ExchangeCore::begin_events(HeaderList headers) {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::waiting) return;
  phase_ = Phase::events;
  output_.events_begin = std::move(headers);
  wake_locked();
}

void ExchangeCore::send_event(std::string_view data, std::string_view name) {
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::events || !is_open_ || overflowed_) return;
  const size_t before = output_.events.size();
  append_event(output_.events, data, name);
  unsent_bytes_ += int64_t(output_.events.size() - before);
  if (unsent_bytes_ > max_unsent_bytes_) {
    overflowed_ = true;
    output_.events = {};
    wake_is_due_ = false;  // the connection may wait for a write that never ends, and look at nothing till then
  }
  wake_locked();
}

void ExchangeCore::end_events() {
  std::function<void()> forgotten;
  const std::lock_guard lock(mutex_);
  if (phase_ != Phase::events) return;
  phase_ = Phase::ended;
  output_.ended = true;
  forgotten.swap(on_closed_);
  wake_locked();
}

void ExchangeCore::abandon(const ErrorBody& error) {
  std::unique_lock lock(mutex_);
  const Phase phase = phase_;
  lock.unlock();
  if (phase == Phase::ended) return;
  HttpResponse response = error_format_(error);
  if (phase == Phase::waiting) return reply(std::move(response));
  send_event(trim(response.body), "error");  // the name is Anthropic's; OpenAI's clients look at the data
  end_events();
}

void ExchangeCore::on_closed(std::function<void()> call) {
  {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::ended) return;
    if (!gone_) {
      on_closed_.swap(call);
      return;
    }
  }
  call();
}

ExchangeCore::Output ExchangeCore::take() {
  const std::lock_guard lock(mutex_);
  wake_is_due_ = false;
  Output out = std::move(output_);
  output_ = {};
  return out;
}

bool ExchangeCore::is_overflowed() const {
  const std::lock_guard lock(mutex_);
  return overflowed_;
}

void ExchangeCore::sent(int64_t event_bytes) {
  const std::lock_guard lock(mutex_);
  unsent_bytes_ -= event_bytes;
}

void ExchangeCore::client_gone() {
  std::function<void()> call;
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    call.swap(on_closed_);
  }
  if (call) call();
}

void ExchangeCore::close() {
  std::function<void()> forgotten;
  const std::lock_guard lock(mutex_);
  is_open_ = false;
  output_ = {};
  forgotten.swap(on_closed_);
}

namespace {

class ExchangeHandle final : public Exchange {
 public:
  explicit ExchangeHandle(std::shared_ptr<ExchangeCore> core) : core_(std::move(core)) {}
  ~ExchangeHandle() override { core_->abandon(api_error(500, "the request was given up")); }
  const HttpRequest& request() const override { return core_->request(); }
  HttpRequest& request() override { return core_->request(); }
  void reply(HttpResponse response) override { core_->reply(std::move(response)); }
  void begin_events(HeaderList headers) override { core_->begin_events(std::move(headers)); }
  void send_event(std::string_view data, std::string_view name) override { core_->send_event(data, name); }
  void end_events() override { core_->end_events(); }
  void on_closed(std::function<void()> call) override { core_->on_closed(std::move(call)); }
  bool is_closed() const override { return core_->is_closed(); }

 private:
  std::shared_ptr<ExchangeCore> core_;
};

}  // namespace

std::shared_ptr<Exchange> make_exchange(std::shared_ptr<ExchangeCore> core) {
  return std::make_shared<ExchangeHandle>(std::move(core));
}

}  // namespace l4::serve
