// The one program under five names.
#include "base/version.h"
#include "support/test.h"

using l4::test::binary_dir;
using l4::test::Result;
using l4::test::run;

namespace {

constexpr const char* kTools[] = {"run", "serve", "bench", "convert", "eval"};

std::string l4_program() {
  return (binary_dir() / "l4").string();
}

}  // namespace

TEST_CASE("entry: each name and each word give the tool's version") {
  for (const std::string tool : kTools) {
    CAPTURE(tool);
    const std::string expected = l4::version_line("l4-" + tool) + "\n";
    CHECK(run({(binary_dir() / ("l4-" + tool)).string(), "--version"}).out == expected);
    CHECK(run({l4_program(), tool, "--version"}).out == expected);
  }
  CHECK(run({l4_program(), "--version"}).out == l4::version_line("l4") + "\n");
}

TEST_CASE("entry: a version line says version, commit, build type and CUDA") {
  const l4::BuildInfo& build = l4::build_info();
  CHECK(build.version.find('.') != std::string::npos);
  CHECK(!build.commit.empty());
  CHECK(!build.build_type.empty());
  const std::string line = l4::version_line("x");
  CHECK(line.find("x " + build.version + " (commit " + build.commit + ", " + build.build_type) == 0);
  CHECK((line.find("CPU only") != std::string::npos) == build.cuda.empty());
}

TEST_CASE("entry: a wrong word is one line and the list of tools, status 2") {
  Result r = run({l4_program(), "rum\x01"});
  CHECK(r.status == 2);
  CHECK(r.out == "");
  CHECK(r.err.find("l4: no tool is called \"rum\\x01\"\n") == 0);
  for (const std::string tool : kTools) CHECK(r.err.find("\n  " + tool) != std::string::npos);
  CHECK(run({l4_program()}).status == 2);
  CHECK(run({l4_program(), "--help"}).status == 0);
}

TEST_CASE("entry: the program needs no library of NVIDIA's to start") {
  Result r = run({"ldd", l4_program()});
  if (r.status != 0) L4_SKIP("ldd does not know this program");  // a sanitizer build, or no ldd
  for (const char* library : {"libcuda", "libcublas", "libnccl", "libnv"}) {
    CAPTURE(std::string(library));
    CHECK(r.out.find(library) == std::string::npos);
  }
}
