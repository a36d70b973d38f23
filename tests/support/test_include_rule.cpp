#include "support/include_rule.h"

#include "base/file.h"
#include "base/strings.h"
#include "support/test.h"

using l4::test::include_violations;

TEST_CASE("include rule: this source tree keeps it") {
  const auto violations = include_violations(l4::test::source_dir());
  CHECK_MESSAGE(violations.empty(), l4::join(violations, "\n"));
  CHECK(l4::test::files_checked() > 30);
}

namespace {

// A tree with one file that includes one header.
std::string planted(const std::string& file, const std::string& include) {
  l4::test::TempDir dir;
  auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((dir / path).parent_path());
    l4::write_file_atomic(dir / path, text);
  };
  for (const char* module : {"base", "tensor", "quant", "formats", "ops", "dist", "model", "engine", "text", "vision", "grammar"})
    write(std::string("core/") + module + "/x.h", "");
  write("core/l4.h", "");
  write("core/model/config.h", "");
  write("core/dist/comm.h", "");
  write("kernels/cpu/x.h", "");
  write("kernels/cuda/x.h", "");
  write("tools/run/x.h", "");
  write("tools/common/x.h", "");
  write("tools/entry.h", "");
  write(file, "// a line before\n#include " + include + "\n");
  return l4::join(include_violations(dir.path()), "\n");
}

}  // namespace

TEST_CASE("include rule: what points upward or sideways is caught") {
  const struct {
    const char *file, *include;
  } rows[] = {
      {"core/base/a.h", "\"tensor/x.h\""},      {"core/tensor/a.h", "\"formats/x.h\""},
      {"core/tensor/a.h", "\"quant/x.h\""},     {"core/quant/a.cpp", "\"formats/x.h\""},
      {"core/formats/a.cpp", "\"ops/x.h\""},    {"core/ops/a.h", "\"dist/x.h\""},
      {"core/ops/a.h", "\"model/config.h\""},   {"core/dist/a.cpp", "\"model/x.h\""},
      {"core/model/a.h", "\"engine/x.h\""},     {"core/model/a.h", "\"text/x.h\""},
      {"core/engine/a.h", "\"text/x.h\""},      {"core/engine/a.h", "\"vision/x.h\""},
      {"core/engine/a.h", "\"l4.h\""},          {"core/text/a.h", "\"engine/x.h\""},
      {"core/text/a.h", "\"vision/x.h\""},      {"core/text/a.h", "\"model/x.h\""},
      {"core/vision/a.h", "\"ops/x.h\""},       {"core/vision/a.h", "\"l4.h\""},
      {"core/grammar/a.h", "\"text/x.h\""},    {"core/engine/a.h", "\"grammar/x.h\""},
      {"core/text/a.h", "\"grammar/x.h\""},    {"core/grammar/a.h", "\"engine/x.h\""},
      {"core/l4.h", "\"tools/common/x.h\""},    {"core/engine/a.cpp", "\"kernels/cpu/x.h\""},
      {"kernels/cpu/a.cpp", "\"model/x.h\""},   {"kernels/cpu/a.cpp", "\"model/config.h\""},
      {"kernels/cpu/a.cpp", "\"formats/x.h\""}, {"kernels/cpu/a.cpp", "\"dist/x.h\""},
      {"kernels/cpu/a.cpp", "\"kernels/cuda/x.h\""}, {"kernels/cuda/a.cu", "\"kernels/cpu/x.h\""},
      {"tools/eval/a.cpp", "\"tools/run/x.h\""},     {"tools/common/a.cpp", "\"tools/run/x.h\""},
      {"tools/common/a.cpp", "\"tools/entry.h\""},   {"tools/run/a.cpp", "\"kernels/cpu/x.h\""},
      {"tools/run/a.cpp", "\"kernels/cuda/x.h\""}, {"core/engine/a.cpp", "\"kernels/cuda/x.h\""},
  };
  for (const auto& row : rows) {
    const std::string found = planted(row.file, row.include);
    CAPTURE(found);
    CHECK(found.rfind(std::string(row.file) + ":2: ", 0) == 0);
    CHECK(found.find(" may not include ") != std::string::npos);
  }
}

