#!/usr/bin/env python3
"""Is l4 in bfloat16 as close to the exact model as transformers in bfloat16 is? At the real widths, on one device.

    real_width.py CHECKPOINT --l4-eval build/l4-eval --device cuda [--tensor-parallel 2] [--out real_width.json]
    real_width.py --self-check build/l4-eval          tiny widths on the CPU; planted mistakes must be found

CHECKPOINT comes from make_checkpoint.py. transformers runs the same prompts twice, in bfloat16 and in float32 (the same
bfloat16 weights, converted), and is the yardstick: for every token, e = |x - x_float32|. The criterion is

    median of e(l4, bfloat16)  <=  1.2 * median of e(transformers, bfloat16)

for the residual stream behind the last layer and for the logits, over tokens that take the same experts in all three runs.
Single prompts and kinds of tokens have a factor of 1.3, generated tokens one of 1.5: they are fewer. Tokens that some layer
sends to another expert than float32 does are counted apart; l4 may have 1.5 times as many as transformers, and one in 200 more.

The prompts, of random text ids:
    seeds     --seeds of --tokens each, behind all but the first --decode generated tokens, for the decode kernels
    long      --long tokens, past the attention chunk, where masks and temperatures change: these are also judged apart
    picture   where the checkpoint has a vision tower: three tiles before the text. Their rows of "embed", which the tower made,
              are judged too
The logits of the first prompt are l4's own (l4-eval logits, which takes few rows at a time), the others' come from l4's
residual stream by transformers' norm and head. Tracing makes l4 issue every step anew; the same prompts once more without it,
that is with CUDA graphs, must give the same answers and logprobs to the last bit.

Prints one JSON line; exit status 1 when a criterion is missed, 2 when something did not run.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
FACTOR, PART_FACTOR, DECODE_FACTOR = 1.2, 1.3, 1.5
PAST_CHUNK, DECODE, PICTURE = 1, 2, 3  # where a token is
PICTURE_TILES, TILE_TOKENS = 3, 144
FEW = 32  # medians over fewer tokens are stated, not judged
MOE_ROWS = 1024  # transformers computes every expert for every row: a few at a time


def note(*words):
    print(f"[{time.time() - START:6.1f}s]", *words, file=sys.stderr, flush=True)


START = time.time()


# ---- prompts and l4 ---------------------------------------------------------------------------------------------------


def make_prompts(args, config):
    """[(name, ids)]; no two begin alike, so that l4 computes each from its first token. Ids are below the special ones."""
    vocab = config.get("text_config", config)["vocab_size"] - 2048
    rng = np.random.default_rng(args.seed)
    lengths = [("seed 0", args.tokens)] + [(f"seed {i}", args.tokens + i) for i in range(1, args.seeds)]
    if args.long:
        lengths.append(("long", args.long))
    if "vision_config" in config:
        lengths.append(("picture", args.tokens))
    prompts = []
    for i, (name, length) in enumerate(lengths):
        ids = rng.integers(0, vocab, length)
        ids[0] = i
        picture = [config["image_token_index"]] * (PICTURE_TILES * TILE_TOKENS) if name == "picture" else []
        prompts.append((name, ids[:2].tolist() + picture + ids[2:].tolist()))
    return prompts


def draw_picture(file):
    """Two tiles side by side, so with the global one three: waves and noise."""
    from PIL import Image
    y, x = np.mgrid[0:336, 0:672]
    waves = np.stack([np.sin(x / 31 + c) * np.cos(y / 17 - c) for c in range(3)], -1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 20, waves.shape)
    Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).save(file)


def call(command):
    note(" ".join(str(c) for c in command[:4]), "...")
    begin = time.time()
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        print(f"real_width.py: {command[0]} {command[1]}: {done.stderr.strip()[-2000:]}", file=sys.stderr)
        sys.exit(2)
    return time.time() - begin


def run_l4(args, checkpoint, prompts, folder):
    """{name: dict(ids=prompt and answer, n_prompt, activations=folder, logits=file or None)}"""
    model = ["-m", checkpoint, "--device", args.device, "--dtype", "bfloat16", "-tp", args.tensor_parallel]
    model += args.l4_arguments
    result, seconds = {}, {}
    name, ids = prompts[0]
    (folder / "ids").write_text(",".join(map(str, ids)))
    seconds["logits"] = call([args.l4_eval, "logits", *model, "-c", len(ids) + 1, "--ids", f"@{folder / 'ids'}",
                              "--activations", folder / "logits", "-o", folder / "logits.npy"])
    result[name] = dict(ids=ids, n_prompt=len(ids), activations=folder / "logits", logits=folder / "logits.npy")
    others = prompts[1:]
    draw_picture(folder / "picture.png")
    (folder / "requests").write_text("".join(
        json.dumps(dict(id=n, ids=i, images=["picture.png"] if n == "picture" else [])) + "\n" for n, i in others))
    context = max(len(i) for _, i in others) + args.decode + 1
    seconds["generate"] = call([args.l4_eval, "generate", *model, "-c", context, "-n", args.decode, "--requests",
                                folder / "requests", "--activations", folder / "generate", "-o", folder / "answers"])
    answers = [json.loads(line) for line in (folder / "answers").read_text().splitlines()]
    # The run above was traced, so every step was issued anew: what CUDA graphs replay must be the same to the last bit.
    seconds["replayed"] = call([args.l4_eval, "generate", *model, "-c", context, "-n", args.decode, "--requests",
                                folder / "requests", "-o", folder / "replayed"])
    replayed = [json.loads(line) for line in (folder / "replayed").read_text().splitlines()]
    differing = [a["id"] for a, b in zip(answers, replayed) if (a["ids"], a["logprobs"]) != (b["ids"], b["logprobs"])]
    for k, ((name, ids), answer) in enumerate(zip(others, answers)):
        assert answer["usage"]["cached_tokens"] == 0, name
        # The last token was chosen, not computed.
        result[name] = dict(ids=ids + answer["ids"][:-1], n_prompt=len(ids), activations=folder / "generate" / str(k),
                            logits=None)
    return result, seconds, differing


def activation(run, name, device):
    return torch.from_numpy(np.load(run["activations"] / f"{name}.npy")).to(device)


# ---- transformers -----------------------------------------------------------------------------------------------------


def exact_arithmetic():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # the best that bfloat16 can do


def moe_in_slices(model):
    for layer in text_model(model).layers:
        if not layer.is_moe_layer:
            continue
        whole = layer.feed_forward.forward

        def sliced(x, whole=whole):
            x = x.reshape(-1, x.shape[-1])
            parts = [whole(part) for part in x.split(MOE_ROWS)]
            return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

        layer.feed_forward.forward = sliced


def causal(model):
    """Beside the vision tower, or all there is."""
    return model.language_model if hasattr(model, "vision_model") else model


def text_model(model):
    return causal(model).model


def head_of(model, x):
    return causal(model).lm_head(text_model(model).norm(x))


def hf_inputs(model, run, checkpoint, folder):
    if run["name"] != "picture":
        return dict(input_ids=torch.tensor([run["ids"]], device=model.device))
    import hf_model
    return hf_model.inputs(argparse.Namespace(checkpoint=Path(checkpoint), image=[folder / "picture.png"], text=None,
                                              ids=",".join(map(str, run["ids"]))), model)


def load(args, checkpoint):
    sys.path.insert(0, str(HERE.parent))
    import hf_model
    model = hf_model.load(argparse.Namespace(checkpoint=Path(checkpoint), dtype="bfloat16", device=args.hf_device))
    moe_in_slices(model)
    return model


def to_float32(model):
    """Parameters one by one; buffers (rotary tables) were float32 from the start, a .to() of all would not be the same."""
    for p in model.parameters():
        p.data = p.data.float()
    for b in model.buffers():
        assert not b.is_floating_point() or b.dtype == torch.float32
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    model.config.dtype = torch.float32


@torch.no_grad()
def run_hf(model, inputs):
    """{"embed": ..., "layers.0.attention": residual stream behind it, "layers.0.experts": [T, 1], ...}"""
    found, hooks = {}, []

    def keep(name, value):
        found[name] = value.reshape(-1, value.shape[-1]).detach()

    hooks.append(text_model(model).layers[0].input_layernorm.register_forward_pre_hook(
        lambda m, inputs: keep("embed", inputs[0])))
    for i, layer in enumerate(text_model(model).layers):
        hooks.append(layer.post_attention_layernorm.register_forward_pre_hook(
            lambda m, inputs, i=i: keep(f"layers.{i}.attention", inputs[0])))
        hooks.append(layer.register_forward_hook(lambda m, inputs, out, i=i: keep(f"layers.{i}.ffn", out)))
        if layer.is_moe_layer:
            hooks.append(layer.feed_forward.router.register_forward_hook(
                lambda m, inputs, out, i=i, k=layer.feed_forward.top_k: found.setdefault(f"layers.{i}.experts", []).append(
                    out[1].topk(k, dim=1).indices)))
    model(**inputs, use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(v) if isinstance(v, list) else v for name, v in found.items()}


# ---- comparing --------------------------------------------------------------------------------------------------------


def last_rows(name, n_prompt, n_rows, args):
    """The rows whose logits are compared: all of short prompts, the end of long ones, and what was generated."""
    return slice(max(0, n_prompt - args.tokens), n_rows)


@torch.no_grad()
def logits_of(model, x, rows=256):
    return torch.cat([head_of(model, part.to(causal(model).lm_head.weight.dtype)).float() for part in x.split(rows)])


def bfloat16_pass(args, model, runs, checkpoint, folder):
    """What transformers gives in bfloat16, and l4's logits where only its residual stream is there."""
    last = f"layers.{len(text_model(model).layers) - 1}.ffn"
    for name, run in runs.items():
        run["name"] = name
        run["inputs"] = hf_inputs(model, run, checkpoint, folder)
        run["bf16"] = run_hf(model, run["inputs"])
        run["rows"] = last_rows(name, run["n_prompt"], len(run["ids"]), args)
        run["bf16_logits"] = logits_of(model, run["bf16"][last][run["rows"]])
        if run["logits"]:
            run["l4_logits"] = torch.from_numpy(np.load(run["logits"])[run["rows"]]).to(model.device)
        else:
            run["l4_logits"] = logits_of(model, activation(run, last, model.device)[run["rows"]])
        run["last"] = last


