#include "tools/bench/bench.h"

#include <thread>

#include "tools/bench/lists.h"
#include "tools/bench/statistics.h"
#include "tools/common/terminal.h"

namespace l4::bench {

using tools::Flags;

// ---- flags ----------------------------------------------------------------------------------------------------------

void add_common_flags(Flags& flags, CommonOptions& o) {
  flags.group("Model");
  flags.list("-m,--model", "DIR", "folder of a checkpoint, or scout|maverick|tiny with --synthetic; may be repeated",
             [&o](const std::string& name) { o.models.push_back(name); });
  flags.toggle("--synthetic", "weights made up on the device: no files are needed", &o.synthetic.on);
  flags.number<int64_t>("--layers", "N", "the synthetic model's first N layers only", &o.synthetic.n_layers, 1, 1000);
  flags.value("-s,--seed", "N", "of made-up weights and token ids (default 1)", [&o](const std::string& text) {
    const std::optional<int64_t> n = parse_int(text);
    if (!n || *n < 0) tools::wrong_value("a number from 0", text);
    o.synthetic.seed = uint64_t(*n);
  });
  flags.value("--routing", "router|uniform", "experts by the model's router, or in turn", [&o](const std::string& name) {
    if (name != "router" && name != "uniform") tools::wrong_value("router or uniform", name);
    o.round_robin_experts = name == "uniform";
  });
  flags.value("-dev,--device", "auto|cpu|cuda", "where it runs; auto: on GPUs where there are any",
              [&o](const std::string& name) { o.device = parse_device(name); });
  flags.value("--dtype", "auto|bfloat16|float32", "of activations and KV cache; auto: as the checkpoint says",
              [&o](const std::string& name) { o.dtype = parse_dtype_option(name); });
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

// What a result's bytes, FLOPs and limit are measured against: all samples' time, the median standing for each.
double representative_seconds(const Result& r) {
  return median(r.seconds) * double(r.seconds.size());
}

Json numbers(const std::vector<double>& values, double scale) {
  Json::Array out;
  for (const double v : values) out.push_back(v * scale);
  return out;
}

double percent(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

}  // namespace

// ---- a run of the program -------------------------------------------------------------------------------------------

Bench::Bench(const CommonOptions& options) : options_(options), out_(options.out, stdout), err_(options.err, stderr) {
  if (options.device == Device::cuda) fail(ErrorKind::unsupported, "--device cuda: this build has no CUDA backend");
  environment_ = find_environment(make_cpu_backend(options.threads.value_or(0))->device_name());
  before_ = measure();
  rates_ = {before_.read_bytes, before_.flops};
}

Ceilings Bench::measure() const {
  return measure_cpu_ceilings(options_.threads.value_or(0));
}

int64_t Bench::default_batch_tokens() const {
  return 512;
}

std::unique_ptr<Session> Bench::load(const BenchModel& model, SessionOptions sizes) const {
  if (sizes.max_context > model.config.text.max_positions)
    fail(ErrorKind::usage, model.name, " has a context of ", model.config.text.max_positions, " tokens, ",
         sizes.max_context, " are asked for");
  ExecutorOptions& e = sizes.executor;
  e.topology = options_.topology();
  e.dtype = options_.dtype.value_or(model.config.weights_dtype == "float32" ? DType::f32 : DType::bf16);
  e.cpu_threads = options_.threads.value_or(0);
  e.round_robin_experts = options_.round_robin_experts;
  sizes.seed = options_.synthetic.seed;
  tools::ProgressLine progress;
  const char* what = options_.synthetic.on ? "making weights" : "loading";
  e.on_progress = [&](uint64_t done, uint64_t total) { progress.bytes(what, done, total); };
  return std::make_unique<Session>(model, sizes);
}

std::vector<Cell> Bench::model_cells(const BenchModel& model, const Session& session) const {
  const ExecutorOptions& e = session.options().executor;
  return {{"model", model.name, false, 24},
          number_cell("size", human_bytes(uint64_t(session.cost().weight_bytes())), 10),
          number_cell("params", short_count(model.n_parameters), 8),
          {"backend", "CPU", false, 7},
          number_cell(e.topology.world() > 1 ? "ranks" : "threads",
                      e.topology.world() > 1 ? cat(e.topology.world()) : cat(e.cpu_threads > 0 ? e.cpu_threads : int(std::thread::hardware_concurrency())))};
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
  Json::Object f = {
      {"build_commit", environment_.commit},
      {"build_version", environment_.version},
      {"test_time", utc_now()},
      {"cpu", environment_.cpu},
      {"device", environment_.device},
      {"driver", environment_.driver.empty() ? Json() : Json(environment_.driver)},
      {"sm_clock_mhz", Json()},
      {"memory_clock_mhz", Json()},
      {"model_name", model.name},
      {"model_type", model.type},
      {"model_size", integer(session.cost().weight_bytes())},
      {"model_n_params", model.n_parameters},
      {"n_layers", text.n_layers},
      {"synthetic", options_.synthetic.on},
      {"seed", int64_t(options_.synthetic.seed)},
      {"backend", "CPU"},
      {"n_threads", int64_t(e.cpu_threads)},
      {"tp", e.topology.tp},
      {"pp", e.topology.pp},
      {"ep", e.topology.ep},
      {"dtype", e.dtype == DType::f32 ? "float32" : "bfloat16"},
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
      {"ceiling_read_bytes_per_s", rates_.read_bytes},
      {"ceiling_flops_per_s", rates_.flops},
      {"routing", e.round_robin_experts ? "uniform" : "router"},
      {"n_experts", text.n_experts},
      {"experts_hit", r.cost.experts},
      {"peak_memory", int64_t(session.peak_bytes())},
      {"samples_ns", numbers(r.seconds, 1e9)},
      {"samples_ts", numbers(ts, 1)},
  };
  f.insert(f.end(), r.more.begin(), r.more.end());
  return f;
}

void Bench::report(const Record& record) {
  out_.add(record);
  err_.add(record);
}

void Bench::finish() {
  const Ceilings after = measure();
  const auto line = [](const char* what, double before, double later, double unit, const char* name) {
    return cat(what, " ", fixed(before / unit, 2), " ", name, " before, ", fixed(later / unit, 2), " after (",
               later >= before ? "+" : "", fixed(percent(later - before, before), 1), " %)");
  };
  const Json drift = Json::Object{
      {"test", "ceilings"},
      {"build_commit", environment_.commit},
      {"device", environment_.device},
      {"test_time", utc_now()},
      {"before", Json::Object{{"read_bytes_per_s", before_.read_bytes}, {"flops_per_s", before_.flops}}},
      {"after", Json::Object{{"read_bytes_per_s", after.read_bytes}, {"flops_per_s", after.flops}}}};
  for (Reporter* to : {&out_, &err_}) {
    to->add_object(drift);
    to->note(cat("build: ", environment_.commit, "; ", environment_.device));
    to->note(cat("ceilings: ", line("read", before_.read_bytes, after.read_bytes, 1e9, "GB/s"), ", ",
                 line("BF16 products", before_.flops, after.flops, 1e12, "TFLOP/s")));
  }
}

}  // namespace l4::bench
