#!/usr/bin/env python3
"""Makes the test data of tests/unit/text with Hugging Face tokenizers.

    make_tokenizer_vectors.py train OUT TEXT...       a small tokenizer.json with the split of GLM
    make_tokenizer_vectors.py vectors TOKENIZER OUT   what tokenizers makes of texts, as JSON

Long results are kept as 64-bit FNV-1a hashes over the little-endian 32-bit tokens.
"""

import json
import random
import struct
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

GLM = (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
       r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SURROUNDINGS = ["{}", "a{}b", " {}", "{0}{0}", "1{}2", "\n{}\n", "'{}s", ".{}a "]
TEXT_POINTS = 256  # code points in one text, joined by NUL
BLOCK = 4096  # code points under one hash


def fnv1a(ids, value=0xCBF29CE484222325):
    for byte in struct.pack(f"<{len(ids)}i", *ids):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def train(out, paths):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(GLM), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    texts = [open(path, encoding="utf-8", errors="replace").read() for path in paths]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=2048, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    for special, normalized, contents in (
            (True, False, "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> "
                          "<|assistant|> <|observation|>"),
            (False, False, "<think> </think> <tool_call> </tool_call> <tool_response> "
                           "</tool_response> <arg_key> </arg_key> <arg_value> </arg_value>"),
            (False, True, "/nothink <sop>x [gMASK][ é")):
        for content in contents.split():
            tokenizer.add_tokens([AddedToken(content, special=special, normalized=normalized)])
    tokenizer.save(out, pretty=False)


def cases(tokenizer):
    texts = ["", " ", "  ", "a", "Hello, world!", "It's we'll I'D they'RE 've 'M '\u017f x'sy", "a  b", "a \n b",
             "\r\n\r\n x", "x\u00a0\u00a0y", "tab\tseparated\t\tvalues ", "   leading", "trailing   ", "12345678", "1 23\u0664\u0665\u0666\u0667",
             "\u00b2\u00bd\u2167\u3007", "caf\u00e9 cafe\u0301 \u0301\u0301x", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u30ab\u30bf\u30ab\u30ca\u3072\u3089\u304c\u306a\u30fb\u3099x",
             "\u9fa5\u9fa6\u3400\u4e00", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "if (x == 0) {\n\treturn a[i]->b;\n}\n", "...!!!\n\n\nword",
             ".word -word !Word _a_b $PATH #123 @x", "\u0000\u0001\u001f\u007f\u0085\u200b\ufeff", "\u2028\u2029 \u3000x", "\ue000\ufffe\U0010ffff",
             "<think>", "a<think>b</think>c", "<|user|>hi<|assistant|>", "[gMASK]<sop>x y", "[gMASK][", "<|user",
             "<\uff5cUser\uff5c>hi<\uff5cAssistant\uff5c></think>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>x<\uff5cend\u2581of\u2581sentence\uff5c>", "<tool_call><tool_call",
             "caf\u00e9/nothink"]
    rng = random.Random(7)
    for alphabet in ("abcde  \n1,'", "a\u0301\u4e00\u3042 \u30fb1\U0001f600\n", " \t\r\n\u3000\u00a0x."):
        texts += ["".join(rng.choices(alphabet, k=rng.randint(1, 24))) for _ in range(30)]
    any_point = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    texts += ["".join(chr(c) for c in rng.choices(any_point, k=8)) for _ in range(30)]
    for text in texts:
        yield {"text": text, "recognize": encode(tokenizer, text, True),
               "as_text": encode(tokenizer, text, False)}


def encode(tokenizer, text, recognize):
    return tokenizer[recognize].encode(text, add_special_tokens=False).ids


def code_point_hashes(tokenizer):
    for surrounding in SURROUNDINGS:
        hashes = []
        for block in range(0, 0x110000, BLOCK):
            value = fnv1a([])
            for first in range(block, block + BLOCK, TEXT_POINTS):
                points = [c for c in range(first, first + TEXT_POINTS) if not 0xD800 <= c < 0xE000]
                text = "\0".join(surrounding.format(chr(c)) for c in points)
                value = fnv1a(encode(tokenizer, text, False), value)
            hashes.append(f"{value:016x}")
        yield {"surrounding": surrounding.replace("{0}", "{}"), "hashes": hashes}


def runs(tokenizer):
    for unit in ("a", " ", "\n", "1", "-", "\u4e00", "\u0301", "\U0001f600", "ab", " \n", "the"):
        for count in (100, 20000):
            ids = encode(tokenizer, unit * count, False)
            yield {"unit": unit, "count": count, "tokens": len(ids), "hash": f"{fnv1a(ids):016x}"}
    ids = encode(tokenizer, "a" * 1000000, False)
    yield {"unit": "a", "count": 1000000, "tokens": len(ids), "hash": f"{fnv1a(ids):016x}"}


def decodings(tokenizer):
    rng = random.Random(11)
    size = tokenizer[True].get_vocab_size(with_added_tokens=True)
    for _ in range(60):
        # Single bytes are among the first tokens: sequences of them are mostly broken UTF-8.
        ids = [rng.randrange(size if rng.random() < 0.3 else 260) for _ in range(rng.randint(1, 12))]
        yield {"tokens": ids, "kept": tokenizer[True].decode(ids, skip_special_tokens=False),
               "skipped": tokenizer[True].decode(ids, skip_special_tokens=True)}


def vectors(path, out):
    description = json.load(open(path, encoding="utf-8"))
    recognizing = Tokenizer.from_str(json.dumps(description))
    description["added_tokens"] = []
    tokenizer = {True: recognizing, False: Tokenizer.from_str(json.dumps(description))}
    result = {"made_with": f"tokenizers {tokenizers.__version__}", "cases": list(cases(tokenizer)),
              "code_points": list(code_point_hashes(tokenizer)), "runs": list(runs(tokenizer)),
              "decodings": list(decodings(tokenizer))}
    with open(out, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(
            f"{json.dumps(key)}: " + (json.dumps(value) if isinstance(value, str) else "[\n" + ",\n".join(
                json.dumps(item, separators=(",", ":")) for item in value) + "\n]")
            for key, value in result.items()) + "\n}\n")


if __name__ == "__main__":
    if len(sys.argv) >= 4 and sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3:])
    elif len(sys.argv) == 4 and sys.argv[1] == "vectors":
        vectors(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
