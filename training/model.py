"""The model as it is trained: deepseek_v32 with dense or sparse attention, in plain PyTorch.

Weights have the shapes of the checkpoint except that experts are stacked; `checkpoint.py` translates.
Experts are computed densely and masked, which at this size is faster than routing. Beside its output
every block returns two losses over a few probed queries: how far the attention is spread, and how far
the indexer is from the attention.
"""
import dataclasses
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class Shape:
    """Field names are those of config.json."""
    vocab_size: int = 8192
    hidden_size: int = 384
    num_hidden_layers: int = 8
    num_attention_heads: int = 6
    q_lora_rank: int = 256
    kv_lora_rank: int = 512
    qk_rope_head_dim: int = 64
    qk_nope_head_dim: int = 64
    v_head_dim: int = 128
    index_n_heads: int = 4
    index_head_dim: int = 128
    index_topk: int = 256
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 256
    intermediate_size: int = 1024
    first_k_dense_replace: int = 1
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    original_max_position_embeddings: int = 2048
    yarn_factor: float = 32.0

    @property
    def softmax_scale(self) -> float:
        stretch = 0.1 * math.log(self.yarn_factor) + 1
        return (self.qk_nope_head_dim + self.qk_rope_head_dim) ** -0.5 * stretch * stretch


TINY = Shape(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=32, index_topk=16, n_routed_experts=4,
             moe_intermediate_size=32, intermediate_size=64)


