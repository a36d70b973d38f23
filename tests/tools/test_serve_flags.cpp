// l4-serve's flags: both spellings, files, variables, and what beats what.
#include <cstdlib>

#include "base/log.h"
#include "support/test.h"
#include "tools/common/config_file.h"
#include "tools/serve/flags.h"

using namespace l4;
using serve::ServeOptions;
using test::error_of;

namespace {

ServeOptions parsed(std::vector<std::string> words) {
  words.insert(words.begin(), "l4-serve");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  ServeOptions options;
  const LogLevel level = log_level();
  try {
    if (serve::parse_serve_flags(int(argv.size()), argv.data(), options)) FAIL("nothing was asked for");
  } catch (...) {
    set_log_level(level);
    throw;
  }
  set_log_level(level);
  return options;
}

using Strings = std::vector<std::string>;

struct Variable {
  Variable(const char* n, const char* value) : name(n) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name); }
  const char* name;
};

}  // namespace

TEST_CASE("serve flags: defaults are those of the documentation") {
  const ServeOptions o = parsed({});
  CHECK(o.server.host == "127.0.0.1");
  CHECK(o.server.port == 8000);
  CHECK(o.model.is_demo);
  CHECK(o.served_model_names == Strings{"l4-demo"});
  CHECK(o.server.api_keys.empty());
  CHECK(o.server.allowed_origins.empty());
  CHECK(o.media.max_images == 10);
  CHECK(o.model.load.prefix_cache);
  CHECK(o.model.load.ngram_speculation == 0);
  CHECK(o.model.load.step_limit_s == 300);
  CHECK(!o.log_prompts);
  CHECK(o.server.access_log);
  CHECK(o.page);
  CHECK(!o.dry_run);
}

TEST_CASE("serve flags: vLLM's spellings and llama.cpp's") {
  test::TempDir dir;
  fs::create_directory(dir / "Scout");
  const std::string model = (dir / "Scout").string();
  const ServeOptions a = parsed({model, "--host", "0.0.0.0", "--port", "81", "--max-num-seqs", "7", "--max-model-len", "8K",
                                 "--no-enable-prefix-caching", "--served-model-name", "a", "--served-model-name", "b",
                                 "--ssl-certfile", "c", "--ssl-keyfile", "k", "--limit-mm-per-prompt", "{\"image\": 3}",
                                 "--allowed-local-media-path", model, "--allowed-media-domains", "[\"x.org\", \"y.org\"]",
                                 "--allowed-origins", "[\"*\"]", "--timeout-keep-alive", "5"});
  const ServeOptions b = parsed({"-m", model, "--host=0.0.0.0", "--port=81", "-np", "7", "-c", "8192", "--no-cache-prompt",
                                 "-a", "a,b", "--ssl-cert-file", "c", "--ssl-key-file", "k", "--limit-mm-per-prompt",
                                 "image=3", "--media-path", model, "--allowed-media-domains", "x.org, y.org",
                                 "--allowed-origins", "*", "--idle-timeout", "5"});
  for (const ServeOptions* o : {&a, &b}) {
    CHECK(o->model.load.model_dir == model);
    CHECK(o->server.host == "0.0.0.0");
    CHECK(o->server.port == 81);
    CHECK(o->model.load.max_num_seqs == 7);
    CHECK(o->model.load.max_context == 8192);
    CHECK(!o->model.load.prefix_cache);
    CHECK(o->served_model_names == Strings{"a", "b"});
    CHECK(o->server.tls_certificate == "c");
    CHECK(o->server.tls_key == "k");
    CHECK(o->media.max_images == 3);
    CHECK(o->media.local_root == model);
    CHECK(o->media.domains == Strings{"x.org", "y.org"});
    CHECK(o->server.allowed_origins == Strings{"*"});
    CHECK(o->server.idle_timeout.count() == 5);
  }
  CHECK(parsed({model}).served_model_names == Strings{"Scout"});
  CHECK(parsed({model + "/"}).served_model_names == Strings{"Scout"});
  CHECK(parsed({"--speculative", "ngram"}).model.load.ngram_speculation == 5);
  CHECK(parsed({"--speculative", "ngram", "--num-speculative-tokens", "3"}).model.load.ngram_speculation == 3);
  CHECK(parsed({"--temp", "0.5"}).sampling.temperature == 0.5f);
  CHECK(parsed({"--log-format", "json"}).log_format == serve::LogFormat::json);
}

