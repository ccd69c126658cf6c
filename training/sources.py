"""Where the training text comes from: sources.json, and proof that each licence allows it."""

import json
import pathlib
import re

from extractors import EXTRACTORS


class CorpusError(Exception):
    """What the world got wrong, in one line for the person at the keyboard."""


def load_sources(path):
    """Reads and validates sources.json; returns (allowed licences, packages)."""
    try:
        sources = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: cannot be read as JSON: {error}") from error
    for field in ("allowed_licences", "packages"):
        if not isinstance(sources, dict) or field not in sources:
            raise CorpusError(f"{path}: has no field {field!r}")
    seen = set()
    for number, package in enumerate(sources["packages"]):
        for field in ("name", "version", "licence", "set", "group", "take"):
            if field not in package:
                raise CorpusError(f"{path}: packages[{number}] has no field {field!r}")
        if package["set"] not in ("train", "heldout"):
            raise CorpusError(f"{path}: {package['name']}: set is {package['set']!r}, "
                              "expected 'train' or 'heldout'")
        unknown = [take["as"] for take in package["take"] if take.get("as") not in EXTRACTORS]
        if unknown or not package["take"]:
            raise CorpusError(f"{path}: {package['name']}: take names {unknown}, expected one or "
                              f"more of {sorted(EXTRACTORS)}")
        if package["name"] in seen:
            raise CorpusError(f"{path}: {package['name']} is listed twice")
        seen.add(package["name"])
    return sources["allowed_licences"], sources["packages"]


def licence_stanzas(copyright_text):
    """(file patterns, licence) of each Files stanza of a machine-readable copyright file."""
    stanzas = []
    for paragraph in re.split(r"\n\s*\n", copyright_text):
        fields = dict(re.findall(r"^(Files|License):[ \t]*((?:.*)(?:\n[ \t]+.*)*)", paragraph,
                                 re.MULTILINE))
        if "Files" in fields and "License" in fields:
            stanzas.append((fields["Files"].split(), fields["License"].split("\n")[0].strip()))
    return stanzas


def normal_licence(name):
    """One spelling for the many of a licence: Apache-2 and APACHE-2.0, BSD-3 and BSD-3-clause."""
    name = re.sub(r"\.0\b|[\s_,-]|clause|version|licen[cs]e", "", name.lower())
    if name.startswith("publicdomain"):
        return "publicdomain"
    return {"mit": "expat", "apache": "apache2", "psf2": "python2", "bsd": "bsd3",
            "bsd3generic": "bsd3", "go": "bsd3"}.get(name, name)


def check_licence(package, copyright_text, allowed):
    """Refuses a package whose copyright file does not bear out the declared, allowed licence.

    A machine-readable copyright file must give the declared licence to its `Files: *` stanza or to
    the files named by `licence_files`; `spelled` is that file's own name for it. Any other must
    contain the sentence given as `evidence`.
    """
    name, declared = package["name"], package["licence"]
    if declared not in allowed:
        raise CorpusError(f"{name}: licence {declared!r} is not among the allowed ones")
    if "evidence" in package:
        squeezed = re.sub(r"[\s*#]+", " ", copyright_text)
        if package["evidence"] not in squeezed:
            raise CorpusError(f"{name}: its copyright file does not say {package['evidence']!r}")
        return
    wanted = package.get("licence_files", "*")
    found = [licence for files, licence in licence_stanzas(copyright_text) if wanted in files]
    if not found:
        raise CorpusError(f"{name}: its copyright file names no licence of {wanted!r}; give a "
                          "sentence of it as 'evidence'")
    alternatives = re.split(r"\s+or\s+|\s*\|\s*", found[-1])
    if normal_licence(package.get("spelled", declared)) not in map(normal_licence, alternatives):
        raise CorpusError(f"{name}: its copyright file says {found[-1]!r}, sources.json says "
                          f"{declared!r}")
