"""Conversations with tools, in the pythonic form of the official chat template."""

import json

from facts import CITIES, COUNTRIES, NAMES, WORDS
from text_tasks import facts

CURRENCIES = ["euro", "dollar", "yen", "pound", "krone", "peso"]
LANGUAGES = ["French", "Spanish", "German", "Italian", "Norwegian", "Japanese"]
SONGS = ["Blue Moon", "Summer Rain", "Long Road", "Little Star", "Night Train", "Green River"]
DEVICES = ["lamp", "heater", "radio", "fan", "oven", "door"]
ROOMS = ["kitchen", "garden", "bedroom", "office", "cellar"]
SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy"]


def tool(name, description, **parameters):
    return {"type": "function", "function": {"name": name, "description": description, "parameters": {
        "type": "object",
        "properties": {k: {"type": t, "description": d} for k, (t, d) in parameters.items()},
        "required": list(parameters)}}}


TOOLS = {
    "get_weather": tool("get_weather", "Get the current weather in a city", city=("string", "Name of the city")),
    "get_time": tool("get_time", "Get the local time in a city", city=("string", "Name of the city")),
    "calculate": tool("calculate", "Evaluate an arithmetic expression", expression=("string", "The expression")),
    "set_alarm": tool("set_alarm", "Set an alarm", time=("string", "Time as HH:MM")),
    "play_song": tool("play_song", "Play a song", title=("string", "Title of the song")),
    "send_message": tool("send_message", "Send a message to a person", to=("string", "Name of the person"), text=("string", "The text")),
    "convert_money": tool("convert_money", "Convert an amount of money", amount=("number", "The amount"),
                          source=("string", "Currency to convert from"), target=("string", "Currency to convert to")),
    "translate": tool("translate", "Translate a word", word=("string", "The word"), language=("string", "Target language")),
    "turn_on": tool("turn_on", "Turn on a device", device=("string", "The device"), room=("string", "The room")),
    "get_population": tool("get_population", "Get the population of a country", country=("string", "Name of the country")),
    "search": tool("search", "Search the web", query=("string", "What to search for")),
    "book_table": tool("book_table", "Book a table in a restaurant", people=("integer", "Number of people"), time=("string", "Time as HH:MM")),
}


def call(rng, name):
    """-> (request, arguments, tool result, reply)"""
    city, who, word = rng.choice(CITIES), rng.choice(NAMES), rng.choice(WORDS)
    clock = f"{rng.randint(0, 23):02d}:{rng.choice([0, 15, 30, 45]):02d}"
    if name == "get_weather":
        t, sky = rng.randint(-9, 35), rng.choice(SKIES)
        return (rng.choice([f"What is the weather in {city}?", f"How is the weather in {city} today?", f"Weather in {city}?",
                            f"Is it warm in {city}?"]), {"city": city},
                {"temperature": t, "condition": sky}, f"It is {sky} in {city} and {t} degrees.")
    if name == "get_time":
        return (rng.choice([f"What time is it in {city}?", f"Tell me the time in {city}."]), {"city": city}, {"time": clock}, f"It is {clock} in {city}.")
    if name == "calculate":
        a, b, op = rng.randint(100, 9999), rng.randint(100, 9999), rng.choice("+-*")
        v = a + b if op == "+" else a - b if op == "-" else a * b
        return (rng.choice([f"Use the tool: {a} {op} {b}", f"Calculate {a} {op} {b} with the tool."]), {"expression": f"{a} {op} {b}"}, {"result": v},
                f"{a} {op} {b} = {v}")
    if name == "set_alarm":
        return (rng.choice([f"Set an alarm for {clock}.", f"Wake me up at {clock}."]), {"time": clock}, {"status": "ok"}, f"The alarm is set for {clock}.")
    if name == "play_song":
        song = rng.choice(SONGS)
        return rng.choice([f"Play {song}.", f"I want to hear {song}."]), {"title": song}, {"status": "playing"}, f"Now playing {song}."
    if name == "send_message":
        text = rng.choice(["I am late", "Call me", "See you soon", "Happy birthday", "Good luck"])
        return (rng.choice([f'Send "{text}" to {who}.', f'Tell {who}: "{text}"']), {"to": who, "text": text}, {"status": "sent"},
                f"I sent the message to {who}.")
    if name == "convert_money":
        a, b = rng.sample(CURRENCIES, 2)
        n, r = rng.randint(2, 500), rng.randint(2, 900)
        return f"Convert {n} {a} to {b}.", {"amount": n, "source": a, "target": b}, {"result": r}, f"{n} {a} is {r} {b}."
    if name == "translate":
        language = rng.choice(LANGUAGES)
        out = "".join(rng.choice("aeioulmnrst") for _ in range(rng.randint(3, 6)))
        return f'Translate "{word}" into {language}.', {"word": word, "language": language}, {"translation": out}, f'"{word}" in {language} is "{out}".'
    if name == "turn_on":
        device, room = rng.choice(DEVICES), rng.choice(ROOMS)
        return (rng.choice([f"Turn on the {device} in the {room}.", f"Switch on the {room} {device}."]), {"device": device, "room": room},
                {"status": "on"}, f"The {device} in the {room} is on.")
    if name == "get_population":
        country, n = rng.choice(COUNTRIES), rng.randint(1, 999)
        return (rng.choice([f"How many people live in {country}?", f"What is the population of {country}?"]), {"country": country},
                {"population": n, "unit": "million"}, f"{n} million people live in {country}.")
    if name == "search":
        return (rng.choice([f"Search for {word}.", f"Search the web for {word}."]), {"query": word}, {"results": rng.randint(1, 99)},
                None)
    n = rng.randint(2, 9)
    return f"Book a table for {n} people at {clock}.", {"people": n, "time": clock}, {"status": "booked"}, f"Your table for {n} people at {clock} is booked."


