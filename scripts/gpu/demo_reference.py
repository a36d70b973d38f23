#!/usr/bin/env python3
"""Makes tests/golden/demo, what demo.py compares with: prompts of the demo model and transformers' answers in float32.

    demo_reference.py EVAL_DIR OUTPUTS.jsonl [DIR] [--n 200]

EVAL_DIR is made by scripts/demo/make_eval_sets.py, OUTPUTS by scripts/demo/eval_engine.py --dtype float32. Every answer is
checked token by token against one forward pass of the stock model over prompt and answer (as scripts/demo/check_engine.py
does). DIR gets

    requests.jsonl    the prompts as token ids, pictures beside them: what l4-eval generate reads
    reference.jsonl   of each: the ids of transformers' answer, their logprobs, how far the second best was behind, task and rule
    passkeys.jsonl.gz long texts with a pass key, --passkeys of 8K, 16K, 32K and 64K tokens each, and the answers

It holds as long as the demo model is the same.
"""

import argparse
import gzip
import json
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))
DEMO = HERE.parents[1] / "core" / "demo"

import samples  # noqa: E402
import text_tasks  # noqa: E402
from make_eval_sets import passkey_of  # noqa: E402
from render import Renderer  # noqa: E402
from score import read_jsonl  # noqa: E402

PASSKEY_SEED = 660_000_000
LENGTHS = (8, 16, 32, 64)  # K tokens


@torch.no_grad()
def check(model, processor, item, output, folder):
    """The prompt's ids with pictures expanded, and logprob and lead of each token of the answer; None where it differs."""
    text = processor.apply_chat_template(item["messages"], tools=item["tools"], add_generation_prompt=True)
    images = [Image.open(folder / f) for f in item["images"]] or None
    inputs = processor(text=text, images=images, add_special_tokens=False, return_tensors="pt")
    prompt, pixels = inputs["input_ids"], inputs.get("pixel_values")
    ids = torch.cat([prompt, torch.tensor([output["ids"]])], 1)
    logits = model(input_ids=ids, pixel_values=None if pixels is None else pixels.to(model.dtype),
                   logits_to_keep=len(output["ids"]) + 1).logits[0, :-1]
    if logits.argmax(-1).tolist() != output["ids"]:
        return None
    top = logits.topk(2).values
    logprobs = logits.log_softmax(-1).gather(1, torch.tensor(output["ids"])[:, None])[:, 0]
    return prompt[0].tolist(), logprobs.tolist(), (top[:, 0] - top[:, 1]).tolist()


def write_answers(args, out):
    folder = Path(args.eval_dir)
    items = {i["id"]: i for i in read_jsonl(folder / "items.jsonl")}
    done = [o for o in read_jsonl(args.outputs) if o["usage"]["prompt_tokens"] <= args.max_tokens]
    done = done[:: max(1, len(done) // args.n)][: args.n]
    model = AutoModelForImageTextToText.from_pretrained(DEMO, dtype=torch.float32, attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(DEMO)
    (out / "images").mkdir(exist_ok=True)
    n_tokens = 0
    with open(out / "requests.jsonl", "w") as requests, open(out / "reference.jsonl", "w") as reference:
        for output in done:
            item = items[output["id"]]
            found = check(model, processor, item, output, folder)
            if found is None:
                sys.exit(f"demo_reference.py: {item['id']}: the answer in {args.outputs} is not transformers'")
            prompt, logprobs, leads = found
            for file in item["images"]:
                shutil.copy(folder / file, out / file)
            requests.write(json.dumps(dict(id=item["id"], ids=prompt, images=item["images"])) + "\n")
            reference.write(json.dumps(dict(
                id=item["id"], task=item["task"], rule=item["rule"], answer=item["answer"], ids=output["ids"],
                output=output["output"], logprobs=[round(x, 6) for x in logprobs], leads=[round(x, 6) for x in leads])) + "\n")
            n_tokens += len(output["ids"])
    return len(done), n_tokens


def write_passkeys(args, out):
    renderer = Renderer(DEMO)
    lines = []
    for k in LENGTHS:
        rng = text_tasks.Source(PASSKEY_SEED + k, held_out=True)
        for i in range(args.passkeys):
            s = passkey_of(rng, renderer, k * 1024)
            lines.append(json.dumps(dict(id=f"passkey_{k}k_{i}", task=f"passkey_{k}k", messages=s.messages[:-1], answer=s.answer,
                                         rule=s.rule)) + "\n")
    (out / "passkeys.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("eval_dir")
    p.add_argument("outputs")
    p.add_argument("folder", type=Path, nargs="?", default=HERE.parents[1] / "tests" / "golden" / "demo")
    p.add_argument("--n", type=int, default=200, help="items, spread over the tasks")
    p.add_argument("--max-tokens", type=int, default=1500, help="leave longer prompts out")
    p.add_argument("--passkeys", type=int, default=4, help="of each length")
    args = p.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    write_passkeys(args, args.folder)
    n, n_tokens = write_answers(args, args.folder)
    print(f"{args.folder}: {n} answers of {n_tokens} tokens, {args.passkeys * len(LENGTHS)} long texts")


if __name__ == "__main__":
    main()
