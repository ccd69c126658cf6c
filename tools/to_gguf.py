#!/usr/bin/env python3
"""Converts a deepseek_v32 checkpoint (FP8 in blocks of 128 x 128, bf16, f16 or f32) to GGUF for llama.cpp.

    tools/to_gguf.py MODEL_DIR OUTPUT.gguf [--type bf16|f32] [--dense]

Matrices become bf16 (or f32), vectors f32, and so do the router and the indexer's weights_proj, whose results
choose. FP8 codes are multiplied by their block's factor; with factors that are powers of two, as in
winnow-nano, the product is a bf16 number and nothing is rounded; otherwise the report says how many values
were. Names and fields are those that llama.cpp 0.7 reads for its architecture deepseek32. --dense writes
deepseek2 without the indexer's matrices: the same network, every token attending to all before it.

kv_b_proj [heads * (nope + v), latent] becomes attn_k_b [heads, latent, nope] and attn_v_b [heads, v, latent];
the experts of a layer become one tensor [experts, out, in]; layers of multi-token prediction are left out.
The model is held in memory. Needs the standard library only.
"""

import argparse
import array
import json
import math
import mmap
import os
import pathlib
import re
import struct
import sys

ALIGNMENT = 32
F32, BF16 = 0, 30  # ggml's numbers of the two types
WIDTHS = {"F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's kinds of token
SIGMOID = 2

# The three patterns that llama.cpp calls "deepseek-v3".
SPLIT_PATTERNS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+".replace(r"\"", '"'),
]

LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
    "self_attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
    "self_attn.indexer.wk.weight": "indexer.attn_k.weight",
    "self_attn.indexer.k_norm.weight": "indexer.k_norm.weight",
    "self_attn.indexer.k_norm.bias": "indexer.k_norm.bias",
    "self_attn.indexer.weights_proj.weight": "indexer.proj.weight",
}
ALWAYS_F32 = ("ffn_gate_inp.weight", "indexer.proj.weight")


def complain(message):
    sys.exit(f"to_gguf: {message}")


def e4m3_value(code):
    exponent, mantissa = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    value = mantissa * 2.0 ** -9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -value if code & 128 else value


E4M3 = [e4m3_value(code) for code in range(256)]


def to_f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def to_bf16(values):
    """(the nearest bf16 numbers, ties to even; whether each was changed by that)"""
    bits = struct.unpack(f"<{len(values)}I", to_f32(values))
    rounded = (0x7FC0 if value & 0x7FFFFFFF > 0x7F800000 else value + 0x7FFF + (value >> 16 & 1) >> 16
               for value in bits)
    return struct.pack(f"<{len(bits)}H", *rounded), [value & 0xFFFF != 0 for value in bits]


