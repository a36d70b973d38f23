#include "kernels/cuda/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cuda/memory.h"

namespace l4::cuda {

namespace {
constexpr size_t kPieceBytes = size_t(16) << 20;
constexpr size_t kBufferBytes = kPieceBytes + 2 * DirectFile::kAlign;
constexpr int kSlots = 2;  // of each reader: one is read into while the other is copied from
constexpr size_t kMostQueued = 16;

// Along k, or else along n: whole runs lie one after another in a piece.
bool by_rows(const WeightSlice& s) {
  return s.k_stride == 1;
}

int reader_count() {
  return int(std::clamp(std::thread::hardware_concurrency() / 2, 2u, 8u));
}
}  // namespace

struct WeightLoader::Slot {
  Buffer buffer = pinned_buffer(kBufferBytes, "a buffer for loading");
  cudaEvent_t copied = nullptr;
  Slot() { L4_CUDA(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming)); }
  ~Slot() {
    if (copied) cudaEventDestroy(copied);
  }
  std::span<std::byte> bytes() { return {static_cast<std::byte*>(buffer.data()), buffer.bytes()}; }
};

WeightLoader::WeightLoader(int device) : device_(device) {
  L4_CUDA(cudaSetDevice(device));
  staging_ = device_buffer(kPieceBytes, "loading");
  L4_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  defects_ = std::make_unique<WeightDefects>(stream_);
  for (int i = 0; i < reader_count(); ++i) readers_.emplace_back([this] { read_loop(); });
}

WeightLoader::~WeightLoader() {
  stop();
  cudaSetDevice(device_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void WeightLoader::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (std::thread& reader : readers_) reader.join();
  readers_.clear();
}

// ---- cutting --------------------------------------------------------------------------------------------------------

void WeightLoader::pack(std::span<const WeightSlice> weight, std::span<const WeightSlice> bias,
                        std::span<const WeightSlice> scale, const PackedWeight& to) {
  auto unowned = [](const Buffer& b) { return b ? Buffer(b.data(), b.bytes(), [](void*) {}) : Buffer(); };
  auto alias =
      std::make_shared<PackedWeight>(PackedWeight{to.spec, unowned(to.data), unowned(to.scales), unowned(to.bias)});
  DefectNotes notes;
  if (is_quantized(to.spec.format)) notes = defects_->notes(to);
  auto queue = [&](std::span<const WeightSlice> slices, WeightPart part) {
    for (const WeightSlice& slice : slices)
      cut({counted_in_elements(slice), part, alias, notes, nullptr, nullptr});
  };
  clear_scales(stream_, to);
  const WeightPart part = part_of(to.spec, weight, scale);
  queue(weight, part);
  if (part == WeightPart::largest) {
    drain();
    for (int64_t e = 0; e < to.spec.n_experts; ++e) finish_scales(stream_, e, 0, to.spec.n, to, notes);
    queue(weight, WeightPart::weights);
  }
  queue(bias, WeightPart::bias);
  queue(scale, WeightPart::scales);
}

void WeightLoader::load(const View& to, const std::byte* from, const MappedFile& file) {
  for (size_t done = 0; done < to.bytes(); done += kPieceBytes) {
    const size_t n = std::min(kPieceBytes, to.bytes() - done);
    Piece piece;
    piece.slice.data = from + done;
    piece.slice.file = &file;
    piece.slice.dtype = DType::u8;
    piece.slice.n = 1;
    piece.slice.k = piece.slice.n_stride = int64_t(n);
    piece.copy_to = static_cast<std::byte*>(to.data) + done;
    push(std::move(piece));
  }
}

// Pieces of whole runs along the dense axis: rows, or columns of a transposed slice.
void WeightLoader::cut(Piece whole) {
  WeightSlice& s = whole.slice;
  if (s.n == 0 || s.k == 0) return;
  L4_CHECK(s.file);
  if (s.k == 1) s.k_stride = 1;
  const bool has_runs = (s.k_stride == 1 && (s.n_stride >= s.k || s.n == 1)) || (s.n_stride == 1 && s.k_stride >= s.n);
  if (!has_runs) {
    whole.gathered = gather(s);
    s.data = whole.gathered->data(), s.file = nullptr;
    s.n_stride = s.k, s.k_stride = 1;
  }
  const bool by_rows = cuda::by_rows(s);
  const size_t element = dtype_bytes(s.dtype);
  const int64_t n_runs = by_rows ? s.n : s.k, run = by_rows ? s.k : s.n;
  const int64_t at_once = int64_t(kPieceBytes) / (run * int64_t(element));
  L4_CHECK(at_once > 0, "a run of ", run, " elements");
  for (int64_t first = 0; first < n_runs; first += at_once) {
    Piece piece = whole;
    const int64_t count = std::min(at_once, n_runs - first);
    (by_rows ? piece.slice.n : piece.slice.k) = count;
    (by_rows ? piece.slice.n_offset : piece.slice.k_offset) += first;
    piece.slice.data =
        static_cast<const std::byte*>(s.data) + size_t(first * (by_rows ? s.n_stride : s.k_stride)) * element;
    push(std::move(piece));
  }
}

// Rows that share elements, as scales may (strides of 0): few are read, all are written.
std::shared_ptr<const std::vector<std::byte>> WeightLoader::gather(const WeightSlice& s) {
  const size_t element = dtype_bytes(s.dtype), row = size_t(s.k) * element;
  auto out = std::make_shared<std::vector<std::byte>>(size_t(s.n) * row);
  const uint64_t begin = uint64_t(static_cast<const std::byte*>(s.data) - s.file->bytes().data());
  for (int64_t i = 0; i < s.n; ++i) {
    std::byte* const to = out->data() + size_t(i) * row;
    if (i > 0 && s.n_stride == 0) {
      std::memcpy(to, to - row, row);
      continue;
    }
    for (int64_t j = 0; j < s.k; ++j)
      if (j > 0 && s.k_stride == 0)
        std::memcpy(to + size_t(j) * element, to, element);
      else
        s.file->read_at(begin + uint64_t(i * s.n_stride + j * s.k_stride) * element, {to + size_t(j) * element, element});
  }
  return out;
}

void WeightLoader::push(Piece piece) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || queue_.size() < kMostQueued; });
  if (error_) std::rethrow_exception(error_);
  queue_.push_back(std::move(piece));
  changed_.notify_all();
}

