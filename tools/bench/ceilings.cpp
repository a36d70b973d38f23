#include "tools/bench/ceilings.h"

#include "l4/load_plan.h"
#include "ops/cuda_devices.h"

namespace l4::bench {

namespace {

class Table {
 public:
  Table(const CommonOptions& options, std::string device, Json::Object about)
      : device_(std::move(device)), about_(std::move(about)), out_(options.out, stdout), err_(options.err, stderr) {}

  // `value` in plain units (bytes or FLOPs a second, seconds), `shown` for people.
  void add(const std::string& what, double value, const std::string& shown, const std::string& unit) {
    Record record;
    record.cells = {{"device", device_, false, 10}, {"what", what, false, 46}, {"value", shown, true, 9}, {"unit", unit, false}};
    Json::Object fields = about_;
    fields.insert(fields.end(), {{"test", "ceiling"}, {"what", what}, {"value", value}, {"unit", unit}});
    record.fields = std::move(fields);
    out_.add(record);
    err_.add(record);
  }
  void bytes(const std::string& what, double rate) { add(what, rate, fixed(rate / 1e9, 1), "GB/s"); }
  void flops(const std::string& what, double rate) { add(what, rate, fixed(rate / 1e12, 2), "TFLOP/s"); }
  void micros(const std::string& what, double seconds) { add(what, seconds, fixed(seconds * 1e6, 2), "us"); }

 private:
  const std::string device_;
  const Json::Object about_;
  Reporter out_, err_;
};

Json::Object about(const std::string& device, const CudaClocks& clocks) {
  const Environment e = find_environment(device);
  const auto number = [](const std::optional<int>& n) { return n ? Json(*n) : Json(); };
  return {{"build_commit", e.commit},
          {"test_time", utc_now()},
          {"cpu", e.cpu},
          {"device", device},
          {"driver", clocks.driver.empty() ? Json() : Json(clocks.driver)},
          {"sm_clock_mhz", number(clocks.sm_mhz)},
          {"memory_clock_mhz", number(clocks.memory_mhz)}};
}

void report_cpu(const CommonOptions& o) {
  const int n_threads = o.threads.value_or(0);
  const std::string device = make_cpu_backend(n_threads)->device_name();
  Table table(o, device, about(device, {}));
  const Ceilings c = measure_cpu_ceilings(n_threads);
  table.bytes("read", c.read_bytes);
  table.flops("BF16 product, our own, 256 x 2048 x 2048", c.flops);
}

std::vector<ProductShape> products_to_measure(const CeilingSizes& sizes) {
  std::vector<ProductShape> products;
  for (const bool fp8 : {false, true})
    products.push_back({sizes.product, sizes.product, sizes.product, fp8, ""});
  if (sizes.product < 8192) return products;
  const ModelConfig scout = synthetic_config("scout");
  for (const bool fp8 : {false, true})
    for (const int64_t rows : {16, 64, 8192})
      for (const ProductShape& shape : model_products(scout, 1, rows, fp8)) products.push_back(shape);
  return products;
}

void report_gpu(const CommonOptions& o, const CeilingSizes& sizes, const CudaDevice& gpu) {
  Table table(o, gpu.name, about(gpu.name, read_cuda_clocks(gpu.index)));
  const std::vector<ProductShape> products = products_to_measure(sizes);
  const CudaReport r = measure_cuda_report(gpu.index, products, sizes);
  table.bytes(cat("read, ", r.read_blocks_per_sm, " x 512 threads a multiprocessor"), r.read_bytes);
  table.bytes("copy, read + written", r.copy_bytes);
  for (const ProductRate& p : r.products)
    table.flops(cat(p.shape.fp8 ? "FP8" : "BF16", " cuBLASLt ", p.shape.what.empty() ? "" : p.shape.what + ", ", p.shape.m,
                    " x ", p.shape.n, " x ", p.shape.k),
                p.flops);
  table.micros("kernel to kernel in a graph", r.graph_edge_seconds);
  table.micros("the same, programmatic launches", r.programmatic_edge_seconds);
  table.micros("barrier of all multiprocessors", r.grid_sync_seconds);
}

void report_pair(const CommonOptions& o, const CeilingSizes& sizes, const CudaDevice& a, const CudaDevice& b) {
  constexpr uint64_t kBytes[] = {10 << 10, 40 << 10, 160 << 10, 640 << 10, 2560 << 10, 20 << 20};
  const std::string name = cat(a.name, ", ", a.index, " and ", b.index);
  Table table(o, name, about(name, read_cuda_clocks(a.index)));
  const PairReport r = measure_cuda_pair(a.index, b.index, kBytes, sizes);
  table.add("peer access", r.peer_access, r.peer_access ? "yes" : "no", "");
  table.bytes("copy to the peer", r.copy_bytes);
  for (const PairReport::AllReduce& sum : r.all_reduce)
    table.micros(cat("all-reduce of ", human_bytes(sum.bytes), " in a graph"), sum.seconds);
}

}  // namespace

std::vector<ProductShape> model_products(const ModelConfig& config, int tp, int64_t n_rows, bool fp8) {
  const TextConfig& t = config.text;
  const int64_t q = t.n_heads * t.head_dim / tp, kv = t.n_kv_heads * t.head_dim / tp, f = t.ffn / tp;
  return {{n_rows, q + 2 * kv, t.hidden, fp8, "qkv"},
          {n_rows, t.hidden, q, fp8, "o"},
          {n_rows, 2 * f, t.hidden, fp8, "gate_up"},
          {n_rows, t.hidden, f, fp8, "down"}};
}

void run_ceilings(const CeilingsOptions& o) {
  const CudaDevices found = list_cuda_devices();
  LoadOptions load;
  load.device = o.common.device;
  if (choose_gpus(load, found).empty()) return report_cpu(o.common);
  std::vector<CudaDevice> gpus;
  for (const CudaDevice& gpu : found.devices)
    if (gpu.usable()) gpus.push_back(gpu);
  report_gpu(o.common, o.sizes, gpus[0]);
  if (gpus.size() > 1) report_pair(o.common, o.sizes, gpus[0], gpus[1]);
}

}  // namespace l4::bench
