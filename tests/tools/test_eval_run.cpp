// l4-eval questions as people start it, with the demo model.
#include "support/has.h"
#include "tools/eval/questions.h"
#include "tools/eval_questions.h"
#include "tools/pseudo_terminal.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

std::vector<std::string> command(const TempDir& dir, const std::string& out,
                                 const std::vector<std::string>& more = {}) {
  return std::vector<std::string>{"questions",         "-m", demo_model(), "--data", (dir / "in.jsonl").string(), "-o",
                                  (dir / out).string()} +
         more;
}

Record record_of(const RunFile& file, const std::string& id) {
  for (const Record& record : file.records)
    if (record.id == id) return record;
  FAIL("no record of ", id);
  return {};
}

}  // namespace

TEST_CASE("eval run: answers are those that l4-run gives, and are counted") {
  TempDir dir;
  fs::copy(golden("vision/files/rgb8.png"), dir / "picture.png");
  write_file_atomic(
      dir / "in.jsonl",
      "{\"id\": \"sum\", \"prompt\": \"8*2 =\", \"answer\": \"16\", \"match\": \"number\"}\n"
      "{\"id\": \"wrong\", \"prompt\": \"8*2 =\", \"answer\": \"17\", \"match\": \"number\"}\n"
      "{\"id\": \"letter\", \"prompt\": \"Hello!\", \"answer\": \"A\", \"match\": \"letter\"}\n"
      "{\"id\": \"seen\", \"prompt\": \"What is it?\", \"images\": [\"picture.png\"], \"answer\": \"x\"}\n"
      "{\"id\": \"unseen\", \"prompt\": \"What is it?\", \"images\": [\"no-such.png\"], \"answer\": \"x\"}\n"
      "{\"id\": \"said\", \"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"},"
      " {\"role\": \"user\", \"content\": \"Hello!\"}], \"answer\": \"x\"}\n"
      "{\"id\": \"sum\", \"prompt\": \"a second one\", \"answer\": \"16\"}\n"
      "{\"prompt\": \"no answer\"}\n"
      "not JSON\n");
  const Result r = l4_eval(command(dir, "out.jsonl", {"-n", "12"}));
  CHECK(r.status == 1);
  CHECK_MESSAGE(has(r.out,
                    "6 questions: 5 answered (1 right, 4 wrong, of these 1 without an answer in them), 1 failed "
                    "(1 of these: the picture is missing); 3 lines of the data could not be used"),
                r.out);
  CHECK(has(r.err, "line 7 of the data is left out: id: \"sum\" was line 1's"));
  CHECK(has(r.err, "line 9 of the data is left out: not valid JSON"));
  CHECK(has(r.err, "1 questions failed"));
  const RunFile file = read_run_file(dir / "out.jsonl");
  CHECK(file.header.n_items == 6);
  CHECK(file.header.bad_lines.size() == 3);
  CHECK(file.header.model == "demo");
  CHECK(file.header.device.starts_with("CPU"));
  const auto alone = [](const std::vector<std::string>& words) {
    return *json_of(words + std::vector<std::string>{"-m", demo_model(), "--json", "--temp", "0", "-n", "12"})
                .find("text");
  };
  CHECK(record_of(file, "sum").reply.text == alone({"-p", "8*2 ="}).as_string());
  CHECK(record_of(file, "sum").right());
  CHECK(!record_of(file, "wrong").right());
  CHECK(!record_of(file, "letter").score.extracted);
  CHECK(record_of(file, "seen").reply.text ==
        alone({"-p", "What is it?", "--image", (dir / "picture.png").string()}).as_string());
  CHECK(record_of(file, "said").reply.text ==
        alone({"--system", "You are a helpful assistant.", "-p", "Hello!"}).as_string());
  const Record unseen = record_of(file, "unseen");
  CHECK(has(unseen.reply.error, "no-such.png"));
  CHECK(!unseen.right());

  // The picture is there now: what failed is asked, nothing else is.
  fs::copy(dir / "picture.png", dir / "no-such.png");
  const Result again = l4_eval(command(dir, "out.jsonl", {"-n", "12", "--resume"}));
  CHECK_MESSAGE(again.status == 0, again.err);
  CHECK(has(again.out, "6 answered"));
  CHECK(has(again.out, "5 answers are of the run before"));
  const RunFile healed = read_run_file(dir / "out.jsonl");
  CHECK(record_of(healed, "unseen").reply.text == record_of(healed, "seen").reply.text);
}

