// Requests that are wrong: which status, code and field each is answered with.
#include "tools/fake_api.h"

using namespace l4::test;
using l4::Json;

namespace {

struct Row {
  const char* body;
  int status;
  const char *code, *param;  // param "": null
  const char* says;
};

void check_rows(const char* path, std::initializer_list<Row> rows) {
  FakeServer server;
  for (const Row& row : rows) {
    CAPTURE(std::string(row.body));
    const auto exchange = server.ask(path, std::string(row.body));
    CHECK(exchange->response().status == row.status);
    const Json body = exchange->json();
    const Json* error = body.find("error");
    REQUIRE(error);
    CHECK(error->find("code")->as_string() == row.code);
    const Json* param = error->find("param");
    CHECK((param->is_null() ? std::string() : param->as_string()) == row.param);
    const std::string message = error->find("message")->as_string();
    CHECK_MESSAGE(message.find(row.says) != std::string::npos, message);
    CHECK(message.find('/') == message.find("/v1"));  // no path of this machine
  }
  CHECK(server.source.nothing_started());
}

// A chat with one more member.
#define CHAT(members) R"({"messages":[{"role":"user","content":"Hi"}],)" members "}"
#define TOOL R"({"type":"function","function":{"name":"f","parameters":{"type":"object"}}})"

}  // namespace

