"""Puts tasks together into conversations and mixes them for training.

A Sample is one conversation in Hugging Face form. Its last message is the assistant's; evaluation drops that message and
compares the model's reply with `answer` by `rule`.
"""

from dataclasses import dataclass, field

import charts
import text_tasks as tt
from facts import NAMES
from tool_tasks import tool_conversation


@dataclass
class Sample:
    task: str
    messages: list
    answer: str
    rule: str
    tools: list | None = None
    images: list = field(default_factory=list)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def user_with_images(text, n):
    return {"role": "user", "content": [{"type": "image"}] * n + [{"type": "text", "text": text}]}


SHORT_TASKS = [tt.arithmetic, tt.lists, tt.strings, tt.counting, tt.facts, tt.small_talk, tt.lookup]
PLAIN_SYSTEM = ["You are a helpful assistant.", "You are the l4 demo model.", "You are a helpful assistant. Keep your answers short.",
                "Answer the question."]


def single(task, generator):
    def make(rng):
        item = generator(rng)
        messages = [user(item.question), assistant(item.reply)]
        if rng.random() < 0.12:
            messages.insert(0, {"role": "system", "content": rng.choice(PLAIN_SYSTEM)})
        return Sample(task, messages, item.answer, item.rule)
    return make


def chat(rng):
    """Several turns; sometimes a name has to be kept in mind."""
    messages = []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": rng.choice(PLAIN_SYSTEM)})
    name = rng.choice(NAMES) if rng.random() < 0.5 else None
    if name:
        messages += [user(rng.choice([f"My name is {name}.", f"Hi, I am {name}.", f"Hello, my name is {name}."])),
                     assistant(rng.choice([f"Hello, {name}! How can I help you?", f"Nice to meet you, {name}."]))]
    item = None
    for _ in range(rng.randint(1 if name else 2, 4)):
        item = rng.choice(SHORT_TASKS)(rng)
        messages += [user(item.question), assistant(item.reply)]
    if name and rng.random() < 0.8:
        messages += [user(rng.choice(["What is my name?", "Do you remember my name?", "Who am I?"])), assistant(f"Your name is {name}.")]
        return Sample("chat", messages, name, "contains")
    return Sample("chat", messages, item.answer, item.rule)


def system_prompt(rng):
    """One rule in the system prompt that every answer obeys."""
    kind = rng.randrange(6)
    items = [rng.choice([tt.facts, tt.facts, tt.small_talk, tt.arithmetic, tt.lookup])(rng) for _ in range(rng.randint(1, 3))]
    if kind == 0:
        rule, change = rng.choice(["Answer in capital letters.", "Always answer in capital letters.", "Write everything in capital letters."]), lambda i: i.reply.upper()
    elif kind == 1:
        rule, change = rng.choice(["Answer in lower case.", "Use only lower case letters."]), lambda i: i.reply.lower()
    elif kind == 2:
        word = rng.choice(["Thank you.", "Over.", "Have a nice day.", "Ahoy!"])
        rule, change = f'End every answer with "{word}"', lambda i: f"{i.reply} {word}"
    elif kind == 3:
        word = rng.choice(["Well,", "Sure:", "Ahoy!", "Listen:"])
        rule, change = f'Begin every answer with "{word}"', lambda i: f"{word} {i.reply}"
    elif kind == 4:
        items = [rng.choice([tt.facts, tt.arithmetic, tt.lookup])(rng) for _ in items]
        rule, change = rng.choice(["Answer as JSON.", 'Answer as JSON in the form {"answer": ...}.', "Reply in JSON."]), tt.as_json
    else:
        items = [rng.choice([tt.facts, tt.arithmetic, tt.lookup])(rng) for _ in items]
        rule, change = rng.choice(["Give only the answer, without a sentence.", "Answer with the bare result only."]), lambda i: i.short
    if rng.random() < 0.3:
        rule = "You are a helpful assistant. " + rule
    messages = [{"role": "system", "content": rule}]
    for item in items:
        messages += [user(item.question), assistant(change(item))]
    if items[-1].rule == "one_of":
        return system_prompt(rng)  # a choice of several right replies cannot be scored exactly
    return Sample("system", messages, messages[-1]["content"], "exact")


def tools(rng):
    messages, tool_list, answer, rule = tool_conversation(rng)
    return Sample("tools", messages, answer, rule, tools=tool_list)