TEST_CASE("eval run: killed again and again, it ends with the same answers") {
  TempDir dir;
  write_file_atomic(dir / "in.jsonl", sums(60));
  REQUIRE(l4_eval(command(dir, "whole.jsonl")).status == 0);
  int n_killed = 0;
  bool finished = false;
  // Later each time, so that it ends on any machine.
  for (double seconds = 0.06; !finished && seconds < 60; seconds *= 1.1) {
    const Result r = run(std::vector<std::string>{"timeout", "-s", "KILL", cat(seconds)} +
                         tool("l4-eval", command(dir, "out.jsonl", {"--resume", "--concurrency", "1"})));
    finished = r.status == 0;
    n_killed += !finished;
    if (!finished) CHECK_MESSAGE(r.err.find("error") == std::string::npos, r.err);
  }
  CHECK(finished);
  CHECK(n_killed > 0);
  const RunFile pieced = read_run_file(dir / "out.jsonl");
  CHECK(pieced.records.size() == 60);
  CHECK(sorted_lines(pieced) == sorted_lines(dir / "whole.jsonl"));
  // Each was asked once: no line took the place of another.
  CHECK(split(trim(read_file(dir / "out.jsonl", 1 << 24)), '\n').size() == 61);
}

TEST_CASE("eval run: Ctrl+C leaves a file to go on with") {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 400; ++i)
    lines += cat("{\"prompt\": \"Tell me about the number ", i, ".\", \"answer\": \"x\"}\n");
  write_file_atomic(dir / "in.jsonl", lines);
  size_t n = 0;
  std::string said;
  for (double seconds = 0.3; n == 0 && seconds < 20; seconds *= 1.5) {
    const Result r = run(std::vector<std::string>{"timeout", "--preserve-status", "-s", "INT", cat(seconds)} +
                         tool("l4-eval", command(dir, "out.jsonl", {"--force", "--concurrency", "2"})));
    CHECK(r.status == 130);
    said = r.err;
    if (fs::exists(dir / "out.jsonl")) n = read_run_file(dir / "out.jsonl").records.size();
  }
  CHECK(n > 0);
  CHECK(n < 400);
  CHECK_MESSAGE(has(said, cat(n, " of 400 questions are done; the same command with --resume goes on")), said);
}

TEST_CASE("eval run: a terminal shows the score so far and the time that is left; Ctrl+C removes the line") {
  TempDir dir;
  std::string lines;
  for (int i = 0; i < 5000; ++i)
    lines += cat("{\"prompt\": \"Tell me about the number ", i, ".\", \"answer\": \"x\"}\n");
  write_file_atomic(dir / "in.jsonl", lines);
  PseudoTerminal terminal(tool("l4-eval", command(dir, "out.jsonl", {"--concurrency", "2"})));
  CHECK(terminal.wait_for(" / 5,000 questions  0.0 % right"));
  CHECK(terminal.wait_for(" left"));
  terminal.type("\x03");
  CHECK(terminal.wait() == 130);
  const size_t last = terminal.screen().rfind("\r\x1b[K");
  REQUIRE(last != std::string::npos);
  CHECK_MESSAGE(has(terminal.screen().substr(last), "of 5,000 questions are done; the same command with --resume"),
                terminal.screen().substr(last));
}

