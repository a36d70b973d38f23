// l4-convert: the text that it calibrates with, and calibration from the command line.
#include "tools/common/text_sequences.h"

#include "core/l4/tiny_checkpoint.h"
#include "tools/run_tool.h"

using namespace l4;
using namespace l4::test;
using tools::Sequences;

TEST_CASE("calibrate: text") {
  TempDir dir;
  write_tiny_checkpoint(dir.path());
  const auto frontend = Frontend::load(dir.path());
  const int32_t begin = byte_token(special::kBeginOfText);
  const auto read = [&](const std::string& name, const std::string& text, int64_t length, int64_t most) {
    write_file_atomic(dir / name, text);
    return tools::read_sequences(dir / name, *frontend, length, most);
  };
  using Ids = std::vector<int32_t>;
  CHECK(read("a.txt", "abcdefg", 4, 100) ==
        Sequences{Ids{begin, 'a', 'b', 'c'}, Ids{begin, 'd', 'e', 'f'}, Ids{begin, 'g'}});
  CHECK(read("a.txt", "abcdefg", 4, 6) == Sequences{Ids{begin, 'a', 'b', 'c'}, Ids{begin, 'd'}});
  CHECK(read("a.txt", "<|eot|>a", 9, 9) == Sequences{Ids{begin, byte_token(special::kEot), 'a'}});
  CHECK(read("a.jsonl", "{\"text\": \"abc\"}\n\n{\"text\": \"defghi\", \"more\": 1}\n", 5, 100) ==
        Sequences{Ids{begin, 'a', 'b', 'c'}, Ids{begin, 'd', 'e', 'f', 'g'}});
  CHECK(read("a.jsonl", "{\"text\": \"abc\"}\n{\"text\": \"defghi\"}\nnot read any more", 5, 7) ==
        Sequences{Ids{begin, 'a', 'b', 'c'}, Ids{begin, 'd', 'e'}});

  // A conversation, answers and all, and nothing that asks for one more.
  const auto demo = Frontend::load(demo_model());
  const char* const chat =
      R"({"messages": [{"role": "user", "content": "2 + 3"}, {"role": "assistant", "content": "5"}]})";
  write_file_atomic(dir / "chat.jsonl", chat);
  const Sequences turns = tools::read_sequences(dir / "chat.jsonl", *demo, 100, 100);
  REQUIRE(turns.size() == 1);
  CHECK(demo->tokenizer().decode(turns[0], false) ==
        "<|begin_of_text|><|header_start|>user<|header_end|>\n\n2 + "
        "3<|eot|><|header_start|>assistant<|header_end|>\n\n5<|eot|>");

  Sequences all = {{1, 2, 3}, {4, 5}, {6}};
  CHECK(tools::take_tokens(all, 4) == Sequences{{1, 2, 3}, {4}});
  CHECK(all == Sequences{{6}});
  CHECK(tools::take_tokens(all, 100) == Sequences{{6}});
  CHECK(tools::take_tokens(all, 100).empty());

  const auto error = [&](const std::string& name, const std::string& text) {
    return error_of([&] { read(name, text, 8, 100); });
  };
  CHECK(error("e.txt", "").ends_with("e.txt: expected text, found none"));
  CHECK(error("e.txt", " \n\n").ends_with("e.txt: expected text, found none"));
  CHECK(error("e.txt", "a\xff").find("not UTF-8") != std::string::npos);
  CHECK(error("e.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}").find("e.jsonl: line 2: expected \"text\"") !=
        std::string::npos);
  CHECK(error("e.jsonl", "\n[1]").find("e.jsonl: line 2: expected an object, found array") != std::string::npos);
  CHECK(error("e.jsonl", "{\"text\": ").find("e.jsonl: line 1: not valid JSON") != std::string::npos);
  CHECK(error("e.jsonl", "{\"messages\": 1}").find("e.jsonl: line 1: ") != std::string::npos);
  CHECK(error_of([&] { tools::read_sequences(dir / "nothing", *frontend, 8, 8); }).find("nothing") !=
        std::string::npos);
}

TEST_CASE("l4-convert: calibration from the command line") {
  TempDir dir;
  const std::string source = demo_model(), text = (dir / "text.txt").string();
  std::string words;
  for (int i = 0; i < 200; ++i) words += cat("word ", i * i % 97, " of ", i, "\n");
  write_file_atomic(text, words);
  const auto l4_convert = [&](const std::vector<std::string>& more) {
    return run(tool("l4-convert", std::vector<std::string>{source, (dir / "target").string(), "--preset", "w4a16",
                                                           "--group-size", "64", "--device", "cpu"} +
                                      more));
  };
  const Result r = l4_convert({"--calibration", text, "--calibration-tokens", "500", "--calibration-seqlen", "64",
                               "--kv-scales", "--verify", "--max-kl", "5"});
  CHECK_MESSAGE(r.status == 0, r.err);
  for (const char* line : {"\nGPTQ  ", "\nFP8 cache  ", "\nverified on ", "  same likeliest      "})
    CHECK_MESSAGE(r.out.find(line) != std::string::npos, r.out);
  const Json report = parse_json(read_file(dir / "target" / "quantization_report.json", 1 << 24), "report");
  for (const Json& entry : report.find("tensors")->as_array())
    if (entry.find("module")->as_string().ends_with(".layers.0.feed_forward.up_proj"))
      CHECK(entry.find("calibration_rows")->as_integer() == 500);
  fs::remove_all(dir / "target");

  const auto error = [&](const std::vector<std::string>& more, int status) {
    const std::string message = one_line_error(l4_convert(more), status);
    CHECK_FALSE(fs::exists(dir / "target"));
    return message;
  };
  CHECK(error({"--method", "gptq"}, 2).find("--method gptq: expected a text (--calibration)") != std::string::npos);
  CHECK(error({"--method", "awq"}, 2).find("expected rtn or gptq") != std::string::npos);
  CHECK(error({"--kv-scales"}, 2).find("--kv-scales: expected a text (--calibration)") != std::string::npos);
  CHECK(error({"--calibration-tokens", "5"}, 2).find("--calibration-tokens: expected a text") != std::string::npos);
  CHECK(error({"--calibration", text + ".gone"}, 1).find("text.txt.gone") != std::string::npos);
  CHECK(error({"--calibration", text, "--calibration-tokens", "1000000"}, 1)
            .find("--calibration-tokens asks for 1000000") != std::string::npos);
  CHECK(error({"--calibration", text, "--calibration-seqlen", "100000"}, 2).find("longer than the 32768 positions") !=
        std::string::npos);
  write_file_atomic(text, "");
  CHECK(error({"--calibration", text}, 1).find("expected text, found none") != std::string::npos);
}