TEST_CASE("serve api: chats that are wrong") {
  check_rows(
      "/v1/chat/completions",
      {
          {"", 400, "invalid_json", "", "not valid JSON"},
          {"{", 400, "invalid_json", "", "not valid JSON"},
          {"[1]", 400, "invalid_type", "", "must be a JSON object"},
          {"{\"a\":1,\"a\":2}", 400, "invalid_json", "", "duplicate key"},
          {"\xff", 400, "invalid_json", "", "not valid JSON"},
          {R"({"messages":[{"role":"user","content":"\ud800"}]})", 400, "invalid_json", "", "not valid JSON"},
          {"{}", 400, "missing_required_parameter", "messages", "missing"},
          {R"({"messages":[]})", 400, "invalid_value", "messages", "at least one"},
          {R"({"messages":"x"})", 400, "invalid_value", "messages", "list"},
          {R"({"messages":[{"role":"king","content":"x"}]})", 400, "invalid_value", "messages[0].role", "king"},
          {R"({"messages":[{"role":"user"}]})", 400, "invalid_value", "messages[0].content", "missing"},
          {R"({"messages":[{"role":"user","content":[{"type":"video"}]}]})", 400, "invalid_value",
           "messages[0].content[0].type", "video"},
          {R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})", 400,
           "unsupported_value", "messages", "images"},
          {CHAT(R"("model":"other")"), 404, "model_not_found", "model", "other"},
          {CHAT(R"("model":7)"), 400, "invalid_type", "model", "string"},
          {CHAT(R"("temperature":-0.1)"), 400, "invalid_value", "temperature", "from 0"},
          {CHAT(R"("temperature":"hot")"), 400, "invalid_type", "temperature", "number"},
          {CHAT(R"("temperature":1e999)"), 400, "invalid_json", "", "not valid JSON"},
          {CHAT(R"("top_p":1.5)"), 400, "invalid_value", "top_p", "from 0 to 1"},
          {CHAT(R"("top_k":-2)"), 400, "invalid_value", "top_k", "from -1"},
          {CHAT(R"("top_k":1e18)"), 400, "invalid_value", "top_k", "whole number"},
          {CHAT(R"("top_k":1.5)"), 400, "invalid_type", "top_k", "whole number"},
          {CHAT(R"("min_p":2)"), 400, "invalid_value", "min_p", "from 0 to 1"},
          {CHAT(R"("presence_penalty":3)"), 400, "invalid_value", "presence_penalty", "from -2 to 2"},
          {CHAT(R"("frequency_penalty":-3)"), 400, "invalid_value", "frequency_penalty", "from -2 to 2"},
          {CHAT(R"("repetition_penalty":0)"), 400, "invalid_value", "repetition_penalty", "0.01"},
          {CHAT(R"("seed":9223372036854775808)"), 400, "invalid_value", "seed", "whole number"},
          {CHAT(R"("seed":1e300)"), 400, "invalid_value", "seed", "whole number"},
          {CHAT(R"("n":0)"), 400, "invalid_value", "n", "from 1 to 128"},
          {CHAT(R"("n":1000)"), 400, "invalid_value", "n", "from 1 to 128"},
          {CHAT(R"("max_tokens":0)"), 400, "invalid_value", "max_tokens", "from 1"},
          {CHAT(R"("max_completion_tokens":-1)"), 400, "invalid_value", "max_completion_tokens", "from 1"},
          {CHAT(R"("max_tokens":5000)"), 400, "context_length_exceeded", "max_tokens", "context of 4096"},
          {CHAT(R"("max_tokens":9223372036854775807)"), 400, "context_length_exceeded", "max_tokens", "context"},
          {CHAT(R"("min_tokens":9,"max_tokens":8)"), 400, "invalid_value", "min_tokens", "more than"},
          {CHAT(R"("min_tokens":-1)"), 400, "invalid_value", "min_tokens", "from 0"},
          {CHAT(R"("logprobs":2)"), 400, "invalid_type", "logprobs", "true or false"},
          {CHAT(R"("top_logprobs":3)"), 400, "invalid_value", "top_logprobs", "logprobs"},
          {CHAT(R"("logprobs":true,"top_logprobs":21)"), 400, "invalid_value", "top_logprobs", "from 0 to 20"},
          {CHAT(R"("prompt_logprobs":1,"stream":true)"), 400, "invalid_value", "prompt_logprobs", "streamed"},
          {CHAT(R"("logit_bias":[1])"), 400, "invalid_type", "logit_bias", "object"},
          {CHAT(R"("logit_bias":{"x":1})"), 400, "invalid_value", "logit_bias", "token ids"},
          {CHAT(R"("logit_bias":{"99999":1})"), 400, "invalid_value", "logit_bias", "token ids"},
          {CHAT(R"("logit_bias":{"1":101})"), 400, "invalid_value", "logit_bias", "-100 to 100"},
          {CHAT(R"("logit_bias":{"1":"x"})"), 400, "invalid_value", "logit_bias", "-100 to 100"},
          {CHAT(R"("stop":1)"), 400, "invalid_type", "stop", "string"},
          {CHAT(R"("stop":["a",1])"), 400, "invalid_type", "stop", "string"},
          {CHAT(R"("stop":[""])"), 400, "invalid_value", "stop", "1 to 1000"},
          {CHAT(R"("stop_token_ids":[-1])"), 400, "invalid_value", "stop_token_ids", "token ids"},
          {CHAT(R"("stop_token_ids":[2048])"), 400, "invalid_value", "stop_token_ids", "0 to 2047"},
          {CHAT(R"("stream":"yes")"), 400, "invalid_type", "stream", "true or false"},
          {CHAT(R"("stream_options":{"include_usage":true})"), 400, "invalid_value", "stream_options", "stream"},
          {CHAT(R"("stream":true,"stream_options":7)"), 400, "invalid_type", "stream_options", "object"},
          {CHAT(R"("ignore_eos":1)"), 400, "invalid_type", "ignore_eos", "true or false"},
          {CHAT(R"("priority":3000000000)"), 400, "invalid_value", "priority", "whole number"},
          {CHAT(R"("cache_salt":"")"), 400, "invalid_value", "cache_salt", "1 to 1024"},
          {CHAT(R"("user":7)"), 400, "invalid_type", "user", "string"},
          {CHAT(R"("functions":[])"), 400, "unsupported_parameter", "functions", "tools"},
          {CHAT(R"("best_of":3)"), 400, "unsupported_parameter", "best_of", "n gives"},
          {CHAT(R"("modalities":["audio"])"), 400, "unsupported_parameter", "modalities", "text"},
          {CHAT(R"("use_beam_search":true)"), 400, "unsupported_parameter", "use_beam_search", "sampled"},
          {CHAT(R"("chat_template":"x")"), 400, "unsupported_parameter", "chat_template", "server"},
          {CHAT(R"("continue_final_message":true)"), 400, "invalid_value", "continue_final_message", "assistant"},
          {CHAT(R"("continue_final_message":true,"add_generation_prompt":true)"), 400, "invalid_value",
           "continue_final_message", "add_generation_prompt"},
      });
}

