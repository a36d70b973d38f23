#!/usr/bin/env python3
"""Golden data for l4-eval's recipes, from lm-evaluation-harness itself.

    scripts/eval/golden_lm_eval.py --data DIR [--out tests/golden/eval]

DIR has mmlu_pro/{test,validation}.jsonl and chartqa/sample.jsonl. lm-eval's own task objects (mmlu_pro, mmlu_pro_llama, chartqa,
chartqa_llama) render the prompts of 200 questions of each data set, and their filters and metrics score 200 answers, which are made
here from a seed: right, wrong, several matches, none, odd markdown, units, percent signs. Written are the prompts' SHA-256, never a
text of the data sets: MMLU-Pro's targets are letters, and ChartQA's answers have made-up targets that the scores belong to.

A prompt's hash is that of role, NUL, text, NUL for every turn ("text": of the text alone, where there is no chat template), less
the "<image>" that lm-eval's models replace by the picture. Needs lm_eval (0.4.13 wrote what is stored) and no network.
"""

import argparse
import hashlib
import json
import logging
import random
import sys
import tempfile
from pathlib import Path

import datasets
import lm_eval
from lm_eval.tasks import TaskManager

ROOT = Path(__file__).resolve().parents[2]
SEED = 20260611
N = 200
LETTERS = "ABCDEFGHIJ"


def read_jsonl(path):
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# ---- lm-eval


def load_tasks(names, files):
    """lm-eval's own task objects by name, reading local files where they ask for the hub's data set."""
    hub_load = datasets.load_dataset
    with tempfile.TemporaryDirectory() as cache:
        datasets.load_dataset = lambda **_: hub_load("json", data_files=files, cache_dir=cache, keep_in_memory=True)
        try:
            return TaskManager().load(names)["tasks"]
        finally:
            datasets.load_dataset = hub_load


def digest(turns):
    sha = hashlib.sha256()
    for turn in turns:
        sha.update(turn["role"].encode() + b"\0" + turn["content"].replace("<image>", "").encode() + b"\0")
    return sha.hexdigest()


def prompt_turns(task, doc, shots, multiturn):
    """What lm-eval hands to the chat template."""
    caught = []
    task.fewshot_context(
        doc,
        num_fewshot=shots,
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        chat_template=lambda turns, add_generation_prompt: caught.extend(turns) or "",
    )
    return digest(caught)


def score(task, doc, answer):
    """Filtered answer and metrics, through the task's own filters and metrics."""
    request = task.construct_requests(doc, "", metadata=(task.config.task, 0, 1))
    request.resps = [answer]
    (ensemble,) = task._filters
    ensemble.apply([request])
    filtered = request.filtered_resps[ensemble.name]
    return filtered, {key: float(value) for key, value in task.process_results(doc, [filtered]).items()}


# ---- answers


def letter_answer(rng, target):
    wrong = rng.choice([c for c in LETTERS if c != target])
    x = rng.choice([target, target, wrong])
    y = rng.choice(LETTERS)
    if rng.random() < 0.3:
        return rng.choice(["Step by step. The best answer is {}.", "The best answer is {}", "So the best answer is {}.\n"]).format(x)
    return rng.choice(
        [
            f" We compute it step by step. The answer is ({x}).",
            f" So the answer is {x}.",
            f" the answer is ({x}",
            f"**The answer is ({x})**",
            f"The answer is **{x}**.",
            f"The answer is ({x.lower()}).",
            f"The answer is: ({x})",
            f"Answer: {x}",
            f"First I thought the answer is ({y}), but in the end the answer is ({x}).",
            f"The best answer is {x}.",
            f"the best answer is {x}. On reflection the best answer is {y}.",
            f"The best answer is {y}.\n\nNo: The best answer is [{x}].",
            f"The best answer is {x}, or is The best answer is {y}?",
            f"The Best Answer is {x}.",
            f"The best answer is ({x}).",
            f"The best answer is K. Then the answer is ({x}).",
            f"Answer is {x}",
            f"The correct answer is option {x}.",
            f"The answer is \\boxed{{{x}}}",
            f"The answer is Best described as {x}.",
            f"The answer is ( {x} ).",
            f"The answer is\n({x}).",
            f"The answer  is ({x}).",
            f"…donc the answer is ({x})…",
            f"The final answer is ({x}). Therefore the best answer is {x}.",
            "I cannot tell from what is given.",
            "",
            "The answer is",
            "The answer is 42.",
            f"({x})",
            f"{x}",
            f"The answer is ({x}{y}).",
            f"the answer is (\u0391). Or the answer is ({x}).",
        ]
    )


