// l4-convert: conversions that are ended, refused, or fail.
#include <algorithm>
#include <csignal>
#include <fstream>
#include <limits>

#include "tools/convert/convert.h"
#include "tools/run_tool.h"
#include "tools/tiny_source.h"

using namespace l4;
using namespace l4::test;
using convert::ConvertOptions;

namespace {

ConvertOptions options(const fs::path& source, const fs::path& target) {
  ConvertOptions o;
  o.source = source, o.target = target;
  o.recipe.group = 32;
  o.threads = 2;
  o.max_shard_bytes = 30'000;
  return o;
}

// File names to their bytes.
std::map<std::string, std::string> files_of(const fs::path& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(dir))
    if (entry.is_regular_file()) files[fs::relative(entry.path(), dir).string()] = read_file(entry.path(), 1 << 26);
  return files;
}

size_t count_shards(const fs::path& dir) {
  size_t n = 0;
  for (const auto& entry : fs::directory_iterator(dir)) n += entry.path().extension() == ".safetensors";
  return n;
}

Result l4_convert(const std::vector<std::string>& words) {
  return run(tool("l4-convert", words));
}

}  // namespace

TEST_CASE("convert: a run that failed is gone on from, and gives the same bytes") {
  TempDir dir;
  write_tiny_source(dir / "source");
  const auto source_before = files_of(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "whole");
  convert::convert(o);
  const auto whole = files_of(dir / "whole");

  o.target = dir / "target";
  size_t n_runs = 0, before = 0;
  uint64_t first_total = 0;
  for (bool done = false; !done; ++n_runs) {
    REQUIRE(n_runs < 100);
    o.on_progress = [&](uint64_t at, uint64_t total) {
      if (first_total == 0) first_total = total;
      if (at > first_total / 4) fail(ErrorKind::io, "planted");
    };
    try {
      convert::convert(o);
      done = true;
    } catch (const Error& e) {
      CHECK(e.message() == "planted");
      for (const char* name : {"config.json", "model.safetensors.index.json"})
        CHECK_FALSE(fs::exists(dir / "target" / name));
      for (const auto& [name, bytes] : files_of(dir / "target"))  // what is there is whole
        if (whole.contains(name)) CHECK_MESSAGE(bytes == whole.at(name), name);
      const size_t now = count_shards(dir / "target");
      CHECK(now > before);  // and more each time
      before = now;
    }
  }
  CHECK(n_runs > 2);
  CHECK(files_of(dir / "target") == whole);
  CHECK(files_of(dir / "source") == source_before);
}

TEST_CASE("convert: a killed run is gone on from, and gives the same bytes") {
  TempDir dir;
  const std::vector<std::string> flags = {"--max-shard-size", "100K", "-t", "2", "--preset", "w4a16-all"};
  const std::string whole = (dir / "whole").string(), target = (dir / "target").string();
  CHECK(l4_convert(std::vector<std::string>{demo_model(), whole} + flags).status == 0);
  // Killed without warning at other places each time: when the next file has its name, when one is being written.
  for (const char* seen : {"model-00002-of-*.safetensors", "model-00005-of-*.tmp*", "model-00020-of-*.tmp*"}) {
    const std::string command = cat((binary_dir() / "l4-convert").string(), " ", demo_model(), " ", target, " ",
                                    join(flags, " "), " & while kill -0 $! 2>/dev/null && ! ls ", target, "/", seen,
                                    " >/dev/null 2>&1; do :; done; kill -9 $! 2>/dev/null; wait $!");
    const int status = run({"bash", "-c", command}).status;
    CHECK_MESSAGE((status == 128 + SIGKILL || status == 0), status);
    if (status == 0) break;  // it was quicker
    CHECK_FALSE(fs::exists(dir / "target" / "config.json"));
  }
  if (!fs::exists(dir / "target" / "config.json")) {
    const Result r = l4_convert(std::vector<std::string>{demo_model(), target, "-v"} + flags);
    CHECK_MESSAGE(r.status == 0, r.err);
    CHECK_MESSAGE(r.err.find("are there already") != std::string::npos, r.err);
  }
  CHECK(files_of(target) == files_of(whole));
}

