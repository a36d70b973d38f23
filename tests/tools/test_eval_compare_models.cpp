// Two models' logits: of files, and of the demo and a quantised copy of it.
#include <cmath>
#include <limits>

#include "formats/npy.h"
#include "support/has.h"
#include "support/test.h"
#include "tools/common/logit_comparison.h"
#include "tools/eval/compare_models.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

Json json_at(const fs::path& path) {
  return parse_json(read_file(path, 1 << 20), path.string());
}

}  // namespace

TEST_CASE("logit comparison: by hand") {
  // Softmax of (0, log 3) is (1/4, 3/4), of (0, 0) halves: KL = 1/4 log(1/2) + 3/4 log(3/2).
  tools::LogitComparer comparer;
  const float three = std::log(3.0f);
  const std::vector<float> p = {0, three}, q = {0, 0}, r = {1, 1 + three};
  comparer.add(p, q, 0);
  comparer.add(p, r, std::nullopt);  // the same distribution
  const tools::LogitComparison c = comparer.result();
  const double kl = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  CHECK(c.n_tokens == 2);
  CHECK(c.mean_kl == doctest::Approx(kl / 2).epsilon(1e-6));
  CHECK(c.max_kl == doctest::Approx(kl).epsilon(1e-6));
  CHECK(c.worst_row == 0);
  CHECK(c.top1 == 0.5);  // of equals the first: 0 and 1
  CHECK(c.largest_difference == doctest::Approx(double(three)));
  CHECK(c.source_perplexity == doctest::Approx(4));
  CHECK(c.target_perplexity == doctest::Approx(2));
  CHECK(tools::LogitComparer().result().mean_kl == 0);
  // Large logits overflow nothing.
  tools::LogitComparer large;
  const std::vector<float> x = {1e30f, -1e30f}, y = {3e4f, 0};
  large.add(x, y, std::nullopt);
  CHECK(std::isfinite(large.result().mean_kl));
}

TEST_CASE("npy: rows are read one by one") {
  const TempDir dir;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  write_npy(dir / "x.npy", values, 3, 2);
  const NpyReader reader(dir / "x.npy");
  CHECK(reader.rows() == 3);
  CHECK(reader.cols() == 2);
  std::vector<float> row(2);
  reader.read(2, row);
  CHECK(row == std::vector<float>{5, 6});
  std::vector<float> two(4);
  reader.read(1, two);
  CHECK(two == std::vector<float>{3, 4, 5, 6});
  fs::resize_file(dir / "x.npy", 130);
  CHECK(has(error_of([&] { reader.read(2, row); }), "x.npy"));
}

TEST_CASE("eval compare: files of logits") {
  const TempDir dir;
  const auto write = [&](const char* name, std::vector<float> values, int64_t cols) {
    write_npy(dir / name, values, int64_t(values.size()) / cols, cols);
    return dir / name;
  };
  const fs::path a = write("a.npy", {0, 1, 2, 5, 1, 0}, 3), b = write("b.npy", {0, 1, 2, 1, 5, 0}, 3);
  CHECK(compare_logit_files(a, a).mean_kl == 0);
  CHECK(compare_logit_files(a, a).top1 == 1);
  const tools::LogitComparison c = compare_logit_files(a, b);
  CHECK(c.n_tokens == 2);
  CHECK(c.top1 == 0.5);
  CHECK(c.largest_difference == 4);
  CHECK(c.worst_row == 1);
  CHECK(has(error_of([&] {
              compare_logit_files(a, write("c.npy", {0, 1, 2}, 3));
            }),
            "c.npy 1 x 3: not logits of the same"));
  CHECK(has(error_of([&] { compare_logit_files(a, write("d.npy", {0, 1, 2, 3}, 2)); }), "d.npy 2 x 2"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(has(error_of([&] {
              compare_logit_files(a, write("e.npy", {0, 1, 2, 3, nan, 4}, 3));
            }),
            "e.npy: row 1: logits"));
  const fs::path none = write("f.npy", {}, 3);
  CHECK(has(error_of([&] { compare_logit_files(none, none); }), "no logits"));
  write_file_atomic(dir / "g.npy", "not one");
  CHECK(has(error_of([&] { compare_logit_files(a, dir / "g.npy"); }), "g.npy: not a .npy file"));

  const Result r = run(tool("l4-eval", {"compare", a.string(), b.string(), "-o", (dir / "x.json").string()}));
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.out, "50.00 %"));
  CHECK(json_at(dir / "x.json").find("top1_agreement")->as_number() == 0.5);
}

