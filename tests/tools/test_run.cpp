// l4-run as a program: one-shot answers, text tasks, flags, what goes where, exit codes.
#include <cmath>
#include <fstream>

#include "tools/run_tool.h"

using namespace l4::test;
using l4::Json;

namespace {

using Words = std::vector<std::string>;
const Words kGreedy = {"--temp", "0", "-n", "12"};

std::vector<int64_t> ids_of(const Json& list) {
  std::vector<int64_t> out;
  for (const Json& id : list.as_array()) out.push_back(id.as_integer());
  return out;
}

}  // namespace

TEST_CASE("l4-run: help teaches, version and completion scripts are printed") {
  const std::string help = output_of({"--help"});
  for (const char* part : {"Usage:", "Examples:", "Sampling", "-m, --model DIR", "--top-p P", "L4_ARG_CTX_SIZE"})
    CHECK(help.find(part) != std::string::npos);
  CHECK(output_of({"--model", "/nowhere", "--help"}) == help);
  for (const std::string shell : {"bash", "zsh", "fish"}) {
    const std::string script = output_of({"--completion", shell});
    CHECK(script.find("top-p") != std::string::npos);
    TempDir dir;
    std::ofstream(dir / "script") << script;
    const Result check = run({shell, "-n", (dir / "script").string()});
    if (check.status != 127) CHECK_MESSAGE(check.status == 0, check.err);
  }
  CHECK(one_line_error(l4_run({"--completion", "tcsh"}), 2).find("bash, zsh or fish") != std::string::npos);
}

TEST_CASE("l4-run: a wrong command line is one line and status 2") {
  const struct {
    Words words;
    const char* says;
  } rows[] = {
      {{"--no-such-flag"}, "unknown flag"},
      {{"-p"}, "--prompt"},
      {{"-p", "x", "--temp", "-1"}, "--temp: expected a finite number >= 0"},
      {{"-p", "x", "--top-p", "1.5"}, "--top-p: expected a number from 0 to 1"},
      {{"-p", "x", "-c", "lots"}, "--ctx-size: expected a number of tokens"},
      {{"-p", "x", "--device", "tpu"}, "--device: "},
      {{"-p", "x", "--dtype", "int3"}, "--dtype: "},
      {{"-p", "x", "--kv-cache-dtype", "fp4"}, "--kv-cache-dtype: "},
      {{"-p", "x", "--temp", "inf"}, "--temp: expected a finite number >= 0, found \"inf\""},
      {{"-p", "x", "--chat-template", "chatml"}, "error: --chat-template: expected official or launch"},
      {{"-p", "x", "--stop-token-ids", "x"}, "error: --stop-token-ids: expected token ids"},
      {{"-p", "x", "--threads", "1025"}, "--threads: expected a whole number from 0 to "},
      {{"-p", "caf\xe9"}, "--prompt: expected UTF-8 text"},
      {{"-p", "x", "--system", "caf\xe9"}, "--system: expected UTF-8 text"},
      {{"-p", "x", "-r", "caf\xe9"}, "--stop: expected UTF-8 text"},
      {{"-p", "x", "--min-tokens", "3", "-n", "2"}, "--min-tokens (3) is more than --max-tokens (2)"},
      {{"-p", "x", "--logit-bias", "oops"}, "--logit-bias: expected ID=BIAS"},
      {{"-p", "x", "-np", "0"}, "--parallel: expected a whole number from 1 to "},
      {{"-p", "x", "--num-speculative-tokens", "3"}, "--num-speculative-tokens goes with --speculative ngram"},
      {{"-p", "x", "--ids", "1"}, "--ids is a prompt"},
      {{"--ids", "1,two"}, "expected token ids"},
      {{"--dry-run", "--tokenize"}, "one of them at a time"},
      {{"-p", "x", "--json", "--output-ids"}, "--json holds the ids"},
      {{"/one", "/two", "-p", "x"}, "unexpected argument"},
      {{"-p", ""}, "the prompt is empty"},
      {{"-p", "x", "--log-level", "loud"}, "--log-level: expected"},
  };
  for (const auto& row : rows)
    CHECK_MESSAGE(one_line_error(l4_run(row.words), 2).find(row.says) != std::string::npos, row.says);
}