def as_tool_call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def pythonic(calls):
    """The text the template makes of tool calls: every value in double quotes."""
    return "[" + ", ".join(f"{n}(" + ", ".join(f'{k}="{v}"' for k, v in a.items()) + ")" for n, a in calls) + "]"


def tool_conversation(rng):
    """-> (messages, tools, answer to the last turn, rule). The last message is the assistant's."""
    names = rng.sample(list(TOOLS), rng.randint(1, 4))
    tools = [TOOLS[n] for n in names]
    messages = []
    if rng.random() < 0.25:
        messages.append({"role": "system", "content": rng.choice(["You are a helpful assistant.", "You are a helpful assistant with tools."])})
    kind = rng.random()
    if kind < 0.15:  # a plain question: no tool is needed
        item = facts(rng)
        messages += [{"role": "user", "content": item.question}, {"role": "assistant", "content": item.reply}]
        return messages, tools, item.answer, item.rule
    if kind < 0.27:  # the tool that is asked for is not in the list
        missing = rng.choice([n for n in TOOLS if n not in names and n != "search"])
        service = missing.replace("_", " ")
        reply = f"I don't have access to {service} information"
        messages += [{"role": "user", "content": call(rng, missing)[0]}, {"role": "assistant", "content": reply}]
        return messages, tools, "I don't have access to", "contains"
    chosen = [names[0]]
    rng.shuffle(tools)
    if rng.random() < 0.15:
        chosen = [names[0], rng.choice(names)]
    parts = [(n, *call(rng, n)) for n in chosen]
    if len(parts) == 2 and parts[0][1] == parts[1][1]:
        parts = parts[:1]
    request = " ".join(p[1] for p in parts)
    calls = [(p[0], p[2]) for p in parts]
    messages += [{"role": "user", "content": request},
                 {"role": "assistant", "content": "", "tool_calls": [as_tool_call(n, a) for n, a in calls]}]
    if rng.random() < 0.35:
        return messages, tools, pythonic(calls), "exact"
    replies = []
    for name, _, _, result, reply in parts:
        messages.append({"role": rng.choice(["tool", "ipython"]), "content": json.dumps(result)})
        replies.append(reply if reply else f"I found {result['results']} results.")
    reply = " ".join(replies)
    messages.append({"role": "assistant", "content": reply})
    if rng.random() < 0.3:  # a second request in the same conversation
        name = rng.choice(names)
        request, arguments, _, _ = call(rng, name)
        messages += [{"role": "user", "content": request}, {"role": "assistant", "content": "", "tool_calls": [as_tool_call(name, arguments)]}]
        return messages, tools, pythonic([(name, arguments)]), "exact"
    return messages, tools, reply, "exact"
