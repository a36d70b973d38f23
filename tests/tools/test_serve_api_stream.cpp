// Answers as the four APIs write them, whole and streamed, from a scripted engine.
#include <thread>

#include "tools/fake_api.h"

using namespace l4::test;
using l4::Json;

namespace {

const char* const kChat = R"({"messages":[{"role":"user","content":"Hi"}])";
const char* const kTools =
    R"("tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object"}}}])";

std::string chat(const std::string& members = "") {
  return members.empty() ? kChat + std::string("}") : l4::cat(kChat, ",", members, "}");
}

// The data of all events, each parsed; the last must be [DONE] where there is one.
std::vector<Json> data_of(FakeExchange& exchange, bool has_done = true) {
  std::vector<Json> out;
  const auto events = exchange.events();
  for (size_t i = 0; i < events.size(); ++i) {
    if (has_done && i + 1 == events.size()) {
      CHECK(events[i].second == "[DONE]");
      break;
    }
    out.push_back(l4::parse_json(events[i].second, "event"));
    if (!has_done) CHECK(events[i].first == out.back().find("type")->as_string());
  }
  return out;
}

const Json& at(const Json& value, std::initializer_list<const char*> path) {
  const Json* here = &value;
  for (const char* key : path) {
    if (const auto index = l4::parse_int(key); here->is_array() && index) {
      REQUIRE(size_t(*index) < here->as_array().size());
      here = &here->as_array()[size_t(*index)];
    } else {
      here = here->find(key);
    }
    REQUIRE_MESSAGE(here, key, " is missing in ", dump_json(value));
  }
  return *here;
}

}  // namespace

TEST_CASE("serve api: a chat, whole") {
  FakeServer server;
  server.source.will_say({.pieces = {"Hel", "lo"}});
  const Json body = server.ask("/v1/chat/completions", chat(R"("model":"gpt")"))->json();
  CHECK(at(body, {"object"}) == Json("chat.completion"));
  CHECK(at(body, {"id"}).as_string().starts_with("chatcmpl-"));
  CHECK(at(body, {"model"}) == Json("gpt"));
  CHECK(at(body, {"system_fingerprint"}).is_string());
  CHECK(at(body, {"choices", "0", "message", "role"}) == Json("assistant"));
  CHECK(at(body, {"choices", "0", "message", "content"}) == Json("Hello"));
  CHECK(at(body, {"choices", "0", "finish_reason"}) == Json("stop"));
  CHECK(at(body, {"choices", "0", "logprobs"}).is_null());
  const int64_t n_prompt = at(body, {"usage", "prompt_tokens"}).as_integer();
  CHECK(n_prompt == int64_t(server.source.last().prompt.ids.size()));
  CHECK(at(body, {"usage", "completion_tokens"}) == Json(2));
  CHECK(at(body, {"usage", "total_tokens"}) == Json(n_prompt + 2));
  CHECK(at(body, {"usage", "prompt_tokens_details", "cached_tokens"}) == Json(3));
  CHECK(at(body, {"timings", "prompt_n"}) == Json(n_prompt - 3));
  CHECK(at(body, {"timings", "predicted_per_second"}) == Json(50.0));
}

