"""What tools/to_gguf.py writes for a made-up model, read back here: python3 to_gguf_test.py path/to/the/source"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(sys.argv.pop(1))

VOCAB, HIDDEN, HEADS, NOPE, ROPE, VALUE, LATENT, QUERY = 8192, 4, 2, 3, 2, 2, 4, 6
CONFIG = {
    "model_type": "deepseek_v32", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "q_lora_rank": QUERY, "kv_lora_rank": LATENT, "qk_rope_head_dim": ROPE,
    "qk_nope_head_dim": NOPE, "v_head_dim": VALUE, "index_n_heads": 2, "index_head_dim": 4, "index_topk": 7,
    "n_routed_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "intermediate_size": 6,
    "first_k_dense_replace": 1, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "n_shared_experts": 1,
    "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "scoring_func": "sigmoid", "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "hidden_act": "silu", "max_position_embeddings": 64, "attention_bias": False,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
    "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 32,
                     "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "quantization_config": {"weight_block_size": [4, 3]},
}
# Some E4M3 codes and what they stand for.
CODES = {0x38: 1.0, 0x40: 2.0, 0x3C: 1.5, 0xC4: -3.0, 0x01: 2.0 ** -9, 0x7E: 448.0, 0x00: 0.0}


def counted(shape, start=0):
    """Integers that bf16 can hold: 0 … 255 in turn."""
    count = 1
    for extent in shape:
        count *= extent
    return [float((start + i) % 256) for i in range(count)]


def f32(values):
    return struct.pack(f"<{len(values)}f", *values)


def bf16(values):
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def make_tensors():
    """name -> (dtype, shape, bytes)"""
    tensors = {}

    def add(name, shape, start=0):
        tensors[name] = ("BF16", shape, bf16(counted(shape, start)))

    add("model.embed_tokens.weight", [VOCAB, HIDDEN])
    add("lm_head.weight", [VOCAB, HIDDEN], 7)
    add("model.norm.weight", [HIDDEN])
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        add(prefix + "input_layernorm.weight", [HIDDEN], 1)
        add(prefix + "post_attention_layernorm.weight", [HIDDEN], 2)
        for name, shape in (("q_a_proj", [QUERY, HIDDEN]), ("q_a_layernorm", [QUERY]),
                            ("q_b_proj", [HEADS * (NOPE + ROPE), QUERY]),
                            ("kv_a_proj_with_mqa", [LATENT + ROPE, HIDDEN]), ("kv_a_layernorm", [LATENT]),
                            ("kv_b_proj", [HEADS * (NOPE + VALUE), LATENT]), ("o_proj", [HIDDEN, HEADS * VALUE]),
                            ("indexer.wq_b", [8, QUERY]), ("indexer.wk", [4, HIDDEN]), ("indexer.k_norm", [4]),
                            ("indexer.weights_proj", [2, HIDDEN])):
            add(f"{prefix}self_attn.{name}.weight", shape, layer)
        add(prefix + "self_attn.indexer.k_norm.bias", [4], 9)
        experts = [("mlp.shared_experts", 5)] + [(f"mlp.experts.{expert}", 5) for expert in range(3)]
        modules = experts if layer else [("mlp", 6)]
        for number, (module, width) in enumerate(modules):
            add(f"{prefix}{module}.gate_proj.weight", [width, HIDDEN], 10 * number)
            add(f"{prefix}{module}.up_proj.weight", [width, HIDDEN], 10 * number + 1)
            add(f"{prefix}{module}.down_proj.weight", [HIDDEN, width], 10 * number + 2)
    add("model.layers.1.mlp.gate.weight", [3, HIDDEN], 3)
    add("model.layers.1.mlp.gate.e_score_correction_bias", [3], 4)
    return tensors


def read_gguf(path):
    """(fields, name -> (dimensions as written, values))"""
    data = path.read_bytes()
    place = 0

    def take(form):
        nonlocal place
        values = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize("<" + form)
        return values[0]

    def string():
        nonlocal place
        length = take("Q")
        place += length
        return data[place - length:place].decode()

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take({4: "I", 5: "i", 6: "f", 7: "?"}[kind])

    assert take("4s") == b"GGUF" and take("I") == 3
    tensor_count, field_count = take("Q"), take("Q")
    fields = {}
    for _ in range(field_count):
        name = string()
        fields[name] = value(take("I"))
    infos = []
    for _ in range(tensor_count):
        name, rank = string(), take("I")
        infos.append((name, [take("Q") for _ in range(rank)], take("I"), take("Q")))
    start = -(-place // 32) * 32
    tensors = {}
    for name, dimensions, kind, offset in infos:
        assert offset % 32 == 0
        count = 1
        for extent in dimensions:
            count *= extent
        if kind == 0:
            values = list(struct.unpack_from(f"<{count}f", data, start + offset))
        else:
            assert kind == 30
            bits = struct.unpack_from(f"<{count}H", data, start + offset)
            values = [struct.unpack("<f", struct.pack("<I", number << 16))[0] for number in bits]
        tensors[name] = (dimensions, values)
    return fields, tensors


class ToGguf(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(SOURCE / "models/winnow-nano" / name, self.folder)
        self.config, self.tensors = json.loads(json.dumps(CONFIG)), make_tensors()

    def run_tool(self, *options):
        (self.folder / "config.json").write_text(json.dumps(self.config))
        header, offset = {}, 0
        for name, (dtype, shape, data) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
            offset += len(data)
        text = json.dumps(header).encode()
        with open(self.folder / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in self.tensors.values()))
        return subprocess.run([sys.executable, "-B", str(SOURCE / "tools/to_gguf.py"), str(self.folder),
                               str(self.folder / "out.gguf"), *options], capture_output=True, text=True)

    def convert(self, *options):
        run = self.run_tool(*options)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.report = run.stdout
        return read_gguf(self.folder / "out.gguf")

    def complaint(self):
        run = self.run_tool()
        self.assertNotEqual(run.returncode, 0)
        self.assertFalse((self.folder / "out.gguf").exists())
        return run.stderr

    def test_names_the_architecture_with_the_indexer(self):
        fields, tensors = self.convert()
        self.assertEqual(fields["general.architecture"], "deepseek32")
        for name, expected in (("attention.indexer.head_count", 2), ("attention.indexer.key_length", 4),
                               ("attention.indexer.top_k", 7), ("attention.head_count_kv", 1),
                               ("attention.key_length", LATENT + ROPE), ("attention.value_length", LATENT),
                               ("attention.key_length_mla", NOPE + ROPE), ("attention.value_length_mla", VALUE),
                               ("expert_gating_func", 2), ("expert_weights_scale", 2.5),
                               ("rope.scaling.original_context_length", 16), ("rope.scaling.factor", 8.0)):
            self.assertEqual(fields["deepseek32." + name], expected, name)
        self.assertAlmostEqual(fields["deepseek32.rope.scaling.yarn_log_multiplier"], 0.1, 6)
        self.assertEqual(tensors["blk.1.indexer.proj.weight"], ([HIDDEN, 2], counted([2, HIDDEN], 1)))
        self.assertEqual(tensors["blk.0.indexer.k_norm.bias"], ([4], counted([4], 9)))

    def test_takes_the_tokenizer_along(self):
        fields, _ = self.convert()
        tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
        self.assertEqual((len(tokens), len(kinds)), (VOCAB, VOCAB))
        self.assertEqual((tokens[0], kinds[0]), ("<｜begin▁of▁sentence｜>", 3))
        self.assertEqual((tokens[8130], kinds[8130]), ("<think>", 4))
        self.assertEqual(kinds[5], 1)
        self.assertEqual(fields["tokenizer.ggml.merges"][0], "Ġ t")
        self.assertIs(fields["tokenizer.ggml.add_bos_token"], False)

    def test_splits_keys_and_values_of_each_head(self):
        _, tensors = self.convert()
        rows = [counted([HEADS * (NOPE + VALUE), LATENT])[i * LATENT:][:LATENT] for i in range(HEADS * (NOPE + VALUE))]
        keys = [rows[head * 5 + row][column] for head in range(2) for column in range(LATENT) for row in range(3)]
        values = [rows[head * 5 + 3 + row][column] for head in range(2) for row in range(2) for column in range(LATENT)]
        self.assertEqual(tensors["blk.0.attn_k_b.weight"], ([NOPE, LATENT, HEADS], keys))
        self.assertEqual(tensors["blk.0.attn_v_b.weight"], ([LATENT, VALUE, HEADS], values))

    def test_stacks_the_experts_in_order(self):
        _, tensors = self.convert()
        expected = counted([HIDDEN, 5], 12) + counted([HIDDEN, 5], 22) + counted([HIDDEN, 5], 32)
        self.assertEqual(tensors["blk.1.ffn_down_exps.weight"], ([5, HIDDEN, 3], expected))

    def test_multiplies_codes_by_the_factor_of_their_block(self):
        codes = [0x38, 0x40, 0x3C, 0xC4, 0x01, 0x7E] * 4 + [0x40, 0x00, 0x38, 0x3C, 0xC4, 0x7E] * 4  # [8, 6]
        factors = [[0.5, 4.0], [2.0, 0.25]]
        self.tensors["model.layers.0.self_attn.indexer.wq_b.weight"] = ("F8_E4M3", [8, 6], bytes(codes))
        self.tensors["model.layers.0.self_attn.indexer.wq_b.weight_scale_inv"] = ("F32", [2, 2], f32(sum(factors, [])))
        expected = [CODES[code] * factors[i // 6 // 4][i % 6 // 3] for i, code in enumerate(codes)]
        for options in ((), ("--type", "f32")):
            _, tensors = self.convert(*options)
            self.assertEqual(tensors["blk.0.indexer.attn_q_b.weight"], ([6, 8], expected))
            self.assertIn(" 0 values rounded", self.report)

    def test_rounds_ties_to_even_and_says_so(self):
        step = 2.0 ** -7  # of bf16 between 1 and 2
        given = [1.0, 1 + step / 2, 1 + 3 * step / 2, 1 + 5 * step / 8, -1 - step / 2, -1 - 3 * step / 4] * 4
        expected = [1.0, 1.0, 1 + 2 * step, 1 + step, -1.0, -1 - step] * 4
        self.tensors["model.layers.0.self_attn.q_a_proj.weight"] = ("F32", [QUERY, HIDDEN], f32(given))
        _, tensors = self.convert()
        self.assertEqual(tensors["blk.0.attn_q_a.weight"][1], expected)
        self.assertIn(" 20 values rounded", self.report)

    def test_leaves_the_indexer_out_on_request(self):
        fields, tensors = self.convert("--dense")
        self.assertEqual(fields["general.architecture"], "deepseek2")
        self.assertFalse([name for name in list(fields) + list(tensors) if "indexer" in name])
        self.assertIn("blk.1.attn_k_b.weight", tensors)

    def test_leaves_out_layers_that_predict_several_tokens(self):
        self.tensors["model.layers.2.eh_proj.weight"] = ("BF16", [1], bf16([1.0]))
        _, tensors = self.convert()
        self.assertFalse([name for name in tensors if name.startswith("blk.2")])

    def test_refuses_what_it_would_have_to_guess(self):
        self.tensors["model.layers.1.self_attn.surprise.weight"] = ("BF16", [1], bf16([1.0]))
        self.assertIn("1 tensors of no known place, the first model.layers.1.self_attn.surprise", self.complaint())
        del self.tensors["model.layers.1.self_attn.surprise.weight"]
        kept = self.tensors.pop("model.layers.1.mlp.gate.weight")
        self.assertIn("model.layers.1.mlp.gate.weight: missing", self.complaint())
        self.tensors["model.layers.1.mlp.gate.weight"] = ("BF16", [HIDDEN, 3], kept[2])
        self.assertIn("expected [3, 4]", self.complaint())
        self.tensors["model.layers.1.mlp.gate.weight"] = kept
        self.config["scoring_func"] = "softmax"
        self.assertIn("scoring_func is 'softmax', expected 'sigmoid'", self.complaint())


if __name__ == "__main__":
    unittest.main()
