"""Trains the demo model.

    python train.py FOLDER --state STATE.pt --out OUT_DIR --total-seconds 900 [--call-seconds 500]

FOLDER holds config.json, the tokenizer and the chat template. Learning rate and data mix follow the part of --total-seconds that has been
trained, over as many calls as it takes: a call stops after --call-seconds, writes STATE.pt (fp32 weights and optimizer) and the next call
goes on from it. At the end of each call the weights are written to OUT_DIR in BF16.
"""

import argparse
import json
import multiprocessing as mp
import os
import sys
import time
from pathlib import Path

import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are forked

from batches import Limits, Packer, TrainingStream
from samples import Mixer

HELD_OUT_SEED = 990_000_000


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("folder")
    p.add_argument("--state", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--total-seconds", type=float, default=900)
    p.add_argument("--call-seconds", type=float, default=1e9)
    p.add_argument("--warmup-seconds", type=float, default=10)
    p.add_argument("--decay", type=float, default=0.4, help="part of training in which the learning rate falls to zero")
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=0.003)
    p.add_argument("--weights", help="start from these BF16 weights (a checkpoint folder) instead of from nothing")
    p.add_argument("--elapsed", type=float, default=0, help="with --weights: seconds of training that they have had")
    p.add_argument("--cuda-graphs", action="store_true", help="replay each step as a CUDA graph: faster where the CPU cannot keep up")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=14)
    p.add_argument("--tokens", type=int, default=65536)
    p.add_argument("--steps", type=int, default=10**9, help="stop after so many steps (for dry runs)")
    p.add_argument("--eval-batches", type=int, default=8)
    p.add_argument("--eval-every", type=float, default=120, help="seconds")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--profile", action="store_true", help="print where GPU time goes, after 30 steps")
    return p.parse_args()


def limits_for(tokens):
    return Limits(tokens=tokens, tiles=max(6, tokens * 120 // 65536), labels=tokens * 3 // 16, docs=max(64, tokens // 100),
                  longest=min(12800, tokens))


def make_model(folder, weights=None):
    import transformers
    from transformers import Llama4ForConditionalGeneration
    transformers.logging.set_verbosity_error()
    if weights:
        return Llama4ForConditionalGeneration.from_pretrained(weights, dtype=torch.float32)
    from transformers import AutoConfig
    config = AutoConfig.from_pretrained(folder)
    config.dtype = config.text_config.dtype = config.vision_config.dtype = torch.float32
    return Llama4ForConditionalGeneration(config).float()


def optimizers(model, args):
    from muon import Muon
    matrices, others = [], []
    for name, p in model.named_parameters():
        special = any(s in name for s in ("embed", "lm_head", "router", "patch_embedding"))
        (matrices if p.ndim >= 2 and not special else others).append(p)
    fused = others[0].is_cuda
    return [Muon(matrices, lr=args.lr), torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0, fused=fused)]


def held_out_batches(folder, limits, n):
    """Only the last reply of each sample is scored."""
    mixer = Mixer(HELD_OUT_SEED, held_out=True)
    packer = Packer(folder, mixer.next, limits, last_turn_only=True)
    return [packer.batch() for _ in range(n)]


def evaluate(forward, batches, device):
    """Share of samples whose whole reply is the most likely one token by token, that is, what greedy decoding would write."""
    right, total, ce = {}, {}, 0.0  # no torch.no_grad here: it would mean a second compilation
    for batch, tasks in batches:
        b = to_device(batch, device)
        _, loss, _, ok = forward(b)
        ce += loss.item() / len(batches)
        doc = b["label_doc"]
        used = doc >= 0
        wrong = torch.zeros(len(tasks), device=device).index_add_(0, doc[used], (~ok[used]).float()).cpu()
        for t, w in zip(tasks, wrong):
            total[t] = total.get(t, 0) + 1
            right[t] = right.get(t, 0) + (w == 0).item()
    return ce, {t: (right[t] / total[t], total[t]) for t in sorted(total)}


def to_device(batch, device):
    return {k: v.to(device, non_blocking=True) for k, v in batch.items()}