def yarn_frequencies(s: Shape) -> torch.Tensor:
    """Rotations a position, YaRN (Peng et al. 2023): fast pairs as they are, slow ones stretched by the factor."""
    R = s.qk_rope_head_dim
    plain = s.rope_theta ** (-torch.arange(0, R, 2, dtype=torch.float64) / R)
    turns_at = lambda turns: R * math.log(s.original_max_position_embeddings / (2 * math.pi * turns)) / (2 * math.log(s.rope_theta))
    low, high = max(math.floor(turns_at(32)), 0), min(math.ceil(turns_at(1)), R - 1)
    ramp = ((torch.arange(R // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return (plain / s.yarn_factor * ramp + plain * (1 - ramp)).float()


def rope_table(s: Shape, length: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.outer(torch.arange(length, dtype=torch.float32), yarn_frequencies(s)).to(device)
    return angle.cos(), angle.sin()


def rotate_interleaved(x, rope):
    """[B, T, n, R], pairs (2i, 2i+1): the attention's layout."""
    cos, sin = (t[None, :, None] for t in rope)
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


def rotate_halves(x, rope):
    """[B, T, n, R], pairs (i, i + R/2): the indexer's layout."""
    cos, sin = (t[None, :, None] for t in rope)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


def matrix(*shape, std=None):
    return nn.Parameter(torch.randn(*shape) * (std if std is not None else shape[-1] ** -0.5))


def rows(x, probe):
    """The probed rows of x [B, T, ...]; probe [B, n]."""
    index = probe.view(*probe.shape, *([1] * (x.dim() - 2))).expand(*probe.shape, *x.shape[2:])
    return x.gather(1, index)


class Indexer(nn.Module):
    """The lightning indexer. Its inputs come detached: it learns from its own loss alone."""

    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.wq_b, self.wk = matrix(s.index_n_heads * s.index_head_dim, s.q_lora_rank), matrix(s.index_head_dim, s.hidden_size)
        self.k_norm_weight, self.k_norm_bias = nn.Parameter(torch.ones(s.index_head_dim)), nn.Parameter(torch.zeros(s.index_head_dim))
        self.weights_proj = matrix(s.index_n_heads, s.hidden_size)

    def forward(self, x, q_latent, rope):
        s, (B, T, _) = self.s, x.shape
        R = s.qk_rope_head_dim
        q = linear(q_latent, self.wq_b).view(B, T, s.index_n_heads, s.index_head_dim)
        k = F.layer_norm(linear(x, self.wk).float(), (s.index_head_dim,), self.k_norm_weight, self.k_norm_bias, 1e-6).to(x.dtype).unsqueeze(2)
        q = torch.cat([rotate_halves(q[..., :R], rope), q[..., R:]], -1)
        k = torch.cat([rotate_halves(k[..., :R], rope), k[..., R:]], -1).squeeze(2)
        weights = F.linear(x.float(), self.weights_proj) * (s.index_n_heads ** -0.5 * s.index_head_dim ** -0.5)
        return q, k, weights


def index_scores(q, k, weights):
    """[B, t, heads, J] x [B, S, J] -> [B, t, S] float32."""
    dots = torch.einsum("bthj,bsj->bths", q, k).float().relu()
    return torch.einsum("bths,bth->bts", dots, weights)


@torch.no_grad()
def selection_mask(s: Shape, q, k, weights, chunk: int = 1024):
    """[B, T, T] bool: whether a query reads a key. Scored `chunk` queries at a time."""
    B, T = q.shape[:2]
    position = torch.arange(T, device=q.device)
    kept = torch.zeros((B, T, T), dtype=torch.bool, device=q.device)
    for t in range(0, T, chunk):
        scores = index_scores(q[:, t:t + chunk], k, weights[:, t:t + chunk])
        future = position[None, None] > position[None, t:t + chunk, None]
        best = scores.masked_fill(future, float("-inf")).topk(min(s.index_topk, T), -1, sorted=False).indices
        kept[:, t:t + chunk] = torch.zeros_like(future.expand_as(scores)).scatter(-1, best, True) & ~future
    return kept


def kept_by_itself(attention, topk):
    """The part of `attention` [..., S] in its own `topk` largest entries, as a mask."""
    best = attention.detach().topk(min(topk, attention.shape[-1]), -1, sorted=False).indices
    return torch.zeros_like(attention, dtype=torch.bool).scatter(-1, best, True)


def divergence(target, scores, kept):
    """KL from the softmax of `scores` to `target`, both over the `kept` keys."""
    target = target * kept
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-9)
    logs = scores.masked_fill(~kept, float("-inf")).log_softmax(-1).masked_fill(~kept, 0)
    return (target * (target.clamp(min=1e-12).log() - logs)).sum(-1).mean()


class Block(nn.Module):
    def __init__(self, s: Shape, layer: int):
        super().__init__()
        self.s, self.dense = s, layer < s.first_k_dense_replace
        D, H, depth = s.hidden_size, s.num_attention_heads, (2 * s.num_hidden_layers) ** -0.5 * 0.5
        self.input_norm, self.post_norm = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
        self.q_a, self.q_norm = matrix(s.q_lora_rank, D), nn.Parameter(torch.ones(s.q_lora_rank))
        self.q_b = matrix(H * (s.qk_nope_head_dim + s.qk_rope_head_dim), s.q_lora_rank)
        self.kv_a, self.kv_norm = matrix(s.kv_lora_rank + s.qk_rope_head_dim, D), nn.Parameter(torch.ones(s.kv_lora_rank))
        self.kv_b = matrix(H * (s.qk_nope_head_dim + s.v_head_dim), s.kv_lora_rank)
        self.o = matrix(D, H * s.v_head_dim, std=depth * (H * s.v_head_dim) ** -0.5)
        self.indexer = Indexer(s)
        inner = s.intermediate_size if self.dense else s.moe_intermediate_size
        self.gate_proj, self.up_proj, self.down_proj = matrix(inner, D), matrix(inner, D), matrix(D, inner, std=depth * inner ** -0.5)
        if not self.dense:
            E, I = s.n_routed_experts, s.moe_intermediate_size
            self.router = matrix(E, D)
            self.register_buffer("router_bias", torch.zeros(E))
            self.register_buffer("load", torch.zeros(E))
            self.experts_gate, self.experts_up = matrix(E, I, D), matrix(E, I, D)
            self.experts_down = matrix(E, D, I, std=depth * I ** -0.5)

    def norm(self, x, weight):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + self.s.rms_norm_eps) * weight).to(x.dtype)

    def heads(self, x, rope):
        """Query latent, and queries, keys and values of all heads [B, H, T, d]."""
        s, (B, T, _) = self.s, x.shape
        H, P, L = s.num_attention_heads, s.qk_nope_head_dim, s.kv_lora_rank
        q_latent = self.norm(linear(x, self.q_a), self.q_norm)
        q = linear(q_latent, self.q_b).view(B, T, H, -1)
        kv = linear(x, self.kv_a)
        k_rope = rotate_interleaved(kv[..., None, L:], rope)
        q = torch.cat([q[..., :P], rotate_interleaved(q[..., P:], rope)], -1)
        expanded = linear(self.norm(kv[..., :L], self.kv_norm), self.kv_b).view(B, T, H, -1)
        k = torch.cat([expanded[..., :P], k_rope.expand(-1, -1, H, -1)], -1)
        return q_latent, q.transpose(1, 2), k.transpose(1, 2), expanded[..., P:].transpose(1, 2)

    def attention_of(self, q, k, probe):
        """Attention of the probed queries over all keys, averaged over heads: [B, n, T]."""
        chosen = q.gather(2, probe[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
        logits = (chosen @ k.transpose(-1, -2)).float() * self.s.softmax_scale
        future = torch.arange(k.shape[2], device=k.device)[None, None, None] > probe[:, None, :, None]
        return logits.masked_fill(future, float("-inf")).softmax(-1).mean(1)

    def feed_forward(self, x):
        s = self.s
        shared = linear(F.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)
        if self.dense:
            return shared
        gate = torch.sigmoid(F.linear(x.float(), self.router))
        chosen = (gate.detach() + self.router_bias).topk(s.num_experts_per_tok, -1).indices
        weight = gate.gather(-1, chosen)
        weight = torch.zeros_like(gate).scatter(-1, chosen, weight / (weight.sum(-1, keepdim=True) + 1e-20))
        if self.training:
            with torch.no_grad():
                self.load.add_((weight > 0).float().sum((0, 1)))
        E, I, D = self.experts_gate.shape
        inner = F.silu(linear(x, self.experts_gate.reshape(E * I, D))) * linear(x, self.experts_up.reshape(E * I, D))
        inner = (inner.unflatten(-1, (E, I)) * weight.unsqueeze(-1).to(inner.dtype)).flatten(-2)
        return shared + linear(inner, self.experts_down.permute(1, 0, 2).reshape(D, E * I))

    def forward(self, h, rope, probe=None, sparse: bool = False):
        """The stream after the block, the spread loss and the indexer's loss of the probed queries."""
        x = self.norm(h, self.input_norm)
        q_latent, q, k, v = self.heads(x, rope)
        spread = wrong = h.new_zeros((), dtype=torch.float32)
        mask = None
        if sparse:
            iq, ik, iw = self.indexer(x.detach(), q_latent.detach(), rope)
            mask = selection_mask(self.s, iq.detach(), ik.detach(), iw.detach())
        if probe is not None:
            attention = self.attention_of(q, k, probe)
            kept = rows(mask, probe) if sparse else kept_by_itself(attention, self.s.index_topk)
            spread = -(attention * kept).sum(-1).clamp(min=1e-6).log().mean()
            if sparse:
                wrong = divergence(attention.detach(), index_scores(rows(iq, probe), ik, rows(iw, probe)), kept)
        bias = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf")).unsqueeze(1)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, scale=self.s.softmax_scale)
        h = h + linear(a.transpose(1, 2).flatten(2), self.o)
        return h + self.feed_forward(self.norm(h, self.post_norm)), spread, wrong


class Model(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.embedding, self.head = matrix(s.vocab_size, s.hidden_size, std=0.7), matrix(s.vocab_size, s.hidden_size, std=0.02)
        self.norm_weight = nn.Parameter(torch.ones(s.hidden_size))
        self.blocks = nn.ModuleList(Block(s, layer) for layer in range(s.num_hidden_layers))

    def embed(self, ids):
        return F.embedding(ids, self.embedding).to(torch.bfloat16 if ids.is_cuda else torch.float32)

    def final(self, h):
        return self.blocks[0].norm(h, self.norm_weight)

    def hidden(self, ids, rope, sparse: bool):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, rope, None, sparse)[0]
        return self.final(h)

    def loss(self, h, targets, weights):
        """Weighted cross entropy, 32K rows at a time so that the logits stay small."""
        h, targets, weights = self.final(h).flatten(0, 1), targets.flatten(), weights.flatten()
        total = h.new_zeros((), dtype=torch.float32)
        for part in range(0, len(h), 32768):
            rows_ = slice(part, part + 32768)
            total = total + torch.utils.checkpoint.checkpoint(self._loss_sum, h[rows_], targets[rows_], weights[rows_], use_reentrant=False)
        return total / weights.sum().clamp(min=1)

    def _loss_sum(self, h, targets, weights):
        return (F.cross_entropy(linear(h, self.head).float(), targets, reduction="none") * weights).sum()

    def parameters_of(self, indexer: bool):
        return [(n, p) for n, p in self.named_parameters() if (".indexer." in n) == indexer]

    @torch.no_grad()
    def balance_experts(self, step: float = 1e-3):
        """Moves router biases toward equal load, without a loss (DeepSeek-V3, section 2.1.2)."""
        for block in self.blocks:
            if not block.dense:
                block.router_bias += step * torch.sign(block.load.mean() - block.load)
                block.load.zero_()