TEST_CASE("eval run: a seed gives the same questions and answers each time, whatever runs beside them") {
  TempDir dir;
  write_file_atomic(dir / "in.jsonl", sums(40));
  const auto ids = [&](const std::string& name) {
    std::vector<std::string> out;
    for (const Record& record : read_run_file(dir / name).records) out.push_back(record.id);
    std::sort(out.begin(), out.end());
    return out;
  };
  const std::vector<std::string> five = {"--limit", "5", "--seed"};
  REQUIRE(l4_eval(command(dir, "a.jsonl", five + std::vector<std::string>{"3", "--concurrency", "1"})).status == 0);
  REQUIRE(l4_eval(command(dir, "b.jsonl", five + std::vector<std::string>{"3"})).status == 0);
  REQUIRE(l4_eval(command(dir, "c.jsonl", five + std::vector<std::string>{"4"})).status == 0);
  REQUIRE(l4_eval(command(dir, "d.jsonl", {"--limit", "5", "--categories", "even"})).status == 0);
  CHECK(ids("a.jsonl").size() == 10);
  CHECK(sorted_lines(dir / "a.jsonl") == sorted_lines(dir / "b.jsonl"));
  CHECK(ids("a.jsonl") != ids("c.jsonl"));
  CHECK(ids("d.jsonl") == std::vector<std::string>{"s0", "s2", "s4", "s6", "s8"});
}

TEST_CASE("eval run: command lines that are wrong are one line, and nothing is lost by them") {
  TempDir dir;
  const std::string data = sums(3);
  write_file_atomic(dir / "in.jsonl", data);
  REQUIRE(l4_eval(command(dir, "out.jsonl")).status == 0);
  const std::string before = read_file(dir / "out.jsonl", 1 << 20);
  const auto error = [&](int status, const std::vector<std::string>& words) {
    return one_line_error(l4_eval(words), status);
  };
  CHECK(has(error(2, command(dir, "out.jsonl")), "is there already; --resume goes on with it, --force begins anew"));
  CHECK(has(error(2, command(dir, "out.jsonl", {"--resume", "--limit", "1"})), "n_items is 3 there and 2 here"));
  CHECK(has(error(2, command(dir, "out.jsonl", {"--resume", "-n", "5"})), "settings.max_tokens"));
  CHECK(has(error(2, command(dir, "out.jsonl", {"--resume", "--dtype", "float32"})), "settings.dtype"));
  CHECK(has(error(2, command(dir, "out.jsonl", {"--resume", "--force"})), "not both"));
  CHECK(has(error(2, command(dir, "out.json")), "ends in .jsonl"));
  CHECK(has(error(2, command(dir, "new.jsonl", {"--categories", "odd,prime"})), "prime"));
  CHECK(has(error(2, command(dir, "new.jsonl", {"--api-key", "x"})), "--api-key: is for an endpoint"));
  CHECK(has(error(2, command(dir, "new.jsonl", {"--url", "http://127.0.0.1:1", "--dtype", "float32"})), "--dtype"));
  CHECK(has(error(2, {"questions", "-o", (dir / "new.jsonl").string()}), "--data"));
  CHECK(has(error(2, {"questions", "--data", (dir / "in.jsonl").string()}), "-o"));
  CHECK(has(error(1, {"questions", "--data", (dir / "none").string(), "-o", (dir / "new.jsonl").string()}), "none"));
  CHECK(has(error(1, command(dir, "no/such/dir.jsonl")), "no/such/dir.jsonl"));
  CHECK(read_file(dir / "out.jsonl", 1 << 20) == before);
  CHECK(!fs::exists(dir / "new.jsonl"));

  // A checkpoint for completions alone.
  fs::copy(demo_model(), dir / "base");
  fs::remove(dir / "base" / "chat_template.jinja");
  const std::vector<std::string> base = {"questions",
                                         "-m",
                                         (dir / "base").string() + "/",
                                         "--data",
                                         (dir / "in.jsonl").string(),
                                         "-o",
                                         (dir / "new.jsonl").string()};
  CHECK(has(error(2, base), "base/: has no chat template; --chat-template NAME gives one"));
  CHECK(!fs::exists(dir / "new.jsonl"));
  REQUIRE(l4_eval(base + std::vector<std::string>{"--no-chat-template", "-n", "2"}).status == 0);
  CHECK(read_run_file(dir / "new.jsonl").header.model == "base");
  fs::remove(dir / "new.jsonl");

  // The data changed under the same name.
  write_file_atomic(dir / "in.jsonl", data + "\n");
  CHECK(has(error(2, command(dir, "out.jsonl", {"--resume"})), "settings.data_sha256.in.jsonl"));
  write_file_atomic(dir / "in.jsonl", "");
  CHECK(has(error(1, command(dir, "new.jsonl")), "expected questions, found none"));
}
