#include "tools/serve/service.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/version.h"
#include "model/kv_cache.h"
#include "tools/common/media/media.h"
#include "tools/common/signals.h"
#include "tools/serve/api/routes.h"
#include "tools/serve/http/server.h"
#include "tools/serve/status_routes.h"

namespace l4::serve {

namespace {

// Counts the device's failures and ends the process: first what runs is answered (with an error), then status 1.
class DeviceWatch {
 public:
  explicit DeviceWatch(const ServeLog& log) : log_(log) {}
  bool failed() const { return failed_; }

  void on_failure(const std::string& what) {
    if (failed_.exchange(true)) return;
    log_.say(LogLevel::error, cat("the device failed, the server ends: ", what));
    ::kill(::getpid(), SIGTERM);  // serve_until_signal() drains
  }
  // The engine's thread hangs in the device: nothing can be cleaned up behind it.
  void on_stall(const std::string& what) {
    on_failure(what);
    std::thread([] {
      std::this_thread::sleep_for(std::chrono::seconds(3));  // for what was told to reach its readers
      tools::end_now(1);
    }).detach();
  }

 private:
  const ServeLog& log_;
  std::atomic<bool> failed_{false};
};

std::unique_ptr<Engine> load_engine(const ServeOptions& o, std::shared_ptr<const Frontend> frontend, DeviceWatch& watch,
                                    const ServeLog& log) {
  const tools::EndAtInterrupt end_at_interrupt;
  LoadOptions load = o.model.load;
  load.frontend = std::move(frontend);
  load.kv_fills_memory = true;
  load.record_ahead = true;
  load.on_stall = [&watch](const std::string& what) { watch.on_stall(what); };
  load.on_progress = [&log, tenth = uint64_t(0)](uint64_t done, uint64_t total) mutable {
    if (total == 0 || done * 10 / total <= tenth) return;
    tenth = done * 10 / total;
    log.write(LogLevel::info, "loading", {{"percent", int64_t(tenth * 10)}, {"of", human_bytes(total)}});
  };
  return Engine::load(load);
}

// What is wrong with one is said; its prompt is computed when it comes.
void read_prompt_caches(const ServeOptions& o, Engine& engine, const ServeLog& log) {
  for (const fs::path& file : o.prompt_caches) {
    try {
      const int64_t n = engine.load_prompt(file);
      log.say(LogLevel::info, cat("prompt cache: the KV of ", n, " tokens of ", file.string()));
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::device || e.kind() == ErrorKind::internal) throw;
      log.say(LogLevel::warning, cat("prompt cache: ", e.message()));
    }
  }
}

}  // namespace

std::vector<std::string> describe_service(const ServeOptions& o, const Engine& engine) {
  const ModelConfig& config = engine.config();
  const Frontend& frontend = engine.frontend();
  const EngineStats stats = engine.stats();
  std::vector<std::string> lines;
  lines.push_back(cat("model ", o.model.load.model_dir.string(), " as ", join(o.served_model_names, ", ")));
  lines.push_back(engine.summary());
  const auto n = [](int64_t count) { return human_count(uint64_t(count)); };
  lines.push_back(cat("KV pages of ", kv_page_tokens(config.text),
                      " tokens: ", n(stats.kv_pages[size_t(AttentionKind::global)]), " global, ",
                      n(stats.kv_pages[size_t(AttentionKind::chunked)]), " chunked (one memory); room for ",
                      n(engine.concurrent_sequences(std::min<int64_t>(8192, engine.max_context()))), " sequences of ",
                      n(std::min<int64_t>(8192, engine.max_context())), " tokens; prefix cache ",
                      o.model.load.prefix_cache ? "on" : "off"));
  std::string takes = frontend.takes_images() ? cat("text and pictures (", o.media.max_images, " a request)") : "text";
  if (!frontend.has_tokenizer()) takes = "token ids";
  lines.push_back(cat("takes ", takes, "; bodies up to ", human_bytes(uint64_t(o.server.max_body_bytes)), "; ",
                      n(o.server.max_requests), " requests at once, ", n(o.server.max_connections), " connections"));
  return lines;
}

int run_service(const ServeOptions& o) {
  tools::install_signal_handlers();
  const ServeLog log(o.log_format);
  DeviceWatch watch(log);
  const LoadOptions& load = o.model.load;

  // What is wrong with small files and addresses is said before weights are read.
  const std::shared_ptr<const Frontend> frontend = Frontend::load(load.model_dir, load.chat_template, load.ids_only);
  tools::MediaLoader media(frontend, load.model_dir, o.media);
  (void)o.sampling.options(*frontend);
  Metrics metrics;
  EngineMetrics engine_metrics(metrics, o.served_model_names.front());

  std::unique_ptr<Engine> engine;  // before who uses it, so that it ends after them
  EngineSource source(frontend);
  Api::Options api_options;
  api_options.settings = {o.served_model_names, o.sampling, o.max_logprobs};
  api_options.page = o.page;
  api_options.hooks = {&engine_metrics, &log, o.log_prompts,
                       [&watch](const std::string& what) { watch.on_failure(what); }};
  Api api(source, &media, std::move(api_options));
  EngineStatsCollector collector(source, metrics, engine_metrics);
  metrics.on_collect([&collector] { collector.collect(); });
  Router router;
  api.add_routes(router);
  Server* serving = nullptr;
  add_status_routes(router, metrics, [&] {
    return watch.failed()                      ? "the device has failed"
           : serving && serving->is_draining() ? "shutting down"
                                               : source.not_ready();
  });

  Server server(o.server, router, metrics, log);
  serving = &server;
  server.start();
  log.say(LogLevel::info, cat(version_line("l4-serve"), " listens at ", server.url()));
  engine = load_engine(o, frontend, watch, log);
  read_prompt_caches(o, *engine, log);
  source.set_engine(*engine);
  for (const std::string& line : describe_service(o, *engine)) log.say(LogLevel::info, line);
  log.say(LogLevel::info, cat("ready at ", server.url()));

  const int status = serve_until_signal(server, o.drain_timeout, log);
  server.stop();
  return watch.failed() ? 1 : status;
}

}  // namespace l4::serve