def save_bf16(model, folder, out):
    """Rounded copies of the weights under transformers' names, in shards. Never model.to(bfloat16): that would spoil the vision rotation table."""
    from transformers import AutoConfig, GenerationConfig
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to("cpu", torch.bfloat16) for k, v in model.state_dict().items()}
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    plan = split_torch_state_dict_into_shards(state, max_shard_size="9MB", filename_pattern="model{suffix}.safetensors")
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    for file, names in plan.filename_to_tensors.items():
        save_file({n: state[n].contiguous() for n in names}, out / file, metadata={"format": "pt"})
        os.chmod(out / file, 0o644)
    total = sum(v.numel() for v in state.values())
    index = {"metadata": {"total_parameters": total, "total_size": 2 * total}, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def main():
    args = arguments()
    start = time.time()
    limits = limits_for(args.tokens)
    # Workers start before CUDA does, so that they can be forked.
    state = torch.load(args.state, map_location="cpu") if Path(args.state).exists() else None
    elapsed, step = (state["elapsed"], state["step"]) if state else (args.elapsed, 0)
    warm_from = 0.0 if state else elapsed  # a fresh optimizer starts gently
    progress = mp.Value("d", elapsed / args.total_seconds)
    stream = TrainingStream(args.folder, limits, args.seed * 1000 + step % 997, progress)
    cuda = torch.cuda.is_available()  # does not start CUDA in a way that breaks fork
    loader = iter(torch.utils.data.DataLoader(stream, batch_size=None, num_workers=args.workers, prefetch_factor=2 if args.workers else None, pin_memory=cuda))
    evals = held_out_batches(args.folder, limits, args.eval_batches)
    print(f"[{time.time() - start:.1f}s] {len(evals)} evaluation batches, {sum(len(t) for _, t in evals)} samples", flush=True)

    device = "cuda" if cuda else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = make_model(args.folder, args.weights)
    if state:
        model.load_state_dict(state["model"])
    from fast_model import FastModel
    fast = FastModel(model, limits.longest, dtype=torch.bfloat16 if cuda else torch.float32).to(device)
    opts = optimizers(model, args)
    if state:
        for o, s in zip(opts, state["optimizers"]):
            o.load_state_dict(s)
    base = [[g["lr"] for g in o.param_groups] for o in [*opts]] if not state else state["base_lr"]
    compiled = fast if args.no_compile or not cuda else torch.compile(fast, dynamic=False, mode="reduce-overhead" if args.cuda_graphs else None)

    def forward(batch):
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            return compiled(batch)

    print(f"[{time.time() - start:.1f}s] {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, step {step}, {elapsed:.0f} s trained", flush=True)
    began = last = last_eval = time.time()
    log, seen, waits, first_step = [], 0, 0.0, step
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    done = False
    while not done:
        t = time.time()
        if args.profile and step == first_step + 30:
            profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            profiler.start()
        if args.profile and step == first_step + 35:
            torch.cuda.synchronize()
            profiler.stop()
            print(profiler.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60), flush=True)
        batch = to_device(next(loader), device)
        waits += time.time() - t
        part = min(1.0, (elapsed + time.time() - began) / args.total_seconds)
        progress.value = part
        trained = part * args.total_seconds
        rate = min(1.0, (trained - warm_from + 0.5) / args.warmup_seconds) * min(1.0, max(0.0, (1 - part) / args.decay))
        for o, lrs in zip(opts, base):
            for g, lr in zip(o.param_groups, lrs):
                g["lr"] = lr * rate
        loss, ce, aux, _ = forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        log.append(ce.clone())
        if step == first_step + 1:
            if cuda:
                torch.cuda.synchronize()
            print(f"[{time.time() - start:.1f}s] first step done", flush=True)
            began = last = time.time()  # compilation is not training
        done = part >= 1 or time.time() - start > args.call_seconds or step - first_step >= args.steps
        if step % 200 == 0 or done:
            mean = torch.stack(log).mean().item()
            if cuda:
                torch.cuda.synchronize()
            now = time.time()
            print(f"[{now - start:.1f}s] step {step} part {part:.3f} loss {mean:.4f} balance {aux.item():.3f} lr x{rate:.3f} "
                  f"{1e3 * (now - last) / max(1, len(log)):.1f} ms/step, waiting for data {100 * waits / (now - last + 1e-9):.0f}%", flush=True)
            log, last, waits = [], now, 0.0
        if time.time() - last_eval > args.eval_every or done:
            t = time.time()
            ce, scores = evaluate(forward, evals, device)
            print(f"[{time.time() - start:.1f}s] EVAL step {step} loss {ce:.4f} " + " ".join(f"{k} {100 * v:.0f}%/{n}" for k, (v, n) in scores.items()), flush=True)
            last_eval = last = time.time()
            began += time.time() - t
    elapsed += time.time() - began
    save_bf16(model, args.folder, out)
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in opts], "base_lr": base, "elapsed": elapsed, "step": step}, args.state)
    print(f"[{time.time() - start:.1f}s] saved at step {step}, {elapsed:.0f} s trained" + (", finished" if part >= 1 else ""), flush=True)
    sys.stdout.flush()
    for worker in mp.active_children():
        worker.kill()
    os._exit(0)  # do not wait for the loader's threads


if __name__ == "__main__":
    main()
