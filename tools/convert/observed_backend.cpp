#include "tools/convert/observed_backend.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace l4::convert {

std::vector<float> ObservedBackend::floats(const View& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  if (view.dtype == DType::f32) {
    backend_.download(values.data(), view);
    return values;
  }
  std::vector<BFloat16> raw(values.size());
  L4_CHECK(view.dtype == DType::bf16);
  backend_.download(raw.data(), view);
  for (size_t i = 0; i < raw.size(); ++i) values[i] = to_float(raw[i]);
  return values;
}

void ObservedBackend::observe(Site site, const View& rows) {
  if (observer_.wants(site, -1)) observer_.inputs(site, -1, floats(rows));
}

template <class Gather>
void ObservedBackend::observe_experts(Site site, const Route& route, int64_t width, const Gather& gather) {
  std::vector<int32_t> chosen(static_cast<size_t>(route.expert.elements()));
  backend_.download(chosen.data(), route.expert);
  std::vector<float> rows;
  for (int64_t e = 0, n_before = 0; e < n_experts_; ++e) {
    const bool wanted = observer_.wants(site, e);
    rows.clear();
    for (size_t c = 0; c < chosen.size(); ++c)
      if (chosen[c] == e) {
        if (wanted) gather(int64_t(c), n_before, rows);
        ++n_before;
      }
    if (!wanted) continue;
    L4_CHECK(int64_t(rows.size()) % width == 0);
    if (!rows.empty()) observer_.inputs(site, e, rows);
  }
}

void ObservedBackend::qkv(const QkvArgs& a) {
  observe(Site::qkv, a.h);
  backend_.qkv(a);
  if (!observer_.wants_cache()) return;
  const KvLayout& layout = a.kv.layout;
  const KvPlan& plan = a.step->of(a.kv.kind);
  const auto largest = [&](int64_t page, int64_t offset, int64_t first, int64_t end) {
    const Shape shape{layout.n_kv_heads, layout.page_tokens, layout.head_dim};
    std::byte* at = static_cast<std::byte*>(a.kv.base) + page * a.kv.page_stride + offset;
    const std::vector<float> values = floats({at, layout.dtype, shape});
    float most = 0;
    for (int64_t head = 0; head < layout.n_kv_heads; ++head)
      for (int64_t i = first * layout.head_dim; i < end * layout.head_dim; ++i)
        most = std::max(most, std::fabs(values[size_t(head * layout.page_tokens * layout.head_dim + i)]));
    return most;
  };
  float k = 0, v = 0;
  for (const KvSpan& span : plan.spans)  // the tokens that this step wrote, page by page
    for (int64_t token = span.past; token < span.past + span.n_rows;) {
      const int64_t index = token / layout.page_tokens, first = token - index * layout.page_tokens;
      const int64_t end = std::min(layout.page_tokens, span.past + span.n_rows - index * layout.page_tokens);
      const int64_t page = plan.pages[size_t(span.table + index)];
      k = std::max(k, largest(page, layout.k_offset, first, end));
      v = std::max(v, largest(page, layout.v_offset, first, end));
      token += end - first;
    }
  observer_.cache(k, v);
}

void ObservedBackend::attn_out(const AttnOutArgs& a) {
  observe(Site::o, a.attn);
  backend_.attn_out(a);
}

void ObservedBackend::ffn_up(const FfnUpArgs& a) {
  observe(Site::shared_up, a.h);
  if (a.experts) {
    const int64_t width = a.h.cols();
    std::vector<float> h, score;
    observe_experts(Site::expert_up, a.route, width, [&](int64_t choice, int64_t, std::vector<float>& rows) {
      if (h.empty()) h = floats(a.h), score = floats(a.route.score);
      const float* from = &h[size_t(choice / a.route.top_k * width)];
      rows.resize(rows.size() + size_t(width));
      float* to = &rows[rows.size() - size_t(width)];
      for (int64_t i = 0; i < width; ++i) {
        const float x = from[i] * score[size_t(choice)];
        to[i] = a.h.dtype == DType::bf16 ? round_bf16(x) : x;
      }
    });
  }
  backend_.ffn_up(a);
}

void ObservedBackend::ffn_down(const FfnDownArgs& a) {
  observe(Site::shared_down, a.act_shared);
  if (a.experts) {
    const int64_t width = a.act_routed.cols();
    // Only ffn_down reads what ffn_up leaves: kernels for more than a few rows keep it expert after expert.
    const std::string kernel = backend_.kernel_of(a);
    const bool in_order_of_choices = kernel.empty() || kernel == "small_m";
    std::vector<float> act;
    observe_experts(Site::expert_down, a.route, width,
                    [&](int64_t choice, int64_t by_expert, std::vector<float>& rows) {
                      if (act.empty()) act = floats(a.act_routed);
                      const int64_t at = in_order_of_choices ? choice : by_expert;
                      rows.insert(rows.end(), act.begin() + at * width, act.begin() + (at + 1) * width);
                    });
  }
  backend_.ffn_down(a);
}

}  // namespace l4::convert