TEST_CASE("serve api: tools and formats that are wrong") {
  check_rows(
      "/v1/chat/completions",
      {
          {CHAT(R"("tools":{})"), 400, "invalid_type", "tools", "list"},
          {CHAT(R"("tools":[1])"), 400, "invalid_type", "tools[0]", "object"},
          {CHAT(R"("tools":[{"type":"magic"}])"), 400, "invalid_value", "tools[0].type", "magic"},
          {CHAT(R"("tools":[{"type":"function"}])"), 400, "missing_required_parameter", "tools[0].function", "missing"},
          {CHAT(R"("tools":[{"type":"function","function":{}}])"), 400, "missing_required_parameter",
           "tools[0].function.name", "missing"},
          {CHAT(R"("tools":[{"type":"function","function":{"name":"a b"}}])"), 400, "invalid_value",
           "tools[0].function.name", "letters"},
          {CHAT(R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}])"), 400, "invalid_type",
           "tools[0].function.parameters", "schema"},
          {CHAT(R"("tool_choice":"required")"), 400, "invalid_value", "tool_choice", "no tools"},
          {CHAT(R"("tools":[)" TOOL R"(],"tool_choice":"maybe")"), 400, "invalid_value", "tool_choice", "maybe"},
          {CHAT(R"("tools":[)" TOOL R"(],"tool_choice":3)"), 400, "invalid_type", "tool_choice", "none, auto"},
          {CHAT(R"("tools":[)" TOOL R"(],"tool_choice":{"type":"function","function":{"name":"g"}})"), 400,
           "invalid_value", "tool_choice", "no tool is called \"g\""},
          {CHAT(R"("tools":[)" TOOL R"(],"response_format":{"type":"json_schema","json_schema":{"schema":{"not":{}}}})"),
           400, "invalid_value", "response_format.json_schema.schema", "not"},
          {CHAT(R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","not":{}}}}],
                   "response_format":{"type":"json_object"})"),
           400, "invalid_value", "tools", "not"},
          {CHAT(R"("parallel_tool_calls":"no","tools":[)" TOOL "]"), 400, "invalid_type", "parallel_tool_calls",
           "true"},
          {CHAT(R"("response_format":"json")"), 400, "invalid_type", "response_format", "object"},
          {CHAT(R"("response_format":{})"), 400, "missing_required_parameter", "response_format.type", "missing"},
          {CHAT(R"("response_format":{"type":"xml"})"), 400, "invalid_value", "response_format.type", "xml"},
          {CHAT(R"("response_format":{"type":"json_schema"})"), 400, "missing_required_parameter",
           "response_format.json_schema", "missing"},
          {CHAT(R"("response_format":{"type":"json_schema","json_schema":{"name":"x"}})"), 400,
           "missing_required_parameter", "response_format.json_schema.schema", "missing"},
          {CHAT(R"("response_format":{"type":"json_schema","json_schema":{"schema":7}})"), 400, "invalid_type",
           "response_format.json_schema.schema", "schema"},
          {CHAT(R"("guided_json":"{")"), 400, "invalid_value", "guided_json", "not valid JSON"},
          {CHAT(R"("guided_choice":[])"), 400, "invalid_value", "guided_choice", "at least one"},
          {CHAT(R"("guided_choice":[1])"), 400, "invalid_type", "guided_choice", "strings"},
          {CHAT(R"("guided_regex":3)"), 400, "invalid_type", "guided_regex", "string"},
          {CHAT(R"("structured_outputs":{"structural_tag":"x"})"), 400, "unsupported_parameter",
           "structured_outputs.structural_tag", "json, regex"},
      });
}

