// The accounting of l4-bench against the figures that shared/tools/roofline.py prints, and against hand-worked ones.
#include <cmath>
#include <map>

#include "model/synthetic.h"
#include "support/test.h"
#include "tools/bench/roofline.h"

using namespace l4;
using namespace l4::bench;

namespace {

const StoredWeights kBf16 = [](const std::string&) { return DType::bf16; };

CostModel cost_model(const std::string& name, Topology topology = {}, DType kv = DType::bf16) {
  return CostModel(synthetic_config(name), topology, DType::bf16, kv, kBf16);
}

using Row = std::map<std::string, std::string>;  // by column
// The rows of the last Markdown table that roofline.py prints.
std::vector<Row> printed(std::vector<std::string> words) {
  words.insert(words.begin(), {"python3", test::shared_data("../tools/roofline.py").string(), "--weights", "bf16"});
  const test::Result r = test::run(words);
  if (r.status == 127) L4_SKIP("python3 is not here");
  REQUIRE_MESSAGE(r.status == 0, r.err);
  std::vector<std::string> header;
  std::vector<Row> rows;
  for (const std::string& line : split(r.out, '\n')) {
    if (line.empty() || line[0] != '|' || line.starts_with("| ---")) continue;
    std::vector<std::string> cells;
    for (const std::string& cell : split(line.substr(1, line.size() - 2), '|')) cells.emplace_back(trim(cell));
    if (header.empty()) {
      header = cells;
      continue;
    }
    Row row;
    REQUIRE(cells.size() == header.size());
    for (size_t i = 0; i < cells.size(); ++i) row[header[i]] = cells[i];
    rows.push_back(row);
  }
  REQUIRE(!rows.empty());
  return rows;
}

// A printed number: its last digit may be off by half.
void check_printed(double ours, const Row& row, const std::string& column) {
  CAPTURE(column);
  std::string text = row.at(column);
  std::erase(text, ',');
  const size_t point = text.find('.');
  const double last = point == std::string::npos ? 1 : std::pow(10.0, -double(text.size() - point - 1));
  const double theirs = parse_double(text).value_or(NAN);
  CHECK_MESSAGE(std::abs(ours - theirs) <= 0.5001 * last + 1e-4 * std::abs(theirs), ours, " and ", text);
}

}  // namespace

TEST_CASE("bench roofline: decode is roofline.py's") {
  for (const std::string model : {"scout", "maverick"})
    for (const int n_gpus : {1, 2}) {
      CAPTURE(model);
      const CostModel cost = cost_model(model, {.tp = n_gpus});
      for (const Row& row : printed({"--model", model, "--gpu", "h100", "--n-gpus", std::to_string(n_gpus), "--table",
                                     "decode", "--batch", "1,2,8,64,256", "--context", "1K,8K,9K,128K", "--local-fill",
                                     "exact"})) {
        const int64_t context = int64_t(parse_size(row.at("context")).value_or(0));
        const int64_t batch = parse_int(row.at("batch")).value_or(0);
        CAPTURE(context);
        CAPTURE(batch);
        const double experts = cost.expected_experts(batch);
        const StepCost step = cost.step(decode_work(batch, context, 8192), experts);
        check_printed(experts, row, "experts hit");
        check_printed(step.part("attention").bytes / 1e9, row, "attn GB");
        check_printed(step.part("shared + dense").bytes / 1e9, row, "shared GB");
        check_printed(step.part("routed").bytes / 1e9, row, "routed GB");
        check_printed(step.part("lm_head").bytes / 1e9, row, "lm_head GB");
        check_printed(step.part("KV").bytes / 1e9, row, "KV GB");
        // roofline.py counts nothing written, and one router where every rank has its own.
        const double written = step.part("KV written").bytes, copies = step.part("router").bytes * (1 - 1.0 / n_gpus);
        const double seconds = step.limit_seconds({3.11e12, 790e12}) - (written + copies) / (n_gpus * 3.11e12);
        check_printed(seconds * 1e3, row, "step ms");
      }
    }
}

TEST_CASE("bench roofline: prefill is roofline.py's") {
  for (const std::string model : {"scout", "maverick"})
    for (const Row& row : printed({"--model", model, "--table", "prefill", "--context", "2K,8K,32K,128K"})) {
      const int64_t context = int64_t(parse_size(row.at("prompt")).value_or(0));
      CAPTURE(model);
      CAPTURE(context);
      const CostModel cost = cost_model(model);
      const StepCost step = cost.step(prefill_work(0, context, 8192), 16);
      const double linear =
          step.flops() - step.part("KV").flops - step.part("lm_head").flops;
      check_printed(linear / double(context) / 1e9, row, "linear GFLOP/token");
      // roofline.py takes context / 2 keys a row for (context + 1) / 2.
      check_printed(step.part("KV").flops / double(context + 1) / 1e9, row, "attention GFLOP/token");
    }
}