def flipped(found, exact):
    """[T] whether any layer chose other experts, and the layers' counts."""
    layers = [(found[n].cpu().long().sort(1).values != e.cpu().sort(1).values).any(1) for n, e in exact.items()
              if n.endswith(".experts")]
    if not layers:
        return None, []
    return torch.stack(layers).any(0), [int(layer.sum()) for layer in layers]


def compare(args, model, runs):
    """Against float32. [(prompt, quantity, l4's errors, transformers', norms, which tokens count, where they are)]"""
    rows, routing, chunk = [], [], model.config.get_text_config().attention_chunk_size
    for name, run in runs.items():
        inputs = run["inputs"]
        if "pixel_values" in inputs:
            inputs = dict(inputs, pixel_values=inputs["pixel_values"].float())
        exact = run_hf(model, inputs)
        ours = {n: activation(run, n, model.device) for n in exact}
        n_rows = len(run["ids"])
        assert all(len(v) == n_rows for v in ours.values()), name
        mine, mine_by_layer = flipped(ours, exact)
        theirs, theirs_by_layer = flipped(run["bf16"], exact)
        kept = torch.ones(n_rows, dtype=torch.bool) if mine is None else ~(mine | theirs)
        if mine is not None:
            experts = torch.cat([v.cpu() for n, v in exact.items() if n.endswith(".experts")])
            routing.append(dict(prompt=name, tokens=n_rows, l4_flipped=int(mine.sum()), hf_flipped=int(theirs.sum()),
                                l4_by_layer=mine_by_layer, hf_by_layer=theirs_by_layer,
                                histogram=torch.bincount(experts.flatten()).tolist()))
        position = torch.arange(n_rows)
        place = torch.where(position >= run["n_prompt"], DECODE, torch.where(position >= chunk, PAST_CHUNK, 0))
        if name == "picture":
            place[torch.tensor(run["ids"]) == model.config.image_token_index] = PICTURE

        def add(quantity, a, b, reference, part=slice(None)):
            a, b, reference = a.float(), b.float(), reference.float()
            norms = [v.norm(dim=1).cpu() for v in (a - reference, b - reference, reference)]
            rows.append((name, quantity, *norms, kept[part], place[part]))

        for quantity, value in exact.items():
            if not quantity.endswith(".experts"):
                add(quantity, ours[quantity], run["bf16"][quantity], value)
        part = run["rows"]
        exact_logits = logits_of(model, exact[run["last"]][part])
        add("logits", run["l4_logits"], run["bf16_logits"], exact_logits, part)
        best = exact_logits.argmax(1)
        run["top1"] = [round((v.argmax(1) == best).float().mean().item(), 4) for v in (run["l4_logits"], run["bf16_logits"])]
    return rows, routing


