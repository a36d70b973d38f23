#!/usr/bin/env python3
"""Greedy continuation of a prompt by Hugging Face transformers; prints one line of JSON: ids, text where there is a
tokenizer, and the gap between the two best logits of every step (a small gap is a place where engines may part).

    scripts/hf_generate.py CHECKPOINT --ids 200000,200005,15651 --max-tokens 40
    scripts/hf_generate.py CHECKPOINT --text @prompt.txt --image dog.jpg --dtype float32
"""

import torch
from transformers import AutoTokenizer

import hf_model


def main():
    parser = hf_model.arguments(__doc__)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--ignore-eos", action="store_true")
    args = parser.parse_args()
    model = hf_model.load(args)
    inputs = hf_model.inputs(args, model)
    if args.ignore_eos:
        model.generation_config.eos_token_id = None
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, temperature=None, top_p=None, max_new_tokens=args.max_tokens,
                             return_dict_in_generate=True, output_logits=True)
    ids = out.sequences[0, inputs["input_ids"].shape[1]:].tolist()
    best = [step[0].float().topk(2).values for step in out.logits]
    result = dict(ids=ids, gaps=[round(float(a - b), 5) for a, b in best])
    if (args.checkpoint / "tokenizer.json").is_file():
        result["text"] = AutoTokenizer.from_pretrained(args.checkpoint).decode(ids)
    hf_model.print_json(result)


if __name__ == "__main__":
    main()
