#!/usr/bin/env python3
"""Prepares the training text of the small model from Debian packages.

Three steps, each resumable and each reading what the one before wrote under --work:

  prepare_corpus.py download   fetches the packages of sources.json with apt-get and unpacks them
  prepare_corpus.py extract    checks every licence, then writes clean text: text/PACKAGE.jsonl
  prepare_corpus.py pack       drops near-duplicates, tokenizes, writes train.bin and heldout.bin

Only `pack` needs more than the standard library: the `tokenizers` package. packing.py describes its
token files; MANIFEST.json counts what went in.
"""

import argparse
import fnmatch
import json
import multiprocessing
import pathlib
import random
import re
import subprocess
import sys

from extractors import EXTRACTORS, SHORTEST_DOCUMENT, read_text, tidy
from packing import existing_documents, load_tokenizer, pack_package, write_tokens
from sources import CorpusError, check_licence, load_sources


def run(command, cwd=None):
    """Runs a program and returns its output; its failure becomes ours, in its own words."""
    try:
        done = subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    except FileNotFoundError as error:
        raise CorpusError(f"{command[0]}: not installed") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        raise CorpusError(f"{' '.join(map(str, command[:4]))}: {words}") from error
    return done.stdout.decode("utf-8", "replace")


def names_to_fetch(packages):
    """name -> version of the packages and of those they name under `with` and `tools`."""
    return {p["name"]: p["version"] for p in packages} | {
        name: version for p in packages for field in ("with", "tools")
        for name, version in p.get(field, {}).items()}


def download(args):
    """Fetches and unpacks every package once; a version that is gone is an error naming it."""
    _, packages = load_sources(args.sources)
    debs, root = args.work / "debs", args.work / "root"
    debs.mkdir(parents=True, exist_ok=True)
    root.mkdir(exist_ok=True)
    wanted = names_to_fetch(packages)
    missing = [f"{name}={version}" for name, version in wanted.items()
               if not list(debs.glob(deb_pattern(name, version)))]
    for start in range(0, len(missing), 16):
        run(["apt-get", "download", "-qq", *missing[start:start + 16]], cwd=debs)
    for name, version in wanted.items():
        found = list(debs.glob(deb_pattern(name, version)))
        if len(found) != 1:
            raise CorpusError(f"{debs}: {name} {version}: found {len(found)} files, expected one")
        if not (root / name).exists():
            run(["dpkg-deb", "-x", str(found[0]), str(root / name)])
    print(f"{len(wanted)} packages under {root}")


def deb_pattern(name, version):
    """What apt-get calls the file of a package: the colon of an epoch is escaped."""
    return f"{name}_{version.replace(':', '%3a')}_*.deb"


def matching_files(root, take):
    """Plain files of an unpacked package that `take` names, in the order of their paths."""
    found = []
    for path in sorted(root.glob(take["files"])):
        inner = path.relative_to(root).as_posix()
        skipped = any(fnmatch.fnmatch(inner, pattern) for pattern in take.get("skip", []))
        if path.is_file() and not path.is_symlink() and not skipped:
            found.append(path)
    return found


def documents_of_program(root, package, take):
    """Documents that a program of a tool package prints, cut where `split` begins a line."""
    command = [word.format(root=root) for word in take["command"]]
    for part in re.split(take["split"], run(command), flags=re.MULTILINE):
        yield package["name"], part


def documents_of(package, root):
    """(path, clean text) of everything a package gives, up to its max_bytes."""
    budget = package.get("max_bytes", sys.maxsize)
    for take in package["take"]:
        if "command" in take:
            raw = documents_of_program(root, package, take)
        else:
            files = matching_files(root / package["name"], take)
            if not files:
                raise CorpusError(f"{package['name']}: no file matches {take['files']!r}")
            # A package over its budget gives an even sample of its pages, not the first letters.
            random.Random(package["name"]).shuffle(files)
            raw = ((f.relative_to(root / package["name"]).as_posix(), read_text(f)) for f in files)
        for path, source in raw:
            text = tidy(EXTRACTORS[take["as"]](source))
            if len(text) < SHORTEST_DOCUMENT:
                continue
            budget -= len(text.encode("utf-8"))
            if budget < 0:
                return
            yield path, text


