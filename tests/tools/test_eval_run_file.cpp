// The file that a run of l4-eval leaves: written, read back, gone on with, and what others may have made of it.
#include "tools/eval/run_file.h"

#include "support/test.h"

using namespace l4;
using namespace l4::eval;
using namespace l4::test;

namespace {

RunHeader header() {
  RunHeader h;
  h.task = "questions";
  h.recipe = "own";
  h.version = "1";
  h.group_name = "group";
  h.groups_weigh_by_size = false;
  h.model = "demo";
  h.device = "CPU, 2 threads";
  h.shots = 5;
  h.n_items = 3;
  h.seed = 7;
  h.settings = Json::Object{{"limit", 10}, {"data_sha256", Json::Object{{"a.jsonl", "ff"}}}};
  h.bad_lines = {{4, "not JSON \xff"}};
  return h;
}

Record answered(const std::string& id, double value) {
  Record r;
  r.id = id;
  r.group = "sums";
  r.prompt_sha256 = "ab";
  r.target = "4";
  r.reply.text = "line\nfeed, \"quote\", \xC3\xA4";
  r.reply.finish_reason = "stop";
  r.reply.prompt_tokens = 10;
  r.reply.completion_tokens = 3;
  r.score.extracted = "4";
  r.score.rule = "number";
  r.score.metrics = {{"b", value}, {"a", 0.25}};
  return r;
}

Record failed(const std::string& id) {
  Record r;
  r.id = id;
  r.reply.error = "HTTP 500: bad \xff";
  r.reply.attempts = 5;
  return r;
}

RunFile read(const fs::path& path) {
  return read_run_file(path);
}

void write(const fs::path& path, const std::string& text) {
  write_file_atomic(path, text);
}

// A run with these records, ended.
void write_run(const fs::path& path, const std::vector<Record>& records) {
  RunWriter writer(path, RunStart::fresh);
  writer.begin(header());
  for (const Record& record : records) writer.append(record);
}

}  // namespace

TEST_CASE("eval run file: comes back as it was written") {
  TempDir dir;
  const fs::path path = dir / "run.jsonl";
  Record nothing_found = answered("none", 0);
  nothing_found.score.extracted.reset();
  nothing_found.score.rule.clear();
  write_run(path, {answered("q1", 1), failed("q2"), nothing_found});
  const RunFile run = read(path);
  CHECK(to_line(run.header) == to_line(header()));
  CHECK(run.header.shots == 5);
  CHECK(run.header.seed == 7);
  CHECK(!run.header.groups_weigh_by_size);
  REQUIRE(run.header.bad_lines.size() == 1);
  CHECK(run.header.bad_lines[0].line == 4);
  CHECK(run.header.bad_lines[0].why == "not JSON \xEF\xBF\xBD");
  REQUIRE(run.records.size() == 3);
  const Record& r = run.records[0];
  CHECK(r.reply.text == answered("q1", 1).reply.text);
  CHECK(r.right());
  CHECK(r.score.extracted == "4");
  CHECK(r.score.rule == "number");
  REQUIRE(r.score.metrics.size() == 2);
  CHECK(r.score.metrics[0].name == "b");  // the main one stays the first
  CHECK(r.score.metrics[1].value == 0.25);
  CHECK(r.reply.prompt_tokens == 10);
  CHECK(r.reply.completion_tokens == 3);
  CHECK(!run.records[1].answered());
  CHECK(!run.records[1].right());
  CHECK(run.records[1].reply.attempts == 5);
  CHECK(!run.records[2].score.extracted);
  CHECK(!run.records[2].right());
  CHECK(run.whole_bytes == fs::file_size(path));
}

TEST_CASE("eval run file: a later line takes the place of an earlier one, half a line is left out") {
  TempDir dir;
  const fs::path path = dir / "run.jsonl";
  write_run(path, {failed("q1"), answered("q2", 0), answered("q1", 1)});
  const uint64_t whole = fs::file_size(path);
  write(path, read_file(path, 1 << 20) + R"({"id": "q3", "answ)");
  const RunFile run = read(path);
  REQUIRE(run.records.size() == 2);
  CHECK(run.records[0].id == "q1");
  CHECK(run.records[0].right());
  CHECK(run.whole_bytes == whole);
  {
    RunWriter writer(path, RunStart::resume);
    CHECK(writer.kept().size() == 2);
    writer.begin(header());
    writer.append(answered("q3", 1));
  }
  CHECK(read(path).records.size() == 3);
  CHECK(read(path).whole_bytes == fs::file_size(path));
}

TEST_CASE("eval run file: another run's is refused by the field that differs") {
  TempDir dir;
  const fs::path path = dir / "run.jsonl";
  write_run(path, {answered("q1", 1)});
  const std::string before = read_file(path, 1 << 20);
  const auto refused = [&](auto&& change) {
    RunHeader other = header();
    change(other);
    return error_of([&] { RunWriter(path, RunStart::resume).begin(other); });
  };
  const auto named = [](const std::string& error, const std::string& what) {
    CHECK_MESSAGE(error.find(cat("belongs to another run: ", what)) != std::string::npos, error);
  };
  named(refused([](RunHeader& h) { h.recipe = "llama"; }), "recipe is \"own\" there and \"llama\" here");
  named(refused([](RunHeader& h) { h.seed = 8; }), "seed is 7 there and 8 here");
  named(refused([](RunHeader& h) { h.model = "scout"; }), "model");
  named(refused([](RunHeader& h) { h.device = "GPU"; }), "device");
  named(refused([](RunHeader& h) { h.settings.set("limit", 11); }), "settings.limit is 10 there and 11 here");
  named(refused([](RunHeader& h) { h.settings.set("dtype", "fp8"); }), "settings.dtype is nothing there");
  named(refused([](RunHeader& h) { h.settings = Json(Json::Object{{"limit", 10}}); }), "settings.data_sha256");
  named(refused([](RunHeader& h) {
          h.settings.set("data_sha256", Json::Object{{"a.jsonl", "00"}});
        }),
        "settings.data_sha256.a.jsonl");
  CHECK(read_file(path, 1 << 20) == before);

  RunHeader early = header();  // before the model is loaded, or the endpoint asked
  early.device.clear();
  early.model.clear();
  RunWriter(path, RunStart::resume).check(early);
}

