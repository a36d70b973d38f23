"""Packs samples into batches of fixed size, so that one compiled graph serves every step.

Samples stand one after another in a single stream of tokens; attention sees the borders (`cu_global`), and in chunked layers also the
chunk edges inside each sample (`cu_local`).
"""

import os
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from samples import Mixer
from render import PATCHES_PER_TILE, TILE, Renderer


@dataclass
class Limits:
    tokens: int = 65536
    tiles: int = 120
    labels: int = 12288
    docs: int = 640
    longest: int = 12800
    chunk: int = 512


def empty(limits, pad_id):
    n = limits
    return {
        "ids": np.full(n.tokens, pad_id, np.int32), "positions": np.zeros(n.tokens, np.int32),
        "cu_global": np.full(n.docs + 1, n.tokens, np.int32), "cu_local": np.full(n.docs + n.tokens // n.chunk + 2, n.tokens, np.int32),
        "tiles": torch.zeros(n.tiles, 3, TILE, TILE, dtype=torch.uint8), "patch_at": np.full(n.tiles * PATCHES_PER_TILE, n.tokens, np.int64),
        "label_at": np.zeros(n.labels, np.int64), "labels": np.zeros(n.labels, np.int64), "label_weight": np.zeros(n.labels, np.float32),
        "label_doc": np.full(n.labels, -1, np.int64)}


class Packer:
    def __init__(self, folder, source, limits, last_turn_only=False):
        """source() -> Sample; last_turn_only: learn (or score) only the last reply of each sample"""
        self.renderer, self.source, self.limits, self.last_only = Renderer(folder), source, limits, last_turn_only
        self.waiting = deque()

    def render(self):
        s = self.source()
        ids, learn, tiles = self.renderer.sample(s)
        if self.last_only:
            start = np.flatnonzero(learn & ~np.roll(learn, 1))[-1]
            learn[:start] = False
        return s, ids, learn, tiles

    def batch(self):
        """-> dict of arrays, names of the tasks in it"""
        lim, r = self.limits, self.renderer
        out = empty(lim, r.ids["finetune_right_pad"])
        n = docs = segs = tiles = labels = misses = 0
        tasks, skipped = [], []
        most_pads = -(-lim.tokens // lim.longest)
        while docs < lim.docs - most_pads and misses < 20 and n < 0.985 * lim.tokens:
            item = self.waiting.popleft() if self.waiting else self.render()
            s, ids, learn, t = item
            n_tiles = 0 if t is None else len(t)
            at = np.flatnonzero(learn[1:])  # position i predicts token i + 1
            if len(ids) > lim.longest:
                continue
            if n + len(ids) > lim.tokens or tiles + n_tiles > lim.tiles or labels + len(at) > lim.labels:
                misses += 1
                skipped.append(item)
                continue
            out["ids"][n:n + len(ids)] = ids
            out["positions"][n:n + len(ids)] = np.arange(len(ids))
            out["cu_global"][docs] = n
            edges = np.arange(n, n + len(ids), lim.chunk)
            out["cu_local"][segs:segs + len(edges)] = edges
            segs += len(edges)
            if n_tiles:
                out["tiles"][tiles:tiles + n_tiles] = t
                p = slice(tiles * PATCHES_PER_TILE, (tiles + n_tiles) * PATCHES_PER_TILE)
                out["patch_at"][p] = n + np.flatnonzero(ids == r.ids["patch"])
                tiles += n_tiles
            p = slice(labels, labels + len(at))
            out["label_at"][p], out["labels"][p], out["label_weight"][p], out["label_doc"][p] = n + at, ids[at + 1], 1, docs
            labels += len(at)
            n += len(ids)
            docs += 1
            tasks.append(s.task)
        self.waiting.extend(skipped)
        while len(self.waiting) > 20:  # more pictures than the batches can take: let some go
            self.waiting.pop()
        # what is left over is padding: segments of its own, no longer than the kernels are told
        for name, at, length in (("cu_global", docs, lim.longest), ("cu_local", segs, lim.chunk)):
            edges = np.arange(n, lim.tokens, length)
            out[name][at:at + len(edges)] = edges
        self.filled = n / lim.tokens, tiles / lim.tiles, labels / lim.labels
        return {k: v if torch.is_tensor(v) else torch.from_numpy(v) for k, v in out.items()}, tasks


class TrainingStream(torch.utils.data.IterableDataset):
    """Endless batches; every worker draws from its own seed."""

    def __init__(self, folder, limits, seed, progress):
        self.folder, self.limits, self.seed, self.progress = folder, limits, seed, progress

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        torch.set_num_threads(1)
        os.nice(10)  # the process that feeds the GPU goes first
        mixer = Mixer(self.seed * 1000 + (info.id if info else 0))

        packer = Packer(self.folder, mixer.next, self.limits)
        while True:
            mixer.set_progress(self.progress.value)
            yield packer.batch()[0]