TEST_CASE("bench roofline: bytes of a step by hand") {
  // Scout, one token: 48 layers of 62,914,560 + 2 * 125,829,120 weights and the head (performance.md 1.1), two bytes each.
  const CostModel cost = cost_model("scout");
  const StepCost step = cost.step(decode_work(1, 1, 8192), 1);
  CHECK(step.part("attention").bytes == 48 * 62914560.0 * 2);
  CHECK(step.part("shared + dense").bytes == 48 * 125829120.0 * 2);
  CHECK(step.part("routed").bytes == 48 * 125829120.0 * 2);
  CHECK(step.part("router").bytes == 48 * 81920.0 * 2);
  CHECK(step.part("lm_head").bytes == 1034485760.0 * 2);
  CHECK(step.part("KV").bytes == 48 * 4096.0);
  CHECK(step.part("KV written").bytes == 48 * 4096.0);
  CHECK(cost.weight_bytes() == doctest::Approx((108641793536.0 * 2)));
  // An FP8 cache: a byte each, and two bytes for K's and V's scale of each of 8 heads.
  const StepCost fp8 = cost_model("scout", {}, DType::f8_e4m3).step(decode_work(1, 1, 8192), 1);
  CHECK(fp8.part("KV").bytes == 48 * (2048.0 + 32));
  CHECK(fp8.part("KV written").bytes == 48 * (2048.0 + 32));
  CHECK(fp8.bytes() - fp8.part("KV").bytes * 2 == step.bytes() - step.part("KV").bytes * 2);
  // A prefill step that is not the last reads no head.
  StepWork work = prefill_work(0, 100, 8192);
  work.n_out = 0;
  CHECK(cost.step(work, 16).part("lm_head").bytes == 0);
  CHECK(cost.step(work, 16).part("KV").flops == 48 * 4.0 * 40 * 128 * (100 * 101 / 2));
}

TEST_CASE("bench roofline: a plan's shapes are those of the positions") {
  // Rows 6 .. 17 of a sequence with chunks of 8: stretches of 2, 8 and 2 rows.
  const StepWork work = prefill_work(6, 12, 8);
  CHECK(work.kv_read[int(AttentionKind::global)] == 18);
  CHECK(work.kv_read[int(AttentionKind::chunked)] == 8 + 8 + 2);
  CHECK(work.kv_pairs[int(AttentionKind::global)] == (18 * 19 - 6 * 7) / 2);
  CHECK(work.kv_pairs[int(AttentionKind::chunked)] == 7 + 8 + 36 + 3);

  StepPlan plan;
  plan.ids.resize(12);
  plan.out_rows = {11};
  plan.of(AttentionKind::global).spans = {{0, 12, 6, 0}};
  plan.of(AttentionKind::chunked).spans = {{0, 2, 6, 0}, {2, 8, 0, 0}, {10, 2, 0, 0}};
  const StepWork same = work_of(plan);
  for (int kind = 0; kind < kNumAttentionKinds; ++kind) {
    CHECK(same.kv_read[kind] == work.kv_read[kind]);
    CHECK(same.kv_pairs[kind] == work.kv_pairs[kind]);
  }
  CHECK(same.n_rows == 12);
  CHECK(same.n_out == 1);
}

TEST_CASE("bench roofline: splitting over devices divides the time and keeps the bytes") {
  const StepWork work = decode_work(8, 4096, 8192);
  const Rates rates{1e12, 1e14};
  const StepCost one = cost_model("scout").step(work, 5), pp = cost_model("scout", {.pp = 2}).step(work, 5);
  for (const Topology topology : {Topology{2, 1, 1}, Topology{8, 1, 1}, Topology{4, 1, 4}}) {
    const StepCost split = cost_model("scout", topology).step(work, 5);
    CHECK(split.bytes() - split.part("router").bytes == doctest::Approx(one.bytes() - one.part("router").bytes));
    CHECK(split.limit_seconds(rates) * topology.tp == doctest::Approx(one.limit_seconds(rates)).epsilon(0.01));
  }
  CHECK(pp.bytes() == doctest::Approx(one.bytes()));
  CHECK(pp.limit_seconds(rates) == doctest::Approx(one.limit_seconds(rates)));
}
