"""One process a GPU of this machine, each with sequences of its own: what they share."""
import os
import subprocess
import sys
import time

import torch
import torch.distributed as dist


def start(count: int, meeting: str) -> int:
    """Runs this command once for each rank; they find each other by the file `meeting`. The first failure ends all."""
    if os.path.exists(meeting):
        os.remove(meeting)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(count)]
    if len(devices) < count:
        raise SystemExit(f"--gpus {count}: CUDA_VISIBLE_DEVICES={visible} names {len(devices)}")
    ranks = [subprocess.Popen([sys.executable] + sys.argv, env=os.environ | {
        "RANK": str(rank), "RANKS": str(count), "RANKS_MEET": meeting, "CUDA_VISIBLE_DEVICES": devices[rank]}) for rank in range(count)]
    try:
        while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
            time.sleep(0.2)
        return next((rank.poll() for rank in ranks if rank.poll()), 0)
    finally:
        for rank in ranks:
            rank.kill()


class Ranks:
    def __init__(self):
        self.count, self.rank = int(os.environ.get("RANKS", "1")), int(os.environ.get("RANK", "0"))
        if self.count > 1:
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(name, "lo")
            # Clocks are shared on the CPU, so that no GPU has to be waited for.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, init_method="file://" + os.environ["RANKS_MEET"], rank=self.rank, world_size=self.count)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, value: float) -> float:
        """The first rank's value."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    @torch.no_grad()
    def copy_first(self, tensors) -> None:
        """Gives every rank the first one's tensors, so that rounding never drives them apart."""
        if self.count > 1:
            for t in tensors:
                dist.broadcast(t, 0)

    @torch.no_grad()
    def average(self, parameters) -> None:
        """Replaces gradients by their mean over ranks."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(flat.split([g.numel() for g in gradients]), gradients)])

    @torch.no_grad()
    def add_up(self, tensors) -> None:
        if self.count > 1:
            for t in tensors:
                dist.all_reduce(t)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()
