#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer with DeepSeek's way of splitting and its special tokens.

  train_tokenizer.py TEXT... OUT [--vocab 8192]

TEXT are UTF-8 text files; OUT is a folder that receives tokenizer.json and tokenizer_config.json,
as transformers reads them. Needs the Python package `tokenizers`. --vocab counts every token:
the learned ones and the special ones, which stand first (0 to 2) and last.
"""

import argparse
import json
import pathlib
import sys

# Digits in groups of up to three; Chinese characters and kana; words, marks and white space.
SPLITS = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
# DeepSeek writes its special tokens with a full-width bar and, between words, this low block.
BAR, GAP = "\uff5c", "\u2581"


def special(*words):
    return f"<{BAR}{GAP.join(words)}{BAR}>"


BEGIN_OF_SENTENCE = special("begin", "of", "sentence")
END_OF_SENTENCE = special("end", "of", "sentence")
PAD = f"<{BAR}{GAP}pad{GAP}{BAR}>"
FIRST = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, PAD)  # ids 0, 1, 2
THINKING = ("<think>", "</think>")  # text that a decoder shows, unlike the special ones
ROLES = (special("User"), special("Assistant"))
AFTER_THINKING = (
    special("fim", "hole"), special("fim", "begin"), special("fim", "end"), special("EOT"),
    special("tool", "calls", "begin"), special("tool", "calls", "end"),
    special("tool", "call", "begin"), special("tool", "call", "end"),
    special("tool", "outputs", "begin"), special("tool", "outputs", "end"),
    special("tool", "output", "begin"), special("tool", "output", "end"),
    special("tool", "sep"),
)
LAST_LENGTH = 64  # of the tokens at the end; place holders fill up what has no name
PLACE_HOLDERS = tuple(
    special("place", "holder", "no", str(number))
    for number in range(LAST_LENGTH - len(ROLES) - len(THINKING) - len(AFTER_THINKING)))
LAST = ROLES + THINKING + AFTER_THINKING + PLACE_HOLDERS

BYTES = 256
SMALLEST = len(FIRST) + BYTES + len(LAST)
LONGEST_CONTEXT = 65536


class TokenizerError(Exception):
    """What the world got wrong, in one line for the person at the keyboard."""


def untrained():
    """A tokenizer that splits and decodes as DeepSeek's does and knows no token yet."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers, processors
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def added(token):
    from tokenizers import AddedToken
    return AddedToken(token, normalized=False, special=token not in THINKING)


def train(paths, vocab):
    """Learns `vocab` tokens in all from the files."""
    from tokenizers import pre_tokenizers, trainers
    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(LAST), special_tokens=[added(token) for token in FIRST],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train([str(path) for path in paths], trainer)
    learned = tokenizer.get_vocab_size()
    if learned != vocab - len(LAST):
        raise TokenizerError(f"{', '.join(map(str, paths))}: text for {learned} tokens, expected "
                             f"enough for {vocab - len(LAST)}: give more text or a smaller --vocab")
    tokenizer.add_tokens([added(token) for token in LAST])
    return tokenizer


def configuration():
    """tokenizer_config.json: what transformers wants to know beside the tokenizer."""
    def token(content):
        return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True,
                "rstrip": False, "single_word": False}
    return {"add_bos_token": False, "add_eos_token": False, "bos_token": token(BEGIN_OF_SENTENCE),
            "clean_up_tokenization_spaces": False, "eos_token": token(END_OF_SENTENCE),
            "model_max_length": LONGEST_CONTEXT, "pad_token": token(PAD),
            "unk_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}


def check_text(path):
    """Refuses what is not a file of UTF-8 text, before any time is spent on training."""
    try:
        with open(path, encoding="utf-8") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} of a block is not UTF-8") from error


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", nargs="+", type=pathlib.Path, help="UTF-8 text files to learn from")
    parser.add_argument("out", type=pathlib.Path, help="folder for the tokenizer's two files")
    parser.add_argument("--vocab", type=int, default=8192, help="tokens in all (8192)")
    return parser.parse_args(arguments)


def main(arguments):
    args = parse_arguments(arguments)
    try:
        if args.vocab < SMALLEST:
            raise TokenizerError(f"--vocab is {args.vocab}, expected at least {SMALLEST}")
        for path in args.text:
            check_text(path)
        tokenizer = train(args.text, args.vocab)
        args.out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(args.out / "tokenizer.json"))
        (args.out / "tokenizer_config.json").write_text(
            json.dumps(configuration(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except ImportError as error:
        print(f"train_tokenizer: needs the Python package tokenizers: {error}", file=sys.stderr)
        return 1
    except (TokenizerError, OSError) as error:
        print(f"train_tokenizer: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {tokenizer.get_vocab_size()} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
