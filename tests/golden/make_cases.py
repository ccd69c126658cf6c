#!/usr/bin/env python3
"""Makes the golden cases: small random checkpoints and what transformers computes from them.

    make_cases.py OUT [NAME…]       the committed cases, or some of them, under OUT
    make_cases.py --stress OUT [N]  N larger random cases (default 10), not for the repository
    make_cases.py --check DIR…      recomputes existing cases and prints how far they are off

The reference is transformers' own modelling code in float32 on the CPU (attention "eager"), from the
weights as stored: bf16 and f16 widened, FP8 multiplied by its block scale. It is changed in two
points, both Winnow's rules: the indexer breaks ties by the lower position (torch leaves them open),
and for GLM `indexer_rope_interleave: true` turns pairs (2i, 2i+1), which transformers 5.12 ignores.

Needs torch, transformers 5.12 and safetensors; tests do not: they read what is committed.
"""
import json
import os
import random
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.deepseek_v32 import modeling_deepseek_v32 as v32_code
from transformers.models.glm_moe_dsa import modeling_glm_moe_dsa as glm_code

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "fp8": torch.bfloat16}
BLOCK = 128
E4M3_MAX = 448.0

# ------------------------------------------------------------------------------- the committed cases
# "config" is written to config.json as it stands, on top of BASE. Keys that only steer this script:
# dtype, prompt, greedy, positions (how many have logits), shards, scales ("float" or "power of two"),
# seed (the first one tried), margin (how close a choice may be; other seeds are tried until none is).
BASE = {
    "vocab_size": 160, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16,
    "v_head_dim": 16, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 12,
    "intermediate_size": 128, "moe_intermediate_size": 32, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 3, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hidden_act": "silu",
    "max_position_embeddings": 4096, "attention_bias": False, "tie_word_embeddings": False,
    "bos_token_id": 0, "eos_token_id": 1,
}
V32 = {
    "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32", "rms_norm_eps": 1e-6,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1,
    "num_nextn_predict_layers": 1, "rope_theta": 10000,
}
GLM = {
    "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
}


def yarn(**more):
    """rope_scaling as DeepSeek writes it."""
    return {"type": "yarn", "factor": 8, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 512, **more}


