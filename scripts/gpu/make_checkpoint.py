#!/usr/bin/env python3
"""Writes a synthetic Llama 4 checkpoint in Hugging Face's layout: Scout's widths, a few layers, seeded random weights.

    make_checkpoint.py DIR                        4 layers of Scout, text only: 21.8 GB in 6 shards
    make_checkpoint.py DIR --vision-layers 34     with Scout's vision tower: 23.5 GB
    make_checkpoint.py DIR --preset small         a few MB, for trying things out

Needs torch alone. Weights are made on the GPU where there is one, in pieces of 32 Mi elements, each from its own seed (--seed,
tensor, piece), while threads write others: the files are the same whatever the number of threads (but not on another device).

Their scale: every linear layer keeps the size of its input (std = gain / sqrt(width in)), so activations stay near 1 in all
layers; norm weights are 1 +- 0.1, so that leaving one out shows. Attention scores have a standard deviation of 1 (RoPE) to 2
(NoPE), so that attention still counts after it averaged over hundreds of keys. Routing is decisive, as a trained router's is:
each token's embedding leans towards a direction of its own expert (id mod experts), which every layer's router looks for; the
logits vary by 0.5, that expert's lie 2 to 3 above the rest. So all experts are used alike, scores are 0.8 to 0.95, and few
tokens are so near a tie that rounding decides: with a router of noise alone there are so many that their effect on other
tokens, through attention, hides what is to be measured.

Prints one JSON line: bytes, seconds, GB/s.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

PIECE = 32 << 20  # elements made at once
PRESETS = dict(
    scout=dict(layers=4, hidden=5120, heads=40, kv_heads=8, ffn=8192, experts=16, vocab=202048, chunk=8192),
    small=dict(layers=4, hidden=512, heads=4, kv_heads=2, ffn=768, experts=8, vocab=4096, chunk=256),
)


def config_of(a):
    text = dict(
        model_type="llama4_text", vocab_size=a.vocab, hidden_size=a.hidden, num_hidden_layers=a.layers,
        num_attention_heads=a.heads, num_key_value_heads=a.kv_heads, head_dim=128, intermediate_size=a.ffn,
        intermediate_size_mlp=2 * a.ffn, num_local_experts=a.experts, num_experts_per_tok=1, interleave_moe_layer_step=1,
        use_qk_norm=True, no_rope_layers=[], attention_chunk_size=a.chunk, attn_temperature_tuning=True, floor_scale=a.chunk,
        attn_scale=0.1, max_position_embeddings=1 << 20, rms_norm_eps=1e-5, hidden_act="silu", attention_bias=False,
        rope_theta=500000.0, rope_scaling=dict(rope_type="llama3", factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0,
                                               original_max_position_embeddings=a.chunk),
        bos_token_id=a.vocab - 2048, eos_token_id=[a.vocab - 2047], pad_token_id=a.vocab - 2030, torch_dtype="bfloat16")
    if not a.vision_layers:
        return dict(text, architectures=["Llama4ForCausalLM"])
    vision = dict(
        model_type="llama4_vision_model", hidden_size=a.vision_hidden, num_hidden_layers=a.vision_layers,
        num_attention_heads=a.vision_hidden // 88, intermediate_size=4 * a.vision_hidden, image_size=336, patch_size=14,
        num_channels=3, pixel_shuffle_ratio=0.5, projector_input_dim=4096, projector_output_dim=4096, vision_output_dim=4096,
        norm_eps=1e-5, multi_modal_projector_bias=False, hidden_act="gelu", rope_theta=10000)
    return dict(architectures=["Llama4ForConditionalGeneration"], model_type="llama4", text_config=text, vision_config=vision,
                boi_token_index=a.vocab - 1968, eoi_token_index=a.vocab - 1967, image_token_index=a.vocab - 1956,
                torch_dtype="bfloat16")


def tensors_of(a):
    """[(shard, name, shape, mean, std, lean)]: normal values; row r leans towards direction r mod experts. A shard is a layer,
    the vision tower, the embedding or the head."""
    out, prefix = [], "language_model." if a.vision_layers else ""
    d, q, kv, f, e = a.hidden, a.heads * 128, a.kv_heads * 128, a.ffn, a.experts

    def linear(shard, name, n, k, gain=1.0, lean=0.0):
        out.append((shard, name + ".weight", [n, k], 0.0, gain / math.sqrt(k), lean))

    def norm(shard, name, n):
        out.append((shard, name + ".weight", [n], 1.0, 0.1, 0.0))

    out.append(("embedding", prefix + "model.embed_tokens.weight", [a.vocab, d], 0.0, 1.0, 6.0))
    for i in range(a.layers):
        shard, at = f"layer {i}", f"{prefix}model.layers.{i}."
        norm(shard, at + "input_layernorm", d)
        norm(shard, at + "post_attention_layernorm", d)
        linear(shard, at + "self_attn.q_proj", q, d, 1.5)
        linear(shard, at + "self_attn.k_proj", kv, d, 1.5)
        linear(shard, at + "self_attn.v_proj", kv, d)
        linear(shard, at + "self_attn.o_proj", d, q, 1.5)
        ff = at + "feed_forward."
        linear(shard, ff + "router", e, d, 0.5, 0.5)
        out.append((shard, ff + "experts.gate_up_proj", [e, d, 2 * f], 0.0, 1 / math.sqrt(d), 0.0))
        out.append((shard, ff + "experts.down_proj", [e, f, d], 0.0, 1 / math.sqrt(f), 0.0))
        linear(shard, ff + "shared_expert.gate_proj", f, d)
        linear(shard, ff + "shared_expert.up_proj", f, d)
        linear(shard, ff + "shared_expert.down_proj", d, f)
    norm("head", prefix + "model.norm", d)
    linear("head", prefix + "lm_head", a.vocab, d, 2.0)
    if a.vision_layers:
        vision_tensors(out, a, linear, norm)
    return out


def vision_tensors(out, a, linear, norm):
    v, shard = a.vision_hidden, "vision"

    def bias(name, n):
        out.append((shard, name + ".bias", [n], 0.0, 0.1, 0.0))

    out.append((shard, "vision_model.class_embedding", [v], 0.0, 1.0, 0.0))
    out.append((shard, "vision_model.positional_embedding_vlm", [577, v], 0.0, 0.5, 0.0))
    linear(shard, "vision_model.patch_embedding.linear", v, 3 * 14 * 14)
    for name in ("layernorm_pre", "layernorm_post"):
        norm(shard, "vision_model." + name, v)
        bias("vision_model." + name, v)
    for i in range(a.vision_layers):
        at = f"vision_model.model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            norm(shard, at + name, v)
            bias(at + name, v)
        for name in "qkvo":
            linear(shard, f"{at}self_attn.{name}_proj", v, v)
            bias(f"{at}self_attn.{name}_proj", v)
        linear(shard, at + "mlp.fc1", 4 * v, v)
        bias(at + "mlp.fc1", 4 * v)
        linear(shard, at + "mlp.fc2", v, 4 * v)
        bias(at + "mlp.fc2", v)
    linear(shard, "vision_model.vision_adapter.mlp.fc1", 4096, 4 * v)
    linear(shard, "vision_model.vision_adapter.mlp.fc2", 4096, 4096)
    linear(shard, "multi_modal_projector.linear_1", a.hidden, 4096)


class Maker:
    """Makes pieces of tensors on one device and writes them, each thread with its own buffers."""

    def __init__(self, device, seed, experts, hidden):
        self.device, self.seed, self.own = device, seed, threading.local()
        generator = torch.Generator(device).manual_seed(seed)
        self.directions = torch.randn(experts, hidden, device=device, generator=generator) / math.sqrt(hidden)
        if device == "cuda":
            torch.cuda.synchronize()  # the threads use streams of their own

    def write(self, fd, offset, name, piece, first, count, mean, std, lean):
        own = self.own
        if not hasattr(own, "generator"):
            own.generator = torch.Generator(self.device)
            own.made = torch.empty(PIECE, dtype=torch.float32, device=self.device)
            own.host = torch.empty(PIECE, dtype=torch.bfloat16, pin_memory=self.device == "cuda")
            own.stream = torch.cuda.Stream() if self.device == "cuda" else None
        digest = hashlib.sha256(f"{self.seed}/{name}/{piece}".encode()).digest()
        own.generator.manual_seed(int.from_bytes(digest[:7], "little"))
        with torch.cuda.stream(own.stream) if own.stream else torch.no_grad():
            values = own.made[:count].normal_(mean, std, generator=own.generator)
            if lean:
                experts, hidden = self.directions.shape
                rows = torch.arange(first // hidden, (first + count) // hidden, device=self.device) % experts
                values.view(-1, hidden).add_(self.directions[rows], alpha=lean)
            own.host[:count].copy_(values.to(torch.bfloat16), non_blocking=True)
            if own.stream:
                own.stream.synchronize()
        data, at = memoryview(own.host[:count].view(torch.uint8).numpy()), 0
        while at < len(data):
            at += os.pwrite(fd, data[at:], offset + at)


def write_shards(folder, tensors, maker, pool):
    shards, weight_map, jobs, files, total = {}, {}, [], [], 0
    for shard, *tensor in tensors:
        shards.setdefault(shard, []).append(tensor)
    for i, of_shard in enumerate(shards.values()):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, at = dict(__metadata__=dict(format="pt")), 0
        for name, shape, *_ in of_shard:
            size = 2 * math.prod(shape)
            header[name] = dict(dtype="BF16", shape=shape, data_offsets=[at, at + size])
            weight_map[name], at = file, at + size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        fd = os.open(folder / file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        files.append(fd)
        os.pwrite(fd, len(text).to_bytes(8, "little") + text, 0)
        os.ftruncate(fd, 8 + len(text) + at)
        total += at
        for name, shape, *values in of_shard:
            begin, n = 8 + len(text) + header[name]["data_offsets"][0], math.prod(shape)
            whole_rows = PIECE // shape[-1] * shape[-1]
            for piece, first in enumerate(range(0, n, whole_rows)):
                jobs.append((fd, begin + 2 * first, name, piece, first, min(whole_rows, n - first), *values))
    for done in [pool.submit(maker.write, *job) for job in jobs]:
        done.result()
    index = dict(metadata=dict(total_size=total), weight_map=weight_map)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return files, total


def arguments(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", type=Path)
    p.add_argument("--preset", choices=PRESETS, default="scout")
    for name in PRESETS["scout"]:
        p.add_argument("--" + name.replace("_", "-"), type=int, help="instead of the preset's")
    p.add_argument("--vision-layers", type=int, default=0, help="0: text only")
    p.add_argument("--vision-hidden", type=int, default=1408)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=8)
    p.add_argument("--sync", action="store_true", help="until the storage has it (the page cache is not enough)")
    a = p.parse_args(argv)
    for name, value in PRESETS[a.preset].items():
        if getattr(a, name) is None:
            setattr(a, name, value)
    return a


def make(a):
    begin = time.time()
    a.folder.mkdir(parents=True, exist_ok=True)
    (a.folder / "config.json").write_text(json.dumps(config_of(a), indent=1))
    with ThreadPoolExecutor(a.threads) as pool:
        files, total = write_shards(a.folder, tensors_of(a), Maker(a.device, a.seed, a.experts, a.hidden), pool)
        written = time.time()
        if a.sync:
            list(pool.map(os.fsync, files))
    for fd in files:
        os.close(fd)
    seconds = time.time() - begin
    return dict(folder=str(a.folder), files=len(files), bytes=total, write_s=round(written - begin, 2),
                sync_s=round(time.time() - written, 2), gb_per_s=round(total / seconds / 1e9, 3))


if __name__ == "__main__":
    print(json.dumps(make(arguments())))
    sys.exit(0)