TEST_CASE("convert: a damaged or half-noted file is made again") {
  TempDir dir;
  write_tiny_source(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "whole");
  convert::convert(o);
  o.target = dir / "target";
  uint64_t n = 0;
  o.on_progress = [&](uint64_t at, uint64_t total) {
    if (at > total / 2 && ++n > 2) fail(ErrorKind::io, "planted");
  };
  error_of([&] { convert::convert(o); });
  o.on_progress = {};
  std::vector<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(o.target))
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path());
  REQUIRE(shards.size() >= 3);
  std::sort(shards.begin(), shards.end());
  fs::resize_file(shards[0], fs::file_size(shards[0]) - 1);
  fs::remove(o.target / ".l4-convert" / (shards[1].filename().string() + ".json"));
  write_file_atomic(o.target / ".l4-convert" / (shards[2].filename().string() + ".json"), "[]");
  write_file_atomic(shards[0].string() + ".tmp123", "left over");
  convert::convert(o);
  CHECK(files_of(o.target) == files_of(dir / "whole"));
}

TEST_CASE("convert: what must not be written over") {
  TempDir dir;
  write_tiny_source(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "target");
  const auto error = [&] { return error_of([&] { convert::convert(o); }); };
  convert::convert(o);
  const auto before = files_of(o.target);
  CHECK(error().find("has a config.json already (--overwrite") != std::string::npos);
  CHECK(files_of(o.target) == before);
  o.recipe.preset = "fp8-experts", o.overwrite = true;
  convert::convert(o);
  CHECK(files_of(o.target) != before);
  o.recipe.preset = "fp8";
  convert::convert(o);
  CHECK(files_of(o.target) == before);

  o.target = dir / "source";
  CHECK(error().find("the target is the source") != std::string::npos);
  fs::create_directory_symlink(dir / "source", dir / "link");
  o.target = dir / "link" / ".";
  CHECK(error().find("the target is the source") != std::string::npos);

  o.overwrite = false;
  o.target = dir / "weights";
  fs::create_directories(o.target);
  write_file_atomic(o.target / "other.safetensors", "x");
  CHECK(error().find("there are weights in the target") != std::string::npos);
  o.target = dir / "weights" / "other.safetensors";
  CHECK(error().find("not a directory") != std::string::npos);

  o.target = dir / "unfinished";
  o.on_progress = [](uint64_t at, uint64_t total) {
    if (at > total / 2) fail(ErrorKind::io, "planted");
  };
  CHECK(error() == "planted");
  o.recipe.preset = "w4a16";
  CHECK(error().find("unfinished conversion with other options") != std::string::npos);
  fs::last_write_time(o.source / "model.safetensors", fs::file_time_type::clock::now());
  CHECK(error().find("unfinished conversion of other files") != std::string::npos);
}

TEST_CASE("convert: a source that changes is noticed") {
  TempDir dir;
  write_tiny_source(dir / "source");
  ConvertOptions o = options(dir / "source", dir / "target");
  o.on_progress = [&](uint64_t at, uint64_t total) {
    if (at == total) fs::last_write_time(o.source / "model.safetensors", fs::file_time_type::clock::now());
  };
  CHECK(error_of([&] { convert::convert(o); }) ==
        (dir / "source" / "model.safetensors").string() +
            ": changed while it was being converted; the target is not finished");
  CHECK_FALSE(fs::exists(dir / "target" / "config.json"));
  o.on_progress = [&](uint64_t, uint64_t) { fs::resize_file(o.source / "model.safetensors", 5000); };
  o.overwrite = true;
  CHECK_FALSE(error_of([&] { convert::convert(o); }).empty());
  CHECK_FALSE(fs::exists(dir / "target" / "config.json"));
}

