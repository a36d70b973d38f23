#include "support/test.h"
#include "tools/eval/gate.h"
#include "tools/eval_runs.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

Gate gate_of(const std::string& json) {
  const TempDir dir;
  write_file_atomic(dir / "gate.json", json);
  Gate gate = read_gate(dir / "gate.json");
  gate.source = "gate.json";
  return gate;
}

RunFile run_of(int right, int wrong) {
  RunFile run;
  run.header = mmlu_pro_header("m", right + wrong);
  for (int i = 0; i < right + wrong; ++i) {
    run.records.push_back(answered(cat(i), "law", i < right ? "A" : "B", "A"));
    run.records.back().score.metrics.push_back({"anywhere", 1});
  }
  return run;
}

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("eval gate: a score passes, or a line says why not") {
  const Summary s = summarise(run_of(3, 1));
  const auto failures = [&](const std::string& json) { return gate_failures(gate_of(json), s); };
  CHECK(failures(R"({"mmlu_pro": 0.75})") == Lines{});  // as good as the minimum is good enough
  CHECK(failures(R"({"mmlu_pro": 0})") == Lines{});
  CHECK(failures(R"({"mmlu_pro": 0.7501})") == Lines{"mmlu_pro: exact_match 0.7500 is below the gate's 0.7501"});
  CHECK(failures(R"({"mmlu_pro": {"min": 1, "metric": "anywhere"}})") == Lines{});
  CHECK(failures(R"({"mmlu_pro": {"min": 0.1, "metric": "f1"}})") ==
        Lines{"mmlu_pro: no metric \"f1\"; the run has exact_match, anywhere"});
  CHECK(failures(R"({"mmlu_pro": {"min": 0.1, "recipe": "llama"}})") ==
        Lines{"mmlu_pro: the gate is for recipe \"llama\", this run is of \"lm-eval\""});
  CHECK(failures(R"({"mmlu_por": 0.1, "chartqa": 0.8})") ==
        Lines{"gate.json: no minimum for task \"mmlu_pro\"; it has \"mmlu_por\", \"chartqa\""});
}

TEST_CASE("eval gate: what was not answered passes no gate unasked") {
  RunFile run = run_of(9, 0);
  run.records.push_back(failed("9", "law", "timed out"));
  run.header.n_items = 12;
  const Summary s = summarise(run);
  CHECK(gate_failures(gate_of(R"({"mmlu_pro": 0.9})"), s) ==
        Lines{"mmlu_pro: 2 of 12 questions were not asked", "mmlu_pro: 1 of 10 questions failed, the gate allows 0"});
  CHECK(gate_failures(gate_of(R"({"mmlu_pro": {"min": 0.9, "max_failed": 1}})"), s).size() == 1);
  run.records = {failed("0", "law", "timed out")};
  run.header.n_items = 1;
  CHECK(gate_failures(gate_of(R"({"mmlu_pro": {"min": 0, "max_failed": 1}})"), summarise(run)) ==
        Lines{"mmlu_pro: no score: nothing was answered"});
}

TEST_CASE("eval gate: wrong files") {
  const struct {
    const char *json, *said;
  } rows[] = {
      {"", "not valid JSON"},
      {"[]", "expected an object, found array"},
      {"{}", "expected a task and its minimum"},
      {R"({"mmlu_pro": "0.7"})", "mmlu_pro: expected a number from 0 to 1, found \"0.7\""},
      {R"({"mmlu_pro": 74})", "expected a number from 0 to 1, found 74"},
      {R"({"mmlu_pro": -0.1})", "expected a number from 0 to 1"},
      {R"({"mmlu_pro": null})", "expected a number from 0 to 1, found null"},
      {R"({"mmlu_pro": {}})", "mmlu_pro.min: expected a number from 0 to 1, found nothing"},
      {R"({"mmlu_pro": {"min": 0.1, "max": 1}})", "unknown field"},
      {R"({"mmlu_pro": {"min": 0.1, "max_failed": -1}})", "mmlu_pro.max_failed: expected an integer"},
      {R"({"mmlu_pro": {"min": 0.1, "metric": 3}})", "mmlu_pro.metric: expected"},
      {R"({"a\nb": 0.1})", "not the name of a task: \"a\\x0ab\""},
      {R"({"a": 0.1, "a": 0.2})", "duplicate"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.json);
    const std::string message = error_of([&] { gate_of(row.json); });
    CHECK_MESSAGE(message.find(row.said) != std::string::npos, message);
    CHECK(message.find("gate.json") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
  CHECK(error_of([] { read_gate("/no/such/gate.json"); }).find("/no/such/gate.json") != std::string::npos);
}
