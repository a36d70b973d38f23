// l4-bench as people start it, and its parts.
#include "model/quantization.h"
#include "tools/bench/checkpoint.h"
#include "tools/bench/lists.h"
#include "tools/bench/session.h"
#include "tools/common/statistics.h"
#include "tools/run_tool.h"

using namespace l4::test;
using l4::Json;

namespace {

Result bench(const std::vector<std::string>& words) {
  return run(tool("l4-bench", words));
}

// The objects of its JSON lines.
std::vector<Json> results_of(const std::vector<std::string>& words) {
  const Result r = bench(words + std::vector<std::string>{"-o", "jsonl"});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(r.err == "");
  std::vector<Json> out;
  for (const std::string& line : l4::split(r.out, '\n'))
    if (!line.empty()) out.push_back(l4::parse_json(line, "a line"));
  return out;
}

double number(const Json& object, const char* field) {
  const Json* value = object.find(field);
  REQUIRE_MESSAGE(value, std::string(field));
  return value->as_number();
}

std::string text(const Json& object, const char* field) {
  const Json* value = object.find(field);
  REQUIRE_MESSAGE(value, std::string(field));
  return value->as_string();
}

const std::vector<std::string> kTiny = {"-m", "tiny", "--synthetic"};

}  // namespace

// ---- its parts ------------------------------------------------------------------------------------------------------

TEST_CASE("bench: lists of numbers") {
  using l4::bench::parse_numbers;
  using List = std::vector<int64_t>;
  CHECK(parse_numbers("512", 0, 1 << 20) == List{512});
  CHECK(parse_numbers("1K, 8K,0", 0, 1 << 20) == List{1024, 8192, 0});
  CHECK(parse_numbers("0-64+16", 0, 100) == List{0, 16, 32, 48, 64});
  CHECK(parse_numbers("128-1024*2,7", 0, 2048) == List{128, 256, 512, 1024, 7});
  CHECK(parse_numbers("3-5", 0, 10) == List{3, 4, 5});
  CHECK(parse_numbers("4-2048*2", 1, 2048).size() == 10);  // the next one would be out of range
  for (const char* bad : {"", "x", "-1", "101", "5-3", "0-100*2", "1-10+0", "1-10*1", "1-", "-", "1,,2", "1-5-9",
                          "99999999999999999999", "1.5.5"}) {
    CAPTURE(std::string(bad));
    CHECK(error_of([&] { parse_numbers(bad, 0, 100); }).find("expected numbers from 0 to 100") == 0);
  }
  CHECK(error_of([&] { parse_numbers("0-1000000", 0, 1 << 20); }) == "more than 1000 numbers");
  CHECK(l4::bench::parse_pair("512,0", 1000) == std::pair<int64_t, int64_t>{512, 0});
  for (const char* bad : {"0,0", "5", "1,2,3", "-1,5", "1001,1", ""})
    CHECK(error_of([&] { l4::bench::parse_pair(bad, 1000); }).find("expected a prompt and an answer") == 0);
}

TEST_CASE("bench: statistics") {
  using namespace l4::tools;
  const std::vector<double> x = {2, 4, 4, 4, 5, 5, 7, 9};
  CHECK(mean(x) == 5);
  CHECK(standard_deviation(x) == doctest::Approx(std::sqrt(32.0 / 7)));
  CHECK(median(x) == 4.5);
  CHECK(percentile(x, 0) == 2);
  CHECK(percentile(x, 1) == 9);
  CHECK(percentile({1, 2, 3}, 0.75) == 2.5);
  CHECK(standard_deviation({3}) == 0);
  CHECK(median({}) == 0);
}