def medians(rows, quantity, prompt=None, where=None):
    """Medians over kept tokens of some rows: l4's, transformers', their ratio, and the relative size of the latter."""
    parts = [(a[k], b[k], n[k]) for p, q, a, b, n, kept, place in rows if q == quantity and prompt in (None, p)
             for k in [kept if where is None else kept & (place == where)]]
    a, b, n = (torch.cat(x) for x in zip(*parts))
    if not len(a):
        return None
    l4, hf = a.median().item(), b.median().item()
    ratio = round(l4 / hf, 4) if hf else float("inf") if l4 else None  # None: both exact
    return dict(tokens=len(a), l4=l4, hf=hf, ratio=ratio, hf_relative=round((b / n).median().item(), 6))


def judge(rows, routing, last):
    missed, tables = [], {}

    def limit(what, m, factor):
        if m and m["ratio"] is not None and m["tokens"] >= FEW and not m["ratio"] <= factor:  # NaN misses too
            missed.append(f"{what}: {m['ratio']} times transformers' error, {factor} allowed")

    quantities = list(dict.fromkeys(q for _, q, *_ in rows))
    tables["all"] = {q: medians(rows, q) for q in quantities}
    tables["by_prompt"] = {p: {q: medians(rows, q, p) for q in (last, "logits")} for p in dict.fromkeys(r[0] for r in rows)}
    tables["past_chunk"] = {q: medians(rows, q, where=PAST_CHUNK) for q in (last, "logits")}
    if any((place == PICTURE).any() for *_, place in rows):
        tables["picture"] = {q: medians(rows, q, where=PICTURE) for q in ("embed", last)}
        limit("embed of the picture", tables["picture"]["embed"], PART_FACTOR)
        limit(f"{last} of the picture", tables["picture"][last], PART_FACTOR)
    tables["decode"] = {q: medians(rows, q, where=DECODE) for q in (last, "logits")}

    for q in (last, "logits"):
        limit(q, tables["all"][q], FACTOR)
        limit(f"{q} past the chunk", tables["past_chunk"][q], PART_FACTOR)
        limit(f"{q} of generated tokens", tables["decode"][q], DECODE_FACTOR)
        for prompt, of_prompt in tables["by_prompt"].items():
            limit(f"{q} of {prompt}", of_prompt[q], PART_FACTOR)
    if routing:
        tokens, mine, theirs = (sum(r[k] for r in routing) for k in ("tokens", "l4_flipped", "hf_flipped"))
        if mine > 1.5 * theirs + tokens / 200:
            missed.append(f"{mine} of {tokens} tokens took another expert, {theirs} with transformers")
        histogram = np.sum([r["histogram"] + [0] * (max(len(x["histogram"]) for x in routing) - len(r["histogram"]))
                            for r in routing], axis=0)
        share = histogram / histogram.sum()
        if share.max() > 4 / len(share) or share.min() == 0:
            missed.append(f"this checkpoint's routing is no test: shares of the experts {share.round(3).tolist()}")
    return missed, tables


