#!/usr/bin/env python3
"""Makes tests/golden/models: tiny Llama 4 checkpoints and what Hugging Face transformers computes from them.

    scripts/golden/make_models.py                  all cases, into tests/golden/models
    scripts/golden/make_models.py --only scout     some cases
    scripts/golden/make_models.py --search scout   a seed and a prompt that keep the rules of check()

The reference runs in float32 with sdpa attention. The bfloat16 model is loaded with from_pretrained(dtype=bfloat16):
converting a loaded one would round its rotary tables. One thread, so that two runs give the same bytes.
"""

import argparse
import json
import platform
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from safetensors.numpy import save_file as save_numpy
from transformers import Llama4Config, Llama4ForCausalLM, Llama4ForConditionalGeneration, Llama4TextConfig

import formula
from cases import ABSENT, CASES, Case

ROOT = Path(__file__).resolve().parents[2]
N_GREEDY = 40
MIN_LOGIT_GAP = 1e-2    # between the two best tokens of every greedy step
MIN_ROUTER_GAP = 5e-4   # between the last expert chosen and the first one not
MIN_ROUTER_GAP_BF16 = 1.5e-2 # where the bf16 model is compared too
MIN_DISTINCT = 12       # different tokens among the greedy ones

# Standard deviation of a linear's output for inputs of unit variance, by what its name ends in. Chosen so that
# attention is neither flat nor one-hot, every block moves the residual stream, logits have a standard deviation near 3.
GAINS = {
    "q_proj.weight": 1.5, "k_proj.weight": 1.5, "o_proj.weight": 1.5, "router.weight": 2.0, "gate_up_proj": 1.5,
    "gate_proj.weight": 1.5, "down_proj.weight": 1.5, "down_proj": 1.5, "lm_head.weight": 3.0,
    "linear_1.weight": 2.0, "vision_adapter.mlp.fc1.weight": 2.0, "vision_adapter.mlp.fc2.weight": 2.0,
}


def weight_range(name, shape, gains):
    """(offset, scale) of a tensor's values offset + scale * [-1, 1); scale is exact in float32."""
    if re.search(r"(norm|layernorm_pre|layernorm_post)\.weight$", name):
        return 1.0, 0.25
    if name.endswith(".bias"):
        return 0.0, 0.25
    if re.search(r"(embed_tokens\.weight|class_embedding|positional_embedding_vlm)$", name):
        return 0.0, gains.get("embed", 1.75) if "embed_tokens" in name else 1.0
    fan_in = shape[1] if re.search(r"experts\.(gate_up|down)_proj$", name) else shape[-1]
    suffixes = [s for s in gains if f".{name}".endswith(f".{s}")]
    gain = gains[max(suffixes, key=len)] if suffixes else 1.0
    return 0.0, float(np.float32(gain * (3.0 / fan_in) ** 0.5))


def hf_config(case: Case):
    text = Llama4TextConfig(**case.text_config)
    if case.vision is None:
        return text
    ids = case.image_ids
    return Llama4Config(text_config=text.to_dict(), vision_config=case.vision_config, boi_token_index=ids["start"],
                        eoi_token_index=ids["end"], image_token_index=ids["patch"],
                        tie_word_embeddings=text.tie_word_embeddings, bos_token_id=0, eos_token_id=[1], pad_token_id=2)


def model_class(case):
    return Llama4ForCausalLM if case.vision is None else Llama4ForConditionalGeneration


def empty_model(case):
    config = hf_config(case)
    config._attn_implementation = "sdpa"
    return model_class(case)(config).eval()


def tensor_table(case, model):
    """[(name, shape, offset, scale)] of every tensor the checkpoint stores, in the model's own order."""
    gains = {**GAINS, **case.gains}
    tied = case.text_config.get("tie_word_embeddings", False)
    table = []
    for name, tensor in model.state_dict().items():
        if not (tied and name.endswith("lm_head.weight")):
            table.append((name, list(tensor.shape), *weight_range(name, tensor.shape, gains)))
    return table


def weights(case, table):
    return {name: torch.from_numpy(formula.from_bf16_bits(formula.weight_bits(case.seed, name, shape, offset, scale)))
            for name, shape, offset, scale in table}


def text_model(model):
    return model.language_model if hasattr(model, "language_model") else model


