"""Greedy decoding of the held-out items with the l4 engine, and its scores.

    python eval_engine.py L4_RUN CHECKPOINT_DIR EVAL_DIR [--dtype float32|bfloat16] [--tasks chart,options] [--outputs FILE]

Needs nothing but Python: each item is two calls of l4-run, one that renders and tokenizes the conversation, one that answers the ids.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from score import print_table, read_jsonl, score


def call(*args):
    done = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(str(a) for a in args[:6])} ...: {done.stderr.strip()}")
    return done.stdout


def answer(l4_run, checkpoint, item, folder, dtype, max_new_tokens=400):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        request = {"messages": item["messages"], "add_generation_prompt": True}
        if item["tools"]:
            request["tools"] = item["tools"]
        json.dump(request, f)
        f.flush()
        prompt = json.loads(call(l4_run, "-m", checkpoint, "--render", f.name, "--tokenize"))
    with tempfile.NamedTemporaryFile("w", suffix=".ids") as f:
        f.write(",".join(map(str, prompt)))
        f.flush()
        images = [a for name in item["images"] for a in ("--image", folder / name)]
        out = json.loads(call(l4_run, "-m", checkpoint, "--ids", "@" + f.name, *images, "--temp", 0, "-n", max_new_tokens,
                              "--dtype", dtype, "--json"))
    return {"id": item["id"], "output": out["text"], "prompt_ids": prompt, "ids": out["ids"], "usage": out["usage"]}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("l4_run")
    p.add_argument("checkpoint")
    p.add_argument("eval_dir")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--tasks", help="only these, separated by commas")
    p.add_argument("--limit", type=int, default=10**9, help="at most so many items of a task")
    p.add_argument("--outputs", help="write the outputs here (JSONL), with ids; goes on where it was")
    args = p.parse_args()
    folder = Path(args.eval_dir)
    items, seen = [], {}
    for item in read_jsonl(folder / "items.jsonl"):
        seen[item["task"]] = seen.get(item["task"], 0) + 1
        if seen[item["task"]] <= args.limit and (not args.tasks or item["task"] in args.tasks.split(",")):
            items.append(item)
    outputs = {}
    if args.outputs and Path(args.outputs).exists():
        outputs = {o["id"]: o["output"] for o in read_jsonl(args.outputs)}
    file = open(args.outputs, "a") if args.outputs else None
    start, last = time.time(), None
    for item in items:
        if item["task"] != last:
            last = item["task"]
            print(f"[{time.time() - start:.0f}s] {last}", flush=True)
        if item["id"] in outputs:
            continue
        out = answer(args.l4_run, args.checkpoint, item, folder, args.dtype)
        outputs[item["id"]] = out["output"]
        if file:
            file.write(json.dumps(out, ensure_ascii=False) + "\n")
            file.flush()
    print_table(score(items, outputs))


if __name__ == "__main__":
    main()
