#include "base/paths.h"

#include "base/file.h"
#include "support/test.h"

using namespace l4;

namespace {

struct DemoVariable {  // sets $L4_DEMO_DIR for one test
  explicit DemoVariable(const std::string& value) { setenv("L4_DEMO_DIR", value.c_str(), 1); }
  ~DemoVariable() { unsetenv("L4_DEMO_DIR"); }
};

}  // namespace

TEST_CASE("paths: the executable is this test program") {
  CHECK(executable_path().filename() == "l4-tests");
}

TEST_CASE("paths: L4_DEMO_DIR comes first") {
  test::TempDir dir;
  write_file_atomic(dir / "config.json", "{}");
  DemoVariable variable(dir.path().string());
  CHECK(demo_model_dir() == dir.path());
}

TEST_CASE("paths: an L4_DEMO_DIR without a model is refused, not passed over") {
  test::TempDir dir;
  DemoVariable variable(dir.path().string());
  const std::string message = test::error_of([] { demo_model_dir(); });
  CHECK(message == "L4_DEMO_DIR is " + shown(dir.path().string()) + ", which has no config.json");
}

TEST_CASE("paths: without it, the model beside the program or in the source tree") {
  if (std::filesystem::exists(test::source_dir() / "core/demo/config.json")) {
    CHECK(std::filesystem::exists(demo_model_dir() / "config.json"));
  } else {
    const std::string message = test::error_of([] { demo_model_dir(); });
    CHECK(message.find("/share/l4/demo") != std::string::npos);
    CHECK(message.find((test::binary_dir() / "demo").string()) != std::string::npos);
  }
}
