"""Charts and simple pictures drawn with Pillow's built-in font, with questions in ChartQA's form.

The pictures are plain but honest charts: title, axis, category names and, in most, the value printed at each mark.
"""

from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from facts import CATEGORY_GROUPS, DAYS, MONTHS, SERIES, WORDS

PALETTE = {"blue": (52, 101, 190), "red": (200, 50, 47), "green": (50, 150, 70), "orange": (240, 150, 40), "purple": (130, 80, 170),
           "brown": (130, 90, 60), "yellow": (235, 205, 50), "black": (40, 40, 40)}
INK, GREY = (20, 20, 20), (205, 205, 205)


@lru_cache(maxsize=None)
def font(size):
    return ImageFont.load_default(size)


@dataclass
class Chart:
    kind: str            # bar, hbar, line or pie
    title: str
    names: list
    values: list         # ints, or floats with one decimal
    labelled: bool       # values are printed
    colour: str
    unit: str = ""       # "%" for pies


def fmt(value):
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def shown(chart, value):
    return fmt(value) + chart.unit


def choose_categories(rng, n, max_len):
    kind = rng.random()
    if kind < 0.2:
        start = rng.randint(1990, 2024 - n)
        return [str(start + i) for i in range(n)], "year"
    if kind < 0.3:
        i = rng.randint(0, 12 - n)
        return [m[:3] for m in MONTHS[i:i + n]], "month"
    if kind < 0.36 and n <= 7:
        return [d[:3] for d in DAYS[:n]], "day"
    group = rng.choice(list(CATEGORY_GROUPS))
    names = [w.capitalize() for w in CATEGORY_GROUPS[group] if len(w) <= max_len]
    if len(names) < n:
        return choose_categories(rng, n, max_len)
    return rng.sample(names, n), group


