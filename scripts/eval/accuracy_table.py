#!/usr/bin/env python3
"""What quantisation costs: the demo model in each format, the same questions to all, as a Markdown table.

    scripts/eval/accuracy_table.py                       2,100 questions, on the CPU
    scripts/eval/accuracy_table.py --device cuda --questions 6000 --linears all

    scripts/eval/accuracy_table.py --work DIR --report   keeps models and runs, and puts the runs side by side in DIR/formats.html

Converts the model with l4-convert, asks with l4-eval questions (greedy, bfloat16), pairs the runs with l4-eval compare. Questions are
made here from a seed that training never used, of kinds of which the BF16 model gets most but not all right (70 to 97 %; a kind that is
outside is named and left out): only such questions can tell two models apart. Columns:

    right         of the questions
    difference    from BF16 in points, and McNemar's exact p: how often questions whose outcome differs would fall as unequally, or
                  more, if neither model were better
    perplexity    of the replies in conversations on the same subjects
    mean KL       of the model's next token from BF16's at all tokens of these conversations, in nats: replies are nearly certain,
                  what people ask is not

Needs l4-convert and l4-eval (--build) and numpy.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))
import text_tasks as tt  # noqa: E402
from facts import WORDS  # noqa: E402
from score import read_jsonl  # noqa: E402

MATCH = {"number": "number", "text": "exact", "list": "exact"}  # l4-eval questions' rule for each of the demo's

# Name, arguments of l4-convert (none: the model itself), of l4-eval. {all} is "-all" with --linears all.
FORMATS = [
    ("BF16", None, []),
    ("FP8", ["--preset", "fp8{all}"], []),
    ("FP8, FP8 KV cache", ["--preset", "fp8{all}"], ["--kv-cache-dtype", "fp8"]),
    ("FP8, FP8 KV cache, calibrated scales", ["--preset", "fp8{all}", "--kv-scales"], ["--kv-cache-dtype", "fp8"]),
    ("INT4 g128, RTN", ["--preset", "w4a16{all}", "--method", "rtn"], []),
    ("INT4 g128, GPTQ", ["--preset", "w4a16{all}", "--method", "gptq"], []),
    ("INT4 g32, RTN", ["--preset", "w4a16{all}", "--group-size", "32", "--method", "rtn"], []),
    ("INT4 g32, GPTQ", ["--preset", "w4a16{all}", "--group-size", "32", "--method", "gptq"], []),
]
LOWEST, HIGHEST = 0.70, 0.97
CALIBRATION_SEED, CONVERSATION_SEED = 881_000_000, 882_000_000


def reversed_letters(rng):
    letters = [rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(8, 10))]
    answer = " ".join(reversed(letters))
    return tt.Item(f"Reverse these letters: {' '.join(letters)}", answer, answer, "text")


def difference(rng):
    a, b = rng.randint(100, 999), rng.randint(100, 999)
    return tt.Item(f"What is {a} - {b}?", f"{a} - {b} = {a - b}", str(a - b), "number")


def largest(rng):
    numbers = rng.sample(range(1, 1000), rng.randint(4, 6))
    which = rng.choice(["largest", "smallest"])
    answer = str(max(numbers) if which == "largest" else min(numbers))
    return tt.Item(f"What is the {which} of {', '.join(map(str, numbers))}?", answer, answer, "number")


def sorted_numbers(rng):
    numbers = rng.sample(range(1, 20), rng.randint(5, 6))
    answer = ", ".join(map(str, sorted(numbers)))
    return tt.Item(f"Sort these numbers: {', '.join(map(str, numbers))}", answer, answer, "list")


def sorted_words(rng):
    words = rng.sample(WORDS, rng.randint(6, 8))
    answer = ", ".join(sorted(words))
    return tt.Item(f"Sort these words: {', '.join(words)}", answer, answer, "list")


SUITES = {"letters reversed": reversed_letters, "differences to 999": difference, "largest to 999": largest,
          "words sorted": sorted_words, "numbers sorted": sorted_numbers}


def user(text):
    return {"role": "user", "content": text}


def make_questions(n, seed):
    questions = []
    for suite, make in SUITES.items():
        rng = tt.Source(f"{seed} {suite}", held_out=True)
        questions += [(suite, make(rng)) for _ in range(math.ceil(n / len(SUITES)))]
    return questions


def make_conversations(n, seed, held_out):
    rng = tt.Source(seed, held_out=held_out)
    conversations = []
    for _ in range(n):
        items = [rng.choice([tt.options, tt.arithmetic, tt.lists, tt.strings, tt.lookup, tt.facts, tt.counting, difference])(rng)
                 for _ in range(rng.randint(1, 3))]
        conversations.append([m for item in items for m in (user(item.question), {"role": "assistant", "content": item.reply})])
    return conversations


def run(command):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"accuracy_table.py: {done.stderr.strip() or command}")


class Runner:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.on_cpu = args.device == "cpu"
        self.device = ["--device", args.device] + (["-t", "1"] if self.on_cpu else [])

    def map(self, work, things):
        with ThreadPoolExecutor(self.args.jobs if self.on_cpu else 1) as pool:
            return list(pool.map(work, things))

    def generate(self, model, flags, requests, most_tokens):
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            (Path(scratch) / "in").write_text("".join(json.dumps(r) + "\n" for r in requests))
            run([self.args.build / "l4-eval", "generate", "-m", model, "--requests", f"{scratch}/in", "-o", f"{scratch}/out",
                 "-n", most_tokens, *self.device, *flags])
            return read_jsonl(f"{scratch}/out")

    def ask(self, model, flags, questions, out):
        run([self.args.build / "l4-eval", "questions", "-m", model, "--data", questions, "-o", out, "--force", "--max-tokens", 100,
             *self.device, *flags])
        return out

    def compare(self, first, second):
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            run([self.args.build / "l4-eval", "compare", first, second, "-o", f"{scratch}/x.json"])
            return json.loads((Path(scratch) / "x.json").read_text())

    def logits(self, model, flags, ids):
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            run([self.args.build / "l4-eval", "logits", "-m", model, "--ids", ",".join(map(str, ids)), "-o", f"{scratch}/x.npy",
                 *self.device, *flags])
            return np.load(f"{scratch}/x.npy").astype(np.float64)


def tokenize(runner, conversations):
    """-> [(ids, positions whose next token belongs to a reply)], by the engine's own template and tokenizer"""
    requests = []
    for messages in conversations:
        for i in range(1, len(messages), 2):
            requests += [{"messages": messages[:i]}, {"messages": messages[:i + 1], "add_generation_prompt": False}]
    prompts = iter([answer["prompt_ids"] for answer in runner.generate(runner.args.model, [], requests, 1)])
    texts = []
    for messages in conversations:
        places = []
        for _ in range(1, len(messages), 2):
            before, ids = next(prompts), next(prompts)
            assert ids[:len(before)] == before
            places += range(len(before) - 1, len(ids) - 1)
        texts.append((ids, np.array(places)))
    return texts


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=HERE.parents[1] / "build")
    parser.add_argument("--model", type=Path, default=HERE.parents[1] / "core" / "demo")
    parser.add_argument("--questions", type=int, default=2100, help="before kinds are left out (default 2100)")
    parser.add_argument("--conversations", type=int, default=100, help="for perplexity and KL (default 100)")
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--linears", choices=["mlp", "all"], default="mlp", help="what is quantised; all: attention too")
    parser.add_argument("--seed", type=int, default=880_000_000)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="models at once, each on one thread (CPU)")
    parser.add_argument("--work", type=Path, help="keep models and runs here; models that are there are taken")
    parser.add_argument("--report", action="store_true", help="with --work: the runs side by side, formats.html and formats.md there")
    args = parser.parse_args()
    if args.report and not args.work:
        parser.error("--report wants --work DIR to put it")
    start = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runner = Runner(args, folder)

        calibration = folder / "calibration.jsonl"
        calibration.write_text("".join(json.dumps({"messages": m}) + "\n"
                                       for m in make_conversations(args.calibration_tokens // 40, CALIBRATION_SEED, False)))
        models = {}  # by arguments: two formats may be of one checkpoint
        for _, flags, _ in FORMATS:
            if flags:
                models["".join(flags)] = ([f.format(all="-all" if args.linears == "all" else "") for f in flags])

        def convert(flags):
            target = folder / ("-".join(f.strip("-") for f in flags) + f"-{args.calibration_tokens}")
            if (target / "config.json").exists():
                return target
            learns = "gptq" in flags or "--kv-scales" in flags
            text = ["--calibration", calibration, "--calibration-tokens", args.calibration_tokens] if learns else []
            run([args.build / "l4-convert", args.model, target, *flags, *text, "--device", args.device])
            return target

        models = dict(zip(models, runner.map(convert, models.values())))
        texts = tokenize(runner, make_conversations(args.conversations, CONVERSATION_SEED, True))

        questions = make_questions(args.questions, args.seed)
        data = folder / "questions.jsonl"

        def write_questions(kept):
            data.write_text("".join(json.dumps({"id": i, "group": suite, "prompt": item.question, "answer": item.answer,
                                                "match": MATCH[item.rule]}) + "\n"
                                    for i, (suite, item) in enumerate(questions) if suite in kept))

        def run_of(name):
            return folder / (name.lower().replace(",", "").replace(" ", "-") + ".jsonl")

        # All kinds to BF16 alone, then those that can tell.
        write_questions(SUITES)
        all_kinds = read_jsonl(runner.ask(args.model, FORMATS[0][2], data, folder / "all-kinds.jsonl"))[1:]
        shares = {suite: [r["right"] for r in all_kinds if r["group"] == suite] for suite in SUITES}
        shares = {suite: sum(right) / len(right) for suite, right in shares.items()}
        kept = [suite for suite, share in shares.items() if LOWEST <= share <= HIGHEST]
        if not kept:
            sys.exit("accuracy_table.py: no kind of question is between 70 and 97 %")
        write_questions(kept)

        def measure(row):
            name, flags, eval_flags = row
            model = models["".join(flags)] if flags else args.model
            runner.ask(model, eval_flags, data, run_of(name))
            return [log_softmax(runner.logits(model, eval_flags, ids)) for ids, _ in texts]

        logs_of = runner.map(measure, FORMATS)
        runs = [run_of(name) for name, *_ in FORMATS]
        pairs = runner.map(lambda file: runner.compare(runs[0], file), runs)
        if args.report:
            run([args.build / "l4-eval", "report", *runs, "-o", folder / "formats.html", "-o", folder / "formats.md"])

    n_tokens = sum(len(ids) for ids, _ in texts)
    kinds = ", ".join(f"{suite} {100 * share:.1f} %" + ("" if suite in kept else " (left out)") for suite, share in shares.items())
    print(f"{pairs[0]['all']['pairs']} questions, BF16 right: {kinds}; {n_tokens} tokens of conversations; {time.time() - start:.0f} s\n")
    print("| format | right | difference | lost, won | McNemar p | perplexity | mean KL |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, *_), pair, logs in zip(FORMATS, pairs, logs_of):
        nll = [-log[places, np.array(ids)[places + 1]] for log, (ids, places) in zip(logs, texts)]
        kl = [(np.exp(p) * (p - q)).sum(-1) for p, q in zip(logs_of[0], logs)]
        counts = pair["all"]
        cells = [name, f"{100 * counts['second']:.2f} %", "", "", "", f"{math.exp(np.concatenate(nll).mean()):.4f}", ""]
        if logs is not logs_of[0]:
            cells[2:5] = [f"{100 * (counts['second'] - counts['first']):+.2f}", f"{counts['only_first']}, {counts['only_second']}",
                          f"{counts['mcnemar_p']:.2g}"]
            cells[6] = f"{np.concatenate(kl).mean():.2g}"
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