TEST_CASE("bench: sequences of one context are copies at addresses of their own") {
  l4::bench::SyntheticOptions synthetic;
  synthetic.on = true;
  const l4::bench::BenchModel model("tiny", synthetic);
  for (const bool fp8 : {false, true}) {
    l4::bench::SessionOptions o;
    o.executor.dtype = l4::DType::f32;
    if (fp8) o.executor.kv_dtype = l4::DType::f8_e4m3;
    o.batch_tokens = 300;
    o.max_sequences = 3, o.most_live = 4;
    o.max_context = 1100, o.total_context = 4400;  // two chunks of 512 end inside
    l4::bench::Session session(model, o);
    std::vector<l4::Sequence> all = session.filled(3, 1030);
    const l4::bench::Run run = session.decode(all, 4);
    CHECK(run.steps.size() == 4);
    CHECK(run.steps[3].work.n_rows == 3);
    CHECK(run.steps[3].work.kv_read[int(l4::AttentionKind::global)] == 3 * 1034);
    CHECK(run.steps[3].work.kv_read[int(l4::AttentionKind::chunked)] == 3 * (1034 - 1024));
    auto last_logits = [&](l4::Sequence& s, int64_t n) {
      s.append(5);
      CHECK(s.reserve(n + 1));
      const l4::StepPart part{&s, l4::OutRows::last};
      const std::vector<float> logits = session.executor().logits(l4::build_step({&part, 1}, 0));
      s.commit(n + 1);
      return logits;
    };
    for (l4::Sequence& s : all) {
      l4::Sequence again = session.sequence(0);
      for (const int32_t id : s.ids()) again.append(id);
      session.prefill(again, 1034);
      CHECK(last_logits(s, 0) == last_logits(again, 0));
    }
    CHECK(all[0].ids()[1030] != all[1].ids()[1030]);  // (one seed: the same in every run)
  }
}

// ---- the tool -------------------------------------------------------------------------------------------------------

TEST_CASE("l4-bench: the table on the demo, in every format") {
  const std::vector<std::string> words = {"-p", "24", "-n", "3", "-pg", "8,2", "-d", "0,30", "-r", "2"};
  const Result md = bench(words);
  REQUIRE_MESSAGE(md.status == 0, md.err);
  for (const char* part : {"| model ", "t/s |", "% of limit |", "| pp24  ", "| tg3  ", "| pp8+tg2 ", "| pp24 @ d30 ",
                           " ± ", "\nbuild: ", "\nceilings: read "})
    CHECK_MESSAGE(md.out.find(part) != std::string::npos, std::string(part));

  const std::vector<Json> lines = results_of(words);
  REQUIRE(lines.size() == 7);
  const std::vector<std::string> tests = {"pp24", "tg3", "pp8+tg2", "pp24 @ d30", "tg3 @ d30", "pp8+tg2 @ d30",
                                          "ceilings"};
  for (size_t i = 0; i < lines.size(); ++i) CHECK(text(lines[i], "test") == tests[i]);
  for (size_t i = 0; i < 6; ++i) {
    const Json& r = lines[i];
    CHECK(r.find("samples_ns")->as_array().size() == 2);
    CHECK(number(r, "avg_ts") > 0);
    CHECK(number(r, "limit_share") > 0);
    CHECK(number(r, "bytes_per_step") > 1e6);
    CHECK(number(r, "peak_memory") > 1e6);
    CHECK(r.find("host_share")->is_null());  // the host is the device
    CHECK(r.find("sm_clock_mhz")->is_null());
    CHECK(text(r, "model_name") == "demo");
  }
  REQUIRE(lines[6].find("after"));
  CHECK(number(*lines[6].find("after"), "read_bytes_per_s") > 0);

  const Result json = bench({"-p", "8", "-n", "0", "-r", "1", "-o", "json", "-oe", "jsonl"});
  const Json array = l4::parse_json(json.out, "output");
  CHECK(array.as_array().size() == 2);
  CHECK(l4::split(json.err, '\n').size() == 3);
  const Result csv = bench({"-p", "8", "-n", "2", "-r", "1", "-o", "csv"});
  CHECK(csv.out.starts_with("build_commit,"));
  CHECK(l4::split(csv.out, '\n').size() == 4);
  const Result sql = bench({"-p", "8", "-n", "2", "-r", "1", "-o", "sql"});
  CHECK(sql.out.starts_with("CREATE TABLE IF NOT EXISTS test (build_commit TEXT, "));
  CHECK(l4::split(sql.out, '\n').size() == 4);
}

