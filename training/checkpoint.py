"""Between the training model and the Hugging Face folder (`deepseek_v32`, bfloat16)."""
import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file

from model import Model, Shape

TOP = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight", "norm_weight": "model.norm.weight"}
BLOCK = {
    "input_norm": "input_layernorm.weight", "post_norm": "post_attention_layernorm.weight", "q_a": "self_attn.q_a_proj.weight",
    "q_norm": "self_attn.q_a_layernorm.weight", "q_b": "self_attn.q_b_proj.weight", "kv_a": "self_attn.kv_a_proj_with_mqa.weight",
    "kv_norm": "self_attn.kv_a_layernorm.weight", "kv_b": "self_attn.kv_b_proj.weight", "o": "self_attn.o_proj.weight",
    "indexer.wq_b": "self_attn.indexer.wq_b.weight", "indexer.wk": "self_attn.indexer.wk.weight",
    "indexer.k_norm_weight": "self_attn.indexer.k_norm.weight", "indexer.k_norm_bias": "self_attn.indexer.k_norm.bias",
    "indexer.weights_proj": "self_attn.indexer.weights_proj.weight", "router": "mlp.gate.weight",
    "router_bias": "mlp.gate.e_score_correction_bias"}
FEED_FORWARD = {"gate_proj": "gate_proj.weight", "up_proj": "up_proj.weight", "down_proj": "down_proj.weight"}
EXPERTS = {"experts_gate": "gate_proj.weight", "experts_up": "up_proj.weight", "experts_down": "down_proj.weight"}


def tensors(model: Model) -> dict:
    """Checkpoint name -> tensor. Stacked experts are views of their parts."""
    out = {TOP[n]: p for n, p in model.named_parameters(recurse=False)}
    for layer, block in enumerate(model.blocks):
        prefix, parts = f"model.layers.{layer}.", dict(block.named_parameters()) | dict(block.named_buffers())
        parts.pop("load", None)
        for name, p in parts.items():
            if name in BLOCK:
                out[prefix + BLOCK[name]] = p
            elif name in FEED_FORWARD:
                out[prefix + "mlp." + ("" if block.dense else "shared_experts.") + FEED_FORWARD[name]] = p
            else:
                for e in range(len(p)):
                    out[f"{prefix}mlp.experts.{e}.{EXPERTS[name]}"] = p[e]
    return out


def config(s: Shape) -> dict:
    """config.json of the model."""
    fields = {k: v for k, v in vars(s).items() if k not in ("yarn_factor", "original_max_position_embeddings")}
    rope = dict(type="yarn", factor=s.yarn_factor, original_max_position_embeddings=s.original_max_position_embeddings,
                beta_fast=32, beta_slow=1, mscale=1.0, mscale_all_dim=1.0)
    return dict(
        architectures=["DeepseekV32ForCausalLM"], model_type="deepseek_v32", **fields, num_key_value_heads=s.num_attention_heads,
        num_nextn_predict_layers=0, n_shared_experts=1, moe_layer_freq=1, n_group=1, topk_group=1, topk_method="noaux_tc",
        scoring_func="sigmoid", norm_topk_prob=True, routed_scaling_factor=1.0, hidden_act="silu", rope_scaling=rope,
        max_position_embeddings=int(s.original_max_position_embeddings * s.yarn_factor), attention_bias=False, attention_dropout=0.0,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, initializer_range=0.02, torch_dtype="bfloat16", use_cache=True)


def save(model: Model, tokenizer_folder: str, folder: str) -> None:
    """Writes the folder: config, generation config, tokenizer, weights in bfloat16 (the router's bias in float32)."""
    os.makedirs(folder, exist_ok=True)
    weights = {n: (p.detach().float() if n.endswith("e_score_correction_bias") else p.detach().bfloat16()).cpu().contiguous()
               for n, p in tensors(model).items()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    for name, content in (("config.json", config(model.s)),
                          ("generation_config.json", dict(bos_token_id=0, eos_token_id=1, do_sample=True, temperature=0.7, top_p=0.95))):
        with open(os.path.join(folder, name), "w") as out:
            json.dump(content, out, indent=2)
            out.write("\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(source := os.path.join(tokenizer_folder, name)) and not os.path.exists(os.path.join(folder, name)):
            shutil.copy(source, folder)


def decoded(stored: dict) -> dict:
    """The tensors with each FP8 one multiplied by its factors, which come one for 128 x 128 values."""
    def values(name):
        w, scale = stored[name], stored.get(name + "_scale_inv")
        if scale is None:
            return w
        spread = scale.float().repeat_interleave(128, 0).repeat_interleave(128, 1)
        return w.float() * spread[:w.shape[0], :w.shape[1]]
    return {n: values(n) for n in stored if not n.endswith("_scale_inv")}


@torch.no_grad()
def load(model: Model, folder: str) -> None:
    """Fills the model from a folder that `save` or quantize_fp8.py wrote. Every tensor must be there, in its shape, and no other."""
    stored, wanted = decoded(load_file(os.path.join(folder, "model.safetensors"))), tensors(model)
    if stored.keys() != wanted.keys():
        raise SystemExit(f"{folder}/model.safetensors: tensors differ: {sorted(stored.keys() ^ wanted.keys())[:5]}")
    for name, p in wanted.items():
        if stored[name].shape != p.shape:
            raise SystemExit(f"{folder}/model.safetensors: {name}: shape {list(stored[name].shape)}, expected {list(p.shape)}")
        p.copy_(stored[name])