TEST_CASE("serve api: a chat, streamed") {
  FakeServer server;
  server.source.will_say({.pieces = {"Hel", "lo \"you\""}, .reason = l4::FinishReason::length});
  const auto exchange =
      server.ask("/v1/chat/completions", chat(R"("stream":true,"stream_options":{"include_usage":true})"));
  const std::vector<Json> chunks = data_of(*exchange);
  REQUIRE(chunks.size() >= 4);
  std::string text;
  for (size_t i = 0; i < chunks.size(); ++i) {
    CHECK(at(chunks[i], {"object"}) == Json("chat.completion.chunk"));
    CHECK(at(chunks[i], {"id"}) == at(chunks[0], {"id"}));
    const bool is_last = i + 1 == chunks.size();
    CHECK(at(chunks[i], {"usage"}).is_null() == !is_last);
    CHECK(at(chunks[i], {"choices"}).as_array().size() == (is_last ? 0 : 1));
    if (is_last) break;
    CHECK(at(chunks[i], {"choices", "0", "index"}) == Json(0));
    if (const Json* content = at(chunks[i], {"choices", "0", "delta"}).find("content")) text += content->as_string();
    CHECK(at(chunks[i], {"choices", "0", "finish_reason"}) == (i + 2 == chunks.size() ? Json("length") : Json()));
  }
  CHECK(at(chunks[0], {"choices", "0", "delta"}) == Json(Json::Object{{"role", "assistant"}, {"content", ""}}));
  CHECK(text == "Hello \"you\"");
  CHECK(at(chunks.back(), {"usage", "completion_tokens"}) == Json(2));
  CHECK(at(chunks.back(), {"timings", "predicted_n"}) == Json(2));

  const auto plain = data_of(*server.ask("/v1/chat/completions", chat(R"("stream":true)")));
  for (const Json& chunk : plain) CHECK(!chunk.find("usage"));
  CHECK(at(plain.back(), {"choices", "0", "finish_reason"}) == Json("stop"));
  CHECK(plain.back().find("timings"));

  const auto continuous = data_of(
      *server.ask("/v1/chat/completions",
                  chat(R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})")));
  for (const Json& chunk : continuous) CHECK(at(chunk, {"usage", "prompt_tokens"}).as_integer() > 0);
}

TEST_CASE("serve api: several answers, with log-probabilities") {
  FakeServer server;
  server.source.will_say({.pieces = {"a", "b"}});
  server.source.will_say({.pieces = {"c"}, .stop_text = "STOP"});
  const Json body =
      server.ask("/v1/chat/completions", chat(R"("n":2,"logprobs":true,"top_logprobs":2,"stop":"STOP")"))->json();
  CHECK(server.source.last().n == 2);
  CHECK(at(body, {"choices", "0", "message", "content"}) == Json("ab"));
  CHECK(at(body, {"choices", "1", "message", "content"}) == Json("c"));
  CHECK(at(body, {"choices", "1", "index"}) == Json(1));
  CHECK(at(body, {"choices", "1", "stop_reason"}) == Json("STOP"));
  const Json& first = at(body, {"choices", "0", "logprobs", "content", "0"});
  CHECK(at(first, {"logprob"}) == Json(-0.5));
  CHECK(at(first, {"token"}).as_string() == demo_frontend()->tokenizer().name_of(101));
  CHECK(at(first, {"bytes"}).as_array().size() == demo_frontend()->tokenizer().decode(101).size());
  CHECK(at(first, {"top_logprobs"}).as_array().size() == 2);
  CHECK(at(body, {"choices", "0", "logprobs", "content"}).as_array().size() == 2);
  // One prompt, two answers.
  CHECK(at(body, {"usage", "prompt_tokens"}) == Json(int64_t(server.source.last().prompt.ids.size())));
  CHECK(at(body, {"usage", "completion_tokens"}) == Json(3));

  server.source.will_say({.pieces = {"a", "b"}});
  server.source.will_say({.pieces = {"c"}});
  std::string texts[2];
  size_t n_logprobs = 0;
  for (const Json& chunk :
       data_of(*server.ask("/v1/chat/completions", chat(R"("n":2,"logprobs":true,"stream":true)")))) {
    const Json& choice = at(chunk, {"choices", "0"});
    if (const Json* content = at(choice, {"delta"}).find("content"))
      texts[at(choice, {"index"}).as_integer()] += content->as_string();
    if (!at(choice, {"logprobs"}).is_null()) n_logprobs += at(choice, {"logprobs", "content"}).as_array().size();
  }
  CHECK(texts[0] == "ab");
  CHECK(texts[1] == "c");
  CHECK(n_logprobs == 3);
}

TEST_CASE("serve api: tool calls in a chat") {
  FakeServer server;
  const Script calls = {.pieces = {"Let me see. ", "[get_wea", "ther(city=\"Paris\", days=2),", " get_weather()]"}};
  server.source.will_say(calls);
  const Json body = server.ask("/v1/chat/completions", chat(kTools))->json();
  const Json& message = at(body, {"choices", "0", "message"});
  CHECK(at(message, {"content"}) == Json("Let me see."));
  CHECK(at(body, {"choices", "0", "finish_reason"}) == Json("tool_calls"));
  REQUIRE(at(message, {"tool_calls"}).as_array().size() == 2);
  CHECK(at(message, {"tool_calls", "0", "function", "name"}) == Json("get_weather"));
  CHECK(l4::parse_json(at(message, {"tool_calls", "0", "function", "arguments"}).as_string(), "arguments") ==
        Json(Json::Object{{"city", "Paris"}, {"days", 2}}));
  CHECK(at(message, {"tool_calls", "0", "id"}) != at(message, {"tool_calls", "1", "id"}));

  server.source.will_say(calls);
  std::string text, names[2], arguments[2], reason;
  for (const Json& chunk :
       data_of(*server.ask("/v1/chat/completions", chat(std::string(kTools) + R"(,"stream":true)")))) {
    const Json& choice = at(chunk, {"choices", "0"});
    if (!at(choice, {"finish_reason"}).is_null()) reason = at(choice, {"finish_reason"}).as_string();
    if (const Json* content = at(choice, {"delta"}).find("content")) text += content->as_string();
    const Json* pieces = at(choice, {"delta"}).find("tool_calls");
    if (!pieces) continue;
    for (const Json& piece : pieces->as_array()) {
      const auto i = size_t(at(piece, {"index"}).as_integer());
      REQUIRE(i < 2);
      if (const Json* name = at(piece, {"function"}).find("name")) {
        CHECK(at(piece, {"type"}) == Json("function"));
        CHECK(at(piece, {"id"}).as_string().starts_with("call_"));
        names[i] += name->as_string();
      }
      arguments[i] += at(piece, {"function", "arguments"}).as_string();
    }
  }
  CHECK(text == "Let me see.");
  CHECK(reason == "tool_calls");
  CHECK(names[0] == "get_weather");
  CHECK(names[1] == "get_weather");
  CHECK(l4::parse_json(arguments[0], "arguments") == Json(Json::Object{{"city", "Paris"}, {"days", 2}}));
  CHECK(l4::parse_json(arguments[1], "arguments") == Json(Json::Object{}));

  // One call at most.
  server.source.will_say(calls);
  const Json one =
      server.ask("/v1/chat/completions", chat(std::string(kTools) + R"(,"parallel_tool_calls":false)"))->json();
  CHECK(at(one, {"choices", "0", "message", "tool_calls"}).as_array().size() == 1);
  CHECK(at(one, {"choices", "0", "finish_reason"}) == Json("tool_calls"));

  // Without tools, or with none chosen, it is text, and the model is not told of them.
  const size_t with_tools = server.source.last().prompt.ids.size();
  server.source.will_say(calls);
  const Json none = server.ask("/v1/chat/completions", chat(std::string(kTools) + R"(,"tool_choice":"none")"))->json();
  CHECK(at(none, {"choices", "0", "message", "content"}).as_string().find("[get_weather(") != std::string::npos);
  CHECK(!at(none, {"choices", "0", "message"}).find("tool_calls"));
  CHECK(server.source.last().prompt.ids.size() < with_tools);

  for (const char* choice : {R"("required")", R"({"type":"function","function":{"name":"get_weather"}})"}) {
    (void)server.ask("/v1/chat/completions", chat(l4::cat(kTools, R"(,"tool_choice":)", choice)))->json();
    CHECK(server.source.last().options.grammar);
  }
}

TEST_CASE("serve api: an answer that goes on from the last message") {
  FakeServer server;
  const auto prompt = [&](const std::string& body) {
    (void)server.ask("/v1/chat/completions", body)->json();
    return demo_frontend()->tokenizer().decode(server.source.last().prompt.ids, false);
  };
  CHECK(prompt(R"({"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Well"}],
                   "continue_final_message":true,"add_generation_prompt":false})")
            .ends_with("assistant<|header_end|>\n\nWell"));
  CHECK(
      prompt(R"({"messages":[{"role":"user","content":"Hi"}],"add_generation_prompt":false})").ends_with("Hi<|eot|>"));
  CHECK(prompt(R"({"messages":[{"role":"user","content":"Hi"}]})").ends_with("assistant<|header_end|>\n\n"));
}