void WeightLoader::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return error_ || (queue_.empty() && busy_ == 0); });
  if (error_) std::rethrow_exception(error_);
}

void WeightLoader::finish() {
  drain();
  stop();
  L4_CUDA(cudaSetDevice(device_));
  L4_CUDA(cudaStreamSynchronize(stream_));
  defects_->check(stream_);
}

// ---- reading and packing --------------------------------------------------------------------------------------------

void WeightLoader::read_loop() {
  std::unique_lock lock(mutex_);
  try {
    lock.unlock();
    L4_CUDA(cudaSetDevice(device_));
    Slot slots[kSlots];
    int next = 0;
    lock.lock();
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || error_ || !queue_.empty(); });
      if (stopping_ || error_) break;
      const Piece piece = std::move(queue_.front());
      queue_.pop_front();
      ++busy_;
      changed_.notify_all();
      lock.unlock();
      Slot& slot = slots[std::exchange(next, (next + 1) % kSlots)];
      L4_CUDA(cudaEventSynchronize(slot.copied));
      issue(piece, read(piece, slot.bytes()), slot);
      lock.lock();
      --busy_;
      changed_.notify_all();
    }
    lock.unlock();
    for (Slot& slot : slots) L4_CUDA(cudaEventSynchronize(slot.copied));
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    if (!error_) error_ = std::current_exception();
    changed_.notify_all();
  }
}

const std::byte* WeightLoader::read(const Piece& piece, std::span<std::byte> buffer) {
  const WeightSlice& s = piece.slice;
  if (piece.gathered) {
    std::memcpy(buffer.data(), s.data, piece.bytes());
    return buffer.data();
  }
  const uint64_t offset = uint64_t(static_cast<const std::byte*>(s.data) - s.file->bytes().data());
  const size_t element = dtype_bytes(s.dtype);
  const bool by_rows = cuda::by_rows(s);
  const size_t run = size_t(by_rows ? s.k : s.n) * element;
  const uint64_t stride = uint64_t(by_rows ? s.n_stride : s.k_stride) * element;
  const DirectFile& file = open(*s.file);
  if (stride == run || piece.bytes() == run) return file.read(offset, piece.bytes(), buffer);
  file.read_runs(offset, run, stride, buffer.first(piece.bytes()));
  return buffer.data();
}

void WeightLoader::issue(const Piece& piece, const std::byte* pinned, Slot& slot) {
  std::lock_guard lock(issue_mutex_);
  void* to = piece.copy_to ? piece.copy_to : staging_.data();
  L4_CUDA(cudaMemcpyAsync(to, pinned, piece.bytes(), cudaMemcpyHostToDevice, stream_));
  L4_CUDA(cudaEventRecord(slot.copied, stream_));
  if (piece.copy_to) return;
  WeightSlice staged = piece.slice;
  staged.data = staging_.data();
  staged.file = nullptr;
  (by_rows(staged) ? staged.n_stride : staged.k_stride) = by_rows(staged) ? staged.k : staged.n;
  pack_piece(stream_, staged, piece.part, *piece.to, piece.defects);
}

const DirectFile& WeightLoader::open(const MappedFile& file) {
  std::lock_guard lock(mutex_);
  std::unique_ptr<DirectFile>& found = files_[&file];
  if (!found) found = std::make_unique<DirectFile>(file);
  return *found;
}

}  // namespace l4::cuda