class Checkpoint:
    """The tensors of a folder's safetensors files, taken off a list as they are asked for."""

    def __init__(self, folder, block):
        self.block = block
        self.entries = {}
        self.rounded = 0  # values that were no bf16 numbers
        self.tables = {}
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            complain(f"{folder}: no *.safetensors")
        for shard in shards:
            with open(shard, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(data[:8], "little")
            if start > len(data):
                complain(f"{shard}: a header of {start - 8} bytes, the file has {len(data)}")
            for name, entry in json.loads(data[8:start]).items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    self.entries[name] = (entry["dtype"], entry["shape"], memoryview(data)[start + begin:start + end])

    def take(self, name, shape, wanted):
        """bytes of the tensor, row-major, in the wanted type"""
        if name not in self.entries:
            complain(f"{name}: missing from the checkpoint")
        dtype, found, view = self.entries.pop(name)
        if dtype not in WIDTHS:
            complain(f"{name}: type {dtype}, expected one of {', '.join(WIDTHS)}")
        if list(found) != list(shape) or len(view) != math.prod(shape) * WIDTHS[dtype]:
            complain(f"{name}: shape {list(found)} in {len(view)} bytes, expected {list(shape)}")
        data = bytes(view)
        if dtype == "F8_E4M3":
            return self.take_scaled(name, data, shape, wanted)
        if (dtype, wanted) in (("BF16", BF16), ("F32", F32)):
            return data
        if dtype == "BF16":
            result = bytearray(2 * len(data))
            result[2::4], result[3::4] = data[0::2], data[1::2]
            return bytes(result)
        values = struct.unpack(f"<{math.prod(shape)}{'e' if dtype == 'F16' else 'f'}", data)
        if wanted == F32:
            return to_f32(values)
        result, changed = to_bf16(values)
        self.rounded += sum(changed)
        return result

    def table(self, factor, wanted):
        """(for each byte of a result: what each code has there; the codes whose value is rounded)"""
        if (factor, wanted) not in self.tables:
            values = [value * factor for value in E4M3]
            data, changed = (to_f32(values), [False] * 256) if wanted == F32 else to_bf16(values)
            width = len(data) // 256
            self.tables[factor, wanted] = ([data[place::width] for place in range(width)],
                                           [code for code in range(256) if changed[code]])
        return self.tables[factor, wanted]

    def take_scaled(self, name, codes, shape, wanted):
        if self.block is None or len(shape) != 2:
            complain(f"{name}: F8_E4M3 of shape {shape}, expected a matrix and weight_block_size in config.json")
        height, width = self.block
        across = -(-shape[1] // width)
        blocks = [-(-shape[0] // height), across]
        factors = struct.unpack(f"<{math.prod(blocks)}f", self.take(name + "_scale_inv", blocks, F32))
        lines = []
        for row in range(shape[0]):
            for column in range(across):
                begin = row * shape[1] + column * width
                piece = codes[begin:min(begin + width, (row + 1) * shape[1])]
                tables, rounded = self.table(factors[row // height * across + column], wanted)
                self.rounded += sum(map(piece.count, rounded))
                line = bytearray(len(tables) * len(piece))
                for place, table in enumerate(tables):
                    line[place::len(tables)] = piece.translate(table)
                lines.append(line)
        return b"".join(lines)


class Gguf:
    """A GGUF file of version 3 in the making: fields, then tensors, in the order they are added."""

    SCALARS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?")}

    def __init__(self, architecture):
        self.architecture = architecture
        self.fields, self.tensors = [], []
        self.add("general.architecture", "string", architecture)

    @staticmethod
    def string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def value(self, kind, value):
        """(number of the type, bytes)"""
        if kind == "string":
            return 8, self.string(value)
        if kind.startswith("array "):
            parts = [self.value(kind[6:], item) for item in value]
            return 9, struct.pack("<IQ", parts[0][0], len(parts)) + b"".join(data for _, data in parts)
        number, form = self.SCALARS[kind]
        return number, struct.pack(form, value)

    def add(self, name, kind, value):
        number, data = self.value(kind, value)
        self.fields.append(self.string(name) + struct.pack("<I", number) + data)

    def add_model(self, name, kind, value):
        self.add(f"{self.architecture}.{name}", kind, value)

    def add_tensor(self, name, shape, kind, data):
        self.tensors.append((name, shape, kind, data))

    def write(self, path):
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.fields)) + b"".join(self.fields)
        offset = 0
        for name, shape, kind, data in self.tensors:
            # Dimensions are written innermost first.
            head += self.string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)
            offset += len(data) + -len(data) % ALIGNMENT
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            file.write(head + bytes(-len(head) % ALIGNMENT))
            for _, _, _, data in self.tensors:
                file.write(data + bytes(-len(data) % ALIGNMENT))
        os.replace(partial, path)


def add_rope(gguf, config):
    gguf.add_model("rope.dimension_count", "u32", config["qk_rope_head_dim"])
    gguf.add_model("rope.freq_base", "f32", config["rope_theta"])
    scaling = config.get("rope_scaling")
    if not scaling:
        return
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind != "yarn":
        complain(f"config.json: rope_scaling type {kind!r}, expected 'yarn'")
    if scaling["mscale"] != scaling["mscale_all_dim"]:
        complain(f"config.json: mscale {scaling['mscale']} and mscale_all_dim {scaling['mscale_all_dim']}, "
                 "expected equal: llama.cpp has one field for both")
    gguf.add_model("rope.scaling.type", "string", "yarn")
    gguf.add_model("rope.scaling.factor", "f32", scaling["factor"])
    gguf.add_model("rope.scaling.original_context_length", "u32", scaling["original_max_position_embeddings"])
    gguf.add_model("rope.scaling.yarn_beta_fast", "f32", scaling["beta_fast"])
    gguf.add_model("rope.scaling.yarn_beta_slow", "f32", scaling["beta_slow"])
    # llama.cpp's reader of these architectures takes the factor 0.1 out again.
    gguf.add_model("rope.scaling.yarn_log_multiplier", "f32", 0.1 * scaling["mscale_all_dim"])


def add_parameters(gguf, config, name, file_type, dense):
    gguf.add("general.type", "string", "model")
    gguf.add("general.name", "string", name)
    gguf.add("general.file_type", "u32", file_type)
    gguf.add("general.quantization_version", "u32", 2)
    latent, rope = config["kv_lora_rank"], config["qk_rope_head_dim"]
    for field, value in (
            ("vocab_size", config["vocab_size"]),
            ("context_length", config["max_position_embeddings"]),
            ("embedding_length", config["hidden_size"]),
            ("block_count", config["num_hidden_layers"]),
            ("leading_dense_block_count", config["first_k_dense_replace"]),
            ("feed_forward_length", config["intermediate_size"]),
            ("expert_feed_forward_length", config["moe_intermediate_size"]),
            ("expert_count", config["n_routed_experts"]),
            ("expert_used_count", config["num_experts_per_tok"]),
            ("expert_shared_count", config["n_shared_experts"]),
            ("expert_group_count", config["n_group"]),
            ("expert_group_used_count", config["topk_group"]),
            ("expert_gating_func", SIGMOID),
            ("attention.head_count", config["num_attention_heads"]),
            ("attention.head_count_kv", 1),  # the latent is the one key of all heads
            ("attention.q_lora_rank", config["q_lora_rank"]),
            ("attention.kv_lora_rank", latent),
            ("attention.key_length", latent + rope),
            ("attention.value_length", latent),
            ("attention.key_length_mla", config["qk_nope_head_dim"] + rope),
            ("attention.value_length_mla", config["v_head_dim"])):
        gguf.add_model(field, "u32", value)
    gguf.add_model("expert_weights_scale", "f32", config["routed_scaling_factor"])
    gguf.add_model("expert_weights_norm", "bool", config["norm_topk_prob"])
    gguf.add_model("attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"])
    if not dense:
        gguf.add_model("attention.indexer.head_count", "u32", config["index_n_heads"])
        gguf.add_model("attention.indexer.key_length", "u32", config["index_head_dim"])
        gguf.add_model("attention.indexer.top_k", "u32", config["index_topk"])
    add_rope(gguf, config)


def split_patterns(pre_tokenizer):
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return [part["pattern"]["Regex"] for part in parts if part["type"] == "Split"]


def add_tokenizer(gguf, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "BPE" or split_patterns(tokenizer["pre_tokenizer"]) != SPLIT_PATTERNS:
        complain(f"{folder}/tokenizer.json: expected byte-level BPE with the split patterns of DeepSeek-V3")
    tokens = [f"[PAD{number}]" for number in range(config["vocab_size"])]
    kinds = [UNUSED] * len(tokens)
    for text, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = text, NORMAL
    for token in tokenizer["added_tokens"]:
        tokens[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    gguf.add("tokenizer.ggml.model", "string", "gpt2")
    gguf.add("tokenizer.ggml.pre", "string", "deepseek-v3")
    gguf.add("tokenizer.ggml.tokens", "array string", tokens)
    gguf.add("tokenizer.ggml.token_type", "array i32", kinds)
    gguf.add("tokenizer.ggml.merges", "array string", merges)
    gguf.add("tokenizer.ggml.bos_token_id", "u32", config["bos_token_id"])
    gguf.add("tokenizer.ggml.eos_token_id", "u32", config["eos_token_id"])
    gguf.add("tokenizer.ggml.add_bos_token", "bool", settings.get("add_bos_token", False))
    template = folder / "chat_template.jinja"
    if template.exists():
        gguf.add("tokenizer.chat_template", "string", template.read_text(encoding="utf-8"))


def layer_shapes(config, layer):
    """Suffix -> shape of a layer's tensors, but for the experts and kv_b_proj."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    query, latent, rope = config["q_lora_rank"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    index = config["index_head_dim"]
    shapes = {
        "input_layernorm.weight": [hidden],
        "post_attention_layernorm.weight": [hidden],
        "self_attn.q_a_proj.weight": [query, hidden],
        "self_attn.q_a_layernorm.weight": [query],
        "self_attn.q_b_proj.weight": [heads * (config["qk_nope_head_dim"] + rope), query],
        "self_attn.kv_a_proj_with_mqa.weight": [latent + rope, hidden],
        "self_attn.kv_a_layernorm.weight": [latent],
        "self_attn.o_proj.weight": [hidden, heads * config["v_head_dim"]],
        "self_attn.indexer.wq_b.weight": [config["index_n_heads"] * index, query],
        "self_attn.indexer.wk.weight": [index, hidden],
        "self_attn.indexer.k_norm.weight": [index],
        "self_attn.indexer.k_norm.bias": [index],
        "self_attn.indexer.weights_proj.weight": [config["index_n_heads"], hidden],
    }
    if layer < config["first_k_dense_replace"]:
        module, width = "mlp", config["intermediate_size"]
    else:
        module, width = "mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"]
        shapes["mlp.gate.weight"] = [config["n_routed_experts"], hidden]
        shapes["mlp.gate.e_score_correction_bias"] = [config["n_routed_experts"]]
    shapes[f"{module}.gate_proj.weight"] = shapes[f"{module}.up_proj.weight"] = [width, hidden]
    shapes[f"{module}.down_proj.weight"] = [hidden, width]
    return shapes


def split_kv_b(data, wanted, heads, nope, value, latent):
    """(the keys' part of each head transposed to [latent, nope], the values' part as it is)"""
    elements = array.array("H" if wanted == BF16 else "I", data)
    keys, values = [], []
    for head in range(heads):
        begin = head * (nope + value) * latent
        part = elements[begin:begin + nope * latent]
        keys += [part[column::latent].tobytes() for column in range(latent)]
        values.append(elements[begin + nope * latent:begin + (nope + value) * latent].tobytes())
    return b"".join(keys), b"".join(values)


def add_layer(gguf, checkpoint, config, layer, wanted, dense):
    prefix, out = f"model.layers.{layer}.", f"blk.{layer}."
    for suffix, shape in layer_shapes(config, layer).items():
        name = LAYER_NAMES[suffix]
        kind = F32 if len(shape) == 1 or name in ALWAYS_F32 else wanted
        data = checkpoint.take(prefix + suffix, shape, kind)
        if not (dense and ".indexer." in suffix):
            gguf.add_tensor(out + name, shape, kind, data)

    heads, latent = config["num_attention_heads"], config["kv_lora_rank"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    data = checkpoint.take(prefix + "self_attn.kv_b_proj.weight", [heads * (nope + value), latent], wanted)
    keys, values = split_kv_b(data, wanted, heads, nope, value, latent)
    gguf.add_tensor(out + "attn_k_b.weight", [heads, latent, nope], wanted, keys)
    gguf.add_tensor(out + "attn_v_b.weight", [heads, value, latent], wanted, values)

    if layer >= config["first_k_dense_replace"]:
        hidden, width, count = config["hidden_size"], config["moe_intermediate_size"], config["n_routed_experts"]
        for kind, shape in (("gate", [width, hidden]), ("up", [width, hidden]), ("down", [hidden, width])):
            experts = [checkpoint.take(f"{prefix}mlp.experts.{expert}.{kind}_proj.weight", shape, wanted)
                       for expert in range(count)]
            gguf.add_tensor(f"{out}ffn_{kind}_exps.weight", [count, *shape], wanted, b"".join(experts))


def is_prediction_layer(name, layers):
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is not None and int(match.group(1)) >= layers


def convert(folder, wanted, dense):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for field, expected in (("model_type", "deepseek_v32"), ("scoring_func", "sigmoid"), ("attention_bias", False),
                            ("hidden_act", "silu"), ("moe_layer_freq", 1), ("tie_word_embeddings", False)):
        if config.get(field) != expected:
            complain(f"{folder}/config.json: {field} is {config.get(field)!r}, expected {expected!r}")
    gguf = Gguf("deepseek2" if dense else "deepseek32")
    add_parameters(gguf, config, folder.resolve().name, 32 if wanted == BF16 else 0, dense)
    add_tokenizer(gguf, folder, config)

    checkpoint = Checkpoint(folder, config.get("quantization_config", {}).get("weight_block_size"))
    matrix = [config["vocab_size"], config["hidden_size"]]
    for name, out, shape, kind in (("model.embed_tokens.weight", "token_embd.weight", matrix, wanted),
                                   ("model.norm.weight", "output_norm.weight", matrix[1:], F32),
                                   ("lm_head.weight", "output.weight", matrix, wanted)):
        gguf.add_tensor(out, shape, kind, checkpoint.take(name, shape, kind))
    for layer in range(config["num_hidden_layers"]):
        add_layer(gguf, checkpoint, config, layer, wanted, dense)
    left = [name for name in checkpoint.entries if not is_prediction_layer(name, config["num_hidden_layers"])]
    if left:
        complain(f"{folder}: {len(left)} tensors of no known place, the first {left[0]}")
    return gguf, checkpoint.rounded


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a folder in the Hugging Face layout")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--type", choices=("bf16", "f32"), default="bf16", help="of the matrices")
    parser.add_argument("--dense", action="store_true", help="architecture deepseek2, without the indexer")
    options = parser.parse_args()
    try:
        gguf, rounded = convert(options.model, BF16 if options.type == "bf16" else F32, options.dense)
    except (OSError, KeyError, ValueError, struct.error) as error:
        complain(f"{options.model}: {type(error).__name__}: {error}")
    gguf.write(options.output)
    print(f"{options.output}: {gguf.architecture}, {len(gguf.tensors)} tensors, "
          f"{options.output.stat().st_size / 1e6:.1f} MB, {rounded} values rounded to bf16")


if __name__ == "__main__":
    main()
