// The API behind a function call instead of a socket: what `l4-run --batch` asks.
#include "tools/common/offline_api.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "tools/serve/api/routes.h"

namespace l4::serve {

namespace {

using Reply = std::function<void(tools::ApiAnswer)>;

class OfflineExchange final : public Exchange {
 public:
  OfflineExchange(std::string url, std::string body, Reply reply) : reply_(std::move(reply)) {
    request_.method = "POST";
    request_.path = std::move(url);
    request_.body = std::move(body);
    request_.id = "batch";
  }
  ~OfflineExchange() override {
    if (!answered_.exchange(true)) answer(error_response(api_error(500, "the request was not answered")));
  }

  const HttpRequest& request() const override { return request_; }
  HttpRequest& request() override { return request_; }
  void reply(HttpResponse response) override {
    if (!answered_.exchange(true)) answer(std::move(response));
  }
  void begin_events(HeaderList) override {
    reply(error_response(
        api_error(400, "stream: a batch has no streams", "invalid_request_error", "stream", "unsupported_value")));
  }
  void send_event(std::string_view, std::string_view) override {}
  void end_events() override {}
  // A stream that was refused is one whose client has left.
  void on_closed(std::function<void()> call) override {
    if (is_closed()) call();
  }
  bool is_closed() const override { return answered_; }

 private:
  void answer(HttpResponse response) {
    std::replace(response.body.begin(), response.body.end(), '\n', ' ');  // between values alone: texts have escapes
    reply_({response.status, std::move(response.body)});
  }

  HttpRequest request_;
  Reply reply_;
  std::atomic<bool> answered_{false};
};

class OfflineApiOfEngine final : public tools::OfflineApi {
 public:
  OfflineApiOfEngine(Engine& engine, const tools::OfflineApiOptions& options)
      : frontend_(std::shared_ptr<void>(), &engine.frontend()),
        source_(frontend_),
        media_(frontend_, options.model_dir, options.media),
        api_(source_, &media_, api_options(options)),
        tasks_(std::clamp(int(std::thread::hardware_concurrency()), 2, 8)) {
    source_.set_engine(engine);
    api_.add_routes(router_);
  }
  ~OfflineApiOfEngine() override { ends_ = true; }

  bool has(std::string_view url) const override {
    const Route* route = router_.find("POST", url).route;
    return route && route->options.is_work;
  }
  void post(const std::string& url, std::string body, Reply reply) override {
    std::make_shared<Job>(*this, std::make_shared<OfflineExchange>(url, std::move(body), std::move(reply)))
        ->wake(tasks_);
  }

 private:
  // Reading a request (pictures!) takes a while: on a thread of ours.
  class Job final : public Tasks::Task {
   public:
    Job(OfflineApiOfEngine& api, std::shared_ptr<OfflineExchange> exchange)
        : api_(api), exchange_(std::move(exchange)) {}

   private:
    void run() noexcept override {
      const Route* route = api_.router_.find("POST", exchange_->request().path).route;
      try {
        if (api_.ends_) throw ApiError(api_error(503, "the batch ends"));
        if (!route) throw ApiError(api_error(404, "there is no such path"));
        route->handler(exchange_);
      } catch (const ApiError& error) {
        refuse(route, error.body());
      } catch (const Error& error) {
        refuse(route, api_error_of(error));
      } catch (const std::exception&) {
        refuse(route, api_error(500, "the server failed to answer this request"));
      }
      exchange_.reset();
    }
    void refuse(const Route* route, const ErrorBody& error) {
      exchange_->reply(route ? route->options.error_format(error) : error_response(error));
    }
    OfflineApiOfEngine& api_;
    std::shared_ptr<OfflineExchange> exchange_;
  };

  static Api::Options api_options(const tools::OfflineApiOptions& options) {
    Api::Options out;
    out.settings.model_names = {options.model_name};
    out.settings.sampling = options.sampling;
    out.page = false;
    return out;
  }

  const std::shared_ptr<const Frontend> frontend_;  // the engine's, which outlives this
  EngineSource source_;
  tools::MediaLoader media_;
  Router router_;
  Api api_;
  std::atomic<bool> ends_{false};
  Tasks tasks_;  // last: its jobs use the rest
};

}  // namespace

}  // namespace l4::serve

std::unique_ptr<l4::tools::OfflineApi> l4::tools::make_offline_api(Engine& engine, const OfflineApiOptions& options) {
  return std::make_unique<serve::OfflineApiOfEngine>(engine, options);
}