WORDS = ["Yes", "No", "Germany", "Côte d'Ivoire", "United Kingdom", "ÅLAND", "Very likely", "U.S.", "Gray", "Russia & CIS", "Q3", "a"]


def made_number(rng):
    return rng.choice(
        [
            rng.randint(1, 30),
            rng.randint(1900, 2030),
            rng.randint(1000, 9_999_999),
            round(rng.uniform(0, 1), 2),
            round(rng.uniform(1, 100), 1),
            round(rng.uniform(1000, 99999), 2),
            -round(rng.uniform(1, 50), 1),
            0,
        ]
    )


def chart_case(rng):
    """A target and an answer."""
    kind = rng.choice(["number", "number", "number", "word", "word", "list", "letter", "odd"])
    if kind == "number":
        value = made_number(rng)
        target = rng.choice([f"{value}", f"{value}", f"{value}%", f"{value:,}", f"${value}", f"{value} ", f"{value}.0"])
        near = rng.choice([value, value, value * 1.04, value * 1.05, value * 0.95, value * 1.06, value * 2 + 1, value / 100, value * 100])
        near = rng.choice([near, round(near, 2)])
        said = rng.choice(
            [f"{near}", f"{near}", f"{near}%", f"{near:,}", f"${near:,}", f"{near} %", f"{near}%%", f"{near} million", f"about {near}",
             f"{near}.", f"{near}!?", f"{near}% .", f"+{near}", f"{near}e0", f"{near} (2015)", f"'{near}'", f"_{near}_", f"({near})",
             f"1_{abs(near)}", f"{near}²", "inf", "nan", "-"]
        )
    elif kind == "word":
        target = rng.choice(WORDS)
        other = rng.choice([w for w in WORDS if w != target])
        word = rng.choice([target, target, other])
        said = rng.choice([word, word.lower(), word.upper(), f"{word}.", f"{word}!!", f'"{word}"', f"'{word}'", f"{word} ", f"The {word}",
                           f"**{word}**", f"[{word}]", f"_{word}_", f'"{word}', '"'])
    elif kind == "list":
        a, b = made_number(rng), made_number(rng)
        target = rng.choice([f"[{a}, {b}]", f"[{a},{b}]", f"[{rng.choice(WORDS)}, {rng.choice(WORDS)}]", f"[{abs(a)}0.50, .5]", "[]", "[07, 1]"])
        said = rng.choice([target, target.strip("[]"), f"{a}, {b}", f"{a} and {b}", f"{a}"])
    elif kind == "letter":
        target = rng.choice("ABCDabÅ")
        said = rng.choice([f"{target}", f"{target}) Germany", f"({target})", f"{target.lower()}.", f"Option {target}", rng.choice("ABCD")])
    else:
        target = rng.choice(["2.5", "10%", "Answer", "50 %", "inf", "3,5", "$5.", "nan", "1e3", "%"])
        if target in ("inf",):
            target = "Inf."  # lm-eval's anywhere_accuracy ends with an error on infinity
        said = rng.choice([target, target.upper(), f"{target}.", "10", "0.1", "1000", "5", "%", ".", "3.5"])
    before = rng.choice(["The chart shows bars.\n\n", "Reasoning: Answer: 7\n", "", "It is a pie chart. ", "My answer: maybe\n", "Step 1\n"])
    mark = rng.choice(
        ["Final Answer: ", "Final Answer: ", "FINAL ANSWER: ", "FINAL ANSWER: ", "**Final Answer:** ", "**Final Answer**: ", "Final answer: ",
         "Answer: ", "answer:", "ANSWER**: ", "Final Answer:\n", "Final Answer:\n\n  ", "Final Answer - ", "The answer is ", "", "was ",
         "Final Answer: Final Answer: ", "*Answer*:* "]
    )
    if rng.random() < 0.3:  # as asked for
        said = rng.choice([target, target.lower(), said])
        mark = rng.choice(["Final Answer: ", "FINAL ANSWER: ", "final answer: "])
        return target, before + mark + said + rng.choice(["", "", ".", "\n"])
    after = rng.choice(["", "", "", "", "\n", "\n\n", ".", "\nI am sure.", " ", "\nFinal Answer:", "\n\nFinal Answer: \n", "**"])
    return target, before + mark + said + after