class Recorder:
    """Collects every activation that has a name, and the router's logits, while a model runs."""

    def __init__(self, model):
        self.activations, self.router, self.handles = {}, {}, []
        decoder = text_model(model).model
        for i, layer in enumerate(decoder.layers):
            if i == 0:
                self.before(layer, "embed")
            self.before(layer.post_attention_layernorm, f"layers.{i}.attention")
            self.after(layer, f"layers.{i}.ffn")
            if layer.is_moe_layer:
                hook = lambda _, __, out, i=i: self.router.__setitem__(i, out[1].detach().float().numpy())
                self.handles.append(layer.feed_forward.router.register_forward_hook(hook))
        self.after(decoder.norm, "norm")
        if hasattr(model, "vision_model"):
            vision = model.vision_model
            self.after(vision.layernorm_pre, "vision.embed")
            for i, layer in enumerate(vision.model.layers):
                self.before(layer.post_attention_layernorm, f"vision.layers.{i}.attention")
                self.after(layer, f"vision.layers.{i}.ffn")
            self.after(vision.layernorm_post, "vision.norm")
            self.after(vision.vision_adapter, "vision.adapter")
            self.after(model.multi_modal_projector, "vision.projected")

    def keep(self, name, value):
        value = (value[0] if isinstance(value, tuple) else value).detach().float()
        self.activations[name] = value.reshape(-1, value.shape[-1]).numpy().copy()

    def before(self, module, name):
        self.handles.append(module.register_forward_pre_hook(lambda _, args, kwargs, name=name: self.keep(
            name, args[0] if args else kwargs["hidden_state"]), with_kwargs=True))

    def after(self, module, name):
        self.handles.append(module.register_forward_hook(lambda _, __, out, name=name: self.keep(name, out)))

    def close(self):
        for handle in self.handles:
            handle.remove()


def pixels_of(case, images):
    if not images:
        return None
    size = case.vision_config["image_size"]
    return formula.grey_levels(case.seed, (sum(i["n_tiles"] for i in images), 3, size, size))


@torch.no_grad()
def run(case, model):
    """One forward over the prompt, with everything it computes."""
    ids, images = case.prompt()
    grey = pixels_of(case, images)
    inputs = dict(input_ids=torch.tensor([ids]))
    if grey is not None:
        inputs["pixel_values"] = torch.from_numpy(formula.normalise(grey)).to(model.dtype)
    recorder = Recorder(model)
    logits = model(**inputs, use_cache=False).logits[0].float().numpy()
    recorder.close()
    return dict(ids=ids, images=images, grey=grey, inputs=inputs, logits=logits, activations=recorder.activations,
                router=recorder.router)


@torch.no_grad()
def greedy(model, inputs):
    """Token by token with the cache: (ids, gap between the two best logits of each step)."""
    out = model(**inputs, use_cache=True)
    ids, gaps = [], []
    for _ in range(N_GREEDY):
        best = out.logits[0, -1].float().topk(2)
        ids.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        out = model(input_ids=torch.tensor([[ids[-1]]]), past_key_values=out.past_key_values, use_cache=True)
    return ids, gaps


@torch.no_grad()
def check(case, model, result):
    """What is wrong with this seed, or None; fills in result["greedy"] and the margins."""
    k = case.text_config["num_experts_per_tok"]
    gaps = [1e9]
    for logits in result["router"].values():
        if k < logits.shape[1]:
            ordered = -np.sort(-logits, axis=1)
            gaps.append(float((ordered[:, k - 1] - ordered[:, k]).min()))
    result["router_gap"] = min(gaps)
    wanted = MIN_ROUTER_GAP_BF16 if case.bf16 else MIN_ROUTER_GAP
    if min(gaps) < wanted:
        return f"two experts are {min(gaps):.2g} apart, wanted {wanted}"
    for layer, logits in result["router"].items():
        chosen = np.unique(np.argsort(-logits, axis=1)[:, :k])
        if len(chosen) < logits.shape[1]:
            return f"layer {layer} uses only experts {chosen.tolist()}"
    ids, step_gaps = greedy(model, result["inputs"])
    result["greedy"], result["greedy_gap"] = ids, min(step_gaps)
    if min(step_gaps) < MIN_LOGIT_GAP:
        return f"two tokens are {min(step_gaps):.2g} apart, wanted {MIN_LOGIT_GAP}"
    if len(set(ids)) < MIN_DISTINCT:
        return f"only {len(set(ids))} different tokens in the continuation"
    if any(i < 3 or i >= case.image_ids["image"] for i in ids):
        return "the continuation has special tokens"
    # The same without a cache: one forward over the prompt and the continuation.
    inputs = dict(result["inputs"], input_ids=torch.tensor([result["ids"] + ids[:-1]]))
    again = model(**inputs, use_cache=False).logits[0, len(result["ids"]) - 1:].argmax(-1).tolist()
    return None if again == ids else "cached and uncached decoding differ"