TEST_CASE("serve flags: keys come from flags and files") {
  test::TempDir dir;
  write_file_atomic(dir / "keys", "# comment\nfile-one\n\n  file-two \r\n");
  const ServeOptions o = parsed({"--api-key", "a,b", "--api-key-file", (dir / "keys").string(), "--api-key", "c"});
  CHECK(o.server.api_keys == Strings{"a", "b", "c", "file-one", "file-two"});
  write_file_atomic(dir / "none", "# nothing\n");
  CHECK(error_of([&] { parsed({"--api-key-file", (dir / "none").string()}); }).find(": no API key in it") !=
        std::string::npos);
  CHECK(error_of([&] { parsed({"--api-key", "a,,b"}); }).starts_with("--api-key: expected names"));
}

TEST_CASE("serve flags: what is wrong is one line that names the flag") {
  const struct {
    Strings words;
    const char* message;
  } rows[] = {
      {{"--port", "65536"}, "--port: expected a whole number from 0 to 65535, found \"65536\""},
      {{"--idle-timeout", "soon"}, "--idle-timeout: expected seconds, from 0.1 to 1e+07, found \"soon\""},
      {{"--limit-mm-per-prompt", "video=1"}, "--limit-mm-per-prompt: expected image=N or {\"image\": N}, N from 0 to 1000, found \"video=1\""},
      {{"--ssl-certfile", "c"}, "--ssl-certfile and --ssl-keyfile go together"},
      {{"--num-speculative-tokens", "3"}, "--num-speculative-tokens goes with --speculative ngram"},
      {{"--prot", "1"}, "unknown flag \"--prot\"; did you mean --port?"},
      {{"--allowed-local-media-path", "/no/such"}, "--allowed-local-media-path: \"/no/such\" is no folder"},
  };
  for (const auto& row : rows) CHECK(error_of([&] { parsed(row.words); }) == row.message);
}

TEST_CASE("serve flags: a flag beats its variable, which beats the file") {
  test::TempDir dir;
  const std::string file = (dir / "serve.yaml").string();
  write_file_atomic(file,
                    "# what we serve\n---\nport: 1111\nhost: \"0.0.0.0\"   # all\nserved_model_name: [scout, 'llama 4']\n"
                    "api-key:\n  - one\n  - \"two # not a comment\"\nno-enable-prefix-caching: true\naccess-log: off\n"
                    "limit-mm-per-prompt: {\"image\": 2}\nmax-model-len: 32K\ntemp: 0.25\nmodel: " + dir.path().string() +
                        "\n");
  const ServeOptions o = parsed({"--config", file});
  CHECK(o.server.port == 1111);
  CHECK(o.server.host == "0.0.0.0");
  CHECK(o.served_model_names == Strings{"scout", "llama 4"});
  CHECK(o.server.api_keys == Strings{"one", "two # not a comment"});
  CHECK(!o.model.load.prefix_cache);
  CHECK(!o.server.access_log);
  CHECK(o.media.max_images == 2);
  CHECK(o.model.load.max_context == 32768);
  CHECK(o.sampling.temperature == 0.25f);
  CHECK(o.model.load.model_dir == dir.path());
  {
    const Variable port("L4_ARG_PORT", "2222"), cache("L4_ARG_CACHE_PROMPT", "1");
    const ServeOptions v = parsed({"--config", file, "--host", "127.0.0.2"});
    CHECK(v.server.port == 2222);
    CHECK(v.server.host == "127.0.0.2");
    CHECK(v.model.load.prefix_cache);
    CHECK(parsed({"--config", file, "--port", "3333"}).server.port == 3333);
  }
  const Variable config("L4_ARG_CONFIG", file.c_str());
  CHECK(parsed({}).server.port == 1111);
  fs::create_directory(dir / "other");
  CHECK(parsed({(dir / "other").string()}).model.load.model_dir == dir / "other");  // the file's model gives way

  write_file_atomic(file, R"({"port": 4444, "served-model-name": ["x"], "access_log": false, "seed": null,
                              "limit-mm-per-prompt": {"image": 4}, "idle-timeout": 2.5})");
  const ServeOptions j = parsed({"--config", file});
  CHECK(j.server.port == 4444);
  CHECK(j.served_model_names == Strings{"x"});
  CHECK(!j.server.access_log);
  CHECK(j.media.max_images == 4);
  CHECK(j.server.idle_timeout.count() == 2.5);
}

