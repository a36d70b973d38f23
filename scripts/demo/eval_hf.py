"""Greedy decoding of the held-out items with the stock transformers model, and its scores.

    python eval_hf.py CHECKPOINT_DIR EVAL_DIR [--dtype float32|bfloat16] [--tasks chart,options] [--device cpu]

To save time the reference reply is checked in one forward pass first: where each of its tokens is the model's first choice, greedy decoding
would write exactly that reply. From the first other token on the reply is generated in the usual way.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from score import print_table, read_jsonl, score


@torch.no_grad()
def reply(model, processor, item, folder, max_new_tokens=400):
    text = processor.apply_chat_template(item["messages"], tools=item["tools"], add_generation_prompt=True)
    images = [Image.open(folder / f) for f in item["images"]] or None
    inputs = processor(text=text, images=images, add_special_tokens=False, return_tensors="pt").to(model.device)
    prompt, pixels = inputs["input_ids"], inputs.get("pixel_values")
    pixels = None if pixels is None else pixels.to(model.dtype)
    ref = processor.tokenizer(item["reference"] + "<|eot|>", add_special_tokens=False, return_tensors="pt")["input_ids"].to(model.device)
    ids = torch.cat([prompt, ref], 1)
    logits = model(input_ids=ids, pixel_values=pixels, logits_to_keep=ref.shape[1] + 1).logits[0, :-1]
    same = (logits.argmax(-1) == ref[0]).long()
    n = int(same.cumprod(0).sum())
    if n == ref.shape[1]:
        return item["reference"], True
    prefix = ids[:, :prompt.shape[1] + n]
    out = model.generate(input_ids=prefix, attention_mask=torch.ones_like(prefix), pixel_values=pixels, max_new_tokens=max_new_tokens, do_sample=False,
                         temperature=None, top_p=None)
    return processor.tokenizer.decode(out[0, prompt.shape[1]:], skip_special_tokens=True), False


def main():
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint")
    p.add_argument("eval_dir")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--device", default="cpu")
    p.add_argument("--tasks", help="only these, separated by commas")
    p.add_argument("--limit", type=int, default=10**9, help="at most so many items of a task")
    p.add_argument("--outputs", help="write the outputs here (JSONL)")
    args = p.parse_args()
    folder = Path(args.eval_dir)
    items, seen = [], {}
    for item in read_jsonl(folder / "items.jsonl"):
        seen[item["task"]] = seen.get(item["task"], 0) + 1
        if seen[item["task"]] <= args.limit and (not args.tasks or item["task"] in args.tasks.split(",")):
            items.append(item)
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=getattr(torch, args.dtype), attn_implementation="sdpa").eval().to(args.device)
    processor = AutoProcessor.from_pretrained(args.checkpoint)
    outputs, start, last = {}, time.time(), None
    file = open(args.outputs, "w") if args.outputs else None
    for item in items:
        if item["task"] != last:
            last = item["task"]
            print(f"[{time.time() - start:.0f}s] {last}", flush=True)
        outputs[item["id"]], _ = reply(model, processor, item, folder)
        if file:
            file.write(json.dumps({"id": item["id"], "output": outputs[item["id"]]}, ensure_ascii=False) + "\n")
            file.flush()
    print_table(score(items, outputs))


if __name__ == "__main__":
    main()