def experts(case, result):
    """[layers, T, k]: experts chosen, best first."""
    k = case.text_config["num_experts_per_tok"]
    return {layer: np.argsort(-x, axis=1, kind="stable")[:, :k] for layer, x in result["router"].items()}


def check_bf16(case, result, half):
    """A position whose experts differ says nothing about precision: such seeds are refused."""
    a, b = experts(case, result), experts(case, half)
    n = sum(int((np.sort(a[i], axis=1) != np.sort(b[i], axis=1)).any(1).sum()) for i in a)
    distance = np.linalg.norm(half["logits"] - result["logits"]) / np.linalg.norm(result["logits"])
    half["distance"] = float(distance)
    return f"bf16 chooses other experts {n} times, distance {distance:.3g}" if n else None


def search(case, limit, verbose):
    """The first (seed, words) that keeps the rules, twenty prompts a seed."""
    model = empty_model(case)
    table = tensor_table(case, model)
    for n in range(limit):
        case.seed, case.words = 1 + n // 20, n % 20
        if case.words == 0:
            model.load_state_dict(weights(case, table), strict=False)
            model.tie_weights()
        result = run(case, model)
        problem = check(case, model, result)
        if problem is None and case.bf16:
            with tempfile.TemporaryDirectory() as scratch:
                save_checkpoint(case, Path(scratch))
                problem = check_bf16(case, result, run(case, load(case, scratch, torch.bfloat16)))
        if problem is None:
            return f"seed={case.seed}, words={case.words}"
        if verbose:
            print(f"  {case.seed} {case.words}: {problem}", flush=True)
    return None


def v4_style(config):
    """What a config.json written by transformers 4 looks like: see Meta's published files."""
    text, vision = config["text_config"], config["vision_config"]
    dtype = config.pop("dtype")
    text.pop("dtype", None), vision.pop("dtype", None)
    rope = text.pop("rope_parameters")
    text.update(rope_theta=rope.pop("rope_theta"), rope_scaling=rope if rope["rope_type"] != "default" else None,
                no_rope_layers=[], attn_temperature_tuning=4, torch_dtype=dtype, for_llm_compressor=False,
                _attn_implementation_autoset=True)
    for absent in ("layer_types", "moe_layers", "no_rope_layer_interval", "floor_scale", "attn_scale",
                   "tie_word_embeddings"):
        text.pop(absent)
    vision.update(rope_theta=int(vision.pop("rope_parameters")["rope_theta"]), vision_feature_layer=-1,
                  multi_modal_projector_bias=False)
    for absent in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
        config.pop(absent, None)
    return dict(sorted({**config, "torch_dtype": dtype, "transformers_version": "4.51.0.dev0"}.items()))


def rewrite_config(case, path):
    """config.json with the case's changes; the reference has been computed from the original."""
    config = json.loads(path.read_text())
    if case.v4_config:
        config = v4_style(config)
    for key, value in case.written_config.items():
        config.pop(key)
        if value is not ABSENT:
            config[key] = value
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_v4(case, checkpoint, scratch, result):
    """transformers 5 reads the rewritten config as the same model, once the int that it refuses is a bool."""
    shutil.copytree(checkpoint, scratch)
    config = json.loads((scratch / "config.json").read_text())
    config["text_config"]["attn_temperature_tuning"] = True
    (scratch / "config.json").write_text(json.dumps(config))
    assert np.array_equal(run(case, load(case, scratch, torch.float32))["logits"], result["logits"]), case.name


def write_json(path, value):
    """Indented, but every list and small object of numbers on one line."""
    text = json.dumps(value, indent=1)
    flat = lambda m: re.sub(r"\s*\n\s*", " ", m.group(0)).replace("[ ", "[").replace(" ]", "]")
    path.write_text(re.sub(r"\[[^\[\]{}]*\]", flat, text) + "\n")


def save_checkpoint(case, directory):
    """The checkpoint as transformers writes it: bfloat16 where it is kept, else float32; returns its tensor table."""
    model = empty_model(case)
    table = tensor_table(case, model)
    assert not model.load_state_dict(weights(case, table), strict=False).unexpected_keys
    model.tie_weights()
    model.save_pretrained(directory)
    if case.stored:
        half = load(case, directory, torch.bfloat16)
        shutil.rmtree(directory)
        half.save_pretrained(directory, **({"max_shard_size": case.max_shard_size} if case.max_shard_size else {}))
    return table


def load(case, directory, dtype):
    model = model_class(case).from_pretrained(directory, dtype=dtype, attn_implementation="sdpa").eval()
    assert model.dtype == dtype and model.config._attn_implementation == "sdpa"
    return model


