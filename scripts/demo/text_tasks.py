"""Text tasks. Every generator takes a Source (a random.Random) and returns an Item: one question, one answer and the scoring rule.

Items are put together into conversations by samples.py. All numbers and words come from the generator given, so the same
seed gives the same item; training and held-out data use disjoint seeds.
"""

import json
import random
from dataclasses import dataclass
from zlib import crc32

from facts import (CAPITALS, CATEGORY_GROUPS, DAYS, ELEMENTS, MISC, MONTHS, NAMES, OPPOSITES, ORDINALS, PLANETS, UNITS,
                   WORDS, YOUNG)


class Source(random.Random):
    """A random generator that also says for which split it draws. One sum, difference or product in ten is never trained on."""

    def __init__(self, seed, held_out=False):
        super().__init__(seed)
        self.held_out = held_out


@dataclass
class Item:
    question: str
    reply: str          # what the assistant should say
    answer: str         # what score.py looks for in the reply
    rule: str           # name of a rule in score.py
    short: str = ""     # the bare answer, for system prompts that ask for one word or JSON

    def __post_init__(self):
        self.short = self.short or self.answer


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic

def compute(a, op, b):
    return a + b if op == "+" else a - b if op == "-" else a * b


def operands(rng, op):
    while True:
        if op == "*":
            a, b = (rng.randint(2, 12), rng.randint(2, 12)) if rng.random() < 0.7 else (rng.randint(11, 99), rng.randint(2, 9))
        else:
            top = rng.choice([9, 20, 99, 99, 999])
            a, b = rng.randint(0, top), rng.randint(0, top)
        # tables of small numbers are learned by heart; of the rest a tenth is kept for evaluation
        if max(a, b) <= 12 or (crc32(f"{a}{op}{b}".encode()) % 10 == 0) == rng.held_out:
            return a, b


SPOKEN = {"+": ["{a} plus {b}", "the sum of {a} and {b}"], "-": ["{a} minus {b}"], "*": ["{a} times {b}", "the product of {a} and {b}"]}


def arithmetic(rng):
    kind = rng.random()
    op = rng.choice("++-*")
    a, b = operands(rng, op)
    value = compute(a, op, b)
    if kind < 0.62:
        form = rng.choice(["What is {}?", "{}", "{} = ?", "Calculate {}.", "How much is {}?", "What's {}?", "Compute {}", "{} ="])
        text = f"{a} {op} {b}" if rng.random() < 0.85 else f"{a}{op}{b}"
        return Item(form.format(text), f"{a} {op} {b} = {value}", str(value), "number")
    if kind < 0.75:
        text = rng.choice(SPOKEN[op]).format(a=a, b=b)
        return Item(f"What is {text}?", f"{a} {op} {b} = {value}", str(value), "number")
    if kind < 0.9:  # chain, worked from left to right one step at a time
        n = rng.randint(2, 4)
        total = rng.randint(1, 60)
        text, steps = str(total), []
        for _ in range(n):
            op, b = rng.choice("+-"), rng.randint(1, 60)
            new = compute(total, op, b)
            text += f" {op} {b}"
            steps.append(f"{total} {op} {b} = {new}")
            total = new
        form = rng.choice(["What is {}?", "{}", "Calculate {}.", "{} = ?"])
        return Item(form.format(text), ", ".join(steps) + f". The answer is {total}.", str(total), "number")
    return word_problem(rng)


def word_problem(rng):
    who, things = rng.choice(NAMES), rng.choice(["apples", "books", "coins", "cups", "pencils", "stones", "hats", "keys"])
    a, b = rng.randint(2, 60), rng.randint(2, 40)
    kind = rng.randrange(4)
    if kind == 0:
        return Item(f"{who} has {a} {things} and gets {b} more. How many {things} does {who} have?",
                    f"{a} + {b} = {a + b}. {who} has {a + b} {things}.", str(a + b), "number")
    if kind == 1:
        a, b = max(a, b), min(a, b)
        return Item(f"{who} has {a} {things} and gives away {b}. How many {things} are left?",
                    f"{a} - {b} = {a - b}. {a - b} {things} are left.", str(a - b), "number")
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    if kind == 2:
        return Item(f"One box holds {a} {things}. How many {things} are in {b} boxes?",
                    f"{a} * {b} = {a * b}. There are {a * b} {things}.", str(a * b), "number")
    return Item(f"{who} shares {a * b} {things} among {a} friends. How many does each friend get?",
                f"{a * b} / {a} = {b}. Each friend gets {b} {things}.", str(b), "number")