TEST_CASE("l4-bench: experts are counted, by the router and in turn") {
  const std::vector<std::string> words = kTiny + std::vector<std::string>{"--batch", "1,5,20", "--context", "9", "-n", "2"};
  std::vector<std::string> all = {"decode"};
  all = all + words;
  const std::vector<Json> real = results_of(all), turn = results_of(all + std::vector<std::string>{"--routing", "uniform"});
  const double most[] = {1, 5, 16};
  for (size_t i = 0; i < 3; ++i) {
    CHECK(number(turn[i], "experts_hit") == most[i]);
    CHECK(number(real[i], "experts_hit") <= most[i]);
    CHECK(number(real[i], "experts_hit") >= 1);
    CHECK(number(turn[i], "n_sequences") == (i == 0 ? 1 : i == 1 ? 5 : 20));
  }
  CHECK(number(real[2], "experts_hit") > 5);
  CHECK(text(turn[0], "routing") == "uniform");
  // One token of the tiny model: attention, the shared and one routed expert, router, head; two steps at 14.5 tokens.
  const double layer = (256 * 256 + 2 * 128 * 256 + 256 * 256) + 2 * (3 * 512 * 256) + 16 * 256;
  const double kv = 4 * 2 * 128 * 2.0;  // bytes a token in all layers
  CHECK(number(turn[0], "bytes_per_step") == doctest::Approx(2 * (4 * layer + 2048 * 256) + kv * (9 + 5 + 1.5) + kv));
}

TEST_CASE("l4-bench: prefill and latency") {
  std::vector<std::string> words = {"prefill", "-p", "40", "-b", "16,64", "-r", "2"};
  const std::vector<Json> prefill = results_of(words + kTiny);
  REQUIRE(prefill.size() == 3);
  CHECK(number(prefill[0], "n_steps") == 6);  // two prompts of 16 + 16 + 8 rows
  CHECK(number(prefill[1], "n_steps") == 2);
  words = {"latency", "--batch", "3", "-p", "10", "-n", "4", "-r", "2"};
  const std::vector<Json> latency = results_of(words + kTiny);
  REQUIRE(latency.size() == 2);
  CHECK(number(latency[0], "n_steps") == 2 * (3 + 3));
  CHECK(number(latency[0], "ttft_p99_ns") >= number(latency[0], "ttft_median_ns"));
  CHECK(number(latency[0], "tpot_median_ns") > 0);
}

TEST_CASE("l4-bench: stages by themselves, and ceilings") {
  std::vector<std::string> words = {"op", "--batch", "1,5", "--context", "40", "-p", "20", "-r", "2"};
  const std::vector<Json> op = results_of(words + kTiny);
  REQUIRE(op.size() == 3 * 7 + 1);  // tiny has no dense layer
  std::vector<std::string> stages;
  for (size_t i = 0; i < 7; ++i) stages.push_back(text(op[i], "stage"));
  CHECK(stages == std::vector<std::string>{"qkv", "attention, chunked", "attention, global", "attn_out", "ffn_up",
                                           "ffn_down", "head"});
  CHECK(number(op[0], "n_layers") == 4);
  CHECK(number(op[1], "n_layers") == 3);
  // One row: qkv weights and what it writes; a shared and a routed expert; 40 tokens' keys and values.
  CHECK(number(op[0], "bytes") == 2.0 * 512 * 256 + 2 * 2 * 128);
  CHECK(number(op[1], "bytes") == 2.0 * 2 * 128 * 40);
  CHECK(number(op[4], "bytes") == 2 * 2.0 * 1024 * 256);
  CHECK(number(op[7 + 4], "experts_hit") > 1);
  CHECK(number(op[14 + 1], "flops") == 4.0 * 256 * (20 * 21 / 2));
  for (size_t i = 0; i < 21; ++i) CHECK(number(op[i], "median_ns") > 0);
  // Half of the model of two ranks.
  words = {"op", "--batch", "1", "--context", "40", "-tp", "2", "-r", "1"};
  const std::vector<Json> half = results_of(words + kTiny);
  for (const size_t i : {size_t(0), size_t(1), size_t(4), size_t(5), size_t(6)})
    CHECK(number(half[i], "bytes") == number(op[i], "bytes") / 2);

  const std::vector<Json> ceilings = results_of({"ceilings", "-dev", "cpu"});
  REQUIRE(ceilings.size() == 2);
  CHECK(text(ceilings[0], "what") == "read");
  CHECK(number(ceilings[0], "value") > 1e8);
}