TEST_CASE("l4-run: the same answer from -p, a file and a pipe; nothing but the answer on standard output") {
  const Words model = {"-m", demo_model()};
  const Result r = l4_run(model + kGreedy + Words{"-p", "What is two plus three?"});
  CHECK(r.status == 0);
  CHECK(r.err == "");
  CHECK(r.out.ends_with('\n'));
  CHECK(r.out.size() > 2);
  CHECK(r.out.find('\x1b') == std::string::npos);
  TempDir dir;
  std::ofstream(dir / "prompt") << "What is two plus three?";
  CHECK(output_of(Words{demo_model()} + kGreedy, {.stdin_text = "What is two plus three?"}) == r.out);
  CHECK(output_of(kGreedy + Words{"-f", (dir / "prompt").string()}) == r.out);  // the demo is the default
  CHECK(output_of(kGreedy + Words{"-p", "What is", "-f", "-"}, {.stdin_text = "two plus three?"}) ==
        output_of(kGreedy + Words{"-p", "What is\n\ntwo plus three?"}));
  CHECK(output_of(kGreedy + Words{"-p", "What is two plus three?", "--device", "cpu", "-t", "1"}) == r.out);
}

TEST_CASE("l4-run: --json holds text, ids, usage, timings and why it ended") {
  const Words base = Words{"-p", "Hello!"} + kGreedy;
  const Json json = json_of(base + Words{"--json", "--seed", "5", "--logprobs", "2", "--prompt-logprobs", "1"});
  const std::vector<int64_t> ids = ids_of(*json.find("ids"));
  CHECK(json.find("text")->as_string() + "\n" == output_of(base));
  CHECK(json.find("seed")->as_integer() == 5);
  const std::string reason = json.find("finish_reason")->as_string();
  CHECK((reason == "stop" || (reason == "length" && ids.size() == 12)));
  const Json& usage = *json.find("usage");
  CHECK(usage.find("completion_tokens")->as_integer() == int64_t(ids.size()));
  CHECK(usage.find("total_tokens")->as_integer() == usage.find("prompt_tokens")->as_integer() + int64_t(ids.size()));
  for (const char* name : {"load_ms", "prompt_ms", "prompt_per_second"})
    CHECK(json.find("timings")->find(name)->as_number() > 0);
  const auto& logprobs = json.find("logprobs")->as_array();
  REQUIRE(logprobs.size() == ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK(logprobs[i].find("id")->as_integer() == ids[i]);
    CHECK(logprobs[i].find("top_logprobs")->as_array().size() == 2);
    CHECK(logprobs[i].find("top_logprobs")->as_array()[0].find("id")->as_integer() == ids[i]);  // greedy
    CHECK(logprobs[i].find("logprob")->as_number() <= 0);
  }
  CHECK(int64_t(json.find("prompt_logprobs")->as_array().size()) == usage.find("prompt_tokens")->as_integer() - 1);

  const std::string as_ids = output_of(base + Words{"--output-ids"});
  CHECK(ids_of(l4::parse_json(as_ids, "ids")) == ids);
  CHECK(as_ids.find('\n') == as_ids.size() - 1);
  CHECK(output_of({"--detokenize", "--ids", as_ids}) == json.find("text")->as_string());
}

TEST_CASE("l4-run: a prompt of ids is the prompt of their text") {
  const std::string rendered_ids = [] {
    TempDir dir;
    std::ofstream(dir / "chat.json")
        << R"({"messages": [{"role": "user", "content": "Hello!"}], "add_generation_prompt": true})";
    return output_of({"--render", (dir / "chat.json").string(), "--tokenize"});
  }();
  const Words how = kGreedy + Words{"--output-ids"};
  CHECK(output_of(Words{"--ids", rendered_ids} + how) == output_of(Words{"-p", "Hello!"} + how));
  const Json text_ids = l4::parse_json(output_of({"--tokenize", "-p", "Once upon"}), "ids");
  const Json bos = l4::parse_json(output_of({"--tokenize", "--special", "-p", "<|begin_of_text|>"}), "ids");
  REQUIRE(bos.as_array().size() == 1);
  Json whole = bos;
  for (const Json& id : text_ids.as_array()) whole.push_back(id);
  CHECK(output_of(Words{"--ids", dump_json(whole)} + how) == output_of(Words{"--raw", "-p", "Once upon"} + how));
}