def logit_positions(case):
    """All, or every n-th, both sides of every chunk edge, and the last."""
    chunk, n = case.text_config["attention_chunk_size"], case.n_prompt
    keep = set(range(0, n, case.logits_every)) | {n - 1}
    keep |= {p + d for p in range(chunk, n, chunk) for d in (-1, 0, 1)} if case.logits_every > 1 else set()
    return sorted(p for p in keep if p < n)


def make(case, out):
    target = out / case.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = target / "checkpoint" if case.stored else Path(scratch) / "checkpoint"
        table = save_checkpoint(case, checkpoint)
        model = load(case, checkpoint, torch.float32)
        result = run(case, model)
        problem = check(case, model, result)
        if problem:
            sys.exit(f"{case.name}: seed {case.seed}, words {case.words}: {problem}")
        positions = logit_positions(case)
        tensors = {"logits": result["logits"][positions]}
        meta = {}
        if case.bf16:
            half = run(case, load(case, checkpoint, torch.bfloat16))
            tensors["bf16.logits"] = half["logits"][positions]
            problem = check_bf16(case, result, half)
            if problem:
                sys.exit(f"{case.name}: seed {case.seed}, words {case.words}: {problem}")
            meta = dict(relative_distance_to_fp32=half["distance"])
        if not case.stored:
            shutil.copy(checkpoint / "config.json", target / "config.json")
        if case.v4_config or case.written_config:
            rewrite_config(case, (checkpoint if case.stored else target) / "config.json")
        if case.v4_config:
            check_v4(case, checkpoint, Path(scratch) / "v4", result)

    row_positions = {}
    for name, rows in result["activations"].items():
        tensors["digest." + name] = formula.digest(rows)
        chunk = case.text_config["attention_chunk_size"]
        keep = [0, chunk - 1, chunk, len(rows) - 1] if not name.startswith("vision.") else [0, len(rows) - 1]
        row_positions[name] = keep
        tensors["rows." + name] = rows[keep]
    for layer, chosen in experts(case, result).items():
        tensors[f"experts.{layer}"] = chosen.astype(np.int32)
    save_numpy({k: np.ascontiguousarray(v) for k, v in sorted(tensors.items())}, target / "expected.safetensors")

    checksum, samples = 0xCBF29CE484222325, []
    for name, shape, offset, scale in table:
        bits = formula.weight_bits(case.seed, name, shape, offset, scale).reshape(-1)
        checksum = formula.fnv1a64(bits.astype("<u2").tobytes(), checksum)
        at = len(bits) * 2 // 3
        samples.append([name, at, int(bits[at])])
    grey = result["grey"]
    write_json(target / "case.json", dict(
        name=case.name, about=case.about, seed=case.seed, words=case.words, stored=case.stored,
        vocab=case.text_config["vocab_size"],
        prompt=result["ids"], greedy=result["greedy"], greedy_min_gap=result["greedy_gap"],
        router_min_gap=result["router_gap"], image_ids=case.image_ids if case.images else {}, images=result["images"],
        pixels=list(grey.shape) if grey is not None else [],
        pixels_checksum=f"{formula.fnv1a64(grey.tobytes()) if grey is not None else 0:016x}",
        logit_positions=positions, row_positions=row_positions, bf16=meta, weights_checksum=f"{checksum:016x}",
        weight_samples=samples[:: max(1, len(samples) // 12)],
        tensors=[[name, *shape, offset, scale] for name, shape, offset, scale in table]))
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    print(f"{case.name}: {size} bytes, router gap {result['router_gap']:.2g}, greedy gap {result['greedy_gap']:.2g}, "
          f"{len(set(result['greedy']))} different tokens, logits std {result['logits'].std():.2f}, {meta}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/golden/models")
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CASES])
    parser.add_argument("--search", nargs="+", choices=[c.name for c in CASES])
    parser.add_argument("--tries", type=int, default=10000, help="how many prompts --search tries")
    parser.add_argument("--verbose", action="store_true", help="say why --search refuses a seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.search:
        for case in CASES:
            if case.name in args.search:
                print(case.name + ":", search(case, args.tries, args.verbose), flush=True)
        return
    for case in CASES:
        if not args.only or case.name in args.only:
            make(case, args.out)
    if not args.only:
        write_json(args.out / "provenance.json", dict(
            command="scripts/golden/make_models.py", python=platform.python_version(), torch=torch.__version__,
            transformers=transformers.__version__, safetensors=safetensors.__version__, numpy=np.__version__,
            machine=platform.machine(), cpu_capability=torch.backends.cpu.get_cpu_capability(),
            seeds={c.name: [c.seed, c.words] for c in CASES}))


if __name__ == "__main__":
    main()