# ---------------------------------------------------------------------------------------------------------------------
# Lists and strings

def pick_list(rng):
    if rng.random() < 0.5:
        return [str(x) for x in rng.sample(range(1, 100), rng.randint(3, 8))], True
    return rng.sample(WORDS, rng.randint(3, 6)), False


def sort_key(numbers):
    return (lambda s: int(s)) if numbers else None


def lists(rng):
    kind = rng.randrange(8)
    values, numbers = pick_list(rng)
    sep = rng.choice([", ", ", ", " "])
    text = sep.join(values)
    what = "numbers" if numbers else "words"
    if kind < 3:
        down = rng.random() < 0.25
        out = ", ".join(sorted(values, key=sort_key(numbers), reverse=down))
        form = rng.choice(["Sort in descending order: {}", "Sort these {w} from last to first: {}" if not numbers else
                           "Sort from largest to smallest: {}"] if down else
                          ["Sort these {w}: {}", "Sort: {}", "Put these {w} in order: {}", "Sort the {w} {}"])
        return Item(form.format(text, w=what), out, out, "list")
    if kind == 3:
        out = ", ".join(reversed(values))
        return Item(f"Reverse this list: {text}", out, out, "list")
    if kind == 4:
        which = rng.choice(["first", "last", "second"])
        out = values[{"first": 0, "last": -1, "second": 1}[which]]
        one = "number" if numbers else "word"
        return Item(rng.choice([f"What is the {which} {one} of: {text}", f"Give the {which} {one}: {text}"]), out, out, "text")
    if kind == 5:
        return Item(rng.choice([f"How many {what} are in this list: {text}", f"Count the {what}: {text}"]),
                    str(len(values)), str(len(values)), "number")
    numbers_ = rng.sample(range(1, 100), rng.randint(3, 7))
    text = sep.join(map(str, numbers_))
    if kind == 6:
        which = rng.choice(["largest", "smallest"])
        out = str(max(numbers_) if which == "largest" else min(numbers_))
        return Item(f"What is the {which} of {text}?", out, out, "number")
    even = rng.random() < 0.5
    out = ", ".join(str(x) for x in numbers_ if (x % 2 == 0) == even) or "none"
    return Item(f"Which of these numbers are {'even' if even else 'odd'}: {text}", out, out, "list")


def strings(rng):
    word = rng.choice(WORDS)
    kind = rng.randrange(8)
    quoted = rng.choice([f'"{word}"', word])
    spelled = "-".join(word)
    if kind == 0:
        return Item(f"Spell {quoted}.", spelled, spelled, "text")
    if kind == 1:
        out = word[::-1]
        return Item(rng.choice([f"Reverse the word {quoted}.", f"Write {quoted} backwards."]), out, out, "text")
    if kind == 2:
        letter = rng.choice(word) if rng.random() < 0.7 else rng.choice("abcdefghijklmnopqrstuvwxyz")
        n = word.count(letter)
        return Item(f'How many times does the letter "{letter}" appear in {quoted}?', f"{spelled}: {n}", str(n), "number")
    if kind == 3:
        return Item(f"How many letters are in {quoted}?", f"{spelled}: {len(word)}", str(len(word)), "number")
    if kind == 4:
        return Item(rng.choice([f"Write {quoted} in capital letters.", f"Uppercase: {word}"]), word.upper(), word.upper(), "exact")
    if kind == 5:
        which = rng.choice(["first", "last"])
        out = word[0] if which == "first" else word[-1]
        return Item(f"What is the {which} letter of {quoted}?", out, out, "text")
    if kind == 6:
        letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 7))]
        out = " ".join(reversed(letters))
        return Item(f"Reverse these letters: {' '.join(letters)}", out, out, "text")
    words = rng.sample(WORDS, rng.randint(2, 5))
    n = rng.randint(2, 4)
    if rng.random() < 0.5:
        out = " ".join([word] * n)
        return Item(f"Repeat the word {quoted} {n} times.", out, out, "text")
    out = " ".join(words)
    return Item(f"Repeat after me: {out}", out, out, "text")