TEST_CASE("l4-run: sampling flags do what they say") {
  const Words hot = {"-p", "Hello!", "--temp", "8", "-n", "16", "--output-ids"};
  const std::string first = output_of(hot + Words{"--seed", "1"});
  CHECK(output_of(hot + Words{"--seed", "1"}) == first);
  CHECK(output_of(hot + Words{"--seed", "2"}) != first);
  CHECK(output_of(hot + Words{"--seed", "1", "--top-k", "1"}) ==
        output_of(Words{"-p", "Hello!", "--temp", "0", "-n", "16", "--output-ids"}));
  CHECK(output_of({"-p", "Hello!", "-n", "3", "--temp", "0", "--logit-bias", "300=1000", "--output-ids"}) ==
        "[300, 300, 300]\n");
  const std::vector<int64_t> ids = ids_of(*json_of(Words{"-p", "Hello!", "--json"} + kGreedy).find("ids"));
  REQUIRE(ids.size() >= 3);
  const Json stopped = json_of(Words{"-p", "Hello!", "--json", "--stop-token-ids", std::to_string(ids[2])} + kGreedy);
  CHECK(ids_of(*stopped.find("ids")).size() <= 3);
  CHECK(stopped.find("finish_reason")->as_string() == "stop");
  const std::vector<int64_t> others =
      ids_of(*json_of(Words{"-p", "Hello!", "--json", "-l", std::to_string(ids[0]) + "=-inf"} + kGreedy).find("ids"));
  CHECK(others[0] != ids[0]);
}

TEST_CASE("l4-run: stop strings, eos, min tokens") {
  const Json free_answer = json_of({"-p", "Hello!", "--temp", "0", "-n", "40", "--json"});
  const std::string text = free_answer.find("text")->as_string();
  REQUIRE(text.size() > 4);
  const std::string stop = text.substr(2, 2);
  const Json stopped = json_of({"-p", "Hello!", "--temp", "0", "-n", "40", "--json", "--stop", stop});
  CHECK(stopped.find("text")->as_string() == text.substr(0, text.find(stop)));
  CHECK(stopped.find("stop")->as_string() == stop);

  // The end-of-turn id forced from the first token on: ends at once, with --ignore-eos never.
  const Json eot = l4::parse_json(output_of({"--tokenize", "--special", "-p", "<|eot|>"}), "ids");
  const std::string force = std::to_string(eot.as_array()[0].as_integer()) + "=1000";
  const Words base = {"-p", "Hello!", "--temp", "0", "-n", "5", "--json", "--logit-bias", force};
  const Json ended = json_of(base);
  CHECK(ended.find("finish_reason")->as_string() == "stop");
  CHECK(ids_of(*ended.find("ids")) == std::vector<int64_t>{eot.as_array()[0].as_integer()});
  const Json ignoring = json_of(base + Words{"--ignore-eos"});
  CHECK(ignoring.find("finish_reason")->as_string() == "length");
  CHECK(ids_of(*ignoring.find("ids")) == std::vector<int64_t>(5, eot.as_array()[0].as_integer()));
  CHECK(ids_of(*json_of(base + Words{"--min-tokens", "3"}).find("ids")).size() == 4);
}

TEST_CASE("l4-run: variables, which flags beat") {
  const Words base = {"-p", "Hello!", "--output-ids"};
  const RunOptions env = {.env = {"L4_ARG_TEMP=0", "L4_ARG_MAX_TOKENS=9", "L4_ARG_PREDICT=3", "L4_ARG_IGNORE_EOS=1",
                                  "L4_ARG_MODEL=" + demo_model()}};
  CHECK(ids_of(l4::parse_json(output_of(base, env), "ids")).size() == 3);
  CHECK(ids_of(l4::parse_json(output_of(base + Words{"-n", "2"}, env), "ids")).size() == 2);
  CHECK(one_line_error(l4_run(base, {.env = {"L4_ARG_TEMP=warm"}}), 2).find("L4_ARG_TEMP: ") != std::string::npos);
}

