#!/usr/bin/env python3
"""Writes a block-scaled FP8 copy of a bf16 checkpoint of a DeepSeek-Sparse-Attention model.

    tools/quantize_fp8.py SOURCE_DIR OUTPUT_DIR [--scales ue8m0|f32] [--compare]

The matrices that the published FP8 checkpoints quantize (the projections of attention and indexer,
and those of all feed-forward networks) become F8_E4M3 with one factor per block of 128x128 in
`<name>_scale_inv`; embedding, head, router, norms and the indexer's weights_proj stay as they are.
A value is code * factor. config.json gets a quantization_config; generation and tokenizer files are
copied. Needs the standard library only.

Scales. A factor is the smallest power of two that brings the block's largest magnitude to at most
448 (ue8m0), or exactly the largest magnitude over 448 (f32). --compare measures both: winnow-nano
keeps 31.51 dB and 31.55 dB, a difference of 0.4 % in the relative error (0.02658 and 0.02646). E4M3
is itself a floating-point format, so a finer factor moves values about between its codes but makes
no code finer. Powers of two are the default because decoding is then exact: code * factor is a bf16
number, so a reader that dequantizes to bf16 and one that scales its sums see the same weights.
"""

import argparse
import array
import collections
import json
import math
import os
import pathlib
import shutil
import struct
import sys

BLOCK = 128
LARGEST = 448.0
QUANTIZED = (
    "self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa",
    "self_attn.kv_b_proj", "self_attn.o_proj", "indexer.wq_b", "indexer.wk",
    "gate_proj", "up_proj", "down_proj",
)
COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "chat_template.jinja")


def decode_e4m3(code):
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 0:
        return mantissa * 2.0 ** -9
    return (8 + mantissa) * 2.0 ** (exponent - 10)


MAGNITUDES = [decode_e4m3(code) for code in range(127)]


def encode_e4m3(magnitude):
    """The code of the nearest E4M3 number, ties to even, for 0 <= magnitude <= 448."""
    if magnitude < 2.0 ** -6:
        return round(magnitude * 512.0)  # Python rounds ties to even, as E4M3 wants
    mantissa, exponent = math.frexp(magnitude)  # 0.5 <= mantissa < 1
    steps = round(mantissa * 16.0)  # 8..16; 16 is the next binade's first code
    return ((exponent + 6) << 3) + steps - 8


def bf16_values():
    words = array.array("I", (bits << 16 for bits in range(65536)))
    return array.array("f", words.tobytes())


BF16 = bf16_values()
BF16_SQUARE = [float(value) ** 2 if math.isfinite(value) else 0.0 for value in BF16]


class Table:
    """For one factor: the code, and the squared error, of each bf16 number."""

    def __init__(self, factor):
        self.codes = bytearray(65536)
        self.errors = [0.0] * 65536
        for bits in range(0x7F80):
            value = BF16[bits]
            code = encode_e4m3(min(value / factor, LARGEST))
            self.codes[bits] = code
            self.codes[bits | 0x8000] = code | 0x80
            error = (MAGNITUDES[code] * factor - value) ** 2
            self.errors[bits] = self.errors[bits | 0x8000] = error


