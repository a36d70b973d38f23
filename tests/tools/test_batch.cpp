#include "tools/run/batch.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

#include "formats/json.h"
#include "support/test.h"
#include "tools/run/batch_journal.h"

using namespace l4;
using namespace l4::test;
using namespace l4::run;

namespace {

// Answers with what it was asked, the last of those waiting first, when `window` of them wait or nothing comes any
// more.
class FakeApi final : public tools::OfflineApi {
 public:
  explicit FakeApi(size_t window = 1) : window_(window), thread_([this] { work(); }) {}
  ~FakeApi() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    thread_.join();
    for (const Waiting& request : waiting_) request.answer({503, R"({"error":{"message":"ending"}})"});
  }
  bool has(std::string_view url) const override { return url == "/v1/chat/completions"; }
  void post(const std::string& url, std::string body, std::function<void(tools::ApiAnswer)> answer) override {
    CHECK(has(url));
    const std::lock_guard lock(mutex_);
    waiting_.push_back({std::move(body), std::move(answer)});
    most_waiting = std::max(most_waiting, waiting_.size());
    wake_.notify_all();
  }

  std::atomic<int> n_asked{0};
  size_t most_waiting = 0;
  std::function<int(const std::string& body)> status = [](const std::string&) { return 200; };

 private:
  struct Waiting {
    std::string body;
    std::function<void(tools::ApiAnswer)> answer;
  };
  void work() {
    std::unique_lock lock(mutex_);
    while (!ending_) {
      wake_.wait_for(lock, std::chrono::milliseconds(5), [&] { return ending_ || waiting_.size() >= window_; });
      if (ending_ || waiting_.empty()) continue;
      const Waiting request = waiting_.back();
      waiting_.pop_back();
      lock.unlock();
      ++n_asked;
      const int code = status(request.body);
      request.answer(
          {code, code == 200 ? cat("{\"asked\":", request.body, "}") : R"({"error":{"message":"no luck"}})"});
      lock.lock();
    }
  }

  size_t window_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Waiting> waiting_;
  bool ending_ = false;
  std::thread thread_;
};

std::string request_line(const std::string& id, const std::string& body = "{}") {
  return cat(R"({"custom_id": ")", id, R"(", "method": "POST", "url": "/v1/chat/completions", "body": )", body, "}\n");
}
std::string requests(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += request_line(cat("id-", i), cat("{\"n\": ", i, "}"));
  return out;
}

void write(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}
std::vector<Json> lines_of(const fs::path& path) {
  const std::string text = read_file(path, 1 << 24);
  CHECK(text.ends_with('\n'));
  std::vector<Json> out;
  for (const std::string& line : split(std::string_view(text).substr(0, text.size() - 1), '\n'))
    out.push_back(parse_json(line, "output"));
  return out;
}
const Json& at(const Json& json, const std::string& path) {
  const Json* found = &json;
  for (const std::string& key : split(path, '.')) {
    found = found->find(key);
    REQUIRE_MESSAGE(found, path);
  }
  return *found;
}

struct Files {
  TempDir dir;
  fs::path input = dir / "in.jsonl", output = dir / "out.jsonl", journal = dir / "out.jsonl.partial";
  BatchOptions options(int64_t max_in_flight = 8) const {
    BatchOptions o;
    o.input = input;
    o.output = output;
    o.max_in_flight = max_in_flight;
    return o;
  }
};

}  // namespace

TEST_CASE("batch: answers stand in the order of the requests, however they came") {
  Files files;
  write(files.input, requests(100));
  FakeApi api(5);  // the fifth is answered before the first
  std::vector<int64_t> seen;
  BatchOptions options = files.options(8);
  options.progress = [&](int64_t done, int64_t total, int64_t before) {
    CHECK(total == 100);
    CHECK(before == 0);
    seen.push_back(done);
  };
  const BatchResult result = run_batch(options, api);
  CHECK(result.finished);
  CHECK(result.n_lines == 100);
  CHECK(result.n_done == 100);
  CHECK(result.n_errors == 0);
  CHECK(api.n_asked == 100);
  CHECK(api.most_waiting <= 8);
  CHECK(api.most_waiting >= 5);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(!fs::exists(files.journal));
  const std::vector<Json> lines = lines_of(files.output);
  REQUIRE(lines.size() == 100);
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const Json& line = lines[size_t(i)];
    CHECK(at(line, "custom_id").as_string() == cat("id-", i));
    CHECK(at(line, "response.status_code").as_integer() == 200);
    CHECK(at(line, "response.body.asked.n").as_integer() == i);
    CHECK(at(line, "error").is_null());
    ids.insert(at(line, "id").as_string());
    ids.insert(at(line, "response.request_id").as_string());
  }
  CHECK(ids.size() == 200);
}

