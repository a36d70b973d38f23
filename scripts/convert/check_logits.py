#!/usr/bin/env python3
"""A quantised checkpoint in l4 and in transformers with the compressed-tensors package: the same numbers?

    l4-convert core/demo /tmp/demo-int4 --preset w4a16 --group-size 32
    scripts/convert/check_logits.py /tmp/demo-int4 --l4-eval build/l4-eval

Both in float32 on the CPU, layer by layer. Weights alone quantised (INT4): every layer's output and the logits are the same to
2e-5 of their size. Inputs quantised too (FP8-dynamic): the same up to where a float32 sum that differs in its last bit becomes
another FP8 code, 6 % away; that is rare, but spreads from there, by attention to all later positions. So layer 0 must be the same
to 2e-5 at nine of ten positions, layer 1 at half of them, and the logits' median distance at most 0.05, about what quantising
itself costs.

The package (0.20) takes one scale for all tokens where a linear's input has two dimensions, as those of experts have in
transformers; by its own description and in vLLM each token has its own. Here it is given each token its own.

Exit 1 when a criterion is missed. Needs scripts/requirements.txt.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import compressed_tensors.quantization.lifecycle.forward as quantized_forward
import numpy as np
import torch
import transformers
from transformers import AutoConfig, Llama4ForCausalLM, Llama4ForConditionalGeneration

MODEL = {"llama4": Llama4ForConditionalGeneration, "llama4_text": Llama4ForCausalLM}
SAME = 2e-5          # of a row's norm: float32 sums in another order
SAME_POSITIONS = {"layers.0": 0.9, "layers.1": 0.5}  # with quantised inputs
NEAR = 0.05


def scale_by_token():
    scales = quantized_forward.compute_dynamic_scales_and_zp

    def by_token(value, args, module, global_scale=None):
        if value.ndim != 2:
            return scales(value, args, module, global_scale)
        scale, zero = scales(value[None], args, module, global_scale)
        return scale[0], zero[0]

    quantized_forward.compute_dynamic_scales_and_zp = by_token


def run_transformers(folder, ids):
    kind = MODEL[AutoConfig.from_pretrained(folder).model_type]
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    text = model.language_model.model if kind is Llama4ForConditionalGeneration else model.model
    found = {}
    for i, layer in enumerate(text.layers):
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda module, args, i=i: found.__setitem__(f"layers.{i}.attention", args[0]))
        layer.register_forward_hook(
            lambda module, args, out, i=i: found.__setitem__(f"layers.{i}.ffn", out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        found["logits"] = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return {name: value.reshape(len(ids), -1).double().numpy() for name, value in found.items()}


def run_l4(args, ids):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([args.l4_eval, "logits", "-m", args.checkpoint, "--device", "cpu", "--dtype", "float32", "--ids",
                        ",".join(map(str, ids)), "-o", f"{folder}/logits.npy", "--activations", folder],
                       check=True, stdout=subprocess.DEVNULL)
        return {path.stem: np.load(path).astype(np.float64) for path in Path(folder).glob("*.npy")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--l4-eval", default="build/l4-eval")
    parser.add_argument("--tokens", type=int, default=100, help="of a pseudorandom prompt")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    config = json.loads((args.checkpoint / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"].values()
    inputs_too = any(group.get("input_activations") for group in groups)
    vocab = config.get("text_config", config)["vocab_size"]
    ids = np.random.default_rng(5).integers(3, vocab - 48, args.tokens).tolist()

    scale_by_token()
    theirs, ours = run_transformers(args.checkpoint, ids), run_l4(args, ids)
    problems = []
    for name, wanted in theirs.items():
        got = ours[name].reshape(wanted.shape)
        distance = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        print(f"{name:20} relative distance: median {np.median(distance):.1e}, largest {distance.max():.1e}")
        if not inputs_too and not distance.max() <= SAME:
            problems.append(f"{name}: {distance.max():.1e} away")
        same = (distance <= SAME).mean()
        if inputs_too and same < SAME_POSITIONS.get(name.rpartition(".")[0], 0):
            problems.append(f"{name}: the same at {100 * same:.0f} % of the positions")
        if inputs_too and name == "logits" and not np.median(distance) <= NEAR:
            problems.append(f"logits: median distance {np.median(distance):.3f}")
    for problem in problems:
        print(f"check_logits.py: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
