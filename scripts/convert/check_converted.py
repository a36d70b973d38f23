#!/usr/bin/env python3
"""Checks what l4-convert wrote against transformers and the compressed-tensors package.

    l4-convert core/demo /tmp/demo-fp8
    scripts/convert/check_converted.py core/demo /tmp/demo-fp8

1. Every module of the model that transformers builds from the converted checkpoint is quantised or not as the files are:
   no tensor is missing, unexpected or of another shape.
2. Each quantised weight, decompressed by the package, is code * scale rounded to BF16, and code * scale is the source's
   weight within half a step of the code (but where a scale clips, and where the report says that GPTQ chose the code); experts are the right slices of the fused tensors.
3. Every other tensor has the source's bytes.
4. Logits of a prompt by both models (the converted one's weights are decompressed; inputs are not quantised).

Exit 1 when any of it does not hold. Needs scripts/requirements.txt and `pip install compressed-tensors`.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoConfig, Llama4ForCausalLM, Llama4ForConditionalGeneration

MODEL = {"llama4": Llama4ForConditionalGeneration, "llama4_text": Llama4ForCausalLM}


def read_tensors(folder):
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    tensors = {}
    for name in sorted(names):
        with safe_open(folder / name, framework="pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys()})
    return tensors


def load(folder, dtype):
    kind = MODEL[AutoConfig.from_pretrained(folder).model_type]
    model, info = kind.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True)
    return model.eval(), info


def source_weight(tensors, module):
    """The source's weight of a module of the converted model, [out, in]."""
    if module + ".weight" in tensors:
        return tensors[module + ".weight"]
    stem, _, rest = module.partition(".experts.")
    expert, name = rest.split(".")
    if name == "down_proj":
        return tensors[stem + ".experts.down_proj"][int(expert)].T
    gate, up = tensors[stem + ".experts.gate_up_proj"][int(expert)].chunk(2, dim=-1)
    return (gate if name == "gate_proj" else up).T


def dequantize(converted, module, group):
    """Codes times scales in float32, which is exact; written from the format's description, not from the package."""
    scale = converted[module + ".weight_scale"].float()
    if not group:
        return converted[module + ".weight"].float() * scale
    words = converted[module + ".weight_packed"]
    codes = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], dim=-1).flatten(1) - 8
    assert list(codes.shape) == converted[module + ".weight_shape"].tolist()
    return codes.float() * scale.repeat_interleave(group, dim=1)


def steps_away(before, after, converted, module, group):
    """|after - before| in steps of the code at that place: 0.5 is what rounding may cost; and the share that is clipped."""
    scale = converted[module + ".weight_scale"].float()
    if group:
        step = scale.repeat_interleave(group, dim=1)
        clipped = (before / step > 7.5) | (before / step < -8.5)
    else:
        step = torch.exp2(torch.floor(torch.log2((before / scale).abs().clamp(2.0 ** -6, 447.0))) - 3) * scale
        clipped = (before / scale).abs() > 448
    steps = (after - before).abs() / step
    return steps.masked_fill(clipped, 0).max().item(), clipped.float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--ids", help="the prompt, 1,2,3 (default: 200 pseudorandom ids)")
    parser.add_argument("--max-kl", type=float, help="largest mean KL of the converted model's answers, in nats")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    problems = []

    before, after = read_tensors(args.source), read_tensors(args.converted)
    config = json.loads((args.converted / "config.json").read_text())
    quantization = config.pop("quantization_config")
    if config != json.loads((args.source / "config.json").read_text()):
        problems.append("config.json differs from the source's in more than quantization_config")
    model, info = load(args.converted, torch.bfloat16)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            problems.append(f"{what}: {sorted(info[what])[:5]} and {len(info[what])} in all")

    schemes = {name: m.quantization_scheme for name, m in model.named_modules() if hasattr(m, "quantization_scheme")}
    stored = {name.removesuffix(".weight_scale") for name in after if name.endswith(".weight_scale")}
    linears = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    if set(schemes) != stored:
        problems.append(f"quantised by config {len(schemes)}, with scales {len(stored)} modules: "
                        f"{sorted(set(schemes) ^ stored)[:5]}")
    if set(quantization["ignore"]) != linears - stored:
        problems.append(f"ignore: {sorted(set(quantization['ignore']) ^ (linears - stored))[:5]} is not what stays")

    ids = torch.tensor([[int(i) for i in args.ids.split(",")]]) if args.ids else torch.randint(
        0, model.config.get_text_config().vocab_size - 100, (1, 200), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0].double()  # the first call decompresses all weights

    report = args.converted / "quantization_report.json"
    entries = json.loads(report.read_text())["tensors"] if report.is_file() else []
    by_gptq = {entry["module"] for entry in entries if entry.get("method") == "gptq"}
    worst, clipped, square, reference = 0.0, 0.0, 0.0, 0.0
    for module in sorted(stored & set(schemes)):
        weight = source_weight(before, module).float()
        found = model.get_submodule(module).weight.detach()
        if found.shape != weight.shape:
            problems.append(f"{module}: {list(found.shape)}, expected {list(weight.shape)}")
            continue
        group = schemes[module].weights.group_size
        exact = dequantize(after, module, group)
        if not torch.equal(found, exact.to(torch.bfloat16)):
            problems.append(f"{module}: the package decompresses to other weights")
        steps, share = steps_away(weight, exact, after, module, group)
        worst, clipped = max(worst, 0 if module in by_gptq else steps), max(clipped, share)
        square += (exact.double() - weight.double()).square().sum().item()
        reference += weight.double().square().sum().item()
    if worst > 0.5 + 1e-4:
        problems.append(f"a weight is {worst:.4f} steps from the source's")

    copied, unfused = 0, 0
    for name, tensor in after.items():
        module = name.rpartition(".")[0]
        if module in stored and not name.endswith(".bias"):
            continue
        expected = before[name] if name in before else source_weight(before, module)
        copied, unfused = copied + (name in before), unfused + (name not in before)
        if tensor.dtype != expected.dtype or not torch.equal(tensor, expected):
            problems.append(f"{name}: should be as the source has it")

    plain, _ = load(args.source, torch.bfloat16)
    with torch.no_grad():
        wanted = plain(input_ids=ids, use_cache=False).logits[0].double()
    p, q = wanted.log_softmax(-1), logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    if not torch.isfinite(logits).all():
        problems.append("logits are not finite")
    if args.max_kl is not None and not kl.mean() <= args.max_kl:
        problems.append(f"mean KL {kl.mean():.3g} is above {args.max_kl}")

    print(f"quantised          {len(stored)} modules, format {quantization['format']}; {len(linears - stored)} linears stay")
    print(f"weights            relative error {(square / reference) ** 0.5:.4f}; at most {worst:.3f} steps away, "
          f"{100 * clipped:.2f} % clipped in the worst module")
    print(f"bit for bit        {copied} tensors, {unfused} unfused")
    print(f"logits             relative distance {((logits - wanted).norm() / wanted.norm()).item():.4f}, top-1 agreement "
          f"{(logits.argmax(-1) == wanted.argmax(-1)).double().mean().item():.3f}, KL mean {kl.mean().item():.3g} "
          f"worst {kl.max().item():.3g}")
    for problem in problems:
        print(f"check_converted.py: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