def make_chart(rng, wide, tall):
    """wide, tall: whether the picture is two tiles wide or high, so that more fits on it"""
    kind = rng.choices(["bar", "hbar", "line", "pie"], [4, 3, 2, 2])[0]
    n = {"bar": rng.randint(3, 9 if wide else 5), "hbar": rng.randint(3, 9 if tall else 6),
         "line": rng.randint(3, 8 if wide else 5), "pie": rng.randint(3, 5)}[kind]
    names, group = choose_categories(rng, n, {"bar": 7 if wide else 5, "line": 7 if wide else 5}.get(kind, 8))
    unit = ""
    if kind == "pie":  # whole percentages that add up to 100
        cuts = sorted(rng.sample(range(1, 20), n - 1))
        values = [5 * (b - a) for a, b in zip([0] + cuts, cuts + [20])]
        for i in range(n - 1):
            d = rng.randint(-2, 2)
            values[i] += d
            values[i + 1] -= d
        values = [max(1, v) for v in values]
        values[-1] += 100 - sum(values)
        if values[-1] < 1:
            return make_chart(rng, wide, tall)
        unit = "%"
    elif rng.random() < 0.12:
        values = [rng.randint(5, 99) / 10 for _ in range(n)]
    else:
        top = rng.choice([20, 50, 99, 99, 99, 500, 999])
        values = [rng.randint(max(1, top // 20), top) for _ in range(n)]
    series = rng.choice(SERIES)
    title = rng.choice([f"{series} by {group}", f"{series} per {group}", series])
    labelled = kind == "pie" or rng.random() < 0.92
    return Chart(kind, title, names, values, labelled, rng.choice(list(PALETTE)[:6]), unit)


def nice_top(v):
    for t in [5, 10, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 250, 300, 400, 500, 600, 800, 1000]:
        if t >= v:
            return t
    return 1200


def put_label(d, xy, text, font_):
    """White behind the number, so that neither grid nor line crosses it."""
    x0, y0, x1, y1 = d.textbbox(xy, text, font_, anchor="mb")
    d.rectangle([x0 - 1, y0 - 1, x1 + 1, y1 + 1], (255, 255, 255))
    d.text(xy, text, INK, font_, anchor="mb")


def draw_chart(rng, chart, width, height):
    image = Image.new("RGB", (width, height), (255, 255, 255))
    d = ImageDraw.Draw(image)
    big = max(width, height) > 400
    size = rng.randint(18, 22) if big else rng.randint(16, 18)
    label, small = font(size), font(size - 2)
    d.text((width // 2 + rng.randint(-10, 10), rng.randint(6, 10)), chart.title, INK, font(size + 2), anchor="mt")
    top, bottom, left, right = 2 * size + 12, height - 2 * size - 4, rng.randint(40, 46) + (8 if big else 0), width - rng.randint(8, 16)
    rgb, n, scale = PALETTE[chart.colour], len(chart.names), nice_top(max(chart.values))
    if chart.kind in ("bar", "line"):
        y0 = bottom
        for i in range(5):  # axis with four grid lines
            y = y0 - (y0 - top) * i // 4
            d.line([(left, y), (right, y)], GREY if i else INK, 1)
            tick = scale * i / 4
            d.text((left - 4, y), f"{tick:g}", INK, small, anchor="rm")
        step = (right - left) / n
        points = []
        for i, (name, value) in enumerate(zip(chart.names, chart.values)):
            x = left + step * (i + 0.5)
            y = y0 - (y0 - top) * value / scale
            if chart.kind == "bar":
                w = step * 0.32
                d.rectangle([x - w, y, x + w, y0], rgb)
            points.append((x, y))
            d.text((x, y0 + 6), name, INK, label, anchor="mt")
        if chart.kind == "line":
            d.line(points, rgb, 3)
            for x, y in points:
                d.ellipse([x - 4, y - 4, x + 4, y + 4], rgb)
        if chart.labelled:
            for (x, y), value in zip(points, chart.values):
                put_label(d, (x, y - 6), fmt(value), label)
    elif chart.kind == "hbar":
        left = 8 + max(int(d.textlength(name, label)) for name in chart.names) + 6
        right = width - 3 * size
        step = (height - size - top) / n
        for i, (name, value) in enumerate(zip(chart.names, chart.values)):
            y = top + step * (i + 0.5)
            x = left + (right - left) * value / scale
            h = min(step * 0.34, 22)
            d.rectangle([left, y - h, x, y + h], rgb)
            d.text((left - 6, y), name, INK, label, anchor="rm")
            if chart.labelled:
                d.text((x + 5, y), fmt(value), INK, label, anchor="lm")
        d.line([(left, top), (left, height - size)], INK, 1)
    else:  # pie with a legend that carries the names and percentages
        r = min(width, height) * (0.22 if not big else 0.26)
        wide = width > height * 1.3
        cx, cy = (width * 0.3, height * 0.55) if wide else (width / 2, top + r + 2)
        colours = rng.sample(list(PALETTE)[:7], n)
        start = -90
        for value, colour in zip(chart.values, colours):
            d.pieslice([cx - r, cy - r, cx + r, cy + r], start, start + 3.6 * value, PALETTE[colour], (255, 255, 255))
            start += 3.6 * value
        x = width * 0.58 if wide else width * 0.28 + rng.randint(-20, 20)
        y = cy - n * (size + 6) / 2 if wide else cy + r + 10
        step = size + 6 if wide else min(size + 8, (height - y - 4) / n)
        for name, value, colour in zip(chart.names, chart.values, colours):
            d.rectangle([x, y + 2, x + size - 6, y + size - 4], PALETTE[colour])
            d.text((x + size + 2, y), f"{name} {value}%", INK, label, anchor="lt")
            y += step
    return image


# ---------------------------------------------------------------------------------------------------------------------
# Questions

def chart_question(rng, chart):
    """-> (question, working, answer); working is "" where the answer is read off directly"""
    pairs = list(zip(chart.names, chart.values))
    name, value = rng.choice(pairs)
    unique = chart.values.count(value) == 1
    kind = rng.random()
    hi, lo = max(chart.values), min(chart.values)
    if not chart.labelled:
        kind = 0.4 + 0.3 * kind
    if kind < 0.34:
        return rng.choice([f"What is the value of {name}?", f"What is the value for {name}?", f"How much is {name}?",
                           f"What value does {name} have?"]), "", shown(chart, value)
    if kind < 0.4:
        if not unique:
            return chart_question(rng, chart)
        return rng.choice([f"Which one has the value {shown(chart, value)}?", f"What has the value {shown(chart, value)}?"]), "", name
    if kind < 0.57:
        best, word = (hi, rng.choice(["highest", "largest"])) if rng.random() < 0.6 else (lo, rng.choice(["lowest", "smallest"]))
        if chart.values.count(best) > 1:
            return chart_question(rng, chart)
        who = chart.names[chart.values.index(best)]
        return rng.choice([f"Which one has the {word} value?", f"What has the {word} value?"]), f"The {word} value is {shown(chart, best)}", who
    if kind < 0.62:
        other, v2 = rng.choice(pairs)
        if v2 == value or other == name:
            return chart_question(rng, chart)
        return f"Is {name} greater than {other}?", "", "Yes" if value > v2 else "No"
    if kind < 0.66:
        things = {"bar": "bars", "hbar": "bars", "line": "points", "pie": "slices"}[chart.kind]
        return f"How many {things} are in the chart?", "", str(len(pairs))
    if kind < 0.7:
        return rng.choice(["What is the title of the chart?", "What is the chart about?"]), "", chart.title
    if kind < 0.8:
        best, word = (hi, "highest") if rng.random() < 0.6 else (lo, "lowest")
        return f"What is the {word} value?", "", shown(chart, best)
    (a, va), (b, vb) = rng.sample(pairs, 2)
    if isinstance(va, float) or isinstance(vb, float):
        return chart_question(rng, chart)
    if kind < 0.9:
        if va < vb:
            (a, va), (b, vb) = (b, vb), (a, va)
        return (rng.choice([f"What is the difference between {a} and {b}?", f"How much greater is {a} than {b}?"]),
                f"{va} - {vb} = {va - vb}", shown(chart, va - vb))
    return (rng.choice([f"What is the sum of {a} and {b}?", f"How much are {a} and {b} together?"]), f"{va} + {vb} = {va + vb}",
            shown(chart, va + vb))


def transcript(chart):
    return ", ".join(f"{n}: {shown(chart, v)}" for n, v in zip(chart.names, chart.values))


KIND_NAME = {"bar": "bar chart", "hbar": "bar chart", "line": "line chart", "pie": "pie chart"}

LLAMA_FORM = ("You are provided a chart image and will be asked a question. You have to think through your answer and provide a "
              "step-by-step solution. Once you have the solution, write the final answer in at most a few words at the end with the "
              "phrase \"FINAL ANSWER:\". The question is: {}\nLet's think step by step.")
MISTRAL_FORM = """{}
Analyze the image and question carefully, using step-by-step reasoning.
First, describe any image provided in detail. Then, present your reasoning. And finally your final answer in this format:
Final Answer: <answer>
where <answer> follows the following instructions:
- <answer> should should be a single phrase or number.
- <answer> should not paraphrase or reformat the text in the image.
- If <answer> is a ratio, it should be a decimal value like 0.25 instead of 1:4.
- If the question is a Yes/No question, <answer> should be Yes/No.
- If <answer> is a number, it should not contain any units.
- If <answer> is a percentage, it should include a % sign.
- If <answer> is an entity, it should include the full label from the graph.
IMPORTANT: Remember, to end your answer with Final Answer: <answer>."""
WORD_FORM = "{}\nAnswer the question with a single word."


def ask(rng, chart, which="", short=False):
    """-> (user text, reply, answer); which: "first" or "second" where there are several pictures; short: no long instructions"""
    question, working, answer = chart_question(rng, chart)
    if which:
        question = question.rstrip("?") + f" in the {which} chart?"
    form = rng.random() * (0.6 if short else 1.0)
    if form < 0.45:
        if working and working[0] != "T":     # sums and differences are worked out
            return question, working + chart.unit, answer
        return question, answer, answer
    if form < 0.6:
        if working and working[0] != "T":
            return ask(rng, chart, which, short)
        return WORD_FORM.format(question), answer, answer
    steps = f"The {KIND_NAME[chart.kind]} \"{chart.title}\" shows {transcript(chart)}. " if chart.labelled else ""
    if working:
        steps += working + ". "
    if form < 0.8:
        return LLAMA_FORM.format(question), f"{steps}FINAL ANSWER: {answer}", answer
    return MISTRAL_FORM.format(question), f"{steps.rstrip()}\nFinal Answer: {answer}" if steps else f"Final Answer: {answer}", answer


def read_chart(rng, chart):
    if rng.random() < 0.3:
        return rng.choice(["Describe the chart.", "What does the image show?", "Describe this image."]), \
            f"The {KIND_NAME[chart.kind]} \"{chart.title}\" shows {transcript(chart)}."
    return rng.choice(["Read the values in the chart.", "List all values.", "What are the values?"]), transcript(chart)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures of text and of shapes: they teach reading before charts can be read

def text_picture(rng, width=336, height=336):
    image = Image.new("RGB", (width, height), (255, 255, 255) if rng.random() < 0.8 else tuple(rng.randint(200, 255) for _ in range(3)))
    d = ImageDraw.Draw(image)
    lines, y = [], rng.randint(4, 30)
    for _ in range(rng.randint(1, 8)):
        size = rng.randint(16, 26)
        if y + size > height - 4:
            break
        word = rng.random()
        if word < 0.45:
            text = str(rng.randint(0, rng.choice([9, 99, 999, 9999])))
        elif word < 0.52:
            text = f"{rng.randint(5, 99) / 10:.1f}"
        elif word < 0.58:
            text = f"{rng.randint(1, 99)}%"
        else:
            text = rng.choice([rng.choice(WORDS).capitalize(), rng.choice(CATEGORY_GROUPS["city"] + CATEGORY_GROUPS["country"]), rng.choice(SERIES),
                               rng.choice(MONTHS)[:3]])
        if rng.random() < 0.25:
            text += " " + str(rng.randint(0, 99))
        x = rng.randint(4, max(5, int(width - d.textlength(text, font(size)) - 4)))
        d.text((x, y), text, INK if rng.random() < 0.7 else PALETTE[rng.choice(["blue", "red", "green", "black"])], font(size), anchor="lt")
        lines.append(text)
        y += size + rng.randint(6, 40)
    return image, rng.choice(["Read the text in the image.", "What does the image say?", "What is written here?"]), "\n".join(lines)


def shapes_picture(rng, size=336):
    image = Image.new("RGB", (size, size), (255, 255, 255))
    d = ImageDraw.Draw(image)
    cells = rng.sample([(r, c) for r in range(3) for c in range(3)], rng.randint(1, 6))
    shapes = []
    for r, c in cells:
        shape, colour = rng.choice(["circle", "square", "triangle"]), rng.choice(["red", "blue", "green", "yellow", "black"])
        x, y, s = c * 112 + rng.randint(46, 66), r * 112 + rng.randint(46, 66), rng.randint(20, 42)
        if shape == "circle":
            d.ellipse([x - s, y - s, x + s, y + s], PALETTE[colour])
        elif shape == "square":
            d.rectangle([x - s, y - s, x + s, y + s], PALETTE[colour])
        else:
            d.polygon([(x, y - s), (x - s, y + s), (x + s, y + s)], PALETTE[colour])
        shapes.append((shape, colour))
    if len(shapes) == 1 and rng.random() < 0.8:
        shape, colour = shapes[0]
        q, a = rng.choice([("What is in the image?", f"A {colour} {shape}."), (f"What colour is the {shape}?", colour.capitalize() + "."),
                           ("What shape is in the image?", f"A {shape}."), ("Describe the image.", f"The image shows a {colour} {shape}.")])
        return image, q, a
    shapes = [s for _, s in sorted(zip(cells, shapes))]  # row by row
    kind = rng.random()
    if kind < 0.5:
        return image, rng.choice(["List the shapes.", "What is in the image?", "Describe the image."]), ", ".join(f"{c} {s}" for s, c in shapes)
    kind = 2 * (kind - 0.5)
    if kind < 0.35:
        return image, "How many shapes are there?", f"{len(shapes)}"
    if kind < 0.7:
        shape = rng.choice(["circle", "square", "triangle"])
        return image, f"How many {shape}s are there?", f"{sum(s == shape for s, _ in shapes)}"
    colour = rng.choice(shapes)[1]
    return image, f"How many {colour} shapes are there?", f"{sum(c == colour for _, c in shapes)}"


# Picture sizes (width, height), by the tiles they make: 1, 1x2, 2x1 and 2x2
SIZES = {"1": [(336, 336)] * 6 + [(320, 320), (300, 336), (336, 300), (280, 300), (330, 310)],
         "1x2": [(672, 336)] * 3 + [(600, 336), (640, 320), (560, 330)],
         "2x1": [(336, 672), (336, 560), (336, 500)],
         "2x2": [(672, 672), (640, 480), (600, 500), (560, 560), (640, 600)]}
