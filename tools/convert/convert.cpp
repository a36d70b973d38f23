#include "tools/convert/convert.h"

#include <algorithm>
#include <array>
#include <future>
#include <mutex>
#include <thread>

#include "base/hex.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "quant/fp8.h"
#include "tools/convert/calibrate.h"
#include "tools/convert/pieces.h"
#include "tools/convert/report.h"
#include "tools/convert/target.h"
#include "tools/convert/verify.h"
#include "vision/sha256.h"

namespace l4::convert {

namespace {

constexpr uint64_t kMaxReportBytes = 1'000'000'000;

// By which a resumed run knows its text again.
std::string digest_of(const Sequences& sequences) {
  Sha256 sha;
  const auto update = [&](const auto& values) {
    sha.update({reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(values[0])});
  };
  for (const auto& ids : sequences) {
    update(std::array{uint64_t(ids.size())});
    update(ids);
  }
  return to_hex(sha.finish());
}

// Everything that a resumed run must find unchanged. `format` counts up when the same options give other bytes.
Json identity_of(const ConvertOptions& o, const SourceStamp& stamp) {
  Json rules = Json::Array{};
  for (const Rule& rule : o.recipe.rules) rules.push_back(rule.text());
  return Json::Object{{"format", 2},
                      {"preset", o.recipe.preset},
                      {"group_size", o.recipe.group},
                      {"rules", std::move(rules)},
                      {"max_shard_bytes", int64_t(o.max_shard_bytes)},
                      {"gptq", o.gptq},
                      {"kv_scales", o.recipe.kv_scales},
                      {"calibration", o.gptq || o.recipe.kv_scales ? Json(digest_of(o.calibration)) : Json()},
                      {"source", stamp.json()}};
}

int threads_of(const ConvertOptions& o) {
  if (o.threads > 0) return o.threads;
  return int(std::clamp(std::thread::hardware_concurrency(), 1u, unsigned(ConvertOptions::kMaxThreads)));
}

std::vector<NamedValue> kv_scales(const Plan& plan, const Calibration& calibration) {
  std::vector<NamedValue> scales;
  for (const Item& item : plan.items) {
    if (!item.module.ends_with(".self_attn.k_proj") || item.part != ModelPart::attention || calibration.k_max.empty())
      continue;
    const std::string stem = item.module.substr(0, item.module.size() - 6);
    scales.push_back({stem + "k_scale", fp8_scale(calibration.k_max[size_t(item.layer)])});
    scales.push_back({stem + "v_scale", fp8_scale(calibration.v_max[size_t(item.layer)])});
  }
  return scales;
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
             Target& target, const Calibration& calibration, uint64_t todo)
      : plan_(plan),
        calibration_(calibration),
        piece_bytes_(options.piece_bytes),
        stamp_(stamp),
        target_(target),
        files_(source),
        progress_(options, todo),
        pool_(threads_of(options)),
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
        piece_errors[size_t(i)] = workers_[size_t(slot)].run(plan_, pieces[size_t(i)], files_, calibration_, *out);
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
  const Calibration& calibration_;
  const int64_t piece_bytes_;
  const SourceStamp& stamp_;
  Target& target_;
  SourceFiles files_;
  Progress progress_;
  ThreadPool pool_;
  std::vector<Worker> workers_;  // one a thread
  std::future<void> finishing_;
};

fs::path report_path(const ConvertOptions& o) {
  return o.report.empty() ? o.target / "quantization_report.json" : o.report;
}

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
  if ((o.gptq || o.recipe.kv_scales) && o.calibration.empty())
    fail(ErrorKind::usage, o.gptq ? "--method gptq" : "--kv-scales", ": expected a text (--calibration), found none");
  Target target(o.target, o.source, o.overwrite);
  const ModelConfig config = load_model_config(o.source);
  require_unquantized_source(config);
  const HfCheckpoint source(o.source);
  const SourceStamp stamp(source);
  const Plan plan = make_plan(source, config, o.recipe, o.max_shard_bytes);
  target.begin(plan, identity_of(o, stamp));

  const auto is_int4 = [](const Item& item) { return item.scheme == Scheme::int4; };
  if (o.gptq && !o.recipe.kv_scales && std::none_of(plan.items.begin(), plan.items.end(), is_int4))
    log_warning("--calibration: nothing becomes INT4, and the result is the same without the text");
  Calibration calibration;
  if (o.gptq || o.recipe.kv_scales) {
    CalibrationOptions options;
    options.sequences = o.calibration;
    options.device = o.device;
    options.threads = threads_of(o);
    options.gptq = o.gptq;
    options.kv_scales = o.recipe.kv_scales;
    options.memory_bytes = o.calibration_bytes;
    options.on_progress = o.on_calibration;
    calibration = calibrate(config, source, plan, options, target.calibration());
  }

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

  Conversion conversion(o, source, plan, stamp, target, calibration, todo_bytes);
  for (const size_t shard : todo) conversion.run(shard, errors);
  conversion.wait();
  stamp.check();

  write_file_atomic(report_path(o), dump_json(error_report(plan, errors, calibration), JsonStyle::python, 1) + "\n");
  target.finish(plan, kv_scales(plan, calibration));
  return error_table(plan, errors) + calibration_summary(calibration);
}

std::string verify(const ConvertOptions& o, const Sequences& sequences, std::optional<double> max_kl,
                   const std::function<void(int64_t done, int64_t total)>& on_progress) {
  const Comparison found = compare_logits(o.source, o.target, sequences, o.device, o.threads, on_progress);
  const fs::path path = report_path(o);
  Json report = parse_json(read_file(path, kMaxReportBytes), path.string());
  report.set("verification", found.json());
  write_file_atomic(path, dump_json(report, JsonStyle::python, 1) + "\n");
  if (max_kl && !(found.mean_kl <= *max_kl))
    fail_input(o.target.string(), ": the mean KL divergence from the source is ", found.mean_kl, ", above --max-kl ",
               *max_kl);
  return cat("\nverified on ", std::to_string(found.n_tokens), " tokens, beside the source\n", found.text());
}

}  // namespace l4::convert
