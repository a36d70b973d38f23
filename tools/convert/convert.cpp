#include "tools/convert/convert.h"

#include <algorithm>
#include <future>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "base/thread_pool.h"
#include "tools/convert/pieces.h"
#include "tools/convert/report.h"
#include "tools/convert/target.h"

namespace l4::convert {

namespace {

// Everything that a resumed run must find unchanged. `format` counts up when the same options give other bytes.
Json identity_of(const ConvertOptions& o, const SourceStamp& stamp) {
  Json rules = Json::Array{};
  for (const Rule& rule : o.recipe.rules) rules.push_back(rule.text());
  return Json::Object{{"format", 1},
                      {"preset", o.recipe.preset},
                      {"group_size", o.recipe.group},
                      {"rules", std::move(rules)},
                      {"max_shard_bytes", int64_t(o.max_shard_bytes)},
                      {"source", stamp.json()}};
}

class Progress {
 public:
  Progress(const ConvertOptions& options, uint64_t total) : options_(options), total_(total) {}
  void add(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    done_ += bytes;
    if (options_.on_progress) options_.on_progress(done_, total_);
  }

 private:
  const ConvertOptions& options_;
  std::mutex mutex_;
  uint64_t done_ = 0, total_;
};

class Conversion {
 public:
  Conversion(const ConvertOptions& options, const HfCheckpoint& source, const Plan& plan, const SourceStamp& stamp,
             Target& target, uint64_t todo)
      : plan_(plan),
        piece_bytes_(options.piece_bytes),
        stamp_(stamp),
        target_(target),
        files_(source),
        progress_(options, todo),
        pool_(options.threads > 0
                  ? options.threads
                  : int(std::clamp(std::thread::hardware_concurrency(), 1u, unsigned(ConvertOptions::kMaxThreads)))),
        workers_(size_t(pool_.size())) {}

  // A file's pieces may be done in any order; its name and the note of its errors come when all are there. Syncing one
  // file goes on beside the work on the next.
  void run(size_t index, std::vector<QuantError>& all_errors) {
    const OutputShard& shard = plan_.shards[index];
    auto out = std::make_unique<SafetensorsWriter>(target_.path(shard.file_name), shard.tensors);
    const std::vector<Piece> pieces = cut(plan_, shard, piece_bytes_);
    std::vector<QuantError> piece_errors(pieces.size());
    std::atomic<bool> failed{false};
    pool_.parallel_items(int64_t(pieces.size()), [&](int64_t slot, int64_t i) {
      if (failed) return;
      try {
        piece_errors[size_t(i)] = workers_[size_t(slot)].run(plan_, pieces[size_t(i)], files_, *out);
        progress_.add(pieces[size_t(i)].source_bytes);
      } catch (...) {
        failed = true;
        throw;
      }
    });
    stamp_.check();
    for (size_t i = 0; i < pieces.size(); ++i) all_errors[pieces[i].item].add(piece_errors[i]);
    std::vector<QuantError> errors;
    for (const size_t item : shard.items) errors.push_back(all_errors[item]);
    wait();
    finishing_ = std::async(std::launch::async, [this, &shard, errors = std::move(errors), out = std::move(out)] {
      target_.save_errors(shard, errors);
      out->finish();
      target_.sync();
    });
  }
  void wait() {
    if (finishing_.valid()) finishing_.get();
  }

 private:
  const Plan& plan_;
  const int64_t piece_bytes_;
  const SourceStamp& stamp_;
  Target& target_;
  SourceFiles files_;
  Progress progress_;
  ThreadPool pool_;
  std::vector<Worker> workers_;  // one a thread
  std::future<void> finishing_;
};

}  // namespace

std::string dry_run(const ConvertOptions& o) {
  o.recipe.check();
  const ModelConfig config = load_model_config(o.source);
  require_unquantized_source(config);
  const HfCheckpoint source(o.source);
  return describe_plan(make_plan(source, config, o.recipe, o.max_shard_bytes));
}

std::string convert(const ConvertOptions& o) {
  o.recipe.check();
  Target target(o.target, o.source, o.overwrite);
  const ModelConfig config = load_model_config(o.source);
  require_unquantized_source(config);
  const HfCheckpoint source(o.source);
  const SourceStamp stamp(source);
  const Plan plan = make_plan(source, config, o.recipe, o.max_shard_bytes);
  target.begin(plan, identity_of(o, stamp));

  std::vector<QuantError> errors(plan.items.size());
  std::vector<size_t> todo;
  uint64_t todo_bytes = 0;
  for (size_t s = 0; s < plan.shards.size(); ++s) {
    const OutputShard& shard = plan.shards[s];
    if (const std::vector<QuantError>* finished = target.finished(s)) {
      for (size_t i = 0; i < shard.items.size(); ++i) errors[shard.items[i]] = (*finished)[i];
      continue;
    }
    todo.push_back(s);
    for (const size_t item : shard.items) todo_bytes += plan.source_bytes_of(plan.items[item]);
  }
  if (todo.size() < plan.shards.size())
    log_info(o.target.string(), ": ", plan.shards.size() - todo.size(), " of ", plan.shards.size(),
             " files are there already");

  Conversion conversion(o, source, plan, stamp, target, todo_bytes);
  for (const size_t shard : todo) conversion.run(shard, errors);
  conversion.wait();
  stamp.check();

  const fs::path report = o.report.empty() ? target.path("quantization_report.json") : o.report;
  write_file_atomic(report, dump_json(error_report(plan, errors), JsonStyle::python, 1) + "\n");
  target.finish(plan);
  return error_table(plan, errors);
}

}  // namespace l4::convert