def measure(args, checkpoint, l4_checkpoint=None):
    exact_arithmetic()
    config = json.loads((Path(checkpoint) / "config.json").read_text())
    prompts = make_prompts(args, config)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        runs, seconds, replayed_differs = run_l4(args, l4_checkpoint or checkpoint, prompts, Path(folder))
        note("loading with transformers")
        model = load(args, checkpoint)
        note("transformers, bfloat16")
        bfloat16_pass(args, model, runs, checkpoint, Path(folder))
        note("transformers, float32")
        to_float32(model)
        rows, routing = compare(args, model, runs)
    missed, tables = judge(rows, routing, next(iter(runs.values()))["last"])
    if replayed_differs:
        missed.append(f"replayed steps give other bits than issued ones: {replayed_differs}")
    note("done")
    return dict(passed=not missed, missed=missed, checkpoint=str(checkpoint), device=args.device,
                tensor_parallel=args.tensor_parallel, replayed_differs=replayed_differs,
                torch=torch.__version__, transformers=transformers_version(),
                top1={n: r["top1"] for n, r in runs.items()}, l4_seconds={k: round(v, 1) for k, v in seconds.items()},
                seconds=round(time.time() - START, 1), routing=routing, **tables)


def transformers_version():
    import transformers
    return transformers.__version__