TEST_CASE("batch: lines that are no requests are answered in place") {
  Files files;
  const std::string url = R"("url": "/v1/chat/completions")", post = R"("method": "POST")";
  const std::pair<std::string, const char*> bad[] = {
      {"{", "line 2: not valid JSON"},
      {"[]", "line 3: expected an object, found array"},
      {"{}", "line 4: custom_id: expected a string, found nothing"},
      {R"({"custom_id": 7})", "line 5: custom_id: expected a string, found integer"},
      {R"({"custom_id": ""})", "line 6: custom_id: is empty"},
      {cat(R"({"custom_id": "good", )", post, ",", url, R"(, "body": {}})"),
       "line 7: custom_id: \"good\" was line 1's"},
      {R"({"custom_id": "a"})", "line 8: method: expected a string"},
      {cat(R"({"custom_id": "b", "method": "GET", )", url, R"(, "body": {}})"), "line 9: method: expected POST"},
      {cat(R"({"custom_id": "c", )", post, R"(, "url": "/v1/embeddings", "body": {}})"),
       "line 10: url: \"/v1/embeddings\""},
      {cat(R"({"custom_id": "d", )", post, ",", url, "}"), "line 11: body: expected an object, found nothing"},
      {cat(R"({"custom_id": "e", )", post, ",", url, R"(, "body": []})"),
       "line 12: body: expected an object, found array"},
      {cat(R"({"custom_id": "f", )", post, ",", url, R"(, "body": {"stream": true}})"), "line 13: body.stream"},
      {"\xFF\xFE", "line 14: not valid JSON"},
      {std::string(200, '['), "line 15: not valid JSON"},
  };
  std::string input = request_line("good");
  for (const auto& [line, problem] : bad) input += line + "\n";
  input += " \r\n\n" + request_line("last", R"({"model": "any", "stream": false, "x": "é"})");
  input.pop_back();  // no line feed at the end
  write(files.input, input);
  FakeApi api;
  const BatchResult result = run_batch(files.options(), api);
  CHECK(result.finished);
  CHECK(result.n_lines == 16);
  CHECK(result.n_errors == 14);
  const std::vector<Json> lines = lines_of(files.output);
  REQUIRE(lines.size() == 16);
  for (size_t i = 0; i < std::size(bad); ++i) {
    const Json& line = lines[i + 1];
    CHECK(at(line, "response").is_null());
    CHECK(at(line, "error.code").as_string() == "invalid_line");
    const std::string message = at(line, "error.message").as_string();
    CHECK_MESSAGE(message.starts_with(bad[i].second), message);
  }
  CHECK(at(lines[1], "custom_id").is_null());
  CHECK(at(lines[9], "custom_id") == Json("c"));
  CHECK(dump_json(at(lines[15], "response.body.asked")) == R"({"stream": false, "x": "é"})");  // "model" is left out
}

TEST_CASE("batch: an interrupted batch goes on where it was") {
  Files files;
  write(files.input, requests(60));
  std::string expected;
  {
    Files whole;
    write(whole.input, requests(60));
    FakeApi api(3);
    REQUIRE(run_batch(whole.options(), api).finished);
    expected = read_file(whole.output, 1 << 20);
  }
  int asked = 0;
  {
    FakeApi api(3);
    BatchOptions options = files.options();
    options.interrupted = [&] { return api.n_asked >= 20; };
    const BatchResult result = run_batch(options, api);
    CHECK(!result.finished);
    CHECK(result.n_done >= 19);
    CHECK(result.n_done < 60);
    asked = int(result.n_done);
    CHECK(!fs::exists(files.output));
    CHECK(fs::exists(files.journal));
  }
  FakeApi api(3);
  int64_t before = -1;
  BatchOptions options = files.options();
  options.progress = [&](int64_t, int64_t, int64_t done_before) { before = done_before; };
  CHECK(run_batch(options, api).finished);
  CHECK(before >= asked);
  CHECK(api.n_asked == 60 - before);  // nothing is asked twice
  CHECK(read_file(files.output, 1 << 20) == expected);
}

