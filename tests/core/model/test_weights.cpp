#include "model/weights.h"

#include <map>

#include "engine/executor.h"
#include "model/tensor_names.h"
#include "support/golden_model.h"
#include "support/test.h"

using namespace l4;

namespace {

// Counts how often each element of each checkpoint tensor is taken by the ranks of one pipeline stage and tp rank.
struct Coverage {
  std::map<std::string, std::vector<int>> taken;
  std::map<std::string, Shape> shapes;

  explicit Coverage(const ModelConfig& config) {
    for (const ExpectedTensor& t : expected_tensors(config)) {
      shapes[t.name] = t.shape;
      taken[t.name].assign(size_t(t.shape.elements()), 0);
    }
  }
  void add(const TensorPlan& p) {
    if (p.tensor.empty()) return;
    const Shape& shape = shapes.at(p.tensor);
    int64_t cols = shape.elements() / shape[0];
    for (int64_t i = p.rows.begin * cols; i < p.rows.end * cols; ++i) ++taken.at(p.tensor)[size_t(i)];
  }
  void add(const LinearPlan& p) {
    if (p.spec.n == 0) return;
    int64_t n = 0;
    for (const SlicePlan& s : p.weight) {
      const Shape& shape = shapes.at(s.tensor);
      CHECK(s.n_offset == n);
      CHECK(s.k.size() == p.spec.k);
      n += s.n.size();
      std::vector<int>& t = taken.at(s.tensor);
      for (int64_t i = s.n.begin; i < s.n.end; ++i)
        for (int64_t k = s.k.begin; k < s.k.end; ++k) {
          if (s.fused_experts)
            for (int64_t e = p.experts.begin; e < p.experts.end; ++e) ++t.at(size_t((e * shape[1] + k) * shape[2] + i));
          else
            ++t.at(size_t(i * shape[1] + k));
        }
    }
    CHECK(n == p.spec.n);
    for (const SlicePlan& s : p.bias)
      for (int64_t i = s.n.begin; i < s.n.end; ++i) ++taken.at(s.tensor).at(size_t(i));
  }
};

void add_all(Coverage& c, const WeightPlan& p) {
  for (const TensorPlan* t : {&p.embedding, &p.final_norm, &p.class_embedding, &p.position_embedding, &p.pre_weight,
                              &p.pre_bias, &p.post_weight, &p.post_bias})
    c.add(*t);
  for (const LinearPlan* l : {&p.lm_head, &p.patch, &p.adapter1, &p.adapter2, &p.projector}) c.add(*l);
  for (const auto& w : p.layers) {
    for (const TensorPlan* t : {&w.input_norm, &w.post_norm}) c.add(*t);
    for (const LinearPlan* l : {&w.qkv, &w.o, &w.router, &w.shared_up, &w.shared_down, &w.experts_up, &w.experts_down})
      c.add(*l);
  }
  for (const auto& w : p.vision_layers) {
    for (const TensorPlan* t : {&w.norm1_weight, &w.norm1_bias, &w.norm2_weight, &w.norm2_bias}) c.add(*t);
    for (const LinearPlan* l : {&w.qkv, &w.o, &w.fc1, &w.fc2}) c.add(*l);
  }
}

DType all_bf16(const std::string&) {
  return DType::bf16;
}

}  // namespace

TEST_CASE("weights: the ranks of every topology together take every element of the checkpoint") {
  for (const std::string& name : test::GoldenModel::names()) {
    CAPTURE(name);
    const ModelConfig config = parse_model_config(test::GoldenModel(name).config, "config.json");
    for (Topology t : {Topology{1, 1, 1}, Topology{2, 1, 1}, Topology{2, 1, 2}, Topology{2, 2, 1}, Topology{1, 3, 1}}) {
      if (config.text.n_kv_heads % t.tp || config.text.vocab % t.tp || config.text.n_experts % t.ep) continue;
      Coverage c(config);
      for (int rank = 0; rank < t.world(); ++rank)
        add_all(c, plan_weights(config, shard_of(config, t, rank), DType::bf16, all_bf16));
      for (const ExpectedTensor& expected : expected_tensors(config)) {
        const std::vector<int>& taken = c.taken.at(expected.name);
        // Split tensors are taken once; the small ones that every rank of a stage needs, once a rank.
        const bool replicated = expected.part == ModelPart::text_norm || expected.part == ModelPart::router ||
                                expected.part == ModelPart::vision || expected.part == ModelPart::projector;
        const bool twice = config.text.tied_embeddings && expected.part == ModelPart::embedding;
        const int wanted = replicated ? t.tp : twice ? 2 : 1;
        CAPTURE(expected.name);
        CHECK(std::count(taken.begin(), taken.end(), wanted) == int64_t(taken.size()));
      }
    }
  }
}

TEST_CASE("weights: bytes of the official models are those of the specification") {
  for (auto [folder, file, parameters] :
       {std::tuple{"meta-llama--Llama-4-Scout-17B-16E-Instruct", "config.json", uint64_t(108641793536)},
        std::tuple{"meta-llama--Llama-4-Maverick-17B-128E-Instruct", "config.assembled.json",
                   uint64_t(401583781376)}}) {
    const auto path = test::shared_data(cat("config/", folder, "/", file));
    const ModelConfig config = parse_model_config(parse_json(read_file(path, 1 << 20), file), file);
    uint64_t bytes = 0;
    for (const PartBytes& p :
         weight_bytes_by_part(plan_weights(config, shard_of(config, {}, 0), DType::bf16, all_bf16), DType::bf16))
      bytes += p.bytes;
    CHECK(bytes == 2 * parameters);
    // Eight ranks hold one copy of everything but norms, routers and vision, which each holds whole.
    uint64_t split = 0;
    for (int rank = 0; rank < 8; ++rank)
      for (const PartBytes& p : weight_bytes_by_part(
               plan_weights(config, shard_of(config, {8, 1, 1}, rank), DType::bf16, all_bf16), DType::bf16))
        if (p.part != "vision" && p.part != "norms" && p.part != "router") split += p.bytes;
    CHECK(split < bytes);
    CHECK(split > bytes / 100 * 99);
  }
}