TEST_CASE("l4-bench: an FP8 cache moves fewer bytes, its scales counted") {
  std::vector<std::string> words = {"decode", "--batch", "3", "--context", "50", "-n", "2"};
  words = words + kTiny + std::vector<std::string>{"--routing", "uniform"};
  const Json plain = results_of(words)[0],
             fp8 = results_of(words + std::vector<std::string>{"--kv-cache-dtype", "fp8"})[0];
  CHECK(text(plain, "kv_dtype") == "bfloat16");
  CHECK(text(fp8, "kv_dtype") == "fp8");
  // Read, in two steps after five to warm up, and written; 4 layers, K and V of 2 kv heads of 64.
  const double tokens = 3 * (50 + 5 + 1.5) + 3;
  CHECK(number(plain, "bytes_per_step") - number(fp8, "bytes_per_step") == tokens * 4 * 2 * 2 * (64 * 2 - (64 + 2)));
}

TEST_CASE("l4-bench: formats, in whole steps and in stages") {
  const std::vector<std::string> mix = {"--format", "int4-mix", "--group-size", "32", "--kv-cache-dtype", "fp8"};
  std::vector<std::string> words = {"decode", "--context", "9", "-n", "2"};
  const std::vector<Json> steps = results_of(words + kTiny + mix);
  CHECK(text(steps[0], "format") == "int4-mix g32");
  CHECK(text(results_of(words + kTiny)[0], "format") == "bf16");
  // An unquantised model whose attention and head are quantised as it is loaded.
  const std::vector<std::string> loaded = {"--format",     "int4-ffn", "--group-size",     "32", "--attn-dtype", "fp8",
                                           "--head-dtype", "fp8",      "--kv-cache-dtype", "fp8"};
  const Json same = results_of(words + kTiny + loaded)[0];
  CHECK(text(same, "format") == "int4-mix g32");
  // A byte a weight and four a row of attention and head; half a byte and two for 32 weights of the shared and one
  // routed expert; the router; a token's K and V with their scales, of 9 tokens, five to warm up and 1.5, and what is
  // written.
  const double attention = 256 * 512 + 4 * 512 + 256 * 256 + 4 * 256, expert = 3 * 512 * 256 * (0.5 + 2.0 / 32);
  const double kv = 2 * 2 * (64 + 2), head = 2048 * 256 + 4 * 2048;
  const double bytes = 4 * (attention + 2 * expert + 2 * 16 * 256 + kv * (9 + 5 + 1.5 + 1)) + head;
  CHECK(number(steps[0], "bytes_per_step") == doctest::Approx(bytes));
  CHECK(number(same, "bytes_per_step") == doctest::Approx(bytes));

  words = {"op", "--batch", "1", "--context", "40", "-r", "1"};
  const std::vector<Json> op = results_of(words + kTiny + mix);
  CHECK(text(op[0], "format") == "int4-mix g32");
  CHECK(text(op[0], "stored") == "FP8");
  CHECK(number(op[0], "bytes") == 256 * 512 + 4 * 512 + kv);
  CHECK(number(op[1], "bytes") == kv * 40);
  CHECK(text(op[4], "stored") == "INT4");
  CHECK(number(op[4], "bytes") == 2 * 1024 * 256 * (0.5 + 2.0 / 32));
  CHECK(number(op[6], "bytes") == head);
  // All experts by two rows each, and the 256 columns that are left of the shared one.
  words = {"op", "--batch", "32", "--context", "40", "-r", "1", "--routing", "uniform", "--experts-alone"};
  const std::vector<Json> alone = results_of(words + kTiny + mix);
  CHECK(number(alone[4], "bytes") == 16.5 * 1024 * 256 * (0.5 + 2.0 / 32));
  CHECK(number(alone[4], "flops") == 2 * 32 * 1.5 * 1024 * 256);
  words = {"op", "--batch", "1", "--context", "40", "-r", "1", "--format", "fp8-experts"};
  CHECK(text(results_of(words + kTiny)[4], "stored") == "BF16, FP8");
}

