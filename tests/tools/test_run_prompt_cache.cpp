// l4-run and l4-serve with --prompt-cache: what is read and written when, and what is said about it.
#include <algorithm>
#include <fstream>

#include "formats/safetensors.h"
#include "tools/run_tool.h"
#include "tools/serve_process.h"

using namespace l4::test;
using l4::Json;
using l4::read_file;
namespace fs = std::filesystem;

namespace {

using Words = std::vector<std::string>;
const Words kAsk = {"-p", "What is two plus three?", "--temp", "0", "-n", "12", "--json", "--logprobs", "2"};

struct Told {
  int64_t cached;
  std::string answer;  // ids and logprobs
};
Told told(const Words& words) {
  const Json answer = json_of(words);
  return {answer.find("usage")->find("cached_tokens")->as_integer(),
          dump_json(*answer.find("ids")) + dump_json(*answer.find("logprobs"))};
}

int64_t tokens_in(const fs::path& file) {
  return l4::SafetensorsFile(file).find("ids")->shape[0];
}

constexpr uint64_t kMost = 1 << 30;

}  // namespace

TEST_CASE("l4-run: --prompt-cache gives the same answer without computing the prompt") {
  const TempDir dir;
  const fs::path file = dir / "kv";
  const Words cache = {"--prompt-cache", file.string()};
  const Told plain = told(kAsk), first = told(kAsk + cache);
  CHECK(first.answer == plain.answer);
  CHECK(first.cached == 0);
  const int64_t n_prompt = tokens_in(file);
  const std::string bytes = read_file(file, kMost);
  const fs::file_time_type written = fs::last_write_time(file);
  const Told second = told(kAsk + cache);
  CHECK(second.answer == plain.answer);
  CHECK(second.cached == n_prompt - 1);
  CHECK(fs::last_write_time(file) == written);  // it held all of it
  // Another prompt that begins so: read, and written anew unless only read.
  Words other = kAsk;
  other[1] = "What is two plus four?";
  const Told plain_other = told(other);
  for (const char* flag : {"--prompt-cache-ro", "--prompt-cache-all"}) {
    const Told t = told(other + cache + Words{flag});
    CHECK(t.answer == plain_other.answer);
    CHECK(t.cached > 0);
    CHECK((read_file(file, kMost) == bytes) == (std::string(flag) == "--prompt-cache-ro"));
  }
  CHECK(tokens_in(file) > n_prompt);  // the answer's too
  CHECK(told(other + cache).answer == plain_other.answer);
}

TEST_CASE("l4-run: --prompt-cache keeps a chat's last turn") {
  const TempDir dir;
  const fs::path file = dir / "kv";
  const Words chat = {"-i", "--temp", "0", "-n", "8", "--prompt-cache", file.string()};
  CHECK(l4_run(chat, {.stdin_text = "Hello there\nAnd again\n"}).status == 0);
  const int64_t two_turns = tokens_in(file);
  CHECK(l4_run(chat, {.stdin_text = "Hello there\n"}).status == 0);
  CHECK(tokens_in(file) == two_turns);  // knew it all: the longer file stays
  CHECK(l4_run(chat, {.stdin_text = "Something else\n"}).status == 0);
  CHECK(tokens_in(file) < two_turns);
}

