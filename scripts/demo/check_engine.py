"""Are the engine's greedy tokens those of transformers, token for token, in fp32?

    python check_engine.py CHECKPOINT_DIR EVAL_DIR OUTPUTS.jsonl [--n 200] [--device cuda]

OUTPUTS comes from eval_engine.py --dtype float32. One forward of the stock model over prompt and answer says for every place which token
transformers would choose there after the same beginning; where all agree, generate() would write the same answer.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from score import read_jsonl


@torch.no_grad()
def main():
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint")
    p.add_argument("eval_dir")
    p.add_argument("outputs")
    p.add_argument("--n", type=int, default=200, help="items, spread over the tasks")
    p.add_argument("--max-tokens", type=int, default=3000, help="leave longer prompts out")
    p.add_argument("--device", default="cpu", help="of transformers")
    args = p.parse_args()
    folder = Path(args.eval_dir)
    items = {i["id"]: i for i in read_jsonl(folder / "items.jsonl")}
    done = [o for o in read_jsonl(args.outputs) if o["usage"]["prompt_tokens"] <= args.max_tokens]
    done = done[:: max(1, len(done) // args.n)][: args.n]
    model = AutoModelForImageTextToText.from_pretrained(args.checkpoint, dtype=torch.float32, attn_implementation="sdpa").eval().to(args.device)
    processor = AutoProcessor.from_pretrained(args.checkpoint)
    same_prompt = same_answer = tokens = 0
    for o in done:
        item = items[o["id"]]
        text = processor.apply_chat_template(item["messages"], tools=item["tools"], add_generation_prompt=True)
        images = [Image.open(folder / f) for f in item["images"]] or None
        inputs = processor(text=text, images=images, add_special_tokens=False, return_tensors="pt")
        prompt = inputs["input_ids"]
        pixels = inputs.get("pixel_values")
        pixels = None if pixels is None else pixels.to(model.device, model.dtype)  # the processor gives bf16
        same_prompt += prompt[0].tolist() == o["prompt_ids"]
        ids = torch.cat([prompt, torch.tensor([o["ids"]])], 1).to(model.device)
        logits = model(input_ids=ids, pixel_values=pixels, logits_to_keep=len(o["ids"]) + 1).logits[0, :-1]
        best = logits.argmax(-1).tolist()
        tokens += len(o["ids"])
        if best == o["ids"]:
            same_answer += 1
        else:
            at = next(i for i, (a, b) in enumerate(zip(best, o["ids"])) if a != b)
            top = logits[at].topk(2)
            print(f"{o['id']}: token {at}: {o['ids'][at]}, transformers {best[at]} (its two best are {float(top.values[0] - top.values[1]):.2g} apart)")
    print(f"{same_prompt} of {len(done)} prompts and {same_answer} of {len(done)} answers are the same ({tokens} tokens)")


if __name__ == "__main__":
    main()