TEST_CASE("include rule: what points downward is allowed") {
  const struct {
    const char *file, *include;
  } rows[] = {
      {"core/formats/a.cpp", "\"quant/x.h\""},     {"core/model/a.cpp", "\"dist/x.h\""},
      {"core/engine/a.cpp", "\"model/config.h\""}, {"core/text/a.cpp", "\"model/config.h\""},
      {"core/vision/a.cpp", "\"formats/x.h\""},    {"core/l4.h", "\"engine/x.h\""},
      {"core/grammar/a.cpp", "\"formats/x.h\""},   {"core/l4.cpp", "\"grammar/x.h\""},
      {"kernels/cpu/a.cpp", "\"dist/comm.h\""},    {"kernels/cuda/a.cu", "\"ops/x.h\""},
      {"kernels/cuda/a.cu", "\"kernels/cuda/x.h\""}, {"tools/run/a.cpp", "\"l4.h\""},
      {"tools/run/main.cpp", "\"tools/entry.h\""}, {"tools/run/a.cpp", "\"tools/common/x.h\""},
      {"core/base/a.cpp", "<vector>"},             {"core/formats/json.cpp", "<nlohmann/json.hpp>"},
      {"tools/run/main.cpp", "<CLI/CLI.hpp>"},     {"core/vision/image.cpp", "<stb/stb_image.h>"},
      {"kernels/cuda/a.cu", "<cuda_bf16.h>"},      {"core/model/a.cpp", "\"model/x.h\"  // why"},
      {"tools/run/a.cpp", "\"ops/x.h\""},
  };
  for (const auto& row : rows) {
    CAPTURE(std::string(row.file));
    CHECK(planted(row.file, row.include) == "");
  }
}

TEST_CASE("include rule: heavy and foreign headers have their owners") {
  const struct {
    const char *file, *include;
  } rows[] = {
      {"core/formats/hf_config.cpp", "<nlohmann/json.hpp>"}, {"core/formats/json.h", "<nlohmann/json.hpp>"},
      {"tools/run/repl.cpp", "<CLI/CLI.hpp>"},               {"core/vision/tiling.cpp", "<stb/stb_image.h>"},
      {"core/base/a.h", "<cuda_runtime.h>"},                 {"core/ops/a.h", "\"cuda_bf16.h\""},
      {"core/dist/a.cpp", "<nccl.h>"},                       {"kernels/cpu/a.cpp", "<cublasLt.h>"},
      {"tools/bench/main.cpp", "<cuda_runtime_api.h>"},      {"core/engine/a.cpp", "<cuda.h>"},
      {"core/model/a.cpp", "<pcre2.h>"},                     {"core/engine/a.cpp", "<sentencepiece_processor.h>"},
      {"core/engine/a.cpp", "<histedit.h>"},                 {"core/engine/a.cpp", "<thrust/sort.h>"},
      {"core/base/a.cpp", "<cuda/std/array>"},
  };
  for (const auto& row : rows) {
    CAPTURE(std::string(row.file));
    const std::string found = planted(row.file, row.include);
    CHECK(found.find("only ") != std::string::npos);
  }
}

TEST_CASE("include rule: paths are written from core/ or the root") {
  CHECK(planted("core/base/a.cpp", "\"x.h\"").find("neither a file under core/") != std::string::npos);
  CHECK(planted("core/base/a.cpp", "\"../core/base/x.h\"").find("neither a file") != std::string::npos);
  CHECK(planted("core/base/a.cpp", "<base/x.h>").find("write it in quotes") != std::string::npos);
  CHECK(planted("core/novel/a.cpp", "\"base/x.h\"").find("not a module") != std::string::npos);
}
