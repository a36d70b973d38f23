"""Muon (Jordan et al. 2024) for the matrices: momentum whose update is made orthogonal by a Newton-Schulz iteration.

All matrices of one shape go through the iteration together, experts included, so a step is a few dozen kernels.
"""

import torch


def orthogonalise(g, steps=5):
    """g [n, rows, cols] with rows <= cols -> about the nearest matrices with orthonormal rows"""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        xx = x @ x.mT
        x = a * x + (b * xx + c * xx @ xx) @ x
    return x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.02):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
            grads, buffers = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov
            for p, u in zip(params, updates):
                u3 = u if u.ndim == 3 else u[None]
                flip = u3.shape[1] > u3.shape[2]
                u3 = u3.mT if flip else u3
                shapes.setdefault(tuple(u3.shape[1:]), []).append((p, u3, flip))
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            targets, changes = [], []
            for items in shapes.values():
                o = orthogonalise(torch.cat([u for _, u, _ in items]))
                for (p, u, flip), part in zip(items, o.split([len(u) for _, u, _ in items])):
                    part = part.mT if flip else part
                    # nn.Linear is [out, in]; expert tensors are [in, out]
                    out, inn = (p.shape[-1], p.shape[-2]) if p.ndim == 3 else p.shape
                    targets.append(p)
                    changes.append(part.reshape(p.shape).float() * max(1.0, out / inn) ** 0.5)
            torch._foreach_add_(targets, changes, alpha=-group["lr"])