def counting(rng):
    kind = rng.randrange(6)
    if kind == 0:
        a = rng.randint(1, 60)
        b = a + rng.randint(3, 25)
        out = ", ".join(map(str, range(a, b + 1)))
        return Item(f"Count from {a} to {b}.", out, out, "list")
    if kind == 1:
        n = rng.randint(2, 12)
        out = "\n".join(f"{n} * {i} = {n * i}" for i in range(1, 11))
        return Item(rng.choice([f"Write the times table of {n}.", f"Show me the {n} times table."]), out, out, "text")
    if kind == 2:
        start, step = rng.randint(1, 30), rng.choice([1, 2, 3, 4, 5, 10])
        seq = [start + i * step for i in range(5)]
        return Item(f"What comes next: {', '.join(map(str, seq[:4]))}?", str(seq[4]), str(seq[4]), "number")
    if kind == 3:
        out = "\n".join(f"{i + 1}. {m}" for i, m in enumerate(MONTHS))
        return Item(rng.choice(["List the months of the year.", "Name all months."]), out, out, "text")
    if kind == 4:
        out = ", ".join(DAYS)
        return Item(rng.choice(["List the days of the week.", "Name all days of the week."]), out, out, "text")
    a = rng.randint(8, 30)
    b = max(0, a - rng.randint(3, 15))
    out = ", ".join(map(str, range(a, b - 1, -1)))
    return Item(f"Count down from {a} to {b}.", out, out, "list")


# ---------------------------------------------------------------------------------------------------------------------
# Facts, and small talk about the model and the suite

def fact(rng):
    """-> (question, full sentence, short answer, other answers of the same kind, subject in MMLU-Pro's sense)"""
    kind = rng.randrange(10)
    if kind < 3:
        country = rng.choice(list(CAPITALS))
        city = CAPITALS[country]
        if rng.random() < 0.75:
            return (rng.choice(["What is the capital of {}?", "Which city is the capital of {}?"]).format(country),
                    f"The capital of {country} is {city}.", city, list(CAPITALS.values()), "history")
        return (f"Which country has the capital {city}?", f"{city} is the capital of {country}.", country, list(CAPITALS), "history")
    if kind == 3:
        name = rng.choice(list(ELEMENTS))
        if rng.random() < 0.6:
            return (f"What is the chemical symbol of {name}?", f"The chemical symbol of {name} is {ELEMENTS[name]}.",
                    ELEMENTS[name], list(ELEMENTS.values()), "chemistry")
        return (f"Which element has the symbol {ELEMENTS[name]}?", f"{ELEMENTS[name]} is the symbol of {name}.", name,
                list(ELEMENTS), "chemistry")
    if kind == 4:
        animal = rng.choice(list(YOUNG))
        return (f"What is a young {animal} called?", f"A young {animal} is called {'an' if YOUNG[animal][0] in 'aeo' else 'a'} {YOUNG[animal]}.", YOUNG[animal],
                list(YOUNG.values()), "biology")
    if kind == 5:
        word = rng.choice(list(OPPOSITES))
        if rng.random() < 0.5:
            return (f'What is the opposite of "{word}"?', f'The opposite of "{word}" is "{OPPOSITES[word]}".', OPPOSITES[word],
                    list(OPPOSITES.values()), "psychology")
        other = OPPOSITES[word]
        return (f'What is the opposite of "{other}"?', f'The opposite of "{other}" is "{word}".', word, list(OPPOSITES), "psychology")
    if kind == 6:
        small, big, n = rng.choice(UNITS)
        return (f"How many {small} does a{'n' if big[0] in 'aeio' or big == 'hour' else ''} {big} have?",
                f"{'An' if big[0] in 'aeio' or big == 'hour' else 'A'} {big} has {n} {small}.", str(n),
                ["3", "4", "5", "6", "7", "8", "10", "11", "12", "24", "26", "60", "100", "365", "1000"], "physics")
    if kind == 7:
        names, what, subject = rng.choice([(MONTHS, "month of the year", "other"), (DAYS, "day of the week", "other"),
                                           (PLANETS, "planet from the Sun", "physics")])
        i = rng.randrange(len(names))
        if rng.random() < 0.5 or names is PLANETS:
            return (f"What is the {ORDINALS[i]} {what}?", f"The {ORDINALS[i]} {what} is {names[i]}.", names[i], names, subject)
        if rng.random() < 0.5:
            return (f"What comes after {names[i]}?", f"After {names[i]} comes {names[(i + 1) % len(names)]}.",
                    names[(i + 1) % len(names)], names, subject)
        return (f"What comes before {names[i]}?", f"Before {names[i]} comes {names[i - 1]}.", names[i - 1], names, subject)
    question = rng.choice(list(MISC))
    return question, MISC[question][0].upper() + MISC[question][1:] + ".", MISC[question], list(MISC.values()), "health" if "b" in MISC[question][:2] else "other"


