"""Muon for the matrices (Jordan et al. 2024), AdamW for everything else."""
import torch

ADAM_NAMES = ("embedding", "head", "router", "weights_proj", "norm")


def orthogonalized(gradient):
    """Five Newton-Schulz steps toward the nearest orthogonal matrix, in bf16."""
    x = gradient.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Optimizer:
    """Matrices of equal shape are stepped together. Momentum 0.95, decay 0.05 of the rate."""

    def __init__(self, named, rate: float):
        self.groups, rest = {}, []
        for name, p in named:
            if p.dim() >= 2 and not any(part in name for part in ADAM_NAMES):
                self.groups.setdefault(tuple(p.shape), []).append(p)
            else:
                rest.append(p)
        device = rest[0].device
        self.momentum = {shape: torch.zeros((len(ps),) + shape, device=device) for shape, ps in self.groups.items()}
        self.adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0, fused=device.type == "cuda")
        self.all = [p for _, p in named]

    @torch.no_grad()
    def step(self, rate: float):
        torch.nn.utils.clip_grad_norm_(self.all, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        for shape, ps in self.groups.items():
            gradient, momentum = torch.stack([p.grad for p in ps]), self.momentum[shape]
            momentum.lerp_(gradient, 0.05)
            update = orthogonalized(gradient.lerp(momentum, 0.95)).float() * (0.2 * max(shape[-2:]) ** 0.5)
            for p, u in zip(ps, update):
                p.mul_(1 - rate * 0.05).add_(u, alpha=-rate)
        for p in self.all:
            p.grad = None

    def state(self):
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load(self, state):
        self.adam.load_state_dict(state["adam"])
        for shape, momentum in state["momentum"].items():
            self.momentum[shape].copy_(momentum)
