"""Clean text to token files: paragraphs that repeat are dropped, short pages strung together.

Token files are little-endian uint16; every document stands between a begin-of-sentence (0) and an
end-of-sentence (1) token. Needs the `tokenizers` package.
"""

import array
import hashlib
import json
import re
import sys

from extractors import SHORTEST_DOCUMENT, tidy
from sources import CorpusError

BEGIN_OF_SENTENCE = 0
END_OF_SENTENCE = 1
SHORTEST_PARAGRAPH = 80  # characters; shorter repeats ("Parameters", "See also") are language


def paragraph_hashes(text):
    """(paragraph, hash or None) of each paragraph; short ones are never counted as repeats."""
    for paragraph in text.split("\n\n"):
        normal = re.sub(r"[\W_]+", " ", paragraph).strip().lower()
        if len(normal) < SHORTEST_PARAGRAPH:
            yield paragraph, None
        else:
            yield paragraph, hashlib.blake2b(normal.encode("utf-8"), digest_size=8).digest()


def without_repeats(text, seen):
    """The text less its paragraphs in `seen`; nothing if half of it was; adds what is new."""
    kept, repeated = [], 0
    for paragraph, key in paragraph_hashes(text):
        if key in seen:
            repeated += len(paragraph)
            continue
        kept.append(paragraph)
        if key:
            seen.add(key)
    return "" if 2 * repeated > len(text) else tidy("\n\n".join(kept))


def joined(documents, size):
    """Strings short pages of one package together into documents of about `size` bytes."""
    parts, length = [], 0
    for text in documents:
        parts.append(text)
        length += len(text.encode("utf-8"))
        if length >= size:
            yield "\n\n".join(parts)
            parts, length = [], 0
    if parts:
        yield "\n\n".join(parts)


def read_tokens(path):
    """The documents of a token file, without their begin-of-sentence tokens."""
    tokens = array.array("H")
    data = path.read_bytes()
    if len(data) % 2:
        raise CorpusError(f"{path}: {len(data)} bytes, expected an even number of them (uint16)")
    tokens.frombytes(data)
    if sys.byteorder == "big":
        tokens.byteswap()
    starts = [i for i, token in enumerate(tokens) if token == BEGIN_OF_SENTENCE]
    if not starts:
        raise CorpusError(f"{path}: no document begins in it (token {BEGIN_OF_SENTENCE})")
    return [tokens[a + 1:b] for a, b in zip(starts, starts[1:] + [len(tokens)])]


def write_tokens(path, documents):
    """Writes documents one after the other, each after a begin-of-sentence; returns the count."""
    count = 0
    with open(path, "wb") as out:
        for document in documents:
            tokens = array.array("H", [BEGIN_OF_SENTENCE]) + document
            if tokens[-1] != END_OF_SENTENCE:
                tokens.append(END_OF_SENTENCE)
            count += len(tokens)
            if sys.byteorder == "big":
                tokens.byteswap()
            tokens.tofile(out)
    return count


def encode(tokenizer, texts):
    """The tokens of each text."""
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [array.array("H", encoding.ids) for encoding in encoded]


def load_tokenizer(path):
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise CorpusError("pack needs the Python package tokenizers") from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise CorpusError(f"{path}: {error}") from error
    if tokenizer.get_vocab_size() > 65536:
        raise CorpusError(f"{path}: {tokenizer.get_vocab_size()} tokens, expected at most 65536 "
                          "(uint16)")
    return tokenizer


def existing_documents(paths, tokenizer, seen):
    """Documents of token files, as they are; their paragraphs become known to `seen`."""
    documents = []
    for path in paths:
        fresh = read_tokens(path)
        greatest = max(max(document, default=0) for document in fresh)
        if greatest >= tokenizer.get_vocab_size():
            raise CorpusError(f"{path}: has token {greatest}, the tokenizer only "
                              f"{tokenizer.get_vocab_size()} tokens")
        for start in range(0, len(fresh), 64):
            for text in tokenizer.decode_batch([list(d) for d in fresh[start:start + 64]]):
                seen.update(key for _, key in paragraph_hashes(text) if key)
        documents += fresh
        print(f"{path}: {len(fresh)} documents, {sum(map(len, fresh))} tokens", flush=True)
    return documents


def pack_package(package, args, tokenizer, seen):
    """Token documents of one package and its entry in the manifest."""
    path = args.work / "text" / f"{package['name']}.jsonl"
    if not path.is_file():
        raise CorpusError(f"{path}: not there; run extract first")
    with open(path, encoding="utf-8") as lines:
        pages = [json.loads(line)["text"] for line in lines]
    kept = [text for text in (without_repeats(page, seen) for page in pages)
            if len(text) >= SHORTEST_DOCUMENT]
    documents = encode(tokenizer, list(joined(kept, args.join)))
    entry = {key: package[key] for key in ("name", "version", "licence", "set", "group")}
    entry |= {"pages": len(pages), "pages_kept": len(kept), "documents": len(documents),
              "clean_bytes": sum(len(text.encode("utf-8")) for text in kept),
              "tokens": sum(map(len, documents))}
    print(f"{package['name']}: {entry['pages_kept']} of {entry['pages']} pages, "
          f"{entry['tokens']} tokens", flush=True)
    return documents, entry