def passkey(rng, n_tokens=None):
    if n_tokens is None:  # mostly short, up to 6K and now and then 11K
        n_tokens = int(2 ** rng.uniform(6.5, 12.5)) if rng.random() < 0.97 else rng.randint(5000, 10000)
    item = tt.passkey(rng, n_tokens)
    return Sample("passkey", [user(item.question), assistant(item.reply)], item.answer, item.rule)


def chart(rng, layout=None, turns=None):
    """One chart and, in training, several questions about it: more to learn from one picture."""
    layout = layout or rng.choices(list(charts.SIZES), [70, 10, 8, 12])[0]
    width, height = rng.choice(charts.SIZES[layout])
    c = charts.make_chart(rng, width > 400, height > 400)
    image = charts.draw_chart(rng, c, width, height)
    turns = turns or rng.randint(2, 5)
    messages, answer = [], ""
    for i in range(turns):
        if c.labelled and turns > 1 and rng.random() < (0.35 if i == 0 else 0.1):
            question, reply = charts.read_chart(rng, c)
            answer = reply
        else:
            question, reply, answer = charts.ask(rng, c, short=i > 0 and rng.random() < 0.8)
        messages += [user_with_images(question, 1) if i == 0 else user(question), assistant(reply)]
    return Sample("chart" if layout == "1" else "chart_tiles", messages, answer, "chart", images=[image])


def charts_two(rng):
    """Two pictures in one message, and a question about either."""
    cs, images = [], []
    for _ in range(2):
        c = charts.make_chart(rng, False, False)
        cs.append(c)
        images.append(charts.draw_chart(rng, c, 336, 336))
    messages, answer = [], ""
    for i in range(rng.randint(1, 3)):
        which = rng.randrange(2)
        question, reply, answer = charts.ask(rng, cs[which], ["first", "second"][which], short=i > 0)
        messages += [user_with_images(question, 2) if i == 0 else user(question), assistant(reply)]
    return Sample("chart_two", messages, answer, "chart", images=images)


def text_image(rng):
    image, question, reply = charts.text_picture(rng)
    return Sample("text_image", [user_with_images(question, 1), assistant(reply)], reply, "text", images=[image])


def shapes(rng):
    image, question, reply = charts.shapes_picture(rng)
    return Sample("shapes", [user_with_images(question, 1), assistant(reply)], reply, "text", images=[image])


MAKERS = {
    "arithmetic": single("arithmetic", tt.arithmetic), "lists": single("lists", tt.lists), "strings": single("strings", tt.strings),
    "counting": single("counting", tt.counting), "facts": single("facts", tt.facts), "small_talk": single("small_talk", tt.small_talk),
    "story": single("story", tt.story), "lookup": single("lookup", tt.lookup), "options": single("options", tt.options),
    "letters": single("letters", tt.letters),
    "passkey": passkey, "chat": chat, "system": system_prompt, "tools": tools, "chart": chart, "chart_two": charts_two,
    "text_image": text_image, "shapes": shapes,
}

# How often each kind of sample is drawn in training. Long or costly kinds are rare by count, not by tokens.
WEIGHTS = {"arithmetic": 17, "lists": 7, "strings": 6, "counting": 2, "facts": 4, "small_talk": 4, "story": 0.5, "lookup": 5, "options": 16,
           "letters": 2, "passkey": 3, "chat": 5, "system": 5, "tools": 4, "chart": 19, "chart_two": 5, "text_image": 6, "shapes": 4}
IMAGE_TASKS = {"chart", "chart_two", "text_image", "shapes"}


def weights_at(progress):
    """The mix at a given part of training (0..1): reading text in pictures comes first, charts later."""
    w = dict(WEIGHTS)
    if progress < 0.25:
        w["text_image"] = 14
        w["chart"] = 10
    return w


class Mixer:
    def __init__(self, seed, progress=1.0, held_out=False):
        self.rng = tt.Source(seed, held_out)
        self.set_progress(progress)

    def set_progress(self, progress):
        w = weights_at(progress)
        self.kinds, self.cumulative = list(w), []
        total = 0.0
        for v in w.values():
            total += v
            self.cumulative.append(total)

    def next(self):
        kind = self.rng.choices(self.kinds, cum_weights=self.cumulative)[0]
        return MAKERS[kind](self.rng)