def extract_package(job):
    """Writes text/PACKAGE.jsonl of one package; returns (name, documents, bytes or an error)."""
    package, allowed, work = job
    name, root = package["name"], work / "root"
    try:
        copyright_path = root / name / "usr/share/doc" / name / "copyright"
        if "copyright" in package:
            copyright_path = root / package["copyright"]
        if not copyright_path.is_file():
            raise CorpusError(f"{copyright_path}: not there; run download first, or name the file "
                              "as 'copyright'")
        check_licence(package, read_text(copyright_path), allowed)
        documents = sorted(documents_of(package, root))
        if not documents:
            raise CorpusError(f"{name}: gave no text")
    except (CorpusError, OSError) as error:
        return name, 0, str(error)
    with open(work / "text" / f"{name}.jsonl", "w", encoding="utf-8") as out:
        for path, text in documents:
            out.write(json.dumps({"path": path, "text": text}, ensure_ascii=False) + "\n")
    return name, len(documents), sum(len(text.encode("utf-8")) for _, text in documents)


def extract(args):
    """Checks and extracts every package; names all that were refused before it fails."""
    allowed, packages = load_sources(args.sources)
    (args.work / "text").mkdir(parents=True, exist_ok=True)
    jobs = [(package, allowed, args.work) for package in packages
            if args.again or not (args.work / "text" / f"{package['name']}.jsonl").exists()]
    refused = []
    with multiprocessing.Pool(args.jobs) as pool:
        for name, count, result in pool.imap_unordered(extract_package, jobs):
            if isinstance(result, str):
                refused.append(result)
                continue
            print(f"{name}: {count} documents, {result / 1e6:.2f} MB", flush=True)
    if refused:
        raise CorpusError("refused:\n  " + "\n  ".join(sorted(refused)))


def pack(args):
    """Drops near-duplicates, tokenizes and writes train.bin, heldout.bin and MANIFEST.json.

    Held-out packages come last, so that they keep only paragraphs that no training document has.
    With --tokens, new.bin is the part of train.bin that does not come from them.
    """
    _, packages = load_sources(args.sources)
    tokenizer = load_tokenizer(args.tokenizer)
    args.out.mkdir(parents=True, exist_ok=True)
    seen = set()
    old = existing_documents(args.tokens, tokenizer, seen)
    documents, manifest = {"train": [], "heldout": []}, []
    for package in sorted(packages, key=lambda p: p["set"] == "heldout"):
        fresh, entry = pack_package(package, args, tokenizer, seen)
        documents[package["set"]] += fresh
        manifest.append(entry)
    random.Random(args.seed).shuffle(documents["train"])
    counts = {}
    if old:
        counts["new_tokens"] = write_tokens(args.out / "new.bin", documents["train"])
        documents["train"] += old
    for name, part in documents.items():
        random.Random(args.seed).shuffle(part)
        counts[f"{name}_tokens"] = write_tokens(args.out / f"{name}.bin", part)
        counts[f"{name}_documents"] = len(part)
    counts["documents_of_token_files"] = len(old)
    (args.out / "MANIFEST.json").write_text(
        json.dumps({"counts": counts, "packages": manifest}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(counts))


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    here = pathlib.Path(__file__).resolve().parent
    for function in (download, extract, pack):
        command = commands.add_parser(function.__name__, help=function.__doc__.split("\n")[0])
        command.set_defaults(function=function)
        command.add_argument("--sources", type=pathlib.Path, default=here / "sources.json")
        command.add_argument("--work", type=pathlib.Path, required=True,
                             help="folder for packages and clean text")
        if function is extract:
            command.add_argument("--jobs", type=int, default=2, help="processes (2)")
            command.add_argument("--again", action="store_true", help="extract what is there, too")
        if function is pack:
            command.add_argument("--tokenizer", type=pathlib.Path, required=True)
            command.add_argument("--out", type=pathlib.Path, required=True)
            command.add_argument("--tokens", type=pathlib.Path, nargs="*", default=[],
                                 help="token files whose documents join the training set")
            command.add_argument("--join", type=int, default=400_000, metavar="BYTES",
                                 help="short pages are strung together up to this (400000)")
            command.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments):
    args = parse_arguments(arguments)
    try:
        args.function(args)
    except (CorpusError, OSError) as error:
        print(f"prepare_corpus: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