CASES = {
    "v32-groups-f32": dict(
        about="YaRN, 12 experts in 3 groups of which 2 are kept, two shared experts",
        dtype="f32", prompt=80, family=V32, config=dict(
            rope_scaling=yarn(original_max_position_embeddings=64, factor=16), n_routed_experts=12, n_group=3,
            topk_group=2, num_experts_per_tok=4, n_shared_experts=2, num_hidden_layers=2, moe_intermediate_size=20)),
    "v32-odd-bf16": dict(
        about="sizes that divide nothing, biases, tied embeddings, no shared expert, no dense layer, "
              "routing weights that are not normalised",
        dtype="bf16", prompt=75, family=V32, config=dict(
            vocab_size=151, hidden_size=90, num_attention_heads=3, q_lora_rank=42, kv_lora_rank=50,
            qk_nope_head_dim=20, qk_rope_head_dim=6, v_head_dim=22, index_n_heads=5, index_head_dim=16,
            index_topk=11, moe_intermediate_size=27, n_routed_experts=5, num_experts_per_tok=2,
            n_shared_experts=0, first_k_dense_replace=0, norm_topk_prob=False,
            routed_scaling_factor=1.7, attention_bias=True, tie_word_embeddings=True, rope_theta=50000.0)),
    "v32-ragged-fp8": dict(
        about="FP8 with ragged edge blocks and scales that are no powers of two; weights and scales in "
              "different shards, and an index that lacks the scales",
        dtype="fp8", scales="float", shards=3, prompt=100, family=V32, config=dict(
            hidden_size=200, num_hidden_layers=2, num_attention_heads=3, q_lora_rank=136, kv_lora_rank=72,
            qk_nope_head_dim=40, v_head_dim=56, index_n_heads=9, index_topk=17, intermediate_size=136,
            moe_intermediate_size=140, n_routed_experts=3, num_experts_per_tok=2,
            rope_scaling=yarn(rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0))),
    "v32-heads-fp8": dict(
        about="the head sizes of the big models (latent 512, rope 64, index 128), FP8 with "
              "power-of-two scales",
        dtype="fp8", scales="power of two", prompt=144, family=V32, config=dict(
            vocab_size=128, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=96, kv_lora_rank=512,
            qk_nope_head_dim=32, qk_rope_head_dim=64, v_head_dim=32, index_n_heads=6,
            index_head_dim=128, index_topk=40, n_routed_experts=4, num_experts_per_tok=1, n_group=2,
            topk_group=1, rope_scaling=yarn(factor=40, original_max_position_embeddings=4096),
            max_position_embeddings=163840)),
    "v32-short-f16": dict(
        about="index_topk beyond the context, only dense layers, f16, plain RoPE in the newest spelling",
        dtype="f16", prompt=40, family=V32, config=dict(
            num_hidden_layers=2, first_k_dense_replace=2, index_topk=2048, rope_theta=None,
            rope_parameters={"rope_theta": 500000.0, "rope_type": "default"})),
    "v32-top1-f32": dict(
        about="one selected token, every second layer a mixture (moe_layer_freq), mscale and "
              "mscale_all_dim that differ, q_lora_rank smaller than a head",
        dtype="f32", prompt=60, family=V32, config=dict(
            num_hidden_layers=4, hidden_size=48, index_topk=1, moe_layer_freq=2, q_lora_rank=14, n_routed_experts=4,
            rope_scaling=yarn(mscale=0.707, mscale_all_dim=1.3, factor=5.5))),
    "v32-long-bf16": dict(
        about="1,536 tokens of context with 10 selected",
        dtype="bf16", prompt=1536, greedy=4, positions=12, margin=5e-6, family=V32, config=dict(
            num_hidden_layers=2, index_n_heads=12, index_topk=10,
            rope_scaling=yarn(original_max_position_embeddings=256, factor=16))),
    "glm-pattern-bf16": dict(
        about="interleaved index RoPE; index_topk_pattern as text; value heads wider than keys",
        dtype="bf16", shards=2, prompt=90, family=GLM, config=dict(
            num_hidden_layers=6, index_topk_pattern="FSFFSS", indexer_rope_interleave=True, v_head_dim=40,
            qk_nope_head_dim=24, first_k_dense_replace=2, head_dim=192, moe_intermediate_size=24, n_routed_experts=4,
            num_experts_per_tok=2, eos_token_id=[1, 2, 3])),
    "glm-freq-f16": dict(
        about="shared index layers by index_topk_freq and offset; an FFN list; no interleave flag, "
              "which means half-split index RoPE",
        dtype="f16", prompt=72, family=GLM, config=dict(
            num_hidden_layers=5, index_topk_freq=3, index_skip_topk_offset=2, n_group=2, topk_group=1,
            n_routed_experts=4, num_experts_per_tok=2, mlp_layer_types=["dense", "sparse", "dense", "sparse", "sparse"])),
    "glm-list-f32": dict(
        about="indexer_types as a list and YaRN over interleaved index RoPE",
        dtype="f32", prompt=66, family=GLM, config=dict(
            num_hidden_layers=3, indexer_types=["full", "shared", "full"],
            indexer_rope_interleave=True, hidden_size=56, n_routed_experts=4, num_experts_per_tok=2,
            rope_parameters={**yarn(), "rope_theta": 8000000, "rope_type": "yarn"})),
}