TEST_CASE("serve flags: what is wrong in the file is said with its line") {
  test::TempDir dir;
  const std::string file = (dir / "c").string();
  const auto error = [&](const std::string& text) {
    write_file_atomic(file, text);
    return error_of([&] { parsed({"--config", file}); });
  };
  CHECK(error("port: 1\nprot: 2\n") == "--config: " + file + ", line 2: there is no flag --prot that it could set");
  CHECK(error("port: many\n") ==
        file + ", line 1: port: expected a whole number from 0 to 65535, found \"many\"");
  CHECK(error("port: [1, 2]\n") == "--config: " + file + ", line 1: port takes one value, found 2");
  CHECK(error("help: true\n").find("there is no flag --help") != std::string::npos);
  CHECK(error("config: x\n").find("there is no flag --config") != std::string::npos);
  CHECK(error_of([&] { parsed({"--config", "/no/such/file"}); }).starts_with("--config: /no/such/file"));
}

TEST_CASE("config file: what is read, and what is not") {
  const auto values = [](const std::string& line) { return tools::parse_config("a: " + line, "f").at(0).values; };
  CHECK(values("b c") == Strings{"b c"});
  CHECK(values("b # c") == Strings{"b"});
  CHECK(values("b#c") == Strings{"b#c"});
  CHECK(values("http://x:80/y") == Strings{"http://x:80/y"});
  CHECK(values("\"a\\n\\u00e9 # b\" # c") == Strings{"a\n\u00e9 # b"});
  CHECK(values("'it''s'") == Strings{"it's"});
  CHECK(values("[]").empty());
  CHECK(values("[a, 'b, c', \"d]\"]") == Strings{"a", "b, c", "d]"});
  CHECK(values("") .empty());
  CHECK(values("\n- x\n  - y z\n") == Strings{"x", "y z"});
  CHECK(values("{\"k\": [1, 2]}") == Strings{"{\"k\":[1,2]}"});
  CHECK(tools::parse_config("", "f").empty());
  CHECK(tools::parse_config("{}", "f").empty());
  CHECK(tools::parse_config("a_b: 1\r\n", "f").at(0).key == "a-b");
  CHECK(tools::parse_config("{\"a\": [1, true, \"x\", 0.5]}", "f").at(0).values == Strings{"1", "true", "x", "0.5"});

  const auto error = [](const std::string& text) { return error_of([&] { tools::parse_config(text, "f"); }); };
  const struct {
    const char *text, *message;
  } rows[] = {
      {"words\n", "f, line 1: expected \"flag: value\", found \"words\""},
      {"a: 1\na: 2\n", "f, line 2: a is there twice"},
      {"a-b: 1\na_b: 2\n", "f, line 2: a-b is there twice"},
      {"- x\n", "f, line 1: an item without a list"},
      {"a: b\n- x\n", "f, line 2: an item without a list"},
      {"a: \"b\n", "f, line 1: a quote that is not closed"},
      {"a: \"b\\\n", "f, line 1: a quote that is not closed"},
      {"a: 'b' c\n", "f, line 1: unexpected \"c\""},
      {"a: [b\n", "f, line 1: expected , or ] in a list"},
      {"a: [b] c\n", "f, line 1: unexpected \"c\""},
      {"  a: b\n", "f, line 1: flags are not indented"},
      {"a: |\n", "f, line 1: \"|\" is more of YAML than is read here: quote it, or write the file as JSON"},
      {"--a: b\n", "f, line 1: expected a flag's name without its dashes, found \"--a\""},
      {"{\"a\": 1, \"a\": 2}", "f: not valid JSON"},
      {"a: \xff\n", "f: not UTF-8 text"},
  };
  for (const auto& row : rows) CHECK_MESSAGE(error(row.text).starts_with(row.message), error(row.text));
}