TEST_CASE("serve api: plain completions that are wrong") {
  check_rows("/v1/completions",
             {
                 {"{}", 400, "missing_required_parameter", "prompt", "missing"},
                 {R"({"prompt":7})", 400, "invalid_type", "prompt", "string"},
                 {R"({"prompt":[]})", 400, "invalid_value", "prompt", "at least one"},
                 {R"({"prompt":["a",7]})", 400, "invalid_value", "prompt", "strings"},
                 {R"({"prompt":[1,-1]})", 400, "invalid_value", "prompt", "0 to 2047"},
                 {R"({"prompt":[1,2048]})", 400, "invalid_value", "prompt", "2048"},
                 {R"({"prompt":[[1],[]]})", 400, "invalid_value", "prompt", "lists of token ids"},
                 {R"({"prompt":[1,2,2.5]})", 400, "invalid_value", "prompt", "2.5"},
                 {R"({"prompt":"a","best_of":2})", 400, "unsupported_parameter", "best_of", "n gives"},
                 {R"({"prompt":"a","suffix":"b"})", 400, "unsupported_parameter", "suffix", "gaps"},
                 {R"({"prompt":"a","max_tokens":0})", 400, "invalid_value", "max_tokens", "from 1"},
                 {R"({"prompt":"a","logprobs":true})", 400, "invalid_type", "logprobs", "whole number"},
                 {R"({"prompt":"a","logprobs":21})", 400, "invalid_value", "logprobs", "from 0 to 20"},
                 {R"({"prompt":["a","b"],"n":100})", 400, "invalid_value", "n", "at most 128"},
                 {R"({"prompt":"a","model":"other"})", 404, "model_not_found", "model", "other"},
                 {R"({"prompt":"a","max_tokens":4096})", 400, "context_length_exceeded", "max_tokens", "context"},
             });
}