TEST_CASE("serve api: what fails later") {
  FakeServer server;
  const Script broken = {.pieces = {"a"},
                         .reason = l4::FinishReason::error,
                         .error = "cudaErrorIllegalAddress at 0x7f00",
                         .error_kind = l4::ErrorKind::device};
  server.source.will_say(broken);
  const auto whole = server.ask("/v1/chat/completions", chat());
  CHECK(whole->response().status == 500);
  CHECK(at(whole->json(), {"error", "code"}) == Json("internal_error"));
  CHECK(whole->response().body.find("cuda") == std::string::npos);

  server.source.will_say(broken);
  const auto streamed = server.ask("/v1/chat/completions", chat(R"("stream":true)"));
  const auto events = streamed->events();
  REQUIRE(!events.empty());
  const Json last = l4::parse_json(events.back().second, "event");
  CHECK(at(last, {"error", "type"}) == Json("server_error"));
  CHECK(events.back().second.find("cuda") == std::string::npos);

  server.source.will_say(broken);
  const auto message = server.ask(
      "/v1/messages", std::string(R"({"max_tokens":5,"stream":true,"messages":[{"role":"user","content":"a"}]})"));
  CHECK(message->events().back().first == "error");
  CHECK(at(l4::parse_json(message->events().back().second, "event"), {"error", "type"}) == Json("api_error"));

  server.source.will_say({.pieces = {}, .reason = l4::FinishReason::cancelled});  // the engine ends
  CHECK(server.ask("/v1/chat/completions", chat())->response().status == 503);
  CHECK(server.source.n_alive() == 0);
}