TEST_CASE("l4-run: a prompt cache that will not do is a warning, and stays as it is") {
  const TempDir dir;
  const fs::path file = dir / "kv";
  const std::string name = file.string();
  const Told plain = told(kAsk);
  told(kAsk + Words{"--prompt-cache", name});
  const std::string good = read_file(file, kMost);
  std::string damaged = good;
  damaged[damaged.size() / 2] = char(damaged[damaged.size() / 2] ^ 4);
  const auto warned = [&](const std::string& bytes, const Words& more, const std::string& says) {
    l4::write_file_atomic(file, bytes);
    const Result r = l4_run(kAsk + Words{"--prompt-cache", name} + more);
    CHECK(r.status == 0);
    CHECK(r.err ==
          "warning: --prompt-cache: " + name + ": " + says + "; the prompt is computed, the file stays as it is\n");
    CHECK(read_file(file, kMost) == bytes);
    return l4::parse_json(r.out, "output");
  };
  const Json answer = warned(damaged, {}, "tensor chunked: page 0: damaged (the checksum differs)");
  CHECK(dump_json(*answer.find("ids")) + dump_json(*answer.find("logprobs")) == plain.answer);
  warned(good, {"--dtype", "float32"}, "activations: expected \"F32\", found \"BF16\"");
  warned("", {}, "not a safetensors file: 0 bytes, expected at least 8");
  const std::string weights = read_file(fs::path(demo_model()) / "model-00002-of-00003.safetensors", kMost);
  warned(weights, {}, "format: expected \"l4-prompt-kv-1\", found \"pt\"");

  const Result none = l4_run(kAsk + Words{"--prompt-cache", name + "2", "--prompt-cache-ro"});
  CHECK(none.status == 0);
  CHECK(none.err ==
        "warning: --prompt-cache: " + name + "2: cannot open: No such file or directory; the prompt is computed\n");
  const Result nowhere = l4_run(kAsk + Words{"--prompt-cache", (dir / "no" / "kv").string()});
  CHECK(nowhere.status == 1);  // the answer was given, the file could not be
  CHECK(nowhere.out.starts_with("{"));
  CHECK(nowhere.err ==
        "l4-run: error: " + (dir / "no" / "kv").string() + ": cannot create: No such file or directory\n");
  CHECK(one_line_error(l4_run(kAsk + Words{"--prompt-cache-all"}), 2).find("go with --prompt-cache FILE") !=
        std::string::npos);
  CHECK(one_line_error(l4_run(kAsk + Words{"--prompt-cache", name, "--prompt-cache-ro", "--prompt-cache-all"}), 2)
            .find("one of them") != std::string::npos);
  CHECK(one_line_error(l4_run({"--batch", name, "-o", name + "3", "--prompt-cache", name}), 2)
            .find("with --prompt-cache-ro") != std::string::npos);
}

TEST_CASE("l4-run: killed while it writes a prompt cache, it leaves the old file") {
  const TempDir dir;
  const fs::path file = dir / "kv", text = dir / "text";
  std::ofstream(text) << [] {
    std::string long_text;
    for (int i = 0; i < 400; ++i) long_text += l4::cat(i, " apples and ");
    return long_text;
  }();
  told(kAsk + Words{"--prompt-cache", file.string()});
  const std::string old = read_file(file, kMost);
  const std::string script = R"("$@" >/dev/null 2>&1 & pid=$!
    while kill -0 $pid 2>/dev/null; do ls "$FILE".tmp* >/dev/null 2>&1 && kill -9 $pid && break; done
    wait $pid 2>/dev/null; ls "$FILE".tmp* >/dev/null 2>&1)";
  Result r;
  for (int attempt = 0; attempt < 5; ++attempt) {
    l4::write_file_atomic(file, old);
    r = run(Words{"bash", "-c", script, "bash"} +
                tool("l4-run", {"--raw", "-f", text.string(), "-n", "1", "--prompt-cache", file.string()}),
            {.env = {"FILE=" + file.string()}, .timeout_s = 120});
    if (r.status == 0) break;  // its unfinished file is there: it was killed in time
  }
  REQUIRE(r.status == 0);
  CHECK(read_file(file, kMost) == old);
  CHECK(told(kAsk + Words{"--prompt-cache", file.string()}).cached == tokens_in(file) - 1);
}

TEST_CASE("l4-serve: --prompt-cache: what l4-run wrote is known from the start") {
  const TempDir dir;
  const fs::path file = dir / "kv";
  output_of({"-p", "What is 3 + 4?", "--temp", "0", "--json", "-n", "1", "--prompt-cache", file.string()});
  std::ofstream(dir / "no kv") << "something else";
  ServeProcess server({"--prompt-cache", (dir / "no kv").string(), "--prompt-cache", file.string()});
  const std::string known = l4::cat("the KV of ", tokens_in(file), " tokens of ", file.string());
  CHECK(server.log().find(known) != std::string::npos);
  CHECK(server.log().find("no kv: safetensors header") != std::string::npos);
  server.ask_json("/v1/chat/completions",
                  R"({"model":"demo","messages":[{"role":"user","content":"What is 3 + 4?"}],"temperature":0})");
  CHECK(server.metric("l4:prefix_cache_hits_total") == double(tokens_in(file) - 1));
}
