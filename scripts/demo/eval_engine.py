"""Greedy decoding of the held-out items with the l4 engine, and its scores.

    python eval_engine.py L4_EVAL CHECKPOINT_DIR EVAL_DIR [--dtype float32|bfloat16] [--tasks chart,options] [--outputs FILE]

Needs nothing but Python: one process of l4-eval generate answers all items. Other flags go to it: --device cuda -tp 2.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from score import print_table, read_jsonl, score


def answers(l4_eval, checkpoint, items, folder, flags, max_new_tokens=400):
    """-> [{"id", "output", "prompt_ids", "ids", "usage", ...}]"""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # pictures are looked for from where the requests are
        requests, out = Path(scratch) / "requests.jsonl", Path(scratch) / "answers.jsonl"
        with open(requests, "w") as f:
            for item in items:
                request = {"id": item["id"], "messages": item["messages"], "images": [f"../{name}" for name in item["images"]]}
                if item["tools"]:
                    request["tools"] = item["tools"]
                f.write(json.dumps(request) + "\n")
        command = [l4_eval, "generate", "-m", checkpoint, "--requests", requests, "-n", max_new_tokens, "-o", out, *flags]
        done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip())
        return read_jsonl(out)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("l4_eval")
    p.add_argument("checkpoint")
    p.add_argument("eval_dir")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--tasks", help="only these, separated by commas")
    p.add_argument("--limit", type=int, default=10**9, help="at most so many items of a task")
    p.add_argument("--outputs", help="write the outputs here (JSONL), with ids")
    args, flags = p.parse_known_args()
    folder = Path(args.eval_dir)
    items, seen = [], {}
    for item in read_jsonl(folder / "items.jsonl"):
        seen[item["task"]] = seen.get(item["task"], 0) + 1
        if seen[item["task"]] <= args.limit and (not args.tasks or item["task"] in args.tasks.split(",")):
            items.append(item)
    start = time.time()
    outputs = answers(args.l4_eval, args.checkpoint, items, folder, ["--dtype", args.dtype, *flags])
    if args.outputs:
        Path(args.outputs).write_text("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in outputs))
    print_table(score(items, {o["id"]: o["output"] for o in outputs}))
    print(f"{len(items)} items in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