def stress_cases(count):
    """Larger cases from a fixed seed: both families, all types, contexts up to 4,000 tokens."""
    r = random.Random(20)
    for number in range(count):
        family = [V32, GLM][number % 2]
        dtype = ["f32", "fp8", "bf16", "f16", "fp8"][number % 5]
        real = number % 3 == 0
        groups = r.choice([1, 2, 4])
        layers = r.choice([2, 3])
        config = dict(
            vocab_size=r.randrange(300, 900), hidden_size=r.choice([192, 250, 320, 384]), num_hidden_layers=layers,
            num_attention_heads=r.choice([2, 3, 5, 8]), q_lora_rank=r.choice([64, 129, 192]),
            kv_lora_rank=512 if real else r.choice([64, 100, 256]),
            qk_nope_head_dim=r.choice([32, 50, 128]), qk_rope_head_dim=64 if real else r.choice([8, 20, 32]),
            v_head_dim=r.choice([32, 60, 128]), index_n_heads=r.choice([8, 12, 16]),
            index_head_dim=128 if real else r.choice([32, 64]), index_topk=r.choice([16, 64, 100, 256]),
            intermediate_size=r.choice([300, 512]), moe_intermediate_size=r.choice([64, 130, 192]),
            n_routed_experts=4 * groups, num_experts_per_tok=r.choice([1, 2, 3]), n_group=groups,
            topk_group=max(1, groups // 2), n_shared_experts=r.choice([0, 1, 2]),
            norm_topk_prob=r.random() < 0.5, first_k_dense_replace=r.choice([0, 1]),
            attention_bias=r.random() < 0.3, tie_word_embeddings=r.random() < 0.3,
            max_position_embeddings=65536)
        if family is V32:
            config["rope_scaling"] = yarn(factor=r.choice([4, 16, 40]),
                                          original_max_position_embeddings=r.choice([1024, 4096]))
        else:
            config["indexer_rope_interleave"] = r.random() < 0.7
            config["indexer_types"] = ["full", "shared", "full"][:layers]
        prompt = [4000, 700, 2500, 1300, 3200][number % 5]
        yield f"stress-{number:02d}-{'v32' if family is V32 else 'glm'}-{dtype}", dict(
            about="random", dtype=dtype, scales=r.choice(["float", "power of two"]), shards=r.choice([1, 2, 4]),
            prompt=prompt, greedy=3, positions=24, family=family, config=config, seed=100 + number, margin=-1.0)


# ------------------------------------------------------------------------------- weights
def layer_is_moe(config, layer):
    if "mlp_layer_types" in config:
        return config["mlp_layer_types"][layer] == "sparse"
    return layer >= config["first_k_dense_replace"] and layer % config.get("moe_layer_freq", 1) == 0


def indexer_types(config):
    if "indexer_types" in config:
        return config["indexer_types"]
    layers = config["num_hidden_layers"]
    if "index_topk_pattern" in config:
        return [{"F": "full", "S": "shared"}[c] for c in config["index_topk_pattern"]]
    freq, offset = config.get("index_topk_freq", 1), config.get("index_skip_topk_offset", 2)
    return ["full" if max(i - offset + 1, 0) % freq == 0 else "shared" for i in range(layers)]


def make_weights(config, seed):
    """All tensors of the checkpoint in float32, spread so that heads, experts and selections matter."""
    g = torch.Generator().manual_seed(seed)
    c, w = config, {}

    def matrix(name, rows, columns, gain=1.0):
        w[name] = torch.randn(rows, columns, generator=g) * gain * columns ** -0.5

    def vector(name, size, mean=1.0, spread=0.1):
        w[name] = mean + spread * torch.randn(size, generator=g)

    def ffn(name, width):
        matrix(f"{name}.gate_proj.weight", width, c["hidden_size"])
        matrix(f"{name}.up_proj.weight", width, c["hidden_size"])
        matrix(f"{name}.down_proj.weight", c["hidden_size"], width)

    hidden, heads, q_rank, rank = (c[k] for k in ("hidden_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank"))
    nope, rope, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    matrix("model.embed_tokens.weight", c["vocab_size"], hidden, gain=hidden ** 0.5 * 0.8)
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        a = p + "self_attn."
        vector(p + "input_layernorm.weight", hidden)
        vector(p + "post_attention_layernorm.weight", hidden)
        matrix(a + "q_a_proj.weight", q_rank, hidden)
        vector(a + "q_a_layernorm.weight", q_rank)
        matrix(a + "q_b_proj.weight", heads * (nope + rope), q_rank, gain=1.4)
        matrix(a + "kv_a_proj_with_mqa.weight", rank + rope, hidden)
        vector(a + "kv_a_layernorm.weight", rank)
        matrix(a + "kv_b_proj.weight", heads * (nope + value), rank, gain=1.4)
        matrix(a + "o_proj.weight", hidden, heads * value)
        if c["attention_bias"]:
            vector(a + "q_a_proj.bias", q_rank, mean=0.0)
            vector(a + "kv_a_proj_with_mqa.bias", rank + rope, mean=0.0)
            vector(a + "o_proj.bias", hidden, mean=0.0)
        if indexer_types(c)[layer] == "full":
            matrix(a + "indexer.wq_b.weight", c["index_n_heads"] * c["index_head_dim"], q_rank)
            matrix(a + "indexer.wk.weight", c["index_head_dim"], hidden)
            vector(a + "indexer.k_norm.weight", c["index_head_dim"])
            vector(a + "indexer.k_norm.bias", c["index_head_dim"], mean=0.0)
            matrix(a + "indexer.weights_proj.weight", c["index_n_heads"], hidden)
        if layer_is_moe(c, layer):
            matrix(p + "mlp.gate.weight", c["n_routed_experts"], hidden)
            vector(p + "mlp.gate.e_score_correction_bias", c["n_routed_experts"], mean=0.0, spread=0.2)
            for expert in range(c["n_routed_experts"]):
                ffn(f"{p}mlp.experts.{expert}", c["moe_intermediate_size"])
            if c["n_shared_experts"]:
                ffn(p + "mlp.shared_experts", c["n_shared_experts"] * c["moe_intermediate_size"])
        else:
            ffn(p + "mlp", c["intermediate_size"])
    vector("model.norm.weight", hidden)
    if not c["tie_word_embeddings"]:
        matrix("lm_head.weight", c["vocab_size"], hidden, gain=3.0)
    return w


def is_quantized(name):
    """The matrices that DeepSeek and GLM store as FP8."""
    return name.endswith("_proj.weight") and "weights_proj" not in name or name.endswith(
        ("kv_a_proj_with_mqa.weight", "indexer.wq_b.weight", "indexer.wk.weight"))


def quantize(matrix, scales):
    """E4M3 values and one float32 factor a block of 128×128, edge blocks as large as they are."""
    rows, columns = matrix.shape
    scale = torch.empty(-(-rows // BLOCK), -(-columns // BLOCK))
    values = torch.empty_like(matrix)
    for i in range(scale.shape[0]):
        for k in range(scale.shape[1]):
            part = (slice(i * BLOCK, (i + 1) * BLOCK), slice(k * BLOCK, (k + 1) * BLOCK))
            s = matrix[part].abs().max() / E4M3_MAX
            scale[i, k] = torch.exp2(torch.ceil(torch.log2(s))) if scales == "power of two" else s
            values[part] = matrix[part] / scale[i, k]
    return values.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale


def dequantize(stored):
    """What the weights mean, in float32."""
    out = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        t = tensor.to(torch.float32)
        scale = stored.get(name + "_scale_inv")
        if scale is not None:
            t = t * scale.repeat_interleave(BLOCK, 0)[: t.shape[0]].repeat_interleave(BLOCK, 1)[:, : t.shape[1]]
        out[name] = t
    return out


def store(weights, case):
    """The tensors as they lie in the file."""
    out = {}
    for name, tensor in weights.items():
        if name.endswith("e_score_correction_bias"):
            out[name] = tensor
        elif case["dtype"] == "fp8" and is_quantized(name):
            out[name], out[name + "_scale_inv"] = quantize(tensor, case["scales"])
        else:
            out[name] = tensor.to(DTYPES[case["dtype"]])
    return out


def write_checkpoint(folder, config, stored, shards):
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    if shards == 1:
        save_file(stored, f"{folder}/model.safetensors", metadata={"format": "pt"})
        return
    # Round robin, and a scale never beside its weight; the index is written without the scales.
    names = sorted(n for n in stored if not n.endswith("_scale_inv"))
    home = {name: i % shards for i, name in enumerate(names)}
    for name in stored:
        if name.endswith("_scale_inv"):
            home[name] = (home[name[: -len("_scale_inv")]] + 1) % shards
    file = lambda i: f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    for i in range(shards):
        save_file({n: t for n, t in stored.items() if home[n] == i}, f"{folder}/{file(i)}", metadata={"format": "pt"})
    with open(f"{folder}/model.safetensors.index.json", "w") as f:
        json.dump({"metadata": {"total_size": sum(t.nbytes for t in stored.values())},
                   "weight_map": {n: file(home[n]) for n in names}}, f, indent=1)
        f.write("\n")


def read_checkpoint(folder):
    stored = {}
    for file in sorted(os.listdir(folder)):
        if file.startswith("model") and file.endswith(".safetensors"):
            stored.update(load_file(f"{folder}/{file}"))
    return stored


# ------------------------------------------------------------------------------- the reference
class Recorder:
    """Stands in for torch.topk inside the indexer: stable, and remembers how close the choices were."""

    def __init__(self):
        self.real_topk = torch.Tensor.topk
        self.index_rope_interleave = False
        self.reset()

    def reset(self):
        self.selection_margin, self.ties, self.last = float("inf"), 0, []

    def topk(self, scores, k, dim=-1):
        values, order = torch.sort(scores, dim=dim, descending=True, stable=True)
        visible = (values[0] > torch.finfo(values.dtype).min / 2).sum(-1)  # what the causal mask leaves
        v = values[0][visible > k]
        if len(v):
            edge, inf = v[:, k - 1 : k], float("inf")
            plateau = v[:, k] == edge[:, 0]
            # On a plateau across the edge, what counts is how far its neighbours are from it.
            nearest = torch.where(v == edge, inf, (v - edge).abs()).amin(-1)
            gaps = torch.where(plateau, nearest, edge[:, 0] - v[:, k])
            self.ties += int(plateau.sum())
            self.selection_margin = min(self.selection_margin, gaps.min().item())
        chosen = order[0, -1, : min(k, int(visible[-1]))]
        self.last.append(sorted(chosen.tolist()))
        return torch.return_types.topk((values[..., :k], order[..., :k]))

    def install(self):
        for indexer in (v32_code.DeepseekV32Indexer, glm_code.GlmMoeDsaIndexer):
            indexer.forward = self.wrap(indexer.forward)
        half_split = glm_code.apply_rotary_pos_emb
        glm_code.apply_rotary_pos_emb = lambda *a, **k: (
            glm_code.apply_rotary_pos_emb_interleave if self.index_rope_interleave else half_split)(*a, **k)

    def wrap(self, forward):
        def wrapped(module, *args, **kwargs):
            torch.Tensor.topk = lambda scores, k, dim=-1: self.topk(scores, k, dim)
            try:
                return forward(module, *args, **kwargs)
            finally:
                torch.Tensor.topk = self.real_topk
        return wrapped


RECORDER = Recorder()


def routing_margin(moe, logits):
    """How close the router came to choosing another group or expert."""
    choice = logits.sigmoid() + moe.gate.e_score_correction_bias
    margin = float("inf")
    if moe.topk_group < moe.n_group:
        groups = choice.view(-1, moe.n_group, choice.shape[1] // moe.n_group)
        sums = groups.topk(2, -1)[0].sum(-1)
        top = sums.sort(-1, descending=True).values
        margin = (top[:, moe.topk_group - 1] - top[:, moe.topk_group]).min().item()
        kept = torch.zeros_like(sums).scatter(1, sums.topk(moe.topk_group, -1).indices, 1.0)
        choice = groups.masked_fill(kept.unsqueeze(-1) == 0, float("-inf")).flatten(1)
    top = choice.sort(-1, descending=True).values
    if moe.top_k < choice.shape[1]:
        gap = top[:, moe.top_k - 1] - top[:, moe.top_k]
        margin = min(margin, gap.min().item())
    return margin


def load_model(folder):
    """The transformers model of a case, in float32 with dequantized weights."""
    raw = json.load(open(f"{folder}/config.json"))
    with tempfile.TemporaryDirectory() as temporary:
        save_file(dequantize(read_checkpoint(folder)), f"{temporary}/model.safetensors", metadata={"format": "pt"})
        plain = {k: v for k, v in raw.items() if k != "quantization_config"}
        json.dump(plain, open(f"{temporary}/config.json", "w"))
        config = AutoConfig.from_pretrained(temporary)
        config.num_experts = raw["n_routed_experts"]  # transformers reads this one
        config.mlp_layer_types = ["sparse" if layer_is_moe(raw, i) else "dense" for i in range(raw["num_hidden_layers"])]
        model, info = AutoModelForCausalLM.from_pretrained(
            temporary, config=config, dtype=torch.float32, attn_implementation="eager",
            experts_implementation="eager", output_loading_info=True)
    missing = {k for k in info["missing_keys"] if "shared_experts" not in k or raw["n_shared_experts"]}
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], info
    RECORDER.index_rope_interleave = bool(raw.get("indexer_rope_interleave", False))
    return model.eval(), raw


def reference(folder, prompt, positions, greedy_count, least_margin=-1.0):
    """The tensors of expected.safetensors (None if a choice was closer than least_margin), and the margins."""
    model, raw = load_model(folder)
    hidden, routing = {}, [float("inf")]
    for number, layer in enumerate(model.model.layers):
        def keep(module, args, output, number=number):
            hidden[number] = (output[0] if isinstance(output, tuple) else output)[0, -1].clone()
        layer.register_forward_hook(keep)
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(
                lambda m, a, out, moe=layer.mlp: routing.append(routing_margin(moe, out.view(-1, out.shape[-1]))))
    RECORDER.reset()
    with torch.no_grad():
        logits = model(prompt[None], use_cache=False).logits[0]
        owners = [i for i, kind in enumerate(indexer_types(raw)) if kind == "full"]
        expected = {"prompt_ids": prompt.to(torch.int32), "logit_positions": torch.tensor(positions, dtype=torch.int32),
                    "logits": logits[positions].contiguous()}
        for layer, chosen in zip(owners, RECORDER.last):
            expected[f"topk_last.{layer}"] = torch.tensor(chosen, dtype=torch.int32)
        for layer, h in hidden.items():
            expected[f"hidden_last.{layer}"] = h
        if min(RECORDER.selection_margin, *routing) <= least_margin:
            return None, {"smallest_selection_margin": RECORDER.selection_margin}
        ids, rows, top1 = prompt, [logits[-1]], float("inf")
        for step in range(greedy_count):
            best = rows[-1].topk(2).values
            top1 = min(top1, (best[0] - best[1]).item())
            ids = torch.cat([ids, rows[-1].argmax()[None]])
            if step + 1 < greedy_count:
                rows.append(model(ids[None], use_cache=False).logits[0, -1])
    expected["greedy_ids"] = ids[len(prompt):].to(torch.int32)
    expected["greedy_logits"] = torch.stack(rows)
    margins = {"smallest_selection_margin": RECORDER.selection_margin, "rows_with_exact_ties_at_k": RECORDER.ties,
               "smallest_routing_margin": min(routing), "smallest_top1_margin": top1}
    return expected, {k: (None if v == float("inf") else v) for k, v in margins.items()}


def make_case(folder, name, case):
    case = {"greedy": 8, "positions": 24, "shards": 1, "scales": None, "seed": 1, "margin": 2e-5, **case}
    config = {k: v for k, v in {**BASE, **case["family"], **case["config"]}.items() if v is not None}
    config["num_key_value_heads"] = config["num_attention_heads"]
    config["dtype" if "rope_parameters" in config else "torch_dtype"] = str(DTYPES[case["dtype"]]).split(".")[1]
    if case["dtype"] == "fp8":
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK],
                                         "activation_scheme": "dynamic"}
        if case["scales"] == "power of two":
            config["quantization_config"]["scale_fmt"] = "ue8m0"
    count, wanted = case["prompt"], min(case["positions"], case["prompt"])
    positions = sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})
    for seed in range(case["seed"], case["seed"] + 400):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        write_checkpoint(folder, config, store(make_weights(config, seed), case), case["shards"])
        g = torch.Generator().manual_seed(seed + 1000)
        prompt = torch.randint(2, config["vocab_size"], (count,), generator=g)
        expected, margins = reference(folder, prompt, positions, case["greedy"], case["margin"])
        enough = lambda key, least: margins[key] is None or margins[key] > least
        if expected and (case["margin"] < 0 or enough("smallest_selection_margin", case["margin"])
                         and enough("smallest_routing_margin", case["margin"]) and enough("smallest_top1_margin", 5e-3)):
            break
    else:
        sys.exit(f"{name}: no seed gives margins wide enough, the last {margins}")
    save_file(expected, f"{folder}/expected.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/case.json", "w") as f:
        json.dump({"name": name, "about": case["about"], "seed": seed, "stored": case["dtype"],
                   "block_scales": case["scales"] if case["dtype"] == "fp8" else None, "prompt_tokens": count,
                   "greedy_tokens": case["greedy"], **margins, "transformers": transformers.__version__,
                   "torch": torch.__version__, "computed": "float32 on the CPU from the stored weights, eager attention",
                   "ties": "higher score first, then lower position"}, f, indent=1)
        f.write("\n")
    size = sum(os.path.getsize(f"{folder}/{x}") for x in os.listdir(folder))
    print(f"{name}: seed {seed}, {size / 1e3:.0f} kB, {margins}, logits' deviation {expected['logits'].std():.2f}", flush=True)


def check_case(folder):
    with safe_open(f"{folder}/expected.safetensors", "pt") as f:
        old = {k: f.get_tensor(k) for k in f.keys()}
    new, margins = reference(folder, old["prompt_ids"].long(), old["logit_positions"].tolist(), len(old["greedy_ids"]))
    off = {k: (new[k].float() - t.float()).abs().max().item() for k, t in old.items() if k in new}
    absent = sorted(k for k in old if k not in new)
    print(f"{folder}: largest difference {max(off.values()):.2e} in {max(off, key=off.get)}, not recomputed: {absent}, {margins}")


def main(arguments):
    RECORDER.install()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if len(arguments) < 1 or arguments[0] in ("-h", "--help"):
        sys.exit(__doc__)
    if arguments[0] == "--check":
        for folder in arguments[1:]:
            check_case(folder)
    elif arguments[0] == "--stress":
        for name, case in stress_cases(int(arguments[2]) if len(arguments) > 2 else 10):
            make_case(f"{arguments[1]}/{name}", name, case)
    else:
        for name, case in CASES.items():
            if len(arguments) == 1 or name in arguments[1:]:
                make_case(f"{arguments[0]}/{name}", name, case)


if __name__ == "__main__":
    main(sys.argv[1:])
