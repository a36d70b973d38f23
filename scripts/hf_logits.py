#!/usr/bin/env python3
"""Logits of a prompt by Hugging Face transformers, as float32 .npy [T, vocab]: what `l4-eval logits` writes too.

    scripts/hf_logits.py CHECKPOINT --ids 200000,200005,15651 --out hf.npy
    scripts/hf_logits.py CHECKPOINT --text @prompt.txt --image dog.jpg --dtype float32 --out hf.npy
    scripts/compare_logits.py hf.npy ours.npy
"""

from pathlib import Path

import numpy as np
import torch

import hf_model


def main():
    parser = hf_model.arguments(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = hf_model.load(args)
    with torch.no_grad():
        logits = model(**hf_model.inputs(args, model), use_cache=False).logits[0].float().cpu().numpy()
    with open(args.out, "wb") as out:  # numpy.save would add ".npy" to other names
        np.save(out, np.ascontiguousarray(logits))
    hf_model.print_json(dict(out=str(args.out), shape=list(logits.shape), dtype=args.dtype))


if __name__ == "__main__":
    main()