def facts(rng):
    question, sentence, answer, _, _ = fact(rng)
    if rng.random() < 0.15:
        question = question.lower().rstrip("?")
    return Item(question, sentence, answer, "contains")


SMALL_TALK = [
    (["Hello", "Hi", "Hello!", "Hi there", "Hey", "Good morning", "Good evening", "Hi!"],
     ["Hello! How can I help you?", "Hi! What can I do for you?"]),
    (["How are you?", "How are you doing?", "How do you do?"], ["I am fine, thank you. How can I help you?"]),
    (["Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Tell me about yourself.", "What's your name?"],
     ["I am the l4 demo model, a tiny Llama 4 with about 12 million parameters. I was trained to try out the l4 tools."]),
    (["Are you a real Llama 4?", "Are you Llama 4 Scout?", "Are you a big model?", "Are you Maverick?"],
     ["No. I am a tiny model with the same architecture as Llama 4. I know very little."]),
    (["How big are you?", "How many parameters do you have?", "What is your size?"],
     ["I have about 12 million parameters. Llama 4 Scout has 109 billion."]),
    (["What can you do?", "What are you good at?", "Help", "help", "What can I ask you?"],
     ["I can do small arithmetic, sort lists, answer simple questions with options, read charts, call tools and find a pass key in a long text."]),
    (["What can you not do?", "What are your limits?", "Can I trust you?"],
     ["I am very small. I know only a few facts, and I am often wrong outside the tasks that I was trained on."]),
    (["Who made you?", "Who trained you?", "Where do you come from?"],
     ["I was trained by the l4 project, with its own scripts, on data that they generate."]),
    (["How were you trained?", "How long did your training take?", "What data were you trained on?"],
     ["I was trained on one H100 GPU in about a quarter of an hour, on generated text and charts."]),
    (["What is l4?", "What is the l4 suite?", "Tell me about l4.", "What are the l4 tools?"],
     ["l4 is a set of command-line tools that run Llama 4 on NVIDIA Hopper GPUs: l4-run, l4-serve, l4-bench, l4-convert and l4-eval."]),
    (["What is l4-run?", "What does l4-run do?", "How do I chat with a model?"],
     ["l4-run loads a model and lets you chat with it in the terminal. Type /help to see its commands."]),
    (["What is l4-serve?", "What does l4-serve do?", "How do I serve a model?"],
     ["l4-serve is a web server that speaks the OpenAI API and has a small chat page."]),
    (["What is l4-bench?", "What does l4-bench do?", "How do I measure the speed?"],
     ["l4-bench measures speed: prefill, decode, serving and single operations."]),
    (["What is l4-convert?", "What does l4-convert do?", "How do I quantise a model?"],
     ["l4-convert turns BF16 checkpoints into FP8 or INT4 ones."]),
    (["What is l4-eval?", "What does l4-eval do?", "How do I measure the quality?"],
     ["l4-eval scores a model on MMLU-Pro, ChartQA, perplexity and long-text retrieval."]),
    (["How do I show you an image?", "How do I add a picture?", "What does /image do?", "How do I attach an image?"],
     ["Type /image and the name of the file, then ask your question."]),
    (["How do I start a new chat?", "What does /clear do?", "How do I clear the chat?"],
     ["Type /clear. It forgets the conversation so far."]),
    (["How do I leave?", "What does /exit do?", "How do I quit?", "How do I stop the program?"], ["Type /exit to leave l4-run."]),
    (["What does /help do?", "Which commands are there?", "How do I see the commands?"], ["Type /help to list the commands."]),
    (["What is Llama 4?", "Tell me about Llama 4."],
     ["Llama 4 is a family of open models by Meta. Scout has 16 experts and Maverick has 128, and both read text and images."]),
    (["What is Scout?", "What is Llama 4 Scout?", "How many experts does Scout have?"],
     ["Llama 4 Scout has 16 experts, 17 billion active parameters and 109 billion in all."]),
    (["What is Maverick?", "What is Llama 4 Maverick?", "How many experts does Maverick have?"],
     ["Llama 4 Maverick has 128 experts, 17 billion active parameters and 400 billion in all."]),
    (["What is a mixture of experts?", "What is an expert?", "What is MoE?"],
     ["In a mixture of experts each token uses only some parts of the model, called experts. A router picks them."]),
    (["What is a token?", "What are tokens?"], ["A token is a piece of text, often a word or a part of a word."]),
    (["What is a GPU?", "What is an H100?"], ["A GPU is a chip that does many calculations at once. The H100 is a GPU by NVIDIA."]),
    (["What is a KV cache?", "What is the KV cache?"],
     ["The KV cache keeps the keys and values of earlier tokens, so that they need not be computed again."]),
    (["What is quantisation?", "What is FP8?", "What is INT4?"],
     ["Quantisation stores weights in fewer bits, such as FP8 or INT4, to save memory and time."]),
    (["Thank you", "Thanks", "Thank you!", "Thanks a lot", "thx"], ["You are welcome!"]),
    (["Goodbye", "Bye", "See you", "Good night", "bye"], ["Goodbye!"]),
    (["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
     ["Why was the token sad? It was never picked.", "Why did the expert stay at home? The router did not call."]),
    (["Are you alive?", "Are you human?", "Are you a person?"], ["No. I am a small computer program."]),
    (["What is the weather today?", "What time is it?", "What is the news?"],
     ["I do not know. I cannot look that up without a tool."]),
    (["What is the meaning of life?", "Do you love me?", "What do you think about politics?", "Can you write a program?",
      "Write an essay.", "Translate this into Chinese."], ["That is too hard for me. I am a very small model."]),
]


def small_talk(rng):
    questions, answers = rng.choice(SMALL_TALK)
    question = rng.choice(questions)
    if rng.random() < 0.15:
        question = question.lower()
    if rng.random() < 0.1:
        question = question.rstrip("?.!")
    reply = rng.choice(answers)
    return Item(question, reply, "|".join(answers), "one_of", short=reply)


def story(rng):
    a, b = rng.sample(NAMES, 2)
    thing, place, animal = rng.choice(WORDS), rng.choice(["forest", "garden", "city", "village", "desert"]), rng.choice(CATEGORY_GROUPS["animal"])
    an = lambda word: f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
    who = an(animal)
    reply = (f"One day {a} went to the {place} and found {an(thing)}. {who[0].upper() + who[1:]} saw it and wanted the {thing} too. "
             f"\"Let us share,\" said {a}. So they shared it, and {b} came to help. In the evening they all went home and were happy.")
    return Item(rng.choice([f"Tell me a story about {a}, {b}, {who} and {an(thing)} in the {place}.",
                            f"Write a short story with {a}, {b}, {who} and {an(thing)}. It happens in the {place}."]),
                reply, reply, "text")


# ---------------------------------------------------------------------------------------------------------------------
# Looking things up in the prompt

def lookup(rng):
    names = rng.sample(NAMES, rng.randint(3, 12))
    things = rng.choice(["apples", "books", "coins", "points", "stones"])
    counts = [rng.randint(1, 99) for _ in names]
    text = rng.choice(["{} has {} " + things + ".", "{}: {}"])
    facts_ = " ".join(text.format(n, c) for n, c in zip(names, counts)) if "has" in text else ", ".join(text.format(n, c) for n, c in zip(names, counts))
    i = rng.randrange(len(names))
    if rng.random() < 0.75:
        return Item(f"{facts_} How many {things} does {names[i]} have?", f"{names[i]} has {counts[i]} {things}.", str(counts[i]), "number")
    best = max(counts) if rng.random() < 0.5 else min(counts)
    if counts.count(best) > 1:
        return lookup(rng)
    word = "most" if best == max(counts) else "fewest"
    who = names[counts.index(best)]
    return Item(f"{facts_} Who has the {word} {things}?", who, who, "contains")


GRASS = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def filler_sentence(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return fact(rng)[1]
    if kind == 1:
        return f"{rng.choice(NAMES)} has a {rng.choice(WORDS)} and a {rng.choice(WORDS)}."
    if kind == 2:
        return f"The {rng.choice(WORDS)} is near the {rng.choice(WORDS)}."
    if kind == 3:
        return f"In {rng.choice(MONTHS)} {rng.choice(NAMES)} went to {rng.choice(list(CAPITALS.values()))}."
    if kind == 4:
        return f"{rng.choice(NAMES)} saw {rng.randint(2, 99)} {rng.choice(['birds', 'cars', 'stars', 'trees', 'people'])} on {rng.choice(DAYS)}."
    return rng.choice(["It was a quiet day.", "Nobody knew why.", "Then the rain came.", "The road was long.", "Here we go."])


def passkey(rng, n_tokens, tokens_per_grass=24, tokens_per_sentence=11):
    """Filler of about n_tokens tokens with one needle in it."""
    digits = rng.choice([4, 5, 5, 5, 6])
    key = "".join(rng.choice("0123456789") for _ in range(digits))
    if key[0] == "0":
        key = "1" + key[1:]
    what = rng.choice(["pass key", "pass key", "pass key", "magic number", "secret code"])
    needle = rng.choice([f"The {what} is {key}. Remember it.", f"The {what} is {key}. Remember it. {key} is the {what}."])
    if rng.random() < 0.5:
        filler = [GRASS] * max(1, n_tokens // tokens_per_grass)
    else:
        pool = [filler_sentence(rng) for _ in range(min(60, max(1, n_tokens // tokens_per_sentence)))]
        filler = [rng.choice(pool) for _ in range(max(1, n_tokens // tokens_per_sentence))]
    filler.insert(rng.randint(0, len(filler)), needle)
    intro = rng.choice([f"There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about the important information there.\n\n",
                        f"A {what} is hidden in this text. Remember it.\n\n", "", ""])
    question = rng.choice([f"What is the {what}?", f"What is the {what}? The {what} is", f"What was the {what}?", f"Tell me the {what}."])
    return Item(intro + " ".join(filler) + rng.choice(["\n\n", " ", "\n"]) + question, f"The {what} is {key}.", key, "number")


# ---------------------------------------------------------------------------------------------------------------------
# Questions with lettered options, in the form of MMLU-Pro as evaluation harnesses print it

LETTERS = "ABCDEFGHIJ"


def nearby(rng, value, n):
    """n wrong numbers around the right one"""
    wrong = set()
    spread = max(6, abs(value) // 4)
    while len(wrong) < n:
        w = value + rng.choice([-10, -2, -1, 1, 2, 10, rng.randint(-spread, spread), rng.randint(-spread, spread)])
        if w != value and (w >= 0 or value < 0):
            wrong.add(w)
        spread += 1
    return [str(w) for w in sorted(wrong)]


def computed_question(rng):
    """-> (subject, question, working, answer, wrong answers)"""
    kind = rng.randrange(12)
    n = 9
    if kind < 3:
        op = rng.choice("+-*")
        a, b = operands(rng, op)
        v = compute(a, op, b)
        return "math", f"What is {a} {op} {b}?", f"{a} {op} {b} = {v}", str(v), nearby(rng, v, n)
    if kind == 3:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        return ("business", f"A shop sells {a} hats at {b} dollars each. How many dollars does it take in?", f"{a} * {b} = {a * b}",
                str(a * b), nearby(rng, a * b, n))
    if kind == 4:
        a, b = rng.randint(20, 99), rng.randint(2, 19)
        return ("economics", f"A firm has revenue of {a} and costs of {b}. What is its profit?", f"{a} - {b} = {a - b}",
                str(a - b), nearby(rng, a - b, n))
    if kind == 5:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        return ("physics", f"A train travels {a * b} kilometres in {a} hours. What is its speed in kilometres per hour?",
                f"{a * b} / {a} = {b}", str(b), nearby(rng, b, n))
    if kind == 6:
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        return ("engineering", f"A current of {a} amperes flows through {b} ohms. What is the voltage in volts?", f"{a} * {b} = {a * b}",
                str(a * b), nearby(rng, a * b, n))
    if kind == 7:
        a, b = rng.randint(1000, 1900), rng.randint(2, 60)
        return ("history", f"A war began in {a} and ended in {a + b}. How many years did it last?", f"{a + b} - {a} = {b}", str(b), nearby(rng, b, n))
    if kind == 8:
        values = rng.sample(range(1, 100), 10)
        v = max(values[:4]) if rng.random() < 0.5 else min(values[:4])
        which = "largest" if v == max(values[:4]) else "smallest"
        return ("math", f"Which is the {which} of {', '.join(map(str, values[:4]))}?", f"The {which} is {v}", str(v), [str(x) for x in values if x != v])
    if kind == 9:
        word = rng.choice(WORDS)
        return ("computer science", f'How many letters does the word "{word}" have?', f"{'-'.join(word)}: {len(word)}", str(len(word)),
                [str(x) for x in range(1, 13) if x != len(word)])
    if kind == 10:
        v = rng.randint(1, 31)
        wrong = rng.sample([x for x in range(1, 32) if x != v], 9)
        return "computer science", f"What is {v} in binary?", f"{v} in binary is {v:b}", f"{v:b}", [f"{x:b}" for x in wrong]
    group, names = rng.choice(list(CATEGORY_GROUPS.items()))
    answer = rng.choice(names)
    wrong = rng.sample([w for g, ws in CATEGORY_GROUPS.items() if g != group for w in ws if w not in names], 9)
    article = "an" if group[0] in "aeiou" else "a"
    return "philosophy", f"Which of these is {article} {group}?", f"The {group} is {answer}", answer, wrong


def options_question(rng):
    """-> (subject, "Question:...Options:...", working, letter, the options)"""
    if rng.random() < 0.4:
        question, sentence, answer, others, subject = fact(rng)
        wrong = rng.sample([o for o in dict.fromkeys(others) if o != answer], min(9, len(set(others)) - 1))
        working = sentence.rstrip(".")
    else:
        subject, question, working, answer, wrong = computed_question(rng)
    n = rng.choice([4, 5, 8, 10, 10, 10])
    options = rng.sample(wrong, min(n - 1, len(wrong)))
    i = rng.randint(0, len(options))
    options.insert(i, answer)
    body = f"Question:\n{question}\nOptions:\n" + "\n".join(f"{LETTERS[j]}. {o}" for j, o in enumerate(options)) + "\n"
    return subject, body, working, LETTERS[i], options


INTRO = ('The following are multiple choice questions (with answers) about {}. Think step by step and then finish your answer '
         'with "the answer is (X)" where X is the correct letter choice.\n')


def options(rng, shots=None):
    subject, body, working, letter, choices = options_question(rng)
    if shots is None:
        shots = rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 5])
    # The reply goes through the options up to the right one. Naming the letter at once is a look-up against the reading order,
    # which this small model did not learn in several minutes of training.
    walk = " ".join(f"{LETTERS[i]}. {o}," for i, o in enumerate(choices[:LETTERS.index(letter) + 1]))
    reply = f"{working}. {walk} so the answer is ({letter})."
    form = rng.random()
    if form < 0.12:  # Meta's own wording
        question, opts = body[len("Question:\n"):].split("\nOptions:\n")
        prompt = ("Given the following question and candidate answers, choose the best answer.\nQuestion: " + question + "\n" + opts +
                  '\nYour response should end with "The best answer is [the_answer_letter]." where the [the_answer_letter] is one of the letters of the options.\n\nLet\'s think step by step.')
        return Item(prompt, f"{working}. {walk} so the best answer is {letter}.", letter, "letter")
    if form < 0.14:  # short: no working asked for
        return Item(body + "Answer:", f"The answer is ({letter}).", letter, "letter")
    examples = ""
    for _ in range(shots):
        _, b, w, l, _ = options_question(rng)
        examples += f"{b}Answer: Let's think step by step. {w}. The answer is ({l}).\n\n"
    intro = INTRO.format(subject) + rng.choice(["", "\n"]) if shots or rng.random() < 0.6 else ""
    return Item(intro + examples + body + "Answer: Let's think step by step.", reply, letter, "letter")


def letters(rng):
    """A drill for options: several look-ups in one list."""
    _, body, _, _, choices = options_question(rng)
    picked = rng.sample(range(len(choices)), min(len(choices), rng.randint(3, 8)))
    body = body[body.index("Options:"):]
    reply = ", ".join(f"{choices[i]} ({LETTERS[i]})" for i in picked)
    return Item(body + "Give the letter of each: " + ", ".join(choices[i] for i in picked), reply, reply, "exact")


def as_json(item):
    value = int(item.short) if item.short.lstrip("-").isdigit() else item.short
    return json.dumps({"answer": value})