TEST_CASE("convert: weights that are not finite are named") {
  TempDir dir;
  const std::string down = "language_model.model.layers.1.feed_forward.experts.down_proj";
  const std::string norm = "language_model.model.norm.weight";
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    write_tiny_source(dir / "source", DType::bf16, false, [&](const std::string& name, std::vector<float>& values) {
      if (name == norm) values[3] = bad;                      // stays as it is
      if (name == down) values[(2 * 32 + 5) * 64 + 7] = bad;  // [E, 32, 64]: expert 2, in 5, out 7
    });
    ConvertOptions o = options(dir / "source", dir / "target");
    o.overwrite = true;
    CHECK(error_of([&] { convert::convert(o); }) ==
          cat("tensor \"", down,
              "\": a weight of language_model.model.layers.1.feed_forward.experts.2.down_proj, row 7, "
              "column 5, is ",
              std::isnan(bad) ? "NaN" : "infinite"));
    CHECK_FALSE(fs::exists(dir / "target" / "config.json"));
  }
}

TEST_CASE("l4-convert: what is wrong is said in one line") {
  TempDir dir;
  write_tiny_source(dir / "source");
  const std::string source = (dir / "source").string(), target = (dir / "target").string();
  const auto error = [&](const std::vector<std::string>& words, int status) {
    return one_line_error(l4_convert(words), status);
  };
  CHECK(error({}, 2).find("expected the checkpoint to convert") != std::string::npos);
  CHECK(error({source}, 2).find("expected the folder to make") != std::string::npos);
  CHECK(error({source, target, "x"}, 2).find("unexpected argument") != std::string::npos);
  CHECK(error({source, target, "--preset", "gptq"}, 2).find("--preset: expected fp8") != std::string::npos);
  CHECK(error({source, target, "--group-size", "48"}, 2).find("expected 32, 64 or 128") != std::string::npos);
  CHECK(error({source, target, "--rule", "x=fp3"}, 2).find("--rule: expected PATTERN=fp8") != std::string::npos);
  CHECK(
      error({source, target, "--preset", "w4a16", "--group-size", "128"}, 1).find("no multiple of the group of 128") !=
      std::string::npos);
  CHECK(error({(dir / "none").string(), target}, 1).find("none") != std::string::npos);
  CHECK_FALSE(fs::exists(target));
  CHECK(l4_convert({source, target}).status == 0);
  CHECK(error({target, (dir / "twice").string()}, 1).find("quantised already, as \"compressed-tensors\"") !=
        std::string::npos);

  // A file system that takes no more: the error of a file's limit stands for that of a full disk.
  const auto before = files_of(source);
  const Result full = run({"bash", "-c",
                           cat("trap '' XFSZ; ulimit -f 20; exec ", (binary_dir() / "l4-convert").string(), " ", source,
                               " ", (dir / "full").string())});
  CHECK(one_line_error(full, 1).find("cannot write: ") != std::string::npos);
  CHECK_FALSE(fs::exists(dir / "full" / "config.json"));
  CHECK(count_shards(dir / "full") == 0);
  for (const auto& entry : fs::directory_iterator(dir / "full")) CHECK(entry.is_directory());  // no half of a file
  CHECK(files_of(source) == before);
  CHECK(l4_convert({source, (dir / "full").string()}).status == 0);
}

TEST_CASE("l4-convert: --dry-run prints the plan and does nothing") {
  TempDir dir;
  const std::string target = (dir / "target").string();
  const Result r = l4_convert({demo_model(), target, "--preset", "w4a16", "--group-size", "64", "--dry-run"});
  CHECK(r.status == 0);
  CHECK(r.err == "");
  CHECK_FALSE(fs::exists(target));
  std::string line;
  for (const std::string& each : split(r.out, '\n'))
    if (each.starts_with("language_model.model.layers.1.feed_forward.experts.gate_up_proj ")) line = each;
  // [4, 256, 512] BF16; 8 linears of 256 x 256 codes, 4 groups a row, and a shape.
  for (const char* part : {"BF16", "[4, 256, 512]", "8 x INT4 g64", "1,048,576", "278,656"})
    CHECK_MESSAGE(line.find(part) != std::string::npos, line);
  CHECK(r.out.find("\nall ") != std::string::npos);
}