TEST_CASE("batch: killed at any byte of its journal") {
  Files files;
  write(files.input, requests(3) + "bad\n");
  std::string expected, journal;
  {
    FakeApi api;
    BatchOptions options = files.options(1);
    // Interrupted once all is written, before the output is: the whole journal.
    options.interrupted = [&] {
      const std::string all = read_file(files.journal, 1 << 20);
      const auto is_in = [&](const char* line) { return all.find(line) != std::string::npos; };
      return is_in("\n1\tfinal") && is_in("\n2\tfinal") && is_in("\n3\tfinal") && is_in("\n4\tfinal");
    };
    run_batch(options, api);
    journal = read_file(files.journal, 1 << 20);
    REQUIRE(std::count(journal.begin(), journal.end(), '\n') >= 4);
    options.interrupted = {};
    REQUIRE(run_batch(options, api).finished);
    expected = read_file(files.output, 1 << 20);
  }
  for (size_t size = 0; size < journal.size(); size += size < 100 ? 1 : 7) {
    CAPTURE(size);
    fs::remove(files.output);
    write(files.journal, journal.substr(0, size));
    FakeApi api;
    CHECK(run_batch(files.options(1), api).finished);
    const std::string kept = journal.substr(0, size);
    int64_t answered = 0;  // whole lines, behind the first, of requests that are asked; the bad one, 4, may stand anywhere
    for (size_t end = kept.find('\n'), next; end != std::string::npos; end = next) {
      next = kept.find('\n', end + 1);
      if (next != std::string::npos && kept[end + 1] != '4') ++answered;
    }
    CHECK(api.n_asked == 3 - answered);
    CHECK(read_file(files.output, 1 << 20) == expected);
  }
  // What a disk without power leaves behind: a hole.
  fs::remove(files.output);
  std::string holed = journal;
  const size_t second = holed.find("\n2\t") + 1;
  std::fill(holed.begin() + ptrdiff_t(second), holed.begin() + ptrdiff_t(second + 20), '\0');
  write(files.journal, holed);
  FakeApi api;
  CHECK(run_batch(files.options(1), api).finished);
  CHECK(api.n_asked == 1);
  CHECK(read_file(files.output, 1 << 20) == expected);
}

TEST_CASE("batch: finished, changed and busy batches are refused") {
  Files files;
  write(files.input, requests(2));
  FakeApi api;
  {
    const BatchJournal other(files.output, "0123");
    CHECK(error_of([&] { run_batch(files.options(), api); }).find("another process") != std::string::npos);
  }
  CHECK(error_of([&] {
          run_batch(files.options(), api);
        }).ends_with("belongs to another input, or is none of ours; remove it to begin anew"));
  write(files.journal, "precious\n");
  CHECK(error_of([&] { run_batch(files.options(), api); }).find("belongs to another input") != std::string::npos);
  CHECK(read_file(files.journal, 100) == "precious\n");
  fs::remove(files.journal);
  CHECK(api.n_asked == 0);
  CHECK(run_batch(files.options(), api).finished);
  CHECK(error_of([&] { run_batch(files.options(), api); }).find("is there already") != std::string::npos);
  CHECK(api.n_asked == 2);
  BatchOptions no_input = files.options();
  no_input.input = files.dir / "none.jsonl";
  no_input.output = files.dir / "none.out";
  CHECK(error_of([&] { run_batch(no_input, api); }).find("cannot be read") != std::string::npos);
  write(no_input.input, "");
  CHECK(run_batch(no_input, api).finished);  // no requests, no answers
  CHECK(read_file(no_input.output, 100).empty());
}

TEST_CASE("batch: what the server refuses stays, what fails in the server is asked again") {
  Files files;
  write(files.input, requests(6));
  {
    FakeApi api;
    api.status = [](const std::string& body) { return body == R"({"n":2})" ? 400 : body == R"({"n":4})" ? 500 : 200; };
    BatchOptions options = files.options(1);
    options.interrupted = [&] { return api.n_asked == 6; };
    CHECK(!run_batch(options, api).finished);
  }
  FakeApi api;
  CHECK(run_batch(files.options(), api).finished);
  CHECK(api.n_asked >= 1);  // number 4, and the last one if it was cut off
  CHECK(api.n_asked <= 2);
  const std::vector<Json> lines = lines_of(files.output);
  REQUIRE(lines.size() == 6);
  CHECK(at(lines[2], "response.status_code").as_integer() == 400);
  CHECK(at(lines[2], "response.body.error.message").as_string() == "no luck");
  CHECK(at(lines[4], "response.status_code").as_integer() == 200);

  SUBCASE("a failure that is not cured stands in the output") {
    fs::remove(files.output);
    FakeApi failing;
    failing.status = [](const std::string& body) { return body == R"({"n":4})" ? 500 : 200; };
    const BatchResult result = run_batch(files.options(), failing);
    CHECK(result.finished);
    CHECK(result.n_errors == 1);
    CHECK(at(lines_of(files.output)[4], "response.status_code").as_integer() == 500);
  }
  SUBCASE("many end the batch") {
    fs::remove(files.output);
    FakeApi broken;
    broken.status = [](const std::string& body) { return body < R"({"n":3)" ? 200 : 500; };
    BatchOptions options = files.options(1);
    options.max_failures = 2;
    CHECK(error_of([&] {
            run_batch(options, broken);
          }).starts_with("2 requests failed, the last one with \"no luck\"; 3 of 6"));
    CHECK(!fs::exists(files.output));
    FakeApi mended;
    CHECK(run_batch(files.options(), mended).finished);
    CHECK(mended.n_asked == 3);
  }
}
