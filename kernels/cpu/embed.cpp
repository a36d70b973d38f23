// Token rows from the embedding table, then image rows from the encoder cache (llama4-spec 2.1, 3.7).
#include <cstring>

#include "kernels/cpu/ops.h"

namespace l4::cpu {

void embed_tokens(ThreadPool& pool, const EmbedArgs& args) {
  const size_t row_bytes = size_t(args.x.cols()) * dtype_bytes(args.x.dtype);
  const int64_t n_local = args.table.rows();
  L4_CHECK(args.table.dtype == args.x.dtype && args.x.rows() == args.step->n_rows());
  pool.parallel_for(args.x.rows(), row_grain(args.x.cols()), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t id = args.step->ids[size_t(t)] - args.first_vocab;
      std::byte* to = static_cast<std::byte*>(args.x.data) + size_t(t) * row_bytes;
      if (id >= 0 && id < n_local)
        std::memcpy(to, static_cast<const std::byte*>(args.table.data) + size_t(id) * row_bytes, row_bytes);
      else
        std::memset(to, 0, row_bytes);
    }
  });
}

void place_features(ThreadPool& pool, const EmbedArgs& args) {
  const size_t row_bytes = size_t(args.x.cols()) * dtype_bytes(args.x.dtype);
  const std::vector<ImageRow>& rows = args.step->image_rows;
  if (rows.empty()) return;
  L4_CHECK(args.features.dtype == args.x.dtype && args.features.cols() == args.x.cols());
  pool.parallel_for(int64_t(rows.size()), row_grain(args.x.cols()), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const ImageRow& r = rows[size_t(i)];
      L4_CHECK(r.row >= 0 && r.row < args.x.rows() && r.feature >= 0 && r.feature < args.features.rows());
      std::memcpy(static_cast<std::byte*>(args.x.data) + size_t(r.row) * row_bytes,
                  static_cast<const std::byte*>(args.features.data) + size_t(r.feature) * row_bytes, row_bytes);
    }
  });
}

}  // namespace l4::cpu
