"""Compares fast_model.py with the stock transformers model in fp32, on the CPU: python check_fast_model.py CHECKPOINT_DIR

The folder may lack weights; then random ones are used.
"""

import sys
from pathlib import Path

import torch

from batches import Packer
from fast_model import FastModel
from render import pixel_table
from samples import MAKERS, passkey
from text_tasks import Source
from train import limits_for, make_model


def main():
    folder = sys.argv[1]
    torch.manual_seed(0)
    trained = (Path(folder) / "model.safetensors.index.json").exists()
    hf = make_model(folder, folder if trained else None).eval()
    if not trained:
        for p in hf.parameters():
            torch.nn.init.normal_(p, std=0.1) if p.ndim > 1 else None
    limits = limits_for(4096)
    fast = FastModel(hf, limits.longest)
    rng = Source(4)
    kinds = iter(["arithmetic", "chart", "tools", "passkey", "options", "chart_two", "chat"] + ["arithmetic"] * 100)
    made = []

    def source():
        kind = next(kinds)
        s = passkey(rng, 900) if kind == "passkey" else MAKERS[kind](rng)
        made.append(s)
        return s

    packer = Packer(folder, source, limits)
    batch, tasks = packer.batch()
    with torch.no_grad():
        ours, _ = fast.hidden(batch)
        start = 0
        for i, task in enumerate(tasks[:8]):
            end = int(batch["cu_global"][i + 1])
            s = next(s for s in made if s.task.startswith(task) and not made.remove(s))
            ids, _, tiles = packer.renderer.sample(s)
            assert len(ids) == end - start
            pixels = None if tiles is None else pixel_table()[tiles.long()].float()
            want = hf(input_ids=torch.from_numpy(ids).long()[None], pixel_values=pixels).logits[0]
            got = ours[start:end] @ hf.language_model.lm_head.weight.T
            print(f"{task:12s} {end - start:5d} tokens  largest difference {(got - want).abs().max():.2e} of {want.abs().max():.1f}")
            assert (got - want).abs().max() < 2e-3 * want.abs().max()
            start = end
    print("fast_model.py agrees with transformers")


if __name__ == "__main__":
    main()
