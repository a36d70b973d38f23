"""Writes held-out evaluation items: OUT_DIR/items.jsonl and OUT_DIR/images/*.png.

    python make_eval_sets.py CHECKPOINT_DIR OUT_DIR [--scale 1.0]

Fields of an item: id, task, messages (the conversation up to the reply), tools (or null), images (file names in the order of the
{"type": "image"} parts), answer, rule (see score.py) and reference (the reply that training would have taught). The seed is never used in
training; sums, differences and products above 12 come from the tenth that training leaves out. CHECKPOINT_DIR is only needed for its
tokenizer, to make pass key texts of the right length.
"""

import argparse
import json
from pathlib import Path

import samples
import text_tasks as tt
from render import Renderer
from tool_tasks import pythonic

SEED = 770_000_000
COUNTS = {"arithmetic": 200, "options": 200, "letters": 40, "lists": 100, "strings": 100, "counting": 40, "lookup": 60, "facts": 60, "small_talk": 40,
          "story": 10, "chat": 60, "system": 80, "tools": 100, "chart": 150, "chart_tiles": 100, "chart_two": 50, "text_image": 60, "shapes": 60,
          "passkey_1k": 40, "passkey_4k": 40, "passkey_16k": 20}


def passkey_of(rng, renderer, tokens):
    ask = tokens
    while True:  # word lengths vary: aim again until the length is right to 3 %
        s = samples.passkey(rng, ask)
        n = len(renderer.encode(s.messages[0]["content"]))
        if abs(n - tokens) < 0.03 * tokens:
            return s
        ask = max(20, int(ask * (tokens / n + 1) / 2))


def make(task, rng, renderer):
    if task.startswith("passkey_"):
        return passkey_of(rng, renderer, int(task[8:-1]) * 1024)
    if task == "chart":
        return samples.chart(rng, layout="1", turns=1)
    if task == "chart_tiles":
        return samples.chart(rng, layout=rng.choice(["1x2", "2x1", "2x2"]), turns=1)
    while True:
        s = samples.MAKERS[task](rng)
        if task != "chart_two" or len(s.messages) == 2:
            return s


def reference(message):
    if message.get("tool_calls"):
        return pythonic([(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]])
    return message["content"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint")
    p.add_argument("out")
    p.add_argument("--scale", type=float, default=1.0, help="multiplies the number of items")
    args = p.parse_args()
    out = Path(args.out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    renderer = Renderer(args.checkpoint)
    with open(out / "items.jsonl", "w") as f:
        for k, (task, count) in enumerate(COUNTS.items()):
            rng = tt.Source(SEED + k, held_out=True)
            for i in range(max(1, round(count * args.scale))):
                s = make(task, rng, renderer)
                files = []
                for j, image in enumerate(s.images):
                    files.append(f"images/{task}_{i:04d}_{j}.png")
                    image.save(out / files[-1])
                f.write(json.dumps({"id": f"{task}_{i:04d}", "task": task, "messages": s.messages[:-1], "tools": s.tools, "images": files,
                                    "answer": s.answer, "rule": s.rule, "reference": reference(s.messages[-1])}, ensure_ascii=False) + "\n")
    print(f"wrote {out / 'items.jsonl'}")


if __name__ == "__main__":
    main()