TEST_CASE("eval compare: the demo with itself, with another cache, with an INT4 copy") {
  const TempDir dir;
  const std::string demo = demo_model(), scratch = (dir / "scratch").string(), out = (dir / "x.json").string();
  fs::create_directory(scratch);
  const auto compare = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "compare");
    words.insert(words.end(), {"--scratch", scratch, "--dtype", "float32", "-o", out});
    const Result r = run(tool("l4-eval", words), {.timeout_s = 300});
    CHECK_MESSAGE(r.status == 0, r.err);
    CHECK(fs::is_empty(scratch));  // the first model's logits are gone
    return json_at(out);
  };
  const auto kl = [](const Json& json) { return json.find("mean_kl")->as_number(); };
  write_file_atomic(dir / "text.txt",
                    "What is 2 + 3? It is 5. The cat sat on the mat, and the dog did not like that at all.");
  const std::string text = (dir / "text.txt").string();
  const Json same = compare({demo, demo, "--text", text, "--length", "8"});
  CHECK(kl(same) == 0);
  CHECK(same.find("top1_agreement")->as_number() == 1);
  CHECK(same.find("largest_difference")->as_number() == 0);
  CHECK(same.find("tokens")->as_integer() > 16);  // several sequences
  CHECK(same.find("source_perplexity")->as_number() > 1);

  const Json cache = compare({demo, demo, "--text", text, "--second-kv-cache-dtype", "fp8"});
  CHECK(kl(cache) > 0);

  const std::string copy = (dir / "int4").string();
  const Result made =
      run(tool("l4-convert", {demo, copy, "--preset", "w4a16", "--group-size", "32"}), {.timeout_s = 300});
  REQUIRE_MESSAGE(made.status == 0, made.err);
  const Json int4 = compare({demo, copy});  // the built-in text
  CHECK(kl(int4) > 0);
  CHECK(kl(int4) < 1);
  CHECK(int4.find("top1_agreement")->as_number() > 0.5);
  CHECK(int4.find("tokens")->as_integer() > 300);

  // What is compared is what `l4-eval logits` writes.
  const std::string ids = "5,6,7,8,9,10";
  for (const std::string& model : {demo, copy}) {
    const std::string npy = (dir / (model == demo ? "a.npy" : "b.npy")).string();
    CHECK(run(tool("l4-eval", {"logits", "-m", model, "--ids", ids, "--dtype", "float32", "-o", npy})).status == 0);
  }
  const Json direct = compare({demo, copy, "--ids", ids});
  CHECK(run(tool("l4-eval", {"compare", (dir / "a.npy").string(), (dir / "b.npy").string(), "-o", out})).status == 0);
  CHECK(kl(json_at(out)) == kl(direct));
  CHECK(direct.find("tokens")->as_integer() == 6);

  const auto fails = [&](std::vector<std::string> words, int status) {
    words.insert(words.begin(), {"compare", demo});
    const Result r = run(tool("l4-eval", words), {.timeout_s = 300});
    CHECK(r.status == status);
    return r.err;
  };
  CHECK(has(fails({copy, "--ids", ids, "--max-kl", "1e-9"}, 1), "above --max-kl"));
  CHECK(has(fails({copy, "--ids", "1", "--text", text}, 2), "--text and --ids"));
  CHECK(has(fails({copy, "--length", "99999999"}, 2), "--length 99999999: longer than"));
  CHECK(has(fails({copy, "--ids", "999999"}, 2), "999999"));
  CHECK(has(fails({copy, "--scratch", "/no/such/folder"}, 1), "/no/such/folder"));
  CHECK(has(fails({scratch}, 1), "config.json"));
}