TEST_CASE("bench: a config.json that is read as the config it was made of") {
  for (const char* name : {"scout", "maverick", "tiny"}) {
    CAPTURE(std::string(name));
    const l4::ModelConfig made = l4::synthetic_config(name);
    const l4::ModelConfig read = l4::parse_model_config(l4::bench::config_json(made), "made");
    CHECK(l4::bench::config_json(read) == l4::bench::config_json(made));
    const auto a = expected_tensors(made), b = expected_tensors(read);
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) CHECK((a[i].name == b[i].name && a[i].shape == b[i].shape));
    for (size_t l = 0; l < made.text.layers.size(); ++l)
      CHECK(made.text.layers[l].attention == read.text.layers[l].attention);
    CHECK(read.text.rope.factor == made.text.rope.factor);
    CHECK(read.eos_ids == made.eos_ids);
    CHECK(read.image_token_id == made.image_token_id);
  }
}

TEST_CASE("l4-bench: made-up checkpoints are stored as their format says, load and run") {
  TempDir dir;
  for (const std::string& format : l4::synthetic_format_names()) {
    if (format == "bf16") continue;
    CAPTURE(format);
    const std::string path = (dir / format).string();
    const Result written = bench({"write-checkpoint", path, "-m", "tiny", "--format", format, "--group-size", "64"});
    REQUIRE_MESSAGE(written.status == 0, written.err);
    CHECK(written.out.find(format) != std::string::npos);
    const l4::ModelConfig config = l4::load_model_config(path);
    CHECK(l4::read_quantization(config).has_value());
    const l4::HfCheckpoint checkpoint(path);
    const l4::CheckpointWeights weights(config, checkpoint);
    const l4::SyntheticWeights made(config, 1, l4::synthetic_format(format, 64));
    for (const l4::ExpectedTensor& t : expected_tensors(config)) {
      l4::StoredWeight expected = made.stored(t.name);
      expected.experts_apart = t.part == l4::ModelPart::routed_experts;
      CHECK_MESSAGE((weights.stored(t.name) == expected), t.name);
    }
    const std::vector<Json> run = results_of({"decode", "-m", path, "--context", "30", "--batch", "8", "-n", "2"});
    CHECK(text(run[0], "format") == (format.starts_with("int4") ? format + " g64" : format));
    CHECK(number(run[0], "experts_hit") > 1.5);  // rows differ still
    const std::vector<Json> load = results_of({"load", "-m", path});
    REQUIRE(load.size() == 1);
    CHECK(number(load[0], "load_ns") > 0);
    CHECK(number(load[0], "first_token_ns") > number(load[0], "load_ns"));
  }
  CHECK(one_line_error(bench({"write-checkpoint", (dir / "int4").string(), "--format", "int4", "-m", "tiny"}), 2)
            .find("not an empty folder") != std::string::npos);
  CHECK(one_line_error(bench({"write-checkpoint", (dir / "x").string(), "-m", "tiny"}), 2).find("--format") !=
        std::string::npos);
  CHECK(one_line_error(bench({"write-checkpoint", "--format", "int4"}), 2).find("folder") != std::string::npos);
  CHECK(one_line_error(bench({"load", "-m", "tiny", "-m", "tiny", "--synthetic"}), 2).find("one model") !=
        std::string::npos);
}