TEST_CASE("l4-run: text to ids and back, without weights") {
  TempDir dir;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    std::filesystem::copy_file(std::filesystem::path(demo_model()) / name, dir / name);
  const Words model = {"-m", dir.path().string()};
  const std::string text = "Grüße, 日本語!\n  <|eot|> x\n";
  const std::string ids = output_of(model + Words{"--tokenize"}, {.stdin_text = text});
  CHECK(ids == output_of(model + Words{"--tokenize", "-p", text}));
  CHECK(output_of(model + Words{"--detokenize", "--ids", ids}) == text);
  CHECK(output_of(model + Words{"--detokenize"}, {.stdin_text = ids}) == text);
  const std::string special = output_of(model + Words{"--tokenize", "--special"}, {.stdin_text = text});
  CHECK(l4::parse_json(special, "ids").as_array().size() < l4::parse_json(ids, "ids").as_array().size());
  CHECK(output_of(model + Words{"--detokenize", "--special", "--ids", special}) == text);
  std::ofstream(dir / "chat.json") << R"({"messages": [{"role": "user", "content": "Hi"}]})";
  CHECK(output_of(model + Words{"--chat-template", "official", "--render", (dir / "chat.json").string()}) ==
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\nHi<|eot|><|header_start|>assistant<|header_end|>\n\n");
  CHECK(
      one_line_error(l4_run(model + Words{"--render", (dir / "chat.json").string()}), 2).find("has no chat template") !=
      std::string::npos);
}

TEST_CASE("l4-run: prompts are rendered as the reference renders them") {
  const std::filesystem::path golden_file = shared_data("chat/golden_render.jsonl");
  TempDir dir;
  std::ifstream in(golden_file);
  std::string line;
  int n = 0;
  for (int i = 0; std::getline(in, line); ++i) {
    if (i % 5) continue;  // all of them are tested on the library
    const Json golden_case = l4::parse_json(line, "golden");
    std::ofstream(dir / "chat.json") << line;
    for (const std::string which : {"official", "launch"}) {
      const Json* rendered = golden_case.find("rendered_" + which);
      if (!rendered || rendered->is_null()) continue;
      CHECK(output_of({"--chat-template", which, "--render", (dir / "chat.json").string()}) == rendered->as_string());
      ++n;
    }
  }
  CHECK(n >= 4);
}

TEST_CASE("l4-run: a dry run needs no weights") {
  const std::filesystem::path config = shared_data("config/meta-llama--Llama-4-Scout-17B-16E-Instruct");
  const std::string plan =
      output_of({"--dry-run", "-m", config.string(), "-tp", "8", "--max-model-len", "1M", "--no-stats"});
  for (const char* part : {"108,641,793,536 parameters", "48 layers", "ranks 0-7", "1,048,576 tokens", "KV cache"})
    CHECK_MESSAGE(plan.find(part) != std::string::npos, plan);
}

TEST_CASE("l4-run: devices are listed whatever there is") {
  CHECK(output_of({"--list-devices"}).ends_with("cpu     always\n"));
}

TEST_CASE("l4-run: pictures") {
  const std::string picture = golden("vision/files/rgb8.png").string();
  const Json json = json_of(Words{"-p", "What is this?", "--image", picture, "--image", picture, "--json"} + kGreedy);
  const Json without = json_of(Words{"-p", "What is this?", "--json"} + kGreedy);
  CHECK(json.find("usage")->find("prompt_tokens")->as_integer() >
        without.find("usage")->find("prompt_tokens")->as_integer() + 100);
  CHECK(output_of(kGreedy + Words{"--raw", "--image", picture, "-p", "<|image|>A picture of"}) != "");
}

TEST_CASE("l4-run: bad input is one line and status 1 or 2") {
  const std::string picture = golden("vision/files/rgb8.png").string();
  TempDir dir;
  std::filesystem::create_directory(dir / "empty");
  std::ofstream(dir / "latin1") << "caf\xe9";
  std::ofstream(dir / "no.png") << "this is no picture";
  const struct {
    Words words;
    int status;
    Words says;
  } rows[] = {
      {{"-m", "/no/such/model", "-p", "x"}, 1, {"/no/such/model", "no such folder"}},
      {{"-m", (dir / "empty").string(), "-p", "x"}, 1, {"config.json"}},
      {{"-m", (dir / "no.png").string(), "-p", "x"}, 1, {"not a folder"}},
      {{"-f", (dir / "latin1").string()}, 1, {"latin1", "not UTF-8"}},
      {{"-f", "/no/such/file"}, 1, {"/no/such/file"}},
      {{"-p", "x", "--image", (dir / "no.png").string()}, 1, {"no.png"}},
      {{"-p", "x", "--image", "/no/such/picture.png"}, 1, {"/no/such/picture.png"}},
      {{"-p", "one two three four five six seven eight nine ten eleven twelve", "-c", "16"}, 2, {"context of 16"}},
      {{"--raw", "-p", "no place for it", "--image", picture}, 2, {"image"}},
      {{"--raw", "-p", "<|image|><|image|>", "--image", picture}, 2, {"image"}},
      {{"--ids", "1,999999"}, 2, {"999999"}},
      {{"-p", "x", "--stop-token-ids", "999999999"}, 2, {"error: --stop-token-ids: token id 999999999"}},
      {{"-p", "x", "--logit-bias", "999999999=1"}, 2, {"error: --logit-bias: token id 999999999"}},
      {{"--detokenize", "--ids", "1,999999999"}, 2, {"error: --ids: token id 999999999"}},
      {{"--render", (dir / "no.png").string()}, 1, {"not valid JSON"}},
      {{"--raw", "--system", "x", "-p", "y"}, 2, {"--system"}},
      {{"-p", "x", "-tp", "3"}, 2, {"3"}},
  };
  for (const auto& row : rows) {
    CAPTURE(row.words.back());
    const std::string error = one_line_error(l4_run(row.words), row.status);
    for (const std::string& part : row.says) CHECK_MESSAGE(error.find(part) != std::string::npos, error);
  }
  CHECK(one_line_error(l4_run({}, {.stdin_text = "caf\xe9"}), 1).find("standard input: not UTF-8") !=
        std::string::npos);
  CHECK(one_line_error(l4_run({"--tokenize"}, {.stdin_text = "\xff\xfe"}), 1).find("standard input: not UTF-8") !=
        std::string::npos);
  CHECK(one_line_error(l4_run({}, {.stdin_text = ""}), 2).find("the prompt is empty") != std::string::npos);
}

TEST_CASE("l4-run: what is wrong with a prompt is said before weights are read") {
  TempDir dir;  // without weights
  for (const auto& entry : std::filesystem::directory_iterator(demo_model()))
    if (entry.path().extension() != ".safetensors")
      std::filesystem::copy(entry.path(), dir.path() / entry.path().filename());
  std::ofstream(dir / "no.png") << "this is no picture";
  REQUIRE(run({"mkfifo", (dir / "fifo").string()}).status == 0);
  const struct {
    Words words;
    int status;
    const char* says;
  } rows[] = {
      {{"-p", "x"}, 1, "safetensors"},  // nothing else is wrong
      {{"-f", "/no/such/file"}, 1, "/no/such/file"},
      {{"-i", "-f", "/no/such/file"}, 1, "/no/such/file"},
      {{"-p", "x", "--image", (dir / "no.png").string()}, 1, "no.png"},
      {{"-i", "--image", (dir / "no.png").string()}, 1, "no.png"},
      {{"-p", "x", "--image", (dir / "fifo").string()}, 1, "fifo: not a regular file"},
      {{"--ids", "1,999999"}, 2, "--ids: token id 999999 is outside"},
      {{"-p", "x", "--stop-token-ids", "999999"}, 2, "--stop-token-ids: token id 999999 is outside"},
      {{"-i", "--stop-token-ids", "999999"}, 2, "--stop-token-ids: token id 999999 is outside"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.words.back());
    const std::string error =
        one_line_error(l4_run(Words{"-m", dir.path().string()} + row.words, {.timeout_s = 20}), row.status);
    CHECK_MESSAGE(error.find(row.says) != std::string::npos, error);
  }
}

TEST_CASE("l4-run: signals end it while it waits for its prompt") {
  TempDir dir;
  const std::string fifo = (dir / "fifo").string(), program = (binary_dir() / "l4-run").string();
  REQUIRE(run({"mkfifo", fifo}).status == 0);
  for (const auto& [signal, status] : {std::pair{"INT", 130}, {"TERM", 143}}) {
    // Ours is the only hand on the FIFO, so that its end never comes.
    const std::string command =
        l4::cat("exec 3<>", fifo, "; exec timeout --preserve-status -k 10 -s ", signal, " 1 ", program, " <&3");
    const Result r = run({"sh", "-c", command});
    CHECK(r.status == status);
    CHECK(r.out == "");
    CHECK(r.err == "");
  }
}

TEST_CASE("l4-run: damaged checkpoints are named") {
  TempDir dir;
  std::filesystem::copy(demo_model(), dir.path(), std::filesystem::copy_options::recursive);
  const std::filesystem::path weights = dir / "model-00002-of-00003.safetensors";
  REQUIRE(std::filesystem::exists(weights));
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 1000);
  const Words words = {"-m", dir.path().string(), "-p", "x"};
  CHECK(one_line_error(l4_run(words), 1).find("model-00002-of-00003.safetensors") != std::string::npos);
  std::ofstream(dir / "chat_template.jinja") << "{{ messages }}";
  CHECK(one_line_error(l4_run(words), 1).find("--chat-template official|launch") != std::string::npos);
  std::ofstream(dir / "config.json") << "{";
  CHECK(one_line_error(l4_run(words), 1).find("config.json: not valid JSON") != std::string::npos);
}