TEST_CASE("eval run file: what is there is not lost by mistake") {
  TempDir dir;
  const fs::path path = dir / "run.jsonl";
  write_run(path, {answered("q1", 1)});
  CHECK(error_of([&] { RunWriter(path, RunStart::fresh); }).find("is there already; --resume") != std::string::npos);
  CHECK(read(path).records.size() == 1);
  {
    const RunWriter one(path, RunStart::resume);
    CHECK(error_of([&] { RunWriter(path, RunStart::resume); }).find("another process") != std::string::npos);
  }
  { const RunWriter not_begun(path, RunStart::anew); }
  CHECK(read(path).records.size() == 1);
  RunWriter(path, RunStart::anew).begin(header());
  CHECK(read(path).records.empty());

  { const RunWriter nothing(dir / "new.jsonl", RunStart::fresh); }
  CHECK(!fs::exists(dir / "new.jsonl"));
  write(dir / "cut.jsonl", R"({"l4_eval": 1, "ta)");  // killed in its first line
  RunWriter(dir / "cut.jsonl", RunStart::fresh).begin(header());
  CHECK(read(dir / "cut.jsonl").records.empty());
  CHECK(error_of([&] { RunWriter(dir / "no/such/run.jsonl", RunStart::fresh); }).find("cannot be written") !=
        std::string::npos);
}

TEST_CASE("eval run file: lines of somebody else are one error that names line and field") {
  TempDir dir;
  const fs::path path = dir / "run.jsonl";
  const std::string head = to_line(header()) + "\n", good = to_line(answered("q1", 1)) + "\n";
  const struct {
    std::string text;
    const char* named;
  } rows[] = {
      {"", "line 1: expected the header of a run, found none"},
      {"\n", "line 1: not valid JSON"},
      {"[]\n", "line 1: expected an object"},
      {good, "line 1: l4_eval: expected 1, found nothing"},
      {"{\"l4_eval\": 2}\n", "line 1: l4_eval: expected 1, found 2"},
      {"{\"l4_eval\": 1, \"recipe\": \"x\"}\n", "line 1: task: expected a string, found nothing"},
      {head + "x\n", "line 2: not valid JSON"},
      {head + "\n" + good, "line 2: not valid JSON"},
      {head + good + "{\"id\": 3}\n", "line 3: id: expected a string, found 3"},
      {head + "{\"id\": \"a\"}\n", "line 2: answer: expected a string, found nothing"},
      {head + "{\"id\": \"a\", \"answer\": \"x\"}\n", "line 2: metrics: expected an object, found nothing"},
      {head + "{\"id\": \"a\", \"answer\": \"x\", \"metrics\": {\"m\": 2}}\n",
       "line 2: metrics.m: expected a number from 0"},
      {head + "{\"id\": \"a\", \"answer\": \"x\", \"metrics\": {}, \"prompt_tokens\": -1}\n", "line 2: prompt_tokens"},
      {head + "{\"id\": \"a\", \"error\": \"\"}\n", "line 2: error: expected why"},
      {head + "{\"id\": \"a\", \"id\": \"b\"}\n", "line 2: not valid JSON"},
      {head + "{\"id\": \"a\xff\"}\n", "line 2: not valid JSON"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.text);
    write(path, row.text);
    const std::string error = error_of([&] { read(path); });
    CHECK_MESSAGE(error.find(cat(path.string(), ": ", row.named)) == 0, error);
  }
}

TEST_CASE("eval run file: prompts that a model sees as different have different digests") {
  TempDir dir;
  write(dir / "a.png", "1");
  write(dir / "b.png", "1");
  write(dir / "c.png", "2");
  Query q;
  q.turns = {{"user", "ab"}};
  q.images = {dir / "a.png"};
  const std::string first = prompt_hash(q);
  CHECK(first.size() == 64);
  const auto changed = [&](auto&& change) {
    Query other = q;
    change(other);
    return prompt_hash(other);
  };
  CHECK(changed([&](Query& o) { o.images = {dir / "b.png"}; }) == first);  // another name, the same picture
  CHECK(changed([&](Query& o) { o.max_tokens = 9; }) == first);
  CHECK(changed([&](Query& o) { o.images = {dir / "c.png"}; }) != first);
  CHECK(changed([&](Query& o) { o.images.clear(); }) != first);
  CHECK(changed([&](Query& o) { o.turns = {{"system", "ab"}}; }) != first);
  CHECK(changed([&](Query& o) { o.turns = {{"user", "a"}, {"user", "b"}}; }) != first);
  CHECK(changed([&](Query& o) {
          o.turns.clear();
          o.text = "ab";
        }) != first);
  CHECK(error_of([&] { changed([&](Query& o) { o.images = {dir / "none.png"}; }); }).find("none.png") !=
        std::string::npos);
}