TEST_CASE("l4-bench: ranks of threads, float32, a seed, no warm-up") {
  const std::vector<Json> r = results_of(kTiny + std::vector<std::string>{"-p", "8", "-n", "0", "-r", "1", "-tp", "2", "--dtype",
                                                                          "float32", "-s", "9", "--no-warmup", "-t", "2"});
  CHECK(number(r[0], "tp") == 2);
  CHECK(text(r[0], "dtype") == "float32");
  CHECK(text(r[0], "kv_dtype") == "float32");
  CHECK(number(r[0], "experts_hit") == doctest::Approx(16 * (1 - std::pow(15.0 / 16, 8))));
}

TEST_CASE("l4-bench: wrong command lines are one line, status 2") {
  using Words = std::vector<std::string>;
  const std::pair<Words, const char*> cases[] = {
      {{"-p", "x"}, "-p"},
      {{"-p", "-5"}, "-p"},
      {{"-n", "99999999999999999999"}, "-n"},
      {{"-p", "0", "-n", "0"}, "nothing to measure"},
      {{"-pg", "512"}, "--prompt-gen"},
      {{"-r", "0"}, "-r"},
      {{"-b", "0"}, "-b"},
      {{"-o", "xml"}, "xml"},
      {{"-d", "1-2000"}, "1000"},
      {{"-d", "32K"}, "context"},
      {{"--layers", "4"}, "--synthetic"},
      {{"--format", "int4-mix"}, "--synthetic"},
      {{"-m", "tiny", "--synthetic", "--format", "nvfp4"}, "nvfp4"},
      {{"-m", "tiny", "--synthetic", "--format", "int4", "--group-size", "48"}, "--group-size"},
      {{"-m", "tiny", "--synthetic", "--layers", "5"}, "4 layers"},
      {{"-m", "gpt", "--synthetic"}, "gpt"},
      {{"-m", "tiny", "--synthetic", "-tp", "3"}, "--tensor-parallel-size 3"},
      {{"--routing", "best"}, "best"},
      {{"-s", "-1"}, "-s"},
      {{"serve", "--max-concurrency", "0"}, "--max-concurrency"},
      {{"decode", "--batch", "5000"}, "--batch"},
      {{"decode", "--context", "0"}, "--context"},
      {{"decode", "--batch", "1-900", "--context", "1-900"}, "810000 combinations"},
      {{"latency", "-n", "1"}, "-n"},
      {{"prefill", "-p", "0"}, "-p"},
      {{"op"}, "--synthetic"},
      {{"op", "-m", "tiny", "--synthetic", "--batch", "0"}, "nothing"},
      {{"--no-such-flag"}, "--no-such-flag"},
  };
  for (const auto& [words, part] : cases) {
    CAPTURE(words.back());
    CHECK_MESSAGE(one_line_error(bench(words), 2).find(part) != std::string::npos, std::string(part));
  }
  CHECK(one_line_error(bench({"-m", "scout"}), 1).find("--synthetic") != std::string::npos);
  CHECK(one_line_error(bench({"-m", "/no/such/folder"}), 1).find("/no/such/folder") != std::string::npos);
  // Far more than this machine's memory, said before anything is made.
  CHECK(one_line_error(bench({"-m", "maverick", "--synthetic", "-p", "8", "-n", "0"}), 1).find("memory") !=
        std::string::npos);
  for (const char* mode : {"decode", "prefill", "latency"}) CHECK(bench({mode, "--help"}).status == 0);
}
