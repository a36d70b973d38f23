#include "tools/bench/bench.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "l4/load_plan.h"
#include "ops/cuda_devices.h"
#include "tools/bench/lists.h"
#include "tools/common/model_flags.h"
#include "tools/common/statistics.h"
#include "tools/common/terminal.h"

namespace l4::bench {

using tools::Flags;
using tools::mean;
using tools::median;
using tools::percentile;
using tools::standard_deviation;

// ---- flags ----------------------------------------------------------------------------------------------------------

void add_common_flags(Flags& flags, CommonOptions& o) {
  flags.group("Model");
  flags.list("-m,--model", "DIR", "folder of a checkpoint, or scout|maverick|tiny with --synthetic; may be repeated",
             [&o](const std::string& name) { o.models.push_back(name); });
  flags.toggle("--synthetic", "weights made up on the device: no files are needed", &o.synthetic.on);
  add_synthetic_flags(flags, o.synthetic);
  flags.value("--routing", "router|uniform", "experts by the model's router, or in turn", [&o](const std::string& name) {
    if (name != "router" && name != "uniform") tools::wrong_value("router or uniform", name);
    o.round_robin_experts = name == "uniform";
  });
  flags.toggle("--batch-invariant", "GPUs: the kernels whose results do not depend on the number of rows",
               &o.batch_invariant);
  flags.toggle("--many-launches", "GPUs: a step of one token as a launch for each operation, where one would do for all",
               &o.many_launches);
  flags.value("-dev,--device", "auto|cpu|cuda", "where it runs; auto: on GPUs where there are any",
              [&o](const std::string& name) { o.device = parse_device(name); });
  tools::add_type_flags(flags, {&o.dtype, &o.kv_dtype, &o.quantize.attention, &o.quantize.head});
  flags.number<int>("-t,--threads", "N", "of the CPU backend; 0: one per core", &o.threads, 0, 1024);
  flags.number<int>("-tp,--tensor-parallel-size", "N", "split each layer over N devices", &o.tp, 1, 1024);
  flags.number<int>("-pp,--pipeline-parallel-size", "N", "split the layers over N groups of devices", &o.pp, 1, 1024);
  flags.number<int>("-ep,--expert-parallel-size", "N", "split the experts of each layer into N groups", &o.ep, 1, 1024);
  flags.group("Output");
  flags.value("-o,--output", "md|csv|json|jsonl|sql", "on standard output (default md)",
              [&o](const std::string& name) { o.out = parse_format(name); });
  flags.value("-oe,--output-err", "md|csv|json|jsonl|sql|none", "the same on standard error (default none)",
              [&o](const std::string& name) { o.err = parse_format(name); });
}

void add_synthetic_flags(Flags& flags, SyntheticOptions& o) {
  flags.number<int64_t>("--layers", "N", "the synthetic model's first N layers only", &o.n_layers, 1, 1000);
  flags.value("--format", join(synthetic_format_names(), "|"),
              "how a synthetic model's weights are stored (default bf16)", [&o](const std::string& name) {
                synthetic_format(name, 128);
                o.format = name;
              });
  flags.value("--group-size", "32|64|128", "columns that share a scale in INT4 (default 128)",
              [&o](const std::string& text) {
                const std::optional<int64_t> n = parse_int(text);
                if (n != 32 && n != 64 && n != 128) tools::wrong_value("32, 64 or 128", text);
                o.group = n;
              });
  flags.value("-s,--seed", "N", "of made-up weights and token ids (default 1)", [&o](const std::string& text) {
    const std::optional<int64_t> n = parse_int(text);
    if (!n || *n < 0) tools::wrong_value("a number from 0", text);
    o.seed = uint64_t(*n);
  });
}

void add_list_flag(Flags& flags, const std::string& names, const std::string& help, int64_t low, int64_t high,
                   std::vector<int64_t>* target) {
  flags.value(names, "N,...", help,
              [=](const std::string& text) { *target = parse_numbers(text, low, high); });
}

// ---- results --------------------------------------------------------------------------------------------------------

void add_sample(Result& result, Run run) {
  result.seconds.push_back(run.seconds());
  result.steps.insert(result.steps.end(), run.steps.begin(), run.steps.end());
}

void add_samples(Result& result, Run run) {
  for (const StepRun& step : run.steps) result.seconds.push_back(step.seconds);
  result.steps.insert(result.steps.end(), run.steps.begin(), run.steps.end());
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string mean_and_deviation(const std::vector<double>& values) {
  return cat(fixed(mean(values), 2), " ± ", fixed(standard_deviation(values), 2));
}

Json numbers(const std::vector<double>& values, double scale) {
  Json::Array out;
  for (const double v : values) out.push_back(v * scale);
  return out;
}

Cell number_cell(std::string header, std::string text, size_t width) {
  return {std::move(header), std::move(text), true, width};
}

namespace {

std::string short_count(int64_t n) {
  if (n >= 1'000'000'000) return fixed(double(n) / 1e9, 2) + " B";
  if (n >= 1'000'000) return fixed(double(n) / 1e6, 2) + " M";
  return fixed(double(n) / 1e3, 2) + " K";
}

std::vector<double> rates_of(const Result& r) {
  std::vector<double> rates;
  for (const double s : r.seconds) rates.push_back(double(r.n_tokens) / s);
  return rates;
}

// Time in which the device waited for the host, as a share of the steps; nothing where the host is the device.
std::optional<double> host_share(const Result& r) {
  double wall = 0, device = 0;
  for (const StepRun& step : r.steps) {
    if (!step.device_seconds) return std::nullopt;
    wall += step.seconds;
    device += *step.device_seconds;
  }
  return wall > 0 ? std::optional(1 - device / wall) : std::nullopt;
}

int threads_of(const ExecutorOptions& e) {
  return e.cpu_threads > 0 ? e.cpu_threads : int(std::max(1u, std::thread::hardware_concurrency()));
}

// What a result's bytes, FLOPs and limit are measured against: all samples' time, the median standing for each.
double representative_seconds(const Result& r) {
  return median(r.seconds) * double(r.seconds.size());
}

double percent(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

}  // namespace

// ---- a run of the program -------------------------------------------------------------------------------------------

namespace {

std::vector<int> gpus_for(const CommonOptions& o) {
  LoadOptions load;
  load.device = o.device;
  load.topology = o.topology();
  return choose_gpus(load, list_cuda_devices());
}

std::string device_name(const CommonOptions& o, const std::vector<int>& gpus) {
  if (gpus.empty()) return make_cpu_backend(o.threads.value_or(0))->device_name();
  const std::string name = list_cuda_devices().devices[size_t(gpus[0])].name;
  return gpus.size() > 1 ? cat(gpus.size(), " x ", name) : name;
}

}  // namespace

Bench::Bench(const CommonOptions& options, bool with_ceilings)
    : options_(options),
      gpus_(gpus_for(options)),
      environment_(find_environment(device_name(options, gpus_), gpus_.empty() ? -1 : gpus_[0])),
      with_ceilings_(with_ceilings),
      out_(options.out, stdout),
      err_(options.err, stderr) {
  if (with_ceilings) before_ = measure();
  rates_ = {before_.read_bytes, before_.flops, before_.fp8_flops};
}

// Of several GPUs the slowest one's: a step waits for it.
Ceilings Bench::measure() const {
  if (gpus_.empty()) return measure_cpu_ceilings(options_.threads.value_or(0));
  Ceilings least = measure_cuda_ceilings(gpus_[0]);
  for (size_t i = 1; i < gpus_.size(); ++i) {
    const Ceilings c = measure_cuda_ceilings(gpus_[i]);
    least = {std::min(least.read_bytes, c.read_bytes), std::min(least.flops, c.flops),
             std::min(least.fp8_flops, c.fp8_flops)};
  }
  return least;
}

int64_t Bench::default_batch_tokens() const {
  return on_gpu() ? 8192 : 512;
}

std::unique_ptr<Backend> Bench::make_backend(std::span<const StepPlan> steps, int64_t page_tokens) const {
  if (!on_gpu()) return make_cpu_backend(options_.threads.value_or(0));
  CudaOptions o;
  o.page_tokens = page_tokens;
  o.fast_only = true;
  for (const StepPlan& step : steps) {
    o.max_rows = std::max(o.max_rows, step.n_rows());
    o.max_out_rows = std::max(o.max_out_rows, step.n_out());
    int64_t n_pages = 0;
    for (const KvPlan& kv : step.kv) n_pages += int64_t(kv.pages.size());
    o.max_table_pages = std::max(o.max_table_pages, n_pages);
  }
  o.batch_invariant = options_.batch_invariant;
  return make_cuda_backend(gpus_[0], o);
}

std::optional<double> Bench::library_seconds(const ProductShape& shape) const {
  if (!on_gpu()) return std::nullopt;
  return measure_cuda_product(gpus_[0], shape).seconds;
}

DType Bench::activation(const BenchModel& model) const {
  return options_.dtype.value_or(model.config.weights_dtype == "float32" ? DType::f32 : DType::bf16);
}

std::string Bench::format(const BenchModel& model) const {
  return model.format(options_.quantize, activation(model));
}

Cell Bench::format_cell(const BenchModel& model) const {
  return {"format", format(model), false, 8};
}

std::unique_ptr<Session> Bench::load(const BenchModel& model, SessionOptions sizes) const {
  if (sizes.max_context > model.config.text.max_positions)
    fail(ErrorKind::usage, model.name, " has a context of ", model.config.text.max_positions, " tokens, ",
         sizes.max_context, " are asked for");
  ExecutorOptions& e = sizes.executor;
  e.topology = options_.topology();
  e.gpus = gpus_;
  e.dtype = activation(model);
  e.kv_dtype = kv_dtype_for(model.config, options_.kv_dtype);
  e.quantize = options_.quantize;
  e.cpu_threads = options_.threads.value_or(0);
  e.round_robin_experts = options_.round_robin_experts;
  e.batch_invariant = options_.batch_invariant;
  e.fast_kernels_only = true;
  e.one_launch = !options_.many_launches;
  sizes.seed = options_.synthetic.seed;
  tools::ProgressLine progress;
  const char* what = options_.synthetic.on ? "making weights" : "loading";
  e.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes(what, done, total); };
  return std::make_unique<Session>(model, sizes);
}

std::vector<Cell> Bench::model_cells(const BenchModel& model, const Session& session) const {
  const ExecutorOptions& e = session.options().executor;
  return {{"model", model.name, false, 24},
          format_cell(model),
          number_cell("size", human_bytes(uint64_t(session.cost().weight_bytes())), 10),
          number_cell("params", short_count(model.n_parameters), 8),
          {"backend", on_gpu() ? "CUDA" : "CPU", false, 7},
          on_gpu() ? number_cell("gpus", cat(gpus_.size())) : number_cell("threads", cat(threads_of(e)))};
}

std::vector<Cell> Bench::cost_cells(const Session& session, const Result& r) const {
  const double seconds = representative_seconds(r), n_steps = double(r.steps.size());
  const std::optional<double> host = host_share(r);
  std::vector<Cell> cells = {
      number_cell("MB/step", fixed(r.cost.bytes / n_steps / 1e6, 1), 9),
      number_cell("GB/s", fixed(r.cost.bytes / seconds / 1e9, 2), 8),
      number_cell("TFLOP/s", fixed(r.cost.flops / seconds / 1e12, 3), 7),
      number_cell("% of limit", fixed(percent(r.cost.limit_seconds, seconds), 1)),
      number_cell("experts", fixed(r.cost.experts, 1)),
      number_cell("host %", host ? fixed(100 * *host, 1) : "-"),
      number_cell("peak memory", human_bytes(session.peak_bytes())),
  };
  return cells;
}

Json::Object Bench::common_fields() const {
  const auto known = [](const auto& v) { return v ? Json(*v) : Json(); };
  const CudaClocks clocks = on_gpu() ? read_cuda_clocks(gpus_[0]) : CudaClocks{};
  return {{"build_commit", environment_.commit},
          {"build_version", environment_.version},
          {"test_time", utc_now()},
          {"cpu", environment_.cpu},
          {"device", environment_.device},
          {"driver", environment_.driver.empty() ? Json() : Json(environment_.driver)},
          {"sm_clock_mhz", known(clocks.sm_mhz)},
          {"memory_clock_mhz", known(clocks.memory_mhz)},
          {"backend", on_gpu() ? "CUDA" : "CPU"},
          {"ceiling_read_bytes_per_s", rates_.read_bytes},
          {"ceiling_flops_per_s", rates_.flops},
          {"ceiling_fp8_flops_per_s", rates_.fp8_flops}};
}

Json::Object Bench::fields(const BenchModel& model, const Session& session, const Result& r) const {
  const ExecutorOptions& e = session.options().executor;
  const TextConfig& text = model.config.text;
  const std::vector<double> ts = rates_of(r);
  const double seconds = representative_seconds(r), n_steps = double(r.steps.size());
  const std::optional<double> host = host_share(r);
  std::vector<double> device;
  for (const StepRun& step : r.steps)
    if (step.device_seconds) device.push_back(*step.device_seconds);
  const auto integer = [](double v) { return Json(int64_t(v + 0.5)); };
  Json::Object f = common_fields();
  Json::Object measured = {
      {"model_name", model.name},
      {"model_type", model.type},
      {"model_size", integer(session.cost().weight_bytes())},
      {"model_n_params", model.n_parameters},
      {"n_layers", text.n_layers},
      {"synthetic", options_.synthetic.on},
      {"seed", int64_t(options_.synthetic.seed)},
      {"n_threads", on_gpu() ? Json() : Json(threads_of(e))},
      {"tp", e.topology.tp},
      {"pp", e.topology.pp},
      {"ep", e.topology.ep},
      {"format", format(model)},
      {"dtype", dtype_option_name(e.dtype)},
      {"kv_dtype", dtype_option_name(e.kv_type())},
      {"test", r.test},
      {"n_prompt", r.n_prompt},
      {"n_gen", r.n_gen},
      {"n_depth", r.n_depth},
      {"n_sequences", r.n_sequences},
      {"n_batch", r.n_batch},
      {"avg_ns", integer(mean(r.seconds) * 1e9)},
      {"stddev_ns", integer(standard_deviation(r.seconds) * 1e9)},
      {"median_ns", integer(median(r.seconds) * 1e9)},
      {"p95_ns", integer(percentile(r.seconds, 0.95) * 1e9)},
      {"avg_ts", mean(ts)},
      {"stddev_ts", standard_deviation(ts)},
      {"median_ts", double(r.n_tokens) / median(r.seconds)},
      {"n_steps", int64_t(r.steps.size())},
      {"median_device_step_ns", device.empty() ? Json() : integer(median(device) * 1e9)},
      {"host_share", host ? Json(*host) : Json()},
      {"bytes_per_step", r.cost.bytes / n_steps},
      {"flops_per_step", r.cost.flops / n_steps},
      {"bytes_per_s", r.cost.bytes / seconds},
      {"flops_per_s", r.cost.flops / seconds},
      {"limit_share", r.cost.limit_seconds / seconds},
      {"routing", e.round_robin_experts ? "uniform" : "router"},
      {"batch_invariant", e.batch_invariant},
      {"one_launch", e.one_launch},
      {"n_experts", text.n_experts},
      {"experts_hit", r.cost.experts},
      {"peak_memory", int64_t(session.peak_bytes())},
      {"samples_ns", numbers(r.seconds, 1e9)},
      {"samples_ts", numbers(ts, 1)},
  };
  f.insert(f.end(), measured.begin(), measured.end());
  f.insert(f.end(), r.more.begin(), r.more.end());
  return f;
}

void Bench::report(const Record& record) {
  out_.add(record);
  err_.add(record);
}

void Bench::finish() {
  if (!with_ceilings_) return;
  // The driver overwrites what a model has freed in the background: reads are 16 % slower for a while (seen after 72 GiB).
  if (on_gpu()) std::this_thread::sleep_for(std::chrono::seconds(1));
  const Ceilings after = measure();
  const auto line = [](const char* what, double before, double later, double unit, const char* name) {
    return cat(what, " ", fixed(before / unit, 2), " ", name, " before, ", fixed(later / unit, 2), " after (",
               later >= before ? "+" : "", fixed(percent(later - before, before), 1), " %)");
  };
  const auto object = [](const Ceilings& c) {
    return Json::Object{{"read_bytes_per_s", c.read_bytes}, {"flops_per_s", c.flops}, {"fp8_flops_per_s", c.fp8_flops}};
  };
  const Json drift =
      Json::Object{{"test", "ceilings"},     {"build_commit", environment_.commit}, {"device", environment_.device},
                   {"test_time", utc_now()}, {"before", object(before_)},           {"after", object(after)}};
  std::string products = line("BF16 products", before_.flops, after.flops, 1e12, "TFLOP/s");
  if (on_gpu()) products += ", " + line("FP8 products", before_.fp8_flops, after.fp8_flops, 1e12, "TFLOP/s");
  for (Reporter* to : {&out_, &err_}) {
    to->add_object(drift);
    to->note(cat("build: ", environment_.commit, "; ", environment_.device));
    to->note(cat("ceilings: ", line("read", before_.read_bytes, after.read_bytes, 1e9, "GB/s"), ", ", products));
  }
}

}  // namespace l4::bench
