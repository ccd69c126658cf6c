#!/usr/bin/env python3
"""Writes a checkpoint of DeepSeek-V3.2's dimensions with random weights: for measuring what steps
cost, not for answers. It has no tokenizer.

    tools/make_synthetic.py OUT [--layers 3] [--experts 256] [--dense-layers 0] [--vocab 129280]

Weights are FP8 (E4M3, blocks of 128 by 128, power-of-two scales) as in the published checkpoint. A
layer with 256 experts takes 11.6 GB, embedding and head 3.7 GB.
"""
import argparse
import json
import os
import struct

import numpy as np

HIDDEN, HEADS, Q_RANK, LATENT, ROPE, NOPE, VALUE = 7168, 128, 1536, 512, 64, 128, 128
INDEX_HEADS, INDEX_DIM, EXPERT, DENSE = 64, 128, 2048, 18432


def config(args):
    return {
        "architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32",
        "vocab_size": args.vocab, "hidden_size": HIDDEN, "num_hidden_layers": args.layers,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "q_lora_rank": Q_RANK,
        "kv_lora_rank": LATENT, "qk_rope_head_dim": ROPE, "qk_nope_head_dim": NOPE,
        "v_head_dim": VALUE, "index_n_heads": INDEX_HEADS, "index_head_dim": INDEX_DIM,
        "index_topk": 2048, "n_routed_experts": args.experts, "num_experts_per_tok": 8,
        "moe_intermediate_size": EXPERT, "intermediate_size": DENSE,
        "first_k_dense_replace": args.dense_layers, "n_shared_experts": 1, "moe_layer_freq": 1,
        "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "norm_topk_prob": True, "routed_scaling_factor": 2.5, "hidden_act": "silu",
        "rms_norm_eps": 1e-06, "rope_theta": 10000, "num_nextn_predict_layers": 0,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                         "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
        "max_position_embeddings": 163840, "attention_bias": False, "tie_word_embeddings": False,
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    }


def tensors(args):
    """(name, dtype, shape) of all, in the order of the file."""
    def fp8(name, rows, columns):
        yield name, "F8_E4M3", (rows, columns)
        yield name + "_scale_inv", "F32", (-(-rows // 128), -(-columns // 128))

    def block(name, width):
        yield from fp8(name + ".gate_proj.weight", width, HIDDEN)
        yield from fp8(name + ".up_proj.weight", width, HIDDEN)
        yield from fp8(name + ".down_proj.weight", HIDDEN, width)

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        yield name, "BF16", (args.vocab, HIDDEN)
    yield "model.norm.weight", "BF16", (HIDDEN,)
    for layer in range(args.layers):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", "BF16", (HIDDEN,)
        yield at + "post_attention_layernorm.weight", "BF16", (HIDDEN,)
        attn = at + "self_attn."
        yield attn + "q_a_layernorm.weight", "BF16", (Q_RANK,)
        yield attn + "kv_a_layernorm.weight", "BF16", (LATENT,)
        yield from fp8(attn + "q_a_proj.weight", Q_RANK, HIDDEN)
        yield from fp8(attn + "q_b_proj.weight", HEADS * (NOPE + ROPE), Q_RANK)
        yield from fp8(attn + "kv_a_proj_with_mqa.weight", LATENT + ROPE, HIDDEN)
        yield from fp8(attn + "kv_b_proj.weight", HEADS * (NOPE + VALUE), LATENT)
        yield from fp8(attn + "o_proj.weight", HIDDEN, HEADS * VALUE)
        yield attn + "indexer.k_norm.weight", "BF16", (INDEX_DIM,)
        yield attn + "indexer.k_norm.bias", "BF16", (INDEX_DIM,)
        yield attn + "indexer.weights_proj.weight", "BF16", (INDEX_HEADS, HIDDEN)
        yield from fp8(attn + "indexer.wk.weight", INDEX_DIM, HIDDEN)
        yield from fp8(attn + "indexer.wq_b.weight", INDEX_HEADS * INDEX_DIM, Q_RANK)
        if layer < args.dense_layers:
            yield from block(at + "mlp", DENSE)
            continue
        yield at + "mlp.gate.weight", "BF16", (args.experts, HIDDEN)
        yield at + "mlp.gate.e_score_correction_bias", "F32", (args.experts,)
        yield from block(at + "mlp.shared_experts", EXPERT)
        for expert in range(args.experts):
            yield from block(at + f"mlp.experts.{expert}", EXPERT)


class Source:
    """Random bytes of each type: a piece of one pool, from a random place."""
    POOL = 256 << 20

    def __init__(self):
        random = np.random.default_rng(1)
        codes = random.integers(0, 256, self.POOL, dtype=np.uint8)
        codes[(codes & 0x7f) == 0x7f] = 0
        self.codes = codes
        normal = random.standard_normal(self.POOL // 8, dtype=np.float32) * 0.02
        self.bf16 = (normal.view(np.uint32) >> 16).astype(np.uint16)
        self.random = random

    def write(self, file, name, dtype, count):
        if "norm" in name and name.endswith("weight"):
            file.write(np.full(count, 0x3f80, np.uint16).tobytes())
            return
        if dtype == "F32":
            value = 2.0**-12 if name.endswith("scale_inv") else 0.0
            file.write(np.full(count, value, np.float32).tobytes())
            return
        pool = self.codes if dtype == "F8_E4M3" else self.bf16
        while count > 0:
            first = int(self.random.integers(0, len(pool) // 2)) // 16 * 16
            part = min(count, len(pool) - first)
            file.write(memoryview(pool[first:first + part]))
            count -= part


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--experts", type=int, default=256)
    parser.add_argument("--dense-layers", type=int, default=0)
    parser.add_argument("--vocab", type=int, default=129280)
    args = parser.parse_args()
    size = {"F8_E4M3": 1, "BF16": 2, "F32": 4}
    header, at = {}, 0
    for name, dtype, shape in tensors(args):
        count = int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [at, at + count * size[dtype]]}
        at += count * size[dtype]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 256)
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "config.json"), "w") as file:
        json.dump(config(args), file, indent=2)
    source = Source()
    with open(os.path.join(args.out, "model.safetensors"), "wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in header.items():
            source.write(file, name, tensor["dtype"], int(np.prod(tensor["shape"])))
    print(f"{args.out}: {at / 1e9:.1f} GB, {len(header)} tensors")


if __name__ == "__main__":
    main()