TEST_CASE("serve api: a client that leaves takes its answers with it") {
  FakeServer server;
  for (int i = 0; i < 6; ++i) server.source.will_say({.pieces = {"a"}, .never_ends = true});
  for (const char* members : {R"("stream":true,"n":3)", R"("n":3)"}) {
    const auto exchange = server.ask("/v1/chat/completions", chat(members));
    CHECK(server.api.n_running() == 1);
    CHECK(server.source.n_alive() == 3);
    exchange->close();
    for (int i = 0; i < 1000 && server.api.n_running() > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    CHECK(server.api.n_running() == 0);
    CHECK(server.source.n_alive() == 0);
  }
}

TEST_CASE("serve api: what still runs at the end is told so") {
  std::shared_ptr<FakeExchange> exchange;
  {
    FakeServer server;
    server.source.will_say({.pieces = {"a"}, .never_ends = true});
    exchange = server.ask("/v1/chat/completions", chat());
  }
  CHECK(exchange->response().status == 503);
}

TEST_CASE("serve api: plain completions") {
  FakeServer server;
  const auto ask = [&](const std::string& members) {
    return server.ask("/v1/completions", "{" + members + "}")->json();
  };
  server.source.will_say({.pieces = {" upon", " a"}, .reason = l4::FinishReason::length});
  const Json body = ask(R"("prompt":"Once","max_tokens":2)");
  CHECK(at(body, {"object"}) == Json("text_completion"));
  CHECK(at(body, {"choices", "0", "text"}) == Json(" upon a"));
  CHECK(at(body, {"choices", "0", "finish_reason"}) == Json("length"));
  CHECK(server.source.last().options.max_tokens == 2);
  CHECK(server.source.last().prompt.ids == demo_frontend()->prompt_from_text("Once").ids);
  (void)ask(R"("prompt":[5,6,7])");
  CHECK(server.source.last().prompt.ids == std::vector<int32_t>{5, 6, 7});
  CHECK(server.source.last().options.max_tokens == 16);

  for (const char* piece : {"a", "b", "c", "d"}) server.source.will_say({.pieces = {piece}});
  const Json several = ask(R"("prompt":["Once",[5,6]],"n":2)");
  REQUIRE(at(several, {"choices"}).as_array().size() == 4);
  for (int i = 0; i < 4; ++i)
    CHECK(at(several, {"choices", std::to_string(i).c_str(), "text"}) == Json(std::string(1, char('a' + i))));
  CHECK(at(several, {"usage", "prompt_tokens"}) ==
        Json(int64_t(2 + demo_frontend()->prompt_from_text("Once").ids.size())));

  server.source.will_say({.pieces = {" upon"}});
  const Json echoed = ask(R"("prompt":"Once","echo":true,"logprobs":1)");
  CHECK(at(echoed, {"choices", "0", "text"}) == Json("Once upon"));
  const Json& logprobs = at(echoed, {"choices", "0", "logprobs"});
  CHECK(at(logprobs, {"token_logprobs", "0"}).is_null());  // the first has none; the script gives none to the others
  CHECK(at(logprobs, {"token_logprobs", "1"}) == Json(-0.5));
  CHECK(at(logprobs, {"tokens", "0"}) == Json("<|begin_of_text|>"));
  CHECK(at(logprobs, {"text_offset", "1"}) == Json(17));
  CHECK(at(logprobs, {"top_logprobs", "1"}).as_object().size() == 1);
  CHECK(server.source.last().options.prompt_logprobs == 1);

  server.source.will_say({.pieces = {" upon", " a"}});
  const auto exchange = server.ask("/v1/completions", std::string(R"({"prompt":"Once","stream":true,"echo":true})"));
  std::string text;
  const std::vector<Json> chunks = data_of(*exchange);
  for (const Json& chunk : chunks) text += at(chunk, {"choices", "0", "text"}).as_string();
  CHECK(text == "Once upon a");
  CHECK(at(chunks.back(), {"choices", "0", "finish_reason"}) == Json("stop"));
}

TEST_CASE("serve api: Anthropic's messages") {
  FakeServer server;
  const std::string request =
      R"({"model":"demo","max_tokens":50,"system":"Be brief.","stop_sequences":["END"],
          "tools":[{"name":"get_weather","input_schema":{"type":"object"}}],
          "messages":[{"role":"user","content":"Hi"},
            {"role":"assistant","content":[{"type":"text","text":"Yes."},{"type":"tool_use","id":"t","name":"get_weather","input":{"city":"Rome"}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"rain"}]},{"type":"text","text":"And?"}]}])";
  const Script says = {.pieces = {"Well. ", "[get_weather(city=\"Oslo\")]"}};
  server.source.will_say(says);
  const Json body = server.ask("/v1/messages", request + "}")->json();
  const std::string prompt = demo_frontend()->tokenizer().decode(server.source.last().prompt.ids, false);
  for (const char* part :
       {"Be brief.", "Yes.[get_weather(city=\"Rome\")]", "ipython<|header_end|>\n\n\"rain\"", "And?"})
    CHECK_MESSAGE(prompt.find(part) != std::string::npos, prompt);
  CHECK(prompt.find("\"rain\"") < prompt.find("And?"));
  CHECK(server.source.last().options.stop == std::vector<std::string>{"END"});
  CHECK(at(body, {"type"}) == Json("message"));
  CHECK(at(body, {"stop_reason"}) == Json("tool_use"));
  CHECK(at(body, {"content", "0"}) == Json(Json::Object{{"type", "text"}, {"text", "Well."}}));
  CHECK(at(body, {"content", "1", "type"}) == Json("tool_use"));
  CHECK(at(body, {"content", "1", "input"}) == Json(Json::Object{{"city", "Oslo"}}));
  CHECK(at(body, {"usage", "cache_read_input_tokens"}) == Json(3));
  CHECK(at(body, {"usage", "input_tokens"}) == Json(int64_t(server.source.last().prompt.ids.size()) - 3));

  const Json counted = server.ask("/v1/messages/count_tokens", request + "}")->json();
  CHECK(at(counted, {"input_tokens"}) == Json(int64_t(server.source.last().prompt.ids.size())));

  server.source.will_say(says);
  const auto exchange = server.ask("/v1/messages", request + R"(,"stream":true})");
  std::string order, text, input;
  const std::vector<Json> events = data_of(*exchange, false);
  for (const Json& event : events) {
    const std::string& type = event.find("type")->as_string();
    if (order.empty() || !order.ends_with(type + " ")) order += type + " ";
    if (type != "content_block_delta") continue;
    const Json& delta = at(event, {"delta"});
    if (at(delta, {"type"}) == Json("text_delta"))
      text += at(delta, {"text"}).as_string();
    else
      input += at(delta, {"partial_json"}).as_string();
  }
  CHECK(order ==
        "message_start content_block_start content_block_delta content_block_stop content_block_start "
        "content_block_delta content_block_stop message_delta message_stop ");
  CHECK(text == "Well.");
  CHECK(l4::parse_json(input, "input") == Json(Json::Object{{"city", "Oslo"}}));
  CHECK(at(events[events.size() - 2], {"delta", "stop_reason"}) == Json("tool_use"));

  server.source.will_say({.pieces = {"a"}, .stop_text = "END"});
  const Json stopped = server.ask("/v1/messages", request + "}")->json();
  CHECK(at(stopped, {"stop_reason"}) == Json("stop_sequence"));
  CHECK(at(stopped, {"stop_sequence"}) == Json("END"));
}

