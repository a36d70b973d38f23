#!/usr/bin/env python3
"""Asks a running l4-serve with the demo model through the openai and anthropic packages, as their users do.

    scripts/serve/test_clients.py http://127.0.0.1:8000 PICTURE.png [--lm-eval]

Prints a line for each check; the status is 1 when one failed. The packages: openai, anthropic; --lm-eval: lm-eval[api].
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import anthropic
import openai

MODEL = "demo"
SUM = [{"role": "user", "content": "What is 3 + 4?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.",
                                           "parameters": WEATHER}}]
ASK_WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0}  # newer anthropic packages have no argument for it
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")


class Clients:
    def __init__(self, url, picture):
        self.url = url
        key = os.environ.get("L4_API_KEY", "none")
        self.openai = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
        self.picture = base64.b64encode(Path(picture).read_bytes()).decode()

    def chat(self, messages=SUM, **more):
        return self.openai.chat.completions.create(model=MODEL, messages=messages, **({"temperature": 0} | more))


# ---- chat completions ------------------------------------------------------------------------------------------------

@check
def chat_answers(c):
    answer = c.chat()
    choice = answer.choices[0]
    assert "7" in choice.message.content, choice
    assert choice.finish_reason == "stop" and choice.message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.system_fingerprint and answer.id.startswith("chatcmpl-")


@check
def chat_streams_the_same(c):
    whole = c.chat().choices[0].message.content
    chunks = list(c.chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(x.choices[0].delta.content or "" for x in chunks if x.choices) == whole
    assert [x.choices[0].finish_reason for x in chunks if x.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 0 and chunks[-1].choices == []


@check
def chat_helper_streams(c):
    with c.openai.chat.completions.stream(model=MODEL, messages=SUM, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds and "7" in final.choices[0].message.content


@check
def chat_several_and_logprobs(c):
    story = [{"role": "user", "content": "Tell me a story."}]
    answer = c.chat(story, n=3, temperature=3, seed=5, max_tokens=8, logprobs=True, top_logprobs=3)
    assert [x.index for x in answer.choices] == [0, 1, 2]
    assert len({x.message.content for x in answer.choices}) > 1
    for choice in answer.choices:
        assert 0 < len(choice.logprobs.content) <= 8
        for token in choice.logprobs.content:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
    again = c.chat(story, n=3, temperature=3, seed=5, max_tokens=8)
    assert [x.message.content for x in again.choices] == [x.message.content for x in answer.choices]


@check
def chat_stops(c):
    text = c.chat().choices[0].message.content
    stopped = c.chat(stop=text[4:6]).choices[0]
    assert stopped.message.content == text[: text.index(text[4:6])] and stopped.finish_reason == "stop"
    assert c.chat(max_completion_tokens=2).choices[0].finish_reason == "length"
    forced = c.chat(logit_bias={"300": 100}, max_tokens=3).usage.completion_tokens
    assert forced == 3
    longer = c.chat(extra_body={"ignore_eos": True, "min_tokens": 30}, max_tokens=30)
    assert longer.usage.completion_tokens == 30


@check
def chat_continues(c):
    messages = SUM + [{"role": "assistant", "content": "3 + 4 ="}]
    answer = c.chat(messages, extra_body={"continue_final_message": True, "add_generation_prompt": False})
    assert answer.choices[0].message.content.strip().startswith("7"), answer.choices[0]


@check
def chat_calls_tools(c):
    answer = c.chat(ASK_WEATHER, tools=TOOLS)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] == "Paris", call
    names, arguments = {}, {}
    for chunk in c.chat(ASK_WEATHER, tools=TOOLS, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            if piece.function.name:
                names[piece.index] = piece.function.name
            arguments[piece.index] = arguments.get(piece.index, "") + (piece.function.arguments or "")
    assert names == {0: "get_weather"} and json.loads(arguments[0]) == json.loads(call.function.arguments)
    messages = ASK_WEATHER + [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"},
    ]
    assert c.chat(messages, tools=TOOLS, tool_choice="none").choices[0].message.content


@check
def chat_is_forced_to_call(c):
    two = TOOLS + [{"type": "function", "function": {"name": "get_time", "parameters": WEATHER}}]
    for choice in ("required", {"type": "function", "function": {"name": "get_time"}}):
        answer = c.chat(SUM, tools=two, tool_choice=choice, temperature=1, seed=1, max_tokens=200)
        calls = answer.choices[0].message.tool_calls
        assert calls, answer
        for call in calls:
            assert call.function.name in ("get_weather", "get_time") if choice == "required" else "get_time"
            assert set(json.loads(call.function.arguments)) == {"city"}
    one = c.chat(SUM, tools=two, tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    assert len(one.choices[0].message.tool_calls) == 1


@check
def chat_in_a_form(c):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        person = json.loads(c.chat(response_format=form, temperature=1, seed=seed, max_tokens=100).choices[0].message.content)
        assert set(person) == {"name", "age"} and 0 <= person["age"] <= 99 and len(person["name"]) <= 12
    thing = c.chat(response_format={"type": "json_object"}, max_tokens=200)
    if thing.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(thing.choices[0].message.content), dict)
    assert c.chat(extra_body={"guided_choice": ["red", "green"]}).choices[0].message.content in ("red", "green")
    date = c.chat(extra_body={"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}"}}).choices[0].message.content
    assert len(date) == 7 and date[4] == "-", date
    word = c.chat(extra_body={"guided_grammar": 'root ::= "yes" | "no"'}).choices[0].message.content
    assert word in ("yes", "no")


@check
def chat_parses_into_a_class(c):
    import pydantic

    class Person(pydantic.BaseModel):
        age: int
        is_old: bool

    parsed = c.openai.chat.completions.parse(model=MODEL, messages=SUM, response_format=Person, temperature=0, max_tokens=60)
    assert isinstance(parsed.choices[0].message.parsed, Person)


@check
def chat_sees_pictures(c):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + c.picture}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    with_picture, two = c.chat(messages, max_tokens=10), [{"role": "user", "content": [part, part, messages[0]["content"][1]]}]
    assert with_picture.usage.prompt_tokens > 100
    assert c.chat(two, max_tokens=10).usage.prompt_tokens > with_picture.usage.prompt_tokens + 100
    many = [{"role": "user", "content": [part] * 11 + [{"type": "text", "text": "?"}]}]
    error = raises(openai.BadRequestError, lambda: c.chat(many))
    assert "10" in error.body["message"], error.body
    bad = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]
    raises(openai.BadRequestError, lambda: c.chat(bad))
    there = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]}]
    raises(openai.BadRequestError, lambda: c.chat(there))


@check
def chat_errors(c):
    for more, code, param in (
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"max_tokens": 10**9}, "context_length_exceeded", "max_tokens"),
        ({"n": 100000}, "invalid_value", "n"),
        ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
    ):
        error = raises(openai.BadRequestError, lambda: c.chat(**more))
        assert (error.body["code"], error.body["param"]) == (code, param), error.body
        assert error.body["type"] == "invalid_request_error" and isinstance(error.body["code"], str)
    error = raises(openai.NotFoundError, lambda: c.openai.chat.completions.create(model="gpt-5", messages=SUM))
    assert error.body["code"] == "model_not_found"
    long = [{"role": "user", "content": "word " * 40000}]
    assert raises(openai.BadRequestError, lambda: c.chat(long)).body["code"] == "context_length_exceeded"


# ---- completions, models ---------------------------------------------------------------------------------------------

@check
def completions(c):
    make = lambda **more: c.openai.completions.create(model=MODEL, **({"temperature": 0, "max_tokens": 5} | more))
    one = make(prompt="Once upon", logprobs=2)
    assert one.usage.completion_tokens == 5 and len(one.choices[0].logprobs.tokens) == 5
    assert "".join(one.choices[0].logprobs.tokens) == one.choices[0].text
    several = make(prompt=["Once upon", "Two and"], n=2)
    assert [x.index for x in several.choices] == [0, 1, 2, 3] and several.choices[0].text == one.choices[0].text
    assert "".join(x.choices[0].text for x in make(prompt="Once upon", stream=True)) == one.choices[0].text
    echo = make(prompt="Once upon", echo=True, logprobs=1, max_tokens=0, extra_body={})
    logprobs = echo.choices[0].logprobs
    assert echo.choices[0].text == "Once upon" and len(logprobs.tokens) == echo.usage.prompt_tokens
    assert logprobs.token_logprobs[0] is None and all(x <= 0 for x in logprobs.token_logprobs[1:])
    raises(openai.BadRequestError, lambda: make(prompt="a", best_of=3))


@check
def models(c):
    listed = c.openai.models.list().data
    assert MODEL in [x.id for x in listed]
    assert c.openai.models.retrieve(MODEL).id == MODEL
    assert MODEL in [x.id for x in c.anthropic.models.list().data]
    raises(openai.NotFoundError, lambda: c.openai.models.retrieve("nobody"))


# ---- responses -------------------------------------------------------------------------------------------------------

@check
def responses(c):
    make = lambda **more: c.openai.responses.create(model=MODEL, **({"temperature": 0} | more))
    answer = make(input="What is 3 + 4?", instructions="Be brief.")
    assert "7" in answer.output_text and answer.status == "completed"
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert make(input="What is 3 + 4?", max_output_tokens=1).status == "incomplete"
    events = list(make(input="What is 3 + 4?", stream=True))
    assert [x.sequence_number for x in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(x.delta for x in events if x.type == "response.output_text.delta")
    assert text == events[-1].response.output_text and "7" in text
    error = raises(openai.BadRequestError, lambda: make(input="x", previous_response_id="resp_1"))
    assert error.body["param"] == "previous_response_id"
    form = {"format": {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}}
    assert set(json.loads(make(input="Who?", text=form, max_output_tokens=100).output_text)) == {"name", "age"}
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + c.picture, "detail": "auto"}
    seen = make(input=[{"role": "user", "content": [picture, {"type": "input_text", "text": "What is this?"}]}],
                max_output_tokens=8)
    assert seen.usage.input_tokens > 100


@check
def responses_call_tools(c):
    tools = [{"type": "function", "name": "get_weather", "parameters": WEATHER, "description": "The weather of a city."}]
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = c.openai.responses.create(model=MODEL, input=asked, tools=tools, temperature=0)
    call = [x for x in answer.output if x.type == "function_call"][0]
    assert call.name == "get_weather" and json.loads(call.arguments)["city"] == "Paris"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    after = c.openai.responses.create(model=MODEL, input=asked + answer.output + [result], tools=tools, tool_choice="none")
    assert after.output_text
    with c.openai.responses.stream(model=MODEL, input=asked, tools=tools, temperature=0) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in types and final.output[0].type == "function_call"


# ---- Anthropic -------------------------------------------------------------------------------------------------------

@check
def messages(c):
    make = lambda **more: c.anthropic.messages.create(**({"model": MODEL, "max_tokens": 60, "messages": SUM, "extra_body": GREEDY} | more))
    answer = make(system="Be brief.")
    assert "7" in answer.content[0].text and answer.stop_reason == "end_turn" and answer.type == "message"
    assert make(max_tokens=1).stop_reason == "max_tokens"
    text = answer.content[0].text
    stopped = make(system="Be brief.", stop_sequences=[text[4:6]])
    assert stopped.stop_reason == "stop_sequence" and stopped.stop_sequence == text[4:6]
    with c.anthropic.messages.stream(model=MODEL, max_tokens=60, messages=SUM, system="Be brief.", extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == text
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == answer.usage.output_tokens
    counted = c.anthropic.messages.count_tokens(model=MODEL, messages=SUM, system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    assert make(messages=SUM + [{"role": "assistant", "content": "3 + 4 ="}]).content[0].text.strip().startswith("7")
    error = raises(anthropic.BadRequestError, lambda: make(max_tokens=0))
    assert error.body["error"]["type"] == "invalid_request_error", error.body
    raises(anthropic.NotFoundError, lambda: make(model="claude"))
    source = {"type": "base64", "media_type": "image/png", "data": c.picture}
    seen = make(messages=[{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]}])
    assert seen.usage.input_tokens + seen.usage.cache_read_input_tokens > 100


@check
def messages_call_tools(c):
    tools = [{"name": "get_weather", "description": "The weather of a city.", "input_schema": WEATHER}]
    make = lambda **more: c.anthropic.messages.create(
        **({"model": MODEL, "max_tokens": 200, "messages": ASK_WEATHER, "tools": tools, "extra_body": GREEDY} | more))
    answer = make()
    call = [x for x in answer.content if x.type == "tool_use"][0]
    assert answer.stop_reason == "tool_use" and call.input == {"city": "Paris"}, answer
    with c.anthropic.messages.stream(model=MODEL, max_tokens=200, messages=ASK_WEATHER, tools=tools, extra_body=GREEDY) as stream:
        final = stream.get_final_message()
    assert [x.input for x in final.content if x.type == "tool_use"] == [{"city": "Paris"}]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = ASK_WEATHER + [{"role": "assistant", "content": [x.model_dump() for x in answer.content]},
                           {"role": "user", "content": [result]}]
    assert make(messages=turns, tool_choice={"type": "none"}).content
    forced = make(messages=SUM, tool_choice={"type": "any"})
    assert [x.name for x in forced.content if x.type == "tool_use"]


# ---- lm-eval ---------------------------------------------------------------------------------------------------------

def lm_eval_runs(c):
    """A task of our own, as lm-eval's would need the network."""
    with tempfile.TemporaryDirectory() as folder:
        sums = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in ((3, 4), (5, 6), (2, 9), (8, 8))]
        data = Path(folder, "sums.jsonl")
        data.write_text("".join(json.dumps(row) + "\n" for row in sums))
        Path(folder, "l4_sums.yaml").write_text(
            "task: l4_sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: " + str(data) +
            "\ntest_split: test\noutput_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
            "generation_kwargs:\n  until: ['Question:']\n  max_gen_toks: 32\n  temperature: 0\n"
            "filter_list:\n  - name: last\n    filter:\n      - function: regex\n        regex_pattern: '= (\\d+)'\n"
            "      - function: take_first\nmetric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n")
        out = Path(folder, "out")
        command = [sys.executable, "-m", "lm_eval", "--model", "local-chat-completions", "--apply_chat_template",
                   "--model_args", f"model={MODEL},base_url={c.url}/v1/chat/completions,num_concurrent=4,max_retries=1",
                   "--tasks", "l4_sums", "--include_path", folder, "--output_path", str(out)]
        env = os.environ | {"HF_HOME": folder, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]["l4_sums"]
        assert results["exact_match,last"] >= 0.75, results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("picture")
    parser.add_argument("--lm-eval", action="store_true", help="that and nothing else")
    parser.add_argument("--only", help="a check's name")
    args = parser.parse_args()
    clients = Clients(args.url.rstrip("/"), args.picture)
    failed = 0
    for function in [lm_eval_runs] if args.lm_eval else CHECKS:
        if args.only and function.__name__ != args.only:
            continue
        try:
            function(clients)
            print("ok    ", function.__name__, flush=True)
        except Exception:
            failed += 1
            print("FAILED", function.__name__, flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