TEST_CASE("l4-run: a checkpoint without a chat template completes, one without a tokenizer takes ids") {
  TempDir dir;
  for (const auto& entry : std::filesystem::directory_iterator(demo_model()))
    if (entry.path().filename() != "chat_template.jinja")
      std::filesystem::copy(entry.path(), dir.path() / entry.path().filename());
  const l4::fs::path tokenizer_config = dir / "tokenizer_config.json";
  if (std::filesystem::exists(tokenizer_config)) {
    Json config = l4::parse_json(l4::read_file(tokenizer_config, 1 << 20), "tokenizer_config.json");
    if (config.find("chat_template")) L4_SKIP("the demo has its template in tokenizer_config.json");
  }
  const Result r = l4_run(Words{"-m", dir.path().string(), "-p", "Once upon"} + kGreedy);
  CHECK(r.status == 0);
  CHECK(r.err.find("has no chat template") != std::string::npos);
  CHECK(r.out == output_of(Words{"--raw", "-p", "Once upon"} + kGreedy));

  const std::string bare = golden("models/stored_v4/checkpoint").string();
  CHECK(ids_of(l4::parse_json(
                   output_of({"-m", bare, "--ids", "1,2,3", "-n", "4", "--temp", "0", "--ignore-eos", "--output-ids"}),
                   "ids"))
            .size() == 4);
  CHECK(one_line_error(l4_run({"-m", bare, "--ids", "1,2,3"}), 2).find("--output-ids") != std::string::npos);
  CHECK(one_line_error(l4_run({"-m", bare, "-p", "x"}), 1).find("tokenizer") != std::string::npos);
}

TEST_CASE("l4-run: a reader that leaves ends it without a word") {
  const std::string program = (binary_dir() / "l4-run").string();
  const Result r =
      run({"sh", "-c", "(" + program + " -p Hello --temp 0 -n 400 --ignore-eos; echo status $? >&2) | head -c 1"});
  CHECK(r.out.size() == 1);
  CHECK(r.err == "status 141\n");
}

TEST_CASE("l4-run: a full disk is an error, not a success") {
  if (!std::filesystem::exists("/dev/full")) L4_SKIP("no /dev/full");
  const std::string program = (binary_dir() / "l4-run").string();
  const Result r = run({"sh", "-c", program + " -p Hello -n 3 > /dev/full"});
  CHECK(r.status == 1);
  CHECK(r.err.find("l4-run: error: standard output: ") == 0);
}