# ---- the files


def make_mmlu_pro(data, rng):
    files = {"test": str(data / "mmlu_pro/test.jsonl"), "validation": str(data / "mmlu_pro/validation.jsonl")}
    recipes = ("mmlu_pro", "mmlu_pro_llama")
    tasks = load_tasks(list(recipes), files)
    rows = []
    for doc in rng.sample(read_jsonl(Path(files["test"])), N):
        answer = letter_answer(rng, doc["answer"])
        row = {"id": str(doc["question_id"]), "subject": doc["category"], "target": doc["answer"], "answer": answer}
        for name in recipes:
            task = tasks[f"{name}_{doc['category'].replace(' ', '_')}"]
            text = task.fewshot_context(doc, num_fewshot=5)
            filtered, metrics = score(task, doc, answer)
            row[name] = {
                "text": hashlib.sha256(text.encode()).hexdigest(),
                "chat": prompt_turns(task, doc, 5, False),
                "turns": prompt_turns(task, doc, 5, True),
                "chat_0_shots": prompt_turns(task, doc, 0, False),
                "extracted": None if filtered == "[invalid]" else filtered,
                "metrics": metrics,
            }
        rows.append(row)
    return rows


def make_chartqa(data, rng):
    questions = read_jsonl(data / "chartqa/sample.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.jsonl"
        write_jsonl(path, [{"image": q["image"], "query": q["query"], "label": [q["label"]]} for q in questions])
        tasks = load_tasks(["chartqa", "chartqa_llama"], {"test": str(path)})
    rows = []
    for index in sorted(rng.sample(range(len(questions)), N)):
        target, answer = chart_case(rng)
        row = {"id": str(index), "target": target, "answer": answer}
        for name, task in tasks.items():
            row[name] = prompt_turns(task, {"image": "", "query": questions[index]["query"], "label": [""]}, 0, True)
        filtered, row["metrics"] = score(tasks["chartqa"], {"image": "", "query": "", "label": [target]}, answer)
        rules = task._metric_fn_list["relaxed_accuracy"].__self__.__globals__
        row["extracted"] = rules["ExplicitPromptRelaxedCorrectness"]()._get_final_answer(filtered) or None
        rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden/eval", metavar="DIR")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    arguments.out.mkdir(parents=True, exist_ok=True)
    made_by = {"lm_eval": lm_eval.__version__, "seed": SEED}
    for name, make in (("mmlu_pro", make_mmlu_pro), ("chartqa", make_chartqa)):
        rows = make(arguments.data, random.Random(f"{SEED} {name}"))
        write_jsonl(arguments.out / f"{name}.jsonl", [made_by, *rows])
        print(f"{name}: {len(rows)} answers")


if __name__ == "__main__":
    sys.exit(main())