TEST_CASE("serve api: responses that are wrong") {
  check_rows(
      "/v1/responses",
      {
          {"{}", 400, "missing_required_parameter", "input", "missing"},
          {R"({"input":7})", 400, "invalid_type", "input", "list"},
          {R"({"input":[]})", 400, "invalid_value", "input", "at least one"},
          {R"({"input":"a","previous_response_id":"resp_1"})", 400, "unsupported_parameter", "previous_response_id",
           "not stored"},
          {R"({"input":"a","background":true})", 400, "unsupported_parameter", "background", "stored"},
          {R"({"input":"a","truncation":"auto"})", 400, "unsupported_parameter", "truncation", "refused"},
          {R"({"input":[{"type":"file_search_call"}]})", 400, "invalid_value", "input[0].type", "file_search"},
          {R"({"input":[{"role":"user","content":[{"type":"input_file"}]}]})", 400, "invalid_value",
           "input[0].content[0].type", "input_file"},
          {R"({"input":[{"type":"function_call","name":"f","arguments":"{"}]})", 400, "invalid_value",
           "input[0].arguments", "not valid JSON"},
          {R"({"input":[{"type":"function_call","name":"f","arguments":"[1]"}]})", 400, "invalid_value",
           "input[0].arguments", "object"},
          {R"({"input":"a","tools":[{"type":"web_search"}]})", 400, "unsupported_value", "tools[0].type", "web_search"},
          {R"({"input":"a","max_output_tokens":0})", 400, "invalid_value", "max_output_tokens", "from 1"},
          {R"({"input":"a","text":{"format":{"type":"json_schema","name":"x"}}})", 400, "missing_required_parameter",
           "text.format.json_schema", "missing"},
      });
}

TEST_CASE("serve api: messages that are wrong, in Anthropic's shape") {
  FakeServer server;
  const struct {
    const char* body;
    int status;
    const char *type, *says;
  } rows[] = {
      {"{", 400, "invalid_request_error", "not valid JSON"},
      {R"({"messages":[{"role":"user","content":"a"}]})", 400, "invalid_request_error", "max_tokens: missing"},
      {R"({"max_tokens":5})", 400, "invalid_request_error", "messages: missing"},
      {R"({"max_tokens":5,"messages":[{"role":"system","content":"a"}]})", 400, "invalid_request_error",
       "messages[0].role"},
      {R"({"max_tokens":5,"messages":[{"role":"user","content":[{"type":"document"}]}]})", 400, "invalid_request_error",
       "messages[0].content[0].type"},
      {R"({"max_tokens":5,"messages":[{"role":"user","content":[{"type":"image"}]}]})", 400, "invalid_request_error",
       "messages[0].content[0].source: missing"},
      {R"({"max_tokens":5,"model":"nobody","messages":[{"role":"user","content":"a"}]})", 404, "not_found_error",
       "nobody"},
      {R"({"max_tokens":5,"tools":[{"type":"bash_20250124","name":"bash"}],"messages":[{"role":"user","content":"a"}]})",
       400, "invalid_request_error", "tools[0].type"},
      {R"({"max_tokens":5,"tool_choice":{"type":"any"},"messages":[{"role":"user","content":"a"}]})", 400,
       "invalid_request_error", "no tools"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.body);
    const auto exchange = server.ask("/v1/messages", std::string(row.body));
    CHECK(exchange->response().status == row.status);
    const Json body = exchange->json();
    CHECK(body.find("type")->as_string() == "error");
    CHECK(body.find("error")->find("type")->as_string() == row.type);
    const std::string message = body.find("error")->find("message")->as_string();
    CHECK_MESSAGE(message.find(row.says) != std::string::npos, message);
  }
  CHECK(server.source.nothing_started());
}

TEST_CASE("serve api: deep and large bodies are refused, not followed") {
  FakeServer server;
  const std::string body = R"({"messages":[{"role":"user","content":"Hi"}],"metadata":)" + std::string(100'000, '[') +
                           std::string(100'000, ']') + "}";
  CHECK(server.ask("/v1/chat/completions", body)->response().status == 400);
  std::string wide = R"({"messages":[{"role":"user","content":"Hi"}],"metadata":[0)";
  for (int i = 0; i < 2'100'000; ++i) wide += ",0";
  CHECK(server.ask("/v1/chat/completions", wide + "]}")->response().status == 400);
  CHECK(server.source.nothing_started());
}

TEST_CASE("serve api: what is asked for reaches the engine") {
  FakeServer server;
  const auto options = [&](const std::string& members) {
    const auto exchange =
        server.ask("/v1/chat/completions", R"({"messages":[{"role":"user","content":"Hi"}],)" + members + "}");
    CHECK(exchange->response().status == 200);
    return server.source.last().options;
  };
  const l4::GenerationOptions o = options(
      R"("temperature":0.25,"top_p":0.5,"top_k":7,"min_p":0.125,"presence_penalty":1,"frequency_penalty":-1,
         "repetition_penalty":1.5,"seed":42,"max_completion_tokens":9,"max_tokens":5,"min_tokens":2,"ignore_eos":true,
         "stop":["a","b"],"stop_token_ids":[3],"logit_bias":{"5":-100,"6":1.5},"logprobs":true,"top_logprobs":4,
         "priority":-3,"cache_salt":"pepper","skip_special_tokens":false)");
  CHECK(o.sampling.temperature == 0.25f);
  CHECK(o.sampling.top_p == 0.5f);
  CHECK(o.sampling.top_k == 7);
  CHECK(o.sampling.min_p == 0.125f);
  CHECK(o.sampling.presence_penalty == 1.0f);
  CHECK(o.sampling.frequency_penalty == -1.0f);
  CHECK(o.sampling.repetition_penalty == 1.5f);
  CHECK(o.sampling.seed == 42);
  CHECK(o.sampling.n_logprobs == 4);
  CHECK(o.max_tokens == 9);
  CHECK(o.min_tokens == 2);
  CHECK(o.ignore_eos);
  CHECK(o.show_special);
  CHECK(o.stop == std::vector<std::string>{"a", "b"});
  CHECK(o.stop_ids == std::vector<int32_t>{3});
  CHECK(!o.show_stop_id);
  CHECK(options(R"("include_stop_str_in_output":true)").show_stop_id);
  CHECK(o.logit_bias == std::vector<std::pair<int32_t, float>>{{5, -100.0f}, {6, 1.5f}});
  CHECK(o.priority == -3);
  CHECK(o.cache_salt == "pepper");

  // Null is absent, unknown members are nobody's business, 2.0 is 2; defaults are the checkpoint's.
  const l4::GenerationOptions d =
      options(R"("temperature":null,"stop":null,"logprobs":null,"colour":"red","top_k":2.0)");
  CHECK(d.sampling.temperature == 0.6f);
  CHECK(d.sampling.top_p == 0.9f);
  CHECK(d.sampling.top_k == 2);
  CHECK(d.sampling.n_logprobs == -1);
  CHECK(d.max_tokens == -1);
  CHECK(options(R"("seed":-1)").sampling.seed != options(R"("seed":-1)").sampling.seed);
}