# ---- trying the script itself -----------------------------------------------------------------------------------------


def self_check(l4_eval):
    """The CPU backend passes at tiny widths, and is caught when its checkpoint says something else than transformers'."""
    import make_checkpoint
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        make_checkpoint.make(make_checkpoint.arguments(
            [str(checkpoint), "--preset", "small", "--device", "cpu", "--vision-layers", "2", "--vision-hidden", "176"]))
        args = arguments([str(checkpoint), "--l4-eval", l4_eval, "--device", "cpu", "--hf-device", "cpu", "--seeds", "2",
                          "--tokens", "96", "--long", "300", "--decode", "8"])
        result = measure(args, checkpoint)
        print(json.dumps(result))
        if not result["passed"]:
            sys.exit("real_width.py: the CPU backend does not pass: " + "; ".join(result["missed"]))
        config = json.loads((checkpoint / "config.json").read_text())
        for part, field, value in (("text_config", "attn_scale", 0.3), ("text_config", "attention_chunk_size", 512),
                                   ("text_config", "rope_theta", 480000.0), ("text_config", "rms_norm_eps", 0.01),
                                   ("text_config", "use_qk_norm", False), ("vision_config", "rope_theta", 1000)):
            other = Path(folder) / f"{part}.{field}"
            other.mkdir()
            for file in checkpoint.iterdir():
                if file.name != "config.json":
                    (other / file.name).symlink_to(file)
            (other / "config.json").write_text(json.dumps(dict(config, **{part: dict(config[part], **{field: value})})))
            result = measure(args, checkpoint, other)
            note(f"{part}.{field} = {value}:", "; ".join(result["missed"]) or "not found")
            if result["passed"]:
                sys.exit(f"real_width.py: {part}.{field} = {value} went unnoticed")
    print("real_width.py: self-check passed", file=sys.stderr)


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkpoint", nargs="?")
    p.add_argument("--l4-eval", default="build/l4-eval")
    p.add_argument("--device", default="cuda", help="of l4: cuda or cpu")
    p.add_argument("--hf-device", default="cuda", help="of transformers")
    p.add_argument("--tensor-parallel", type=int, default=1)
    p.add_argument("--l4-arguments", type=shlex.split, default=[], metavar="WORDS", help='more for l4: "-b 512"')
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--long", type=int, default=8704, help="0: none")
    p.add_argument("--decode", type=int, default=24)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--scratch", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    p.add_argument("--out", type=Path, help="the JSON line goes here too")
    p.add_argument("--self-check", metavar="L4_EVAL", help="no GPU needed")
    return p.parse_args(argv)


def main():
    args = arguments()
    if args.self_check:
        return self_check(args.self_check)
    if not args.checkpoint:
        sys.exit("real_width.py: expected a checkpoint")
    result = measure(args, args.checkpoint)
    line = json.dumps(result)
    print(line)
    if args.out:
        args.out.write_text(line + "\n")
    for text in result["missed"]:
        print("real_width.py: " + text, file=sys.stderr)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