TEST_CASE("serve api: responses") {
  FakeServer server;
  const std::string request =
      R"({"model":"demo","instructions":"Be brief.","max_output_tokens":50,
          "tools":[{"type":"function","name":"get_weather","parameters":{"type":"object"}}],
          "input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},
            {"type":"function_call","call_id":"c","name":"get_weather","arguments":"{\"city\":\"Rome\"}"},
            {"type":"function_call_output","call_id":"c","output":"rain"}])";
  const Script says = {.pieces = {"Well. ", "[get_weather(city=\"Oslo\")]"}};
  server.source.will_say(says);
  const Json body = server.ask("/v1/responses", request + "}")->json();
  const std::string prompt = demo_frontend()->tokenizer().decode(server.source.last().prompt.ids, false);
  for (const char* part : {"Be brief.", "[get_weather(city=\"Rome\")]", "\"rain\""})
    CHECK_MESSAGE(prompt.find(part) != std::string::npos, prompt);
  CHECK(at(body, {"object"}) == Json("response"));
  CHECK(at(body, {"status"}) == Json("completed"));
  CHECK(at(body, {"output", "0", "content", "0", "text"}) == Json("Well."));
  CHECK(at(body, {"output", "1", "type"}) == Json("function_call"));
  CHECK(at(body, {"output", "1", "name"}) == Json("get_weather"));
  CHECK(at(body, {"usage", "input_tokens_details", "cached_tokens"}) == Json(3));

  server.source.will_say(says);
  const auto exchange = server.ask("/v1/responses", request + R"(,"stream":true})");
  const std::vector<Json> events = data_of(*exchange, false);
  std::string order, text, arguments;
  for (size_t i = 0; i < events.size(); ++i) {
    CHECK(at(events[i], {"sequence_number"}) == Json(int64_t(i)));
    const std::string type = events[i].find("type")->as_string().substr(9);
    if (order.empty() || !order.ends_with(" " + type + " ")) order += " " + type + " ";
    if (type == "output_text.delta") text += at(events[i], {"delta"}).as_string();
    if (type == "function_call_arguments.delta") arguments += at(events[i], {"delta"}).as_string();
  }
  CHECK(order ==
        " created  in_progress  output_item.added  content_part.added  output_text.delta  output_text.done "
        " content_part.done  output_item.done  output_item.added  function_call_arguments.delta "
        " function_call_arguments.done  output_item.done  completed ");
  CHECK(text == "Well.");
  CHECK(l4::parse_json(arguments, "arguments") == Json(Json::Object{{"city", "Oslo"}}));
  CHECK(at(events.back(), {"response", "output"}).as_array().size() == 2);

  server.source.will_say({.pieces = {"a"}, .reason = l4::FinishReason::length});
  const Json cut = server.ask("/v1/responses", std::string(R"({"input":"Hi","max_output_tokens":1})"))->json();
  CHECK(at(cut, {"status"}) == Json("incomplete"));
  CHECK(at(cut, {"incomplete_details", "reason"}) == Json("max_output_tokens"));
}