class LazyTable(dict):
    """The same, computed for the numbers asked for: for factors that occur once."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def __missing__(self, bits):
        value = BF16[bits & 0x7FFF]
        code = encode_e4m3(min(value / self.factor, LARGEST))
        self[bits] = result = (code | (bits >> 8 & 0x80),
                               (MAGNITUDES[code] * self.factor - value) ** 2)
        return result


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


TABLES = {}


def quantize_block(rows, scales):
    """(factor, rows of codes, sum of squared errors) of one block, given as rows of bf16 bits."""
    largest = max(BF16[max(map(0x7FFF .__and__, row))] for row in rows)
    if not math.isfinite(largest):
        raise ValueError("not finite")
    if largest == 0.0:
        return 1.0, [bytes(len(row)) for row in rows], 0.0
    if scales == "f32":
        factor = as_float32(largest / LARGEST)
        table = LazyTable(factor)
        pairs = [list(map(table.__getitem__, row)) for row in rows]
        codes = [bytes(code for code, _ in row) for row in pairs]
        return factor, codes, sum(error for row in pairs for _, error in row)
    mantissa, exponent = math.frexp(largest / LARGEST)
    factor = 2.0 ** (exponent - 1 if mantissa == 0.5 else exponent)
    if factor not in TABLES:
        TABLES[factor] = Table(factor)
    table = TABLES[factor]
    codes = [bytes(map(table.codes.__getitem__, row)) for row in rows]
    return factor, codes, sum(sum(map(table.errors.__getitem__, row)) for row in rows)


def quantize_matrix(data, shape, scales):
    """(codes, factors, sum of squares, sum of squared errors) of a row-major bf16 matrix."""
    height, width = shape
    bits = array.array("H", data)
    codes = bytearray(height * width)
    factors = array.array("f")
    squared_error = 0.0
    for top in range(0, height, BLOCK):
        lines = range(top, min(top + BLOCK, height))
        for left in range(0, width, BLOCK):
            right = min(left + BLOCK, width)
            rows = [bits[line * width + left:line * width + right] for line in lines]
            factor, coded, error = quantize_block(rows, scales)
            factors.append(factor)
            squared_error += error
            for line, row in zip(lines, coded):
                codes[line * width + left:line * width + right] = row
    return bytes(codes), factors.tobytes(), sum(map(BF16_SQUARE.__getitem__, bits)), squared_error


def read_tensors(folder):
    """Name -> (dtype, shape, bytes), of every safetensors shard in the folder."""
    tensors = {}
    shards = sorted(folder.glob("model*.safetensors"))
    if not shards:
        sys.exit(f"{folder}: no model*.safetensors")
    for shard in shards:
        with open(shard, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                file.seek(8 + length + begin)
                tensors[name] = (entry["dtype"], entry["shape"], file.read(end - begin))
    return tensors


def write_tensors(path, tensors):
    """Widest types first, so that every tensor lies on its alignment."""
    width = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}
    names = sorted(tensors, key=lambda name: (-width[tensors[name][0]], name))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            file.write(tensors[name][2])
    os.replace(partial, path)


def is_quantized(name):
    module, _, last = name.rpartition(".")
    return last == "weight" and module.endswith(QUANTIZED)


def group_of(name):
    parts = name.split(".")
    for kind in ("experts", "shared_experts", "indexer", "self_attn"):
        if kind in parts:
            return f"{kind}.{parts[-2]}"
    return f"mlp.{parts[-2]}"


def quantize(source, scales):
    """The quantized tensors, and for each group of matrices [parameters, squares, errors]."""
    result, groups = {}, collections.defaultdict(lambda: [0, 0.0, 0.0])
    for name, (dtype, shape, data) in source.items():
        if not is_quantized(name):
            result[name] = (dtype, shape, data)
            continue
        if dtype != "BF16" or len(shape) != 2:
            sys.exit(f"{name}: {dtype} {shape}, expected a BF16 matrix")
        try:
            codes, factors, squares, errors = quantize_matrix(data, shape, scales)
        except ValueError as error:
            sys.exit(f"{name}: {error}")
        blocks = [-(-extent // BLOCK) for extent in shape]
        result[name] = ("F8_E4M3", shape, codes)
        result[name + "_scale_inv"] = ("F32", blocks, factors)
        for total, part in enumerate((shape[0] * shape[1], squares, errors)):
            groups[group_of(name)][total] += part
    return result, groups


def report(groups, scales):
    rows = sorted(groups.items())
    rows.append(("all", [sum(column) for column in zip(*groups.values())]))
    print(f"scales {scales}\n{'group':32} {'parameters':>11} {'relative error':>15} {'SNR dB':>7}")
    for group, (count, squares, errors) in rows:
        relative = math.sqrt(errors / squares) if squares else 0.0
        decibel = -20 * math.log10(relative) if relative else math.inf
        print(f"{group:32} {count:11,} {relative:15.6f} {decibel:7.3f}")


def write_config(source, output, scales):
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
        # Readers that quantize activations scale those by powers of two as well.
        **({"scale_fmt": "ue8m0"} if scales == "ue8m0" else {}),
    }
    # transformers takes the number of experts of deepseek_v32 from num_experts and assumes 256.
    if config.get("n_routed_experts"):
        config.setdefault("num_experts", config["n_routed_experts"])
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--scales", choices=("ue8m0", "f32"), default="ue8m0")
    parser.add_argument("--compare", action="store_true",
                        help="also report the error of the other kind of scales")
    options = parser.parse_args()
    if sys.byteorder != "little":
        sys.exit("a little-endian machine is needed: numbers are copied as they lie")
    source = read_tensors(options.source)
    tensors, groups = quantize(source, options.scales)
    report(groups, options.scales)
    if options.compare:
        other = "f32" if options.scales == "ue8m0" else "ue8m0"
        report(quantize(source, other)[1], other)
    options.output.mkdir(parents=True, exist_ok=True)
    write_tensors(options.output / "model.safetensors", tensors)
    write_config(options.source, options.output, options.scales)
    for name in COPIED:
        if (options.source / name).exists():
            shutil.copyfile(options.source / name, options.output / name)
    size = sum(file.stat().st_size for file in options.output.iterdir())
    print(f"{options.output}: {size:,} bytes")


if __name__ == "__main__":
    main()
