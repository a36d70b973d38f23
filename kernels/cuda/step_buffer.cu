#include "kernels/cuda/step_buffer.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/memory.h"

namespace l4::cuda {

namespace {

constexpr size_t kAlign = 64;

size_t aligned(size_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

// Parts one after another, in host memory and, at the same offsets, on the device.
class Writer {
 public:
  Writer(std::byte* host, const std::byte* device) : host_(host), device_(device) {}

  template <class T>
  T* take(size_t n, const T*& on_device) {
    T* at = reinterpret_cast<T*>(host_ + used_);
    on_device = reinterpret_cast<const T*>(device_ + used_);
    used_ += aligned(n * sizeof(T));
    return at;
  }
  template <class T>
  void put(const std::vector<T>& values, const T*& on_device) {
    T* at = take(values.size(), on_device);
    if (!values.empty()) std::memcpy(at, values.data(), values.size() * sizeof(T));
  }
  size_t used() const { return used_; }

 private:
  std::byte* host_;
  const std::byte* device_;
  size_t used_ = 0;
};

}  // namespace

size_t step_bytes_limit(const CudaOptions& o) {
  const size_t rows = size_t(o.max_rows);
  size_t bytes = 2 * aligned(rows * sizeof(int32_t)) + aligned(size_t(o.max_out_rows) * sizeof(int32_t)) +
                 aligned(rows * sizeof(ImageRow));
  for (int kind = 0; kind < kNumAttentionKinds; ++kind)
    bytes += aligned(rows * sizeof(KvSpan)) + aligned(rows * sizeof(int32_t));
  return bytes + aligned(size_t(o.max_table_pages) * sizeof(int32_t));
}

size_t write_step(const StepPlan& plan, int64_t page_tokens, std::byte* host, const std::byte* device,
                  DeviceStep& step) {
  Writer out(host, device);
  step.n_rows = int32_t(plan.n_rows());
  step.n_out = int32_t(plan.n_out());
  step.n_image_rows = int32_t(plan.image_rows.size());
  out.put(plan.ids, step.ids);
  out.put(plan.positions, step.positions);
  out.put(plan.out_rows, step.out_rows);
  out.put(plan.image_rows, step.image_rows);

  int32_t table_begin = 0;
  for (int kind = 0; kind < kNumAttentionKinds; ++kind) {
    const KvPlan& from = plan.kv[kind];
    DeviceKvPlan& to = step.kv[kind];
    to.n_spans = int32_t(from.spans.size());
    to.max_rows = 0;
    KvSpan* spans = out.take(from.spans.size(), to.spans);
    int32_t* slots = out.take(plan.ids.size(), to.slots);
    for (size_t i = 0; i < from.spans.size(); ++i) {
      KvSpan span = from.spans[i];
      to.max_rows = std::max(to.max_rows, span.n_rows);
      for (int32_t r = 0; r < span.n_rows; ++r) {
        const int64_t index = int64_t(span.past) + r;
        const int64_t page = from.pages[size_t(span.table + index / page_tokens)];
        const bool is_nobodys = plan.positions[size_t(span.row + r)] < 0;
        slots[span.row + r] = is_nobodys ? -1 : int32_t(page * page_tokens + index % page_tokens);
      }
      span.table += table_begin;
      spans[i] = span;
    }
    table_begin += int32_t(from.pages.size());
  }
  const int32_t* on_device = nullptr;
  int32_t* tables = out.take(size_t(table_begin), on_device);
  for (int kind = 0; kind < kNumAttentionKinds; ++kind) {
    step.kv[kind].pages = on_device;
    tables = std::copy(plan.kv[kind].pages.begin(), plan.kv[kind].pages.end(), tables);
  }
  return out.used();
}

StepBuffer::StepBuffer(const CudaOptions& options)
    : options_(options),
      limit_bytes_(step_bytes_limit(options)),
      device_(device_buffer(limit_bytes_, "the step's plan")) {
  for (int i = 0; i < kSlots; ++i) {
    host_[i] = pinned_buffer(limit_bytes_, "the step's plan");
    L4_CUDA(cudaEventCreateWithFlags(&copied_[i], cudaEventDisableTiming));
  }
}

StepBuffer::~StepBuffer() {
  for (cudaEvent_t event : copied_)
    if (event) cudaEventDestroy(event);
}

DeviceStep StepBuffer::upload(const StepPlan& plan, cudaStream_t stream) {
  int64_t n_pages = 0;
  for (const KvPlan& kv : plan.kv) n_pages += int64_t(kv.pages.size());
  L4_CHECK(plan.n_rows() <= options_.max_rows && plan.n_out() <= options_.max_out_rows &&
               int64_t(plan.image_rows.size()) <= options_.max_rows && n_pages <= options_.max_table_pages,
           "a step of ", plan.n_rows(), " rows, ", plan.n_out(), " outputs, ", n_pages, " pages: at most ",
           options_.max_rows, ", ", options_.max_out_rows, ", ", options_.max_table_pages);
  const int slot = next_;
  next_ = (next_ + 1) % kSlots;
  L4_CUDA(cudaEventSynchronize(copied_[slot]));  // at once where it was never recorded
  DeviceStep step;
  const size_t bytes = write_step(plan, options_.page_tokens, static_cast<std::byte*>(host_[slot].data()),
                                  static_cast<const std::byte*>(device_.data()), step);
  L4_CHECK(bytes <= limit_bytes_);
  L4_CUDA(cudaMemcpyAsync(device_.data(), host_[slot].data(), bytes, cudaMemcpyHostToDevice, stream));
  L4_CUDA(cudaEventRecord(copied_[slot], stream));
  return step;
}

}  // namespace l4::cuda
