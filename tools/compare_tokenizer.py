#!/usr/bin/env python3
"""Compares Winnow's tokenizer with Hugging Face tokenizers, token by token and character by character.

    compare_tokenizer.py texts OUT FILE...          writes texts to compare, the FILEs and generated ones
    compare_tokenizer TOKENIZER_JSON <OUT >ANSWERS  what Winnow makes of them (a target of that name)
    compare_tokenizer.py check TOKENIZER_JSON OUT ANSWERS

`check` needs the Python package tokenizers. Generated texts: every code point alone and in several
surroundings, random Unicode, white space, long runs, and added tokens within text.
"""

import random
import struct
import sys

AS_TEXT, RECOGNIZE = 0, 1
BLOCK = 64  # code points in one text
FILE_PART = 1 << 16  # characters


def code_points():
    return [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def generated():
    points = code_points()
    surroundings = ["{0}", "a{0}b", " {0}", "{0}{0}", "{0} ", "1{0}2", ".{0}a", "\n{0}\n", "'{0}s",
                    "  {0}\u4e00", "\u0301{0}\u0301"]
    for surrounding in surroundings:
        for first in range(0, len(points), BLOCK):
            yield "\0".join(surrounding.format(chr(c)) for c in points[first:first + BLOCK])
    rng = random.Random(2)
    assigned = [c for c in points if c < 0x3000 or 0x3000 <= c < 0x3400 or 0x4e00 <= c < 0x5000
                or 0xa000 <= c < 0xa800 or 0xf900 <= c < 0x20000]
    special = "\r\n\t \u00a0\u3000\u2028\u0085'\"sSdDlLtTrReEvVmM\u017f0123456789.,;!?-_abcXYZ\u0301\u00e9\u4e00\u3042\u30fb\U0001f600\u200d"
    for alphabet in (points, assigned, special, " \n", " \t\r\n\u3000a1.", "ab", "a1 ", "\u4e00\u3042a"):
        for _ in range(1500):
            yield "".join(rng.choices([chr(c) if isinstance(c, int) else c for c in
                                       rng.choices(alphabet, k=40)], k=rng.randint(1, 300)))
    for unit in ("a", " ", "\n", "1", "-", "\u4e00", "\u0301", "\U0001f600", "ab", " \n", "\0", "aA", "the"):
        for count in (1000, 20000, 100001):
            yield unit * count
    literals = ["<think>", "</think>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
                "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|user|>", "<|user", "[gMASK]", "<sop>", "<tool_call>", "hi",
                " ", "\n", "<", ">", "<\uff5c", "1", "\u4e00"]
    for _ in range(3000):
        yield "".join(rng.choices(literals, k=rng.randint(1, 30)))


def write_texts(out_path, files):
    total = 0
    with open(out_path, "wb") as out:
        def write(text):
            data = text.encode()
            for flag in (AS_TEXT, RECOGNIZE):
                out.write(struct.pack("<II", len(data), flag) + data)
            return len(data)
        for text in generated():
            total += write(text)
        print(f"generated: {total / 1e6:.1f} MB")
        total = 0
        for path in files:
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                text = file.read()
            for first in range(0, len(text), FILE_PART):
                total += write(text[first:first + FILE_PART])
    print(f"files: {total / 1e6:.1f} MB")


def check(tokenizer_path, texts_path, answers_path):
    import json
    import tokenizers
    with open(tokenizer_path, encoding="utf-8") as file:
        description = json.load(file)
    recognizing = tokenizers.Tokenizer.from_str(json.dumps(description))
    # As text: the same tokenizer without its added tokens (those in the vocabulary stay decodable).
    description["added_tokens"] = []
    plain = tokenizers.Tokenizer.from_str(json.dumps(description))
    count = size = num_tokens = differing = 0
    with open(texts_path, "rb") as texts, open(answers_path, "rb") as answers:
        while header := texts.read(8):
            length, flag = struct.unpack("<II", header)
            data = texts.read(length)
            text = data.decode()
            found, = struct.unpack("<I", answers.read(4))
            ids = list(struct.unpack(f"<{found}i", answers.read(4 * found)))
            decoded = answers.read(struct.unpack("<I", answers.read(4))[0]).decode()
            oracle = recognizing if flag == RECOGNIZE else plain
            expected = oracle.encode(text, add_special_tokens=False).ids
            expected_text = oracle.decode(expected, skip_special_tokens=False)
            count, size, num_tokens = count + 1, size + length, num_tokens + found
            if ids != expected or decoded != expected_text:
                differing += 1
                if differing <= 5:
                    at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), -1)
                    print(f"text {count}, flag {flag}: {text[:80]!r} from token {at}: "
                          f"{ids[max(at, 0):][:8]}, expected {expected[max(at, 0):][:8]}")
        assert not answers.read(1)
    print(f"tokenizers {tokenizers.__version__}: {count} texts, {size / 1e6:.1f} MB, {num_tokens} "
          f"tokens compared, {differing} texts differ")
    return differing != 0


if __name__ == "__main__":
    if len(sys.argv) >= 3 and sys.argv[1] == "texts":
        write_texts(sys.argv[2], sys.argv[3:])
    elif len(sys.argv) == 5 and sys.argv[1] == "check":
        sys.exit(check(*sys.argv[2:]))
    else:
        sys.exit(__doc__)
