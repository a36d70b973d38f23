// What all modes share: the flags, the models and their loading, the ceilings measured before and after, and one result's
// way to a row and an object.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "l4.h"
#include "ops/ceilings.h"
#include "tools/bench/environment.h"
#include "tools/bench/report.h"
#include "tools/bench/session.h"
#include "tools/common/flags.h"

namespace l4::bench {

struct CommonOptions {
  std::vector<std::string> models;  // at least one; "": the demo
  SyntheticOptions synthetic;
  Device device = Device::automatic;
  std::optional<DType> dtype, kv_dtype;
  QuantizeAtLoad quantize;
  std::optional<int> threads, tp, pp, ep;
  bool round_robin_experts = false, batch_invariant = false, many_launches = false;
  std::optional<int64_t> repeats;
  bool warmup = true;
  Format out = Format::markdown, err = Format::none;

  Topology topology() const { return {tp.value_or(1), pp.value_or(1), ep.value_or(1)}; }
};

constexpr int64_t kMostTokens = int64_t(16) << 20;  // of a prompt, an answer, a context

void add_common_flags(tools::Flags& flags, CommonOptions& options);
void add_synthetic_flags(tools::Flags& flags, SyntheticOptions& options);  // all but --synthetic itself
void add_list_flag(tools::Flags& flags, const std::string& names, const std::string& help, int64_t low, int64_t high,
                   std::vector<int64_t>* target);

// One measured thing: samples of a time in which n_tokens were computed.
struct Result {
  std::string test;  // "pp512 @ d4096"
  int64_t n_prompt = 0, n_gen = 0, n_depth = 0, n_sequences = 1, n_batch = 0;
  int64_t n_tokens = 0;
  std::vector<double> seconds;
  std::vector<StepRun> steps;  // of all samples
  RunCost cost;                // of all samples
  Json::Object more;           // further fields
};

// Adds a run as one sample, or as one sample a step.
void add_sample(Result& result, Run run);
void add_samples(Result& result, Run run);

class Bench {
 public:
  // Measures the ceilings, unless nobody will ask for them: limits are unknown then, and finish() says nothing.
  explicit Bench(const CommonOptions& options, bool with_ceilings = true);

  int64_t default_batch_tokens() const;
  bool on_gpu() const { return !gpus_.empty(); }
  // The first rank's device by itself, for steps as large as these.
  std::unique_ptr<Backend> make_backend(std::span<const StepPlan> steps, int64_t page_tokens) const;
  // cuBLASLt's time for a product; nothing where there is none.
  std::optional<double> library_seconds(const ProductShape& shape) const;
  // Loads a model with room for what `sizes` says. Error{usage} where the model's context is shorter.
  std::unique_ptr<Session> load(const BenchModel& model, SessionOptions sizes) const;
  const Rates& rates() const { return rates_; }

  // The columns of every table, after those of the mode itself.
  std::vector<Cell> cost_cells(const Session& session, const Result& result) const;
  std::vector<Cell> model_cells(const BenchModel& model, const Session& session) const;
  std::string format(const BenchModel& model) const;
  Cell format_cell(const BenchModel& model) const;
  Json::Object common_fields() const;  // build, machine, ceilings
  Json::Object fields(const BenchModel& model, const Session& session, const Result& result) const;
  void report(const Record& record);

  // Measures the ceilings again and says how they moved.
  void finish();

 private:
  Ceilings measure() const;
  DType activation(const BenchModel& model) const;

  const CommonOptions& options_;
  std::vector<int> gpus_;  // of the ranks; none: the CPU
  Environment environment_;
  const bool with_ceilings_;
  Ceilings before_;
  Rates rates_;
  Reporter out_, err_;
};

std::string fixed(double value, int digits);  // 12.34
Cell number_cell(std::string header, std::string text, size_t width = 0);
Json numbers(const std::vector<double>& values, double scale);
std::string mean_and_deviation(const std::vector<double>& values);

}  // namespace l4::bench
