// The accounting of l4-bench against the figures that shared/tools/roofline.py prints, and against hand-worked ones.
#include <cmath>
#include <map>

#include "model/synthetic.h"
#include "support/test.h"
#include "tools/bench/roofline.h"

using namespace l4;
using namespace l4::bench;

namespace {

CostModel cost_model(const std::string& name, Topology topology = {}, DType kv = DType::bf16,
                     const SyntheticFormat& format = {}) {
  const ModelConfig config = synthetic_config(name);
  return CostModel(config, topology, DType::bf16, kv, SyntheticWeights(config, 1, format).all_stored());
}

// FP8's scales of rows, which roofline.py leaves out, and those of the FP8 cache's tokens.
constexpr double kRowScale = 4, kFp8Kv = 2048 + 32, kPlainFp8Kv = 2048;
constexpr double kAttentionRows = 48 * (7168.0 + 5120), kExpertRows = 16384 + 5120, kHeadRows = 202048;

using Row = std::map<std::string, std::string>;  // by column
// The rows of the last Markdown table that roofline.py prints.
std::vector<Row> printed(std::vector<std::string> words) {
  words.insert(words.begin(), {"python3", test::shared_data("../tools/roofline.py").string()});
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

TEST_CASE("bench roofline: decode is roofline.py's, in every format") {
  struct Case {
    std::string model, format, preset;  // ours, roofline.py's
    int n_gpus;
    DType kv;
    std::string group = "128";
  };
  const DType bf16 = DType::bf16, fp8 = DType::f8_e4m3;
  for (const Case& c :
       {Case{"scout", "bf16", "bf16", 1, bf16}, Case{"scout", "bf16", "bf16", 2, bf16},
        Case{"maverick", "bf16", "bf16", 1, bf16}, Case{"maverick", "bf16", "bf16", 2, bf16},
        Case{"scout", "fp8", "fp8", 1, fp8}, Case{"scout", "fp8", "fp8", 2, bf16},
        Case{"scout", "fp8-ffn", "fp8-ffn", 1, bf16}, Case{"maverick", "fp8", "fp8", 1, fp8},
        Case{"maverick", "fp8-experts", "fp8-routed", 2, bf16}, Case{"scout", "int4", "int4", 1, bf16, "32"},
        Case{"scout", "int4-ffn", "int4-ffn", 1, bf16}, Case{"scout", "int4-mix", "int4-mix", 1, fp8},
        Case{"maverick", "int4-mix", "int4-mix", 2, fp8}, Case{"maverick", "int4", "int4", 2, bf16, "64"}}) {
    CAPTURE(c.model);
    CAPTURE(c.format);
    CAPTURE(c.n_gpus);
    const SyntheticFormat format = synthetic_format(c.format, parse_int(c.group).value_or(0));
    const CostModel cost = cost_model(c.model, {.tp = c.n_gpus}, c.kv, format);
    const bool kv8 = c.kv == fp8;
    const Rates rates{3.11e12, 790e12, 1330e12};
    // Scales of a row-parallel linear are on every rank, those of others on one.
    const double n = c.n_gpus, moe = c.model == "scout" ? 48 : 24, dense_rows = (48 - moe) * (32768 + n * 5120);
    const auto scales = [&](WeightFormat f, double rows) { return f == WeightFormat::fp8 ? rows * kRowScale : 0; };
    for (const Row& row :
         printed({"--weights",    c.preset, "--group", c.group,         "--kv",      kv8 ? "fp8" : "bf16",
                  "--model",      c.model,  "--gpu",   "h100",          "--n-gpus",  std::to_string(c.n_gpus),
                  "--table",      "decode", "--batch", "1,8,32,64,256", "--context", "1K,8K,9K,128K",
                  "--local-fill", "exact"})) {
      const int64_t context = int64_t(parse_size(row.at("context")).value_or(0));
      const int64_t batch = parse_int(row.at("batch")).value_or(0);
      CAPTURE(context);
      CAPTURE(batch);
      const double experts = cost.expected_experts(batch);
      StepCost step = cost.step(decode_work(batch, context, 8192), experts);
      for (Part& part : step.parts) {  // what roofline.py leaves out
        if (part.name == "attention") part.bytes -= scales(format.attention, kAttentionRows + (n - 1) * 48 * 5120);
        if (part.name == "shared + dense")
          part.bytes -= scales(format.shared, moe * (kExpertRows + (n - 1) * 5120) + dense_rows);
        if (part.name == "routed") part.bytes -= scales(format.routed, experts * moe * (kExpertRows + (n - 1) * 5120));
        if (part.name == "lm_head") part.bytes -= scales(format.head, kHeadRows);
        if (part.name == "KV" && kv8) part.bytes *= kPlainFp8Kv / kFp8Kv;
        if (part.name == "router") part.bytes /= n, part.flops /= n;  // a whole one on every rank
        if (part.name == "KV written") part.bytes = 0;
      }
      check_printed(experts, row, "experts hit");
      check_printed(step.part("attention").bytes / 1e9, row, "attn GB");
      check_printed(step.part("shared + dense").bytes / 1e9, row, "shared GB");
      check_printed(step.part("routed").bytes / 1e9, row, "routed GB");
      check_printed(step.part("lm_head").bytes / 1e9, row, "lm_head GB");
      check_printed(step.part("KV").bytes / 1e9, row, "KV GB");
      check_printed(step.limit_seconds(rates) * 1e3, row, "step ms");
    }
  }
}

TEST_CASE("bench roofline: the limits that are quoted, all scales counted") {
  struct Case {
    std::string model, format;
    int n_gpus;
    double read_bytes, tokens;  // a second
  };
  for (const Case& c : {Case{"scout", "int4-mix", 1, 3.11e12, 299}, Case{"scout", "int4-mix", 1, 4.56e12, 439},
                        Case{"scout", "fp8", 1, 4.56e12, 264}, Case{"scout", "fp8", 2, 3.11e12, 360},
                        Case{"maverick", "int4-mix", 2, 4.56e12, 876}}) {
    CAPTURE(c.format);
    const CostModel cost = cost_model(c.model, {.tp = c.n_gpus}, DType::f8_e4m3, synthetic_format(c.format, 128));
    const double seconds = cost.step(decode_work(1, 1024, 8192), 1).limit_seconds({c.read_bytes, 790e12, 1330e12});
    CHECK(1 / seconds == doctest::Approx(c.tokens).epsilon(0.004));
  }
}

TEST_CASE("bench roofline: prefill is roofline.py's, products in FP8 at their own rate") {
  for (const auto& [model, format, preset] : {std::tuple{"scout", "bf16", "bf16"},
                                              {"maverick", "bf16", "bf16"},
                                              {"scout", "fp8", "fp8"},
                                              {"scout", "fp8-ffn", "fp8-ffn"},
                                              {"scout", "int4-mix", "int4-mix"},
                                              {"maverick", "fp8-experts", "fp8-routed"}})
    for (const Row& row :
         printed({"--weights", preset, "--model", model, "--table", "prefill", "--context", "2K,8K,32K,128K"})) {
      const int64_t context = int64_t(parse_size(row.at("prompt")).value_or(0));
      CAPTURE(std::string(model));
      CAPTURE(std::string(format));
      CAPTURE(context);
      const CostModel cost = cost_model(model, {}, DType::bf16, synthetic_format(format, 128));
      StepCost step = cost.step(prefill_work(0, context, 8192), 16);
      const double linear = step.flops() - step.part("KV").flops - step.part("lm_head").flops;
      check_printed(linear / double(context) / 1e9, row, "linear GFLOP/token");
      // roofline.py takes context / 2 keys a row for (context + 1) / 2.
      check_printed(step.part("KV").flops / double(context + 1) / 1e9, row, "attention GFLOP/token");
      // It counts neither bytes nor the head.
      for (Part& part : step.parts) {
        part.bytes = 0;
        if (part.name == "KV") part.flops *= double(context) / double(context + 1);
        if (part.name == "lm_head") part.flops = part.fp8_flops = 0;
      }
      check_printed(double(context) / step.limit_seconds({3.11e12, 790e12, 1330e12}), row, "tok/s limit");
    }
}

TEST_CASE("bench roofline: what whole models take") {  // performance.md 1.2's resident bytes, and the scales
  const auto gigabytes = [](const char* model, const char* format, int tp) {
    return cost_model(model, {.tp = tp}, DType::bf16, synthetic_format(format, 128)).weight_bytes() / tp / 1e9;
  };
  // The vision tower (867.9 M parameters in BF16) is not in performance.md's.
  const double vision = 0.8678e9 * 2 / 1e9;
  CHECK(gigabytes("scout", "int4-mix", 1) - vision == doctest::Approx(59.14).epsilon(0.002));
  CHECK(gigabytes("scout", "fp8", 1) - vision == doctest::Approx(109.85).epsilon(0.002));
  CHECK(gigabytes("maverick", "int4-mix", 2) < 110);  // of 149 that a process gets of an H200
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
  const Rates rates{1e12, 1e14, 2e14};
  const StepCost one = cost_model("scout").step(work, 5), pp = cost_model("scout", {.pp = 2}).step(work, 5);
  for (const Topology topology : {Topology{2, 1, 1}, Topology{8, 1, 1}, Topology{4, 1, 4}}) {
    const StepCost split = cost_model("scout", topology).step(work, 5);
    CHECK(split.bytes() - split.part("router").bytes == doctest::Approx(one.bytes() - one.part("router").bytes));
    CHECK(split.limit_seconds(rates) * topology.tp == doctest::Approx(one.limit_seconds(rates)).epsilon(0.01));
  }
  CHECK(pp.bytes() == doctest::Approx(one.bytes()));
  CHECK(pp.limit_seconds(rates) == doctest::Approx(one.limit_seconds(rates)));
}