TEST_CASE("serve api: models, tokens, metrics") {
  FakeServer server;
  const Json models = server.ask("/v1/models", "", "GET")->json();
  CHECK(at(models, {"data"}).as_array().size() == 2);
  CHECK(at(models, {"data", "1", "id"}) == Json("gpt"));
  CHECK(at(models, {"data", "1", "max_model_len"}) == Json(4096));
  CHECK(at(server.ask("/v1/models/gpt", "", "GET")->json(), {"id"}) == Json("gpt"));
  CHECK(server.ask("/v1/models/none", "", "GET")->response().status == 404);

  const Json tokens = server.ask("/tokenize", std::string(R"({"prompt":"Hello","return_token_strs":true})"))->json();
  CHECK(at(tokens, {"count"}) == Json(int64_t(demo_frontend()->prompt_from_text("Hello").ids.size())));
  CHECK(at(tokens, {"token_strs", "0"}) == Json("<|begin_of_text|>"));
  const Json bare = server.ask("/tokenize", std::string(R"({"prompt":"Grüße","add_special_tokens":false})"))->json();
  const Json back = server.ask("/detokenize", dump_json(Json(Json::Object{{"tokens", at(bare, {"tokens"})}})))->json();
  CHECK(at(back, {"prompt"}) == Json("Grüße"));
  l4::ChatRequest one_message;
  one_message.messages.push_back({"user", std::string("Hi"), {}});
  CHECK(at(server.ask("/tokenize", chat())->json(), {"tokens"}).as_array().size() ==
        demo_frontend()->prompt_from_chat(one_message).ids.size());
  CHECK(server.ask("/tokenize", std::string("{}"))->response().status == 400);
  CHECK(server.ask("/detokenize", std::string(R"({"tokens":[-1]})"))->response().status == 400);

  (void)server.ask("/v1/chat/completions", chat())->json();
  l4::serve::EngineStatsCollector collector(server.source, server.metrics, server.engine_metrics);
  server.source.stats_value.n_running = 3;
  server.source.stats_value.prompt_tokens = 77;
  collector.collect();
  const std::string text = server.metrics.text();
  for (const char* line :
       {"l4:request_success_total{", "l4:num_requests_running{", "l4:time_to_first_token_seconds_count{",
        "l4:prompt_tokens_total{", "l4:request_generation_tokens_sum{"})
    CHECK_MESSAGE(text.find(line) != std::string::npos, text);
}
