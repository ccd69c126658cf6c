#!/usr/bin/env python3
"""Prepares the training text of the small model from Debian packages.

Three steps, each resumable and each reading what the one before wrote under --work:

  prepare_corpus.py download   fetches the packages of sources.json with apt-get and unpacks them
  prepare_corpus.py extract    checks every licence, then writes clean text: text/PACKAGE.jsonl
  prepare_corpus.py pack       drops near-duplicates, tokenizes, writes train.bin and heldout.bin

Only `pack` needs more than the standard library: the `tokenizers` package. Token files are
little-endian uint16; every document stands between a begin-of-sentence (0) and an
end-of-sentence (1) token. MANIFEST.json counts what went in.
"""

import argparse
import array
import fnmatch
import gzip
import hashlib
import html.parser
import json
import multiprocessing
import pathlib
import random
import re
import subprocess
import sys

BEGIN_OF_SENTENCE = 0
END_OF_SENTENCE = 1
SHORTEST_DOCUMENT = 200  # characters; below this a page is navigation, not text
SHORTEST_PARAGRAPH = 80  # characters; shorter repeats ("Parameters", "See also") are language


class CorpusError(Exception):
    """What the world got wrong, in one line for the person at the keyboard."""


# ---------------------------------------------------------------- sources.json


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


# ---------------------------------------------------------------- text extraction


class HtmlText(html.parser.HTMLParser):
    """Turns a page of documentation into light Markdown, without its navigation."""

    SKIPPED = {"script", "style", "nav", "footer", "aside", "head", "form", "button", "svg",
               "noscript", "select"}
    VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param",
            "source", "track", "wbr"}
    BLOCKS = {"p", "div", "section", "article", "table", "tr", "ul", "ol", "dl", "dt", "dd",
              "blockquote", "pre", "li", "main", "header", "figure", "caption", "br", "hr"}
    # Words of class or id attributes that mark what surrounds a text rather than belongs to it.
    FURNITURE = re.compile(
        r"(^|\s)(sphinx|docs-)?sidebar|headerlink|(^|[\s-])related($|\s)|navbar|navheader|navfooter"
        r"|breadcrumb|toctree|footer|(^|\s)(toc|contents|nav|menu|topmenu|mainmenu|subnav|banner"
        r"|skip-link|viewcode-link|linenos|qanchor|docs-top)($|\s)", re.IGNORECASE)

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out = []
        self.skip_tag = None  # the element being skipped, and how many of its name are open
        self.skip_depth = 0
        self.pre_depth = 0

    def is_furniture(self, tag, attrs):
        if tag in self.VOID or tag in ("html", "body"):
            return False
        return any(value and name in ("class", "id", "role") and self.FURNITURE.search(value)
                   for name, value in attrs)

    def handle_starttag(self, tag, attrs):
        if self.skip_tag:
            self.skip_depth += tag == self.skip_tag
            return
        if tag in self.SKIPPED or self.is_furniture(tag, attrs):
            self.skip_tag, self.skip_depth = tag, 1
            return
        if tag == "pre":
            self.pre_depth += 1
            self.out.append("\n\n```\n")
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.out.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag == "li":
            self.out.append("\n- ")
        elif tag in ("td", "th"):
            self.out.append(" ")
        elif tag in ("tr", "br", "dd"):
            self.out.append("\n")
        elif tag in self.BLOCKS:
            self.out.append("\n\n")

    def handle_endtag(self, tag):
        if self.skip_tag:
            self.skip_depth -= tag == self.skip_tag
            if self.skip_depth == 0:
                self.skip_tag = None
            return
        if tag == "pre" and self.pre_depth:
            self.pre_depth -= 1
            self.out.append("\n```\n\n")
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6", "p", "table", "ul", "ol", "dl"):
            self.out.append("\n\n")

    def handle_data(self, data):
        if not self.skip_tag:
            self.out.append(data if self.pre_depth else re.sub(r"\s+", " ", data))


def text_of_html(source):
    """Text of one HTML page; its main part alone where the page marks one."""
    main = re.search(r"<main\b.*</main>|<div[^>]*role=[\"']main[\"'].*|<article\b.*</article>",
                     source, re.DOTALL | re.IGNORECASE)
    parser = HtmlText()
    parser.feed(main.group(0) if main else source)
    parser.close()
    text = "".join(parser.out).replace("\u00b6", "").replace("\u00a0", " ")
    text = re.sub(r"\n- \s+", "\n- ", text)
    return re.sub(r"```\n+", "```\n", re.sub(r"\n+```", "\n```", text))


ROFF_ESCAPES = (
    (re.compile(r"\\\\|\\e|\\\(rs|\\\[rs\]"), "\0"),  # a backslash to print, kept from the rest
    (re.compile(r"\\f(\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,:%]|\\[hv]'[^']*'"), ""),
    (re.compile(r"\\\(bu|\\\[bu\]"), "-"),
    (re.compile(r"\\\(em|\\\[em\]"), "--"),
    (re.compile(r"\\\(en|\\\[en\]"), "-"),
    (re.compile(r"\\\((?:[lr]q|dq)|\\\[(?:[lr]q|dq)\]|\\\*[QU]|\\\*\([lr]q"), '"'),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]"), "'"),
    (re.compile(r"\\\(co|\\\[co\]"), "(c)"),
    (re.compile(r"\\\(..|\\\[[^\]]*\]|\\\*\(..|\\\*\[[^\]]*\]|\\\*.|\\n\(..|\\n."), ""),
    (re.compile(r"\\([-'` ~0.])"), r"\1"),
    (re.compile(r"\\c$"), ""),
    (re.compile("\0"), r"\\"),
)
MDOC_WORDS = {  # mdoc macros that may stand inside a line -> what they print before their words
    **dict.fromkeys("Ad An Ar Cd Dv Em Er Ev Fa Fn Ic Li Ms Nm No Pa St Sy Tn Va Vt Xr Cm Ux Bx Fx "
                    "Nx Ox Lk Mt Ns Pf Ap Qc Oc Pc Ac Bc Dc Sc Ql Aq Bq Dq Pq Qq Sq Op Oo Po Ao Bo "
                    "Do So Qo Ft In Xo Xc Sm Bk Ek Tg".split(), ""), "Fl": "-"}


PUNCTUATION = set(".,;:()[]|")


def clean_roff(line):
    """A line less its escapes."""
    for pattern, replacement in ROFF_ESCAPES:
        line = pattern.sub(replacement, line)
    return line


def roff_words(arguments):
    """The words of a macro line; quotation marks hold several together."""
    return [clean_roff(word.strip('"')) for word in re.findall(r'"[^"]*"|\S+', arguments)]


def mdoc_words(arguments):
    """The words of a macro line: callable macro names go, the dash of a flag comes."""
    words, prefix, switched = [], "", False
    for word in roff_words(arguments):
        if switched:  # the "on" or "off" of Sm
            switched = False
        elif word in MDOC_WORDS:
            prefix, switched = MDOC_WORDS[word], word == "Sm"
        else:
            words.append(word if word in PUNCTUATION else prefix + word)
            prefix = prefix if word == "|" else ""
    return re.sub(r" ([.,;:)\]])", r"\1", " ".join(words))


class ManText:
    """A manual page in the man or mdoc language turned into light Markdown, without a formatter."""

    HEADINGS = {"SH": "# ", "Sh": "# ", "SS": "## ", "Ss": "## "}
    BREAKS = {"PP", "P", "LP", "Pp", "sp", "Bl", "El", "RS", "RE", "br", "HP"}
    IGNORED_UNTIL = {"de": "..", "ig": "..", "am": "..", "TS": ".TE", "EQ": ".EN"}
    # Faces of the man language; those of two letters set their words alternately, without blanks.
    FACES = {"B", "I", "SM", "BR", "RB", "IR", "RI", "BI", "IB"}

    def __init__(self):
        self.out = []
        self.paragraph = []
        self.filled = True  # False between .nf and .fi, where lines stay as they are
        self.tag_follows = False  # the next line is the tag of a .TP paragraph
        self.name = ""

    def close_paragraph(self):
        lines = "\n".join(self.paragraph).strip("\n")
        if lines:
            self.out.append(" ".join(self.paragraph) if self.filled else f"```\n{lines}\n```")
            self.out.append("\n\n")
        self.paragraph = []

    def set_filled(self, filled):
        if filled != self.filled:
            self.close_paragraph()
            self.filled = filled

    def add(self, text):
        if not text and self.filled:
            self.close_paragraph()
            return
        self.paragraph.append(text)
        if self.tag_follows:
            self.tag_follows = False
            self.end_tag()

    def add_words(self, text):
        if text:
            self.add(text)

    def end_tag(self):
        """Sets what was collected as the line above the paragraph that explains it."""
        self.out.append(" ".join(self.paragraph) + ":\n")
        self.paragraph = []

    def request(self, macro, arguments):
        """One line of the page that begins with a dot."""
        if macro in self.HEADINGS:
            self.set_filled(True)
            self.close_paragraph()
            self.out.append(self.HEADINGS[macro] + mdoc_words(arguments).capitalize() + "\n\n")
        elif macro in self.BREAKS:
            self.close_paragraph()
        elif macro in ("nf", "EX") or (macro == "Bd" and "-literal" in arguments):
            self.set_filled(False)
        elif macro in ("fi", "EE", "Ed"):
            self.set_filled(True)
        elif macro in ("TP", "TQ"):
            self.close_paragraph()
            self.tag_follows = True
        elif macro in ("IP", "It"):
            self.close_paragraph()
            tag = roff_words(arguments)[0:1] if macro == "IP" else [mdoc_words(arguments)]
            if tag and tag[0]:
                self.paragraph.append(tag[0])
                self.end_tag()
        elif macro == "Nd":
            self.add("- " + mdoc_words(arguments))
        elif macro == "Nm":
            words = mdoc_words(arguments)
            self.name = self.name or words
            named = words and words[0] not in ".,;:()[]-"
            self.add(words if named else f"{self.name} {words}".strip())
        elif macro in self.FACES:
            self.add_words(("" if len(macro) == 2 else " ").join(roff_words(arguments)))
        elif macro in MDOC_WORDS:
            self.add_words(mdoc_words(macro + " " + arguments))

    def feed(self, source):
        ignored_until = None
        for line in source.split("\n"):
            if ignored_until:
                ignored_until = None if line.startswith(ignored_until) else ignored_until
            elif line.startswith((".", "'")):
                macro, _, arguments = line[1:].strip().partition(" ")
                ignored_until = self.IGNORED_UNTIL.get(macro)
                self.request(macro, arguments.strip())
            else:
                self.add(clean_roff(line))
        self.set_filled(True)
        self.close_paragraph()
        return "".join(self.out)


def text_of_man(source):
    """Text of one manual page."""
    return re.sub(r"[ ]+([.,;:)\]])(?=\s)", r"\1", ManText().feed(source))


def text_of_pod(source):
    """Perl's plain old documentation as light Markdown."""
    source = re.sub(r"^=(begin|for)\b.*?(\n=end\b.*?)?(?=\n\n|\Z)", "", source,
                    flags=re.MULTILINE | re.DOTALL)
    source = re.sub(r"^=head(\d) +", lambda head: "#" * int(head[1]) + " ", source,
                    flags=re.MULTILINE)
    source = re.sub(r"^=item +[*]?\s*", "- ", source, flags=re.MULTILINE)
    source = re.sub(r"^=[a-z]+\b.*\n", "", source, flags=re.MULTILINE)
    source = re.sub(r"[A-Z]<< (.*?) >>", r"`\1`", source, flags=re.DOTALL)
    source = re.sub(r"E<(lt|gt)>", lambda mark: "<" if mark[1] == "lt" else ">", source)
    source = re.sub(r"L<([^|<>]*)\|[^<>]*>|[IBFSXLZ]<([^<>]*)>", r"\1\2", source)
    return re.sub(r"C<([^<>]*)>", r"`\1`", source)


def text_of_quiz(source):
    """Questions and answers of bsdgames' quiz: columns that are short patterns.

    {a|b} and a|b are alternatives, of which the first is taken; [a] may be left out and is kept.
    """
    lines = []
    for line in source.replace("\\\n", "").split("\n"):
        line = re.sub(r"\{([^{}|]*)(?:\|[^{}]*)?\}", r"\1", line)
        columns = [re.sub(r"[\[\]{}]", "", column.split("|")[0]).strip()
                   for column in line.split(":")]
        if len(columns) >= 2 and all(columns[:2]):
            lines.append(f"Q: {columns[0]}\nA: {columns[1]}\n")
    return "\n".join(lines)


def text_of_text(source):
    """Plain text, Markdown and source code stay as they are."""
    return source


def text_of_dict(source):
    """A dictionary of the dict protocol: headwords at the margin, less the entries on itself."""
    entries = re.split(r"\n(?=\S)", source)
    while entries and re.match(r"00-?database|https?://\S+$", entries[0]):
        del entries[0]
    return "\n".join(entries)


EXTRACTORS = {
    "html": text_of_html,
    "man": text_of_man,
    "pod": text_of_pod,
    "text": text_of_text,
    "code": text_of_text,
    "quiz": text_of_quiz,
    "dict": text_of_dict,
}


def tidy(text):
    """Even white space: no trailing blanks, at most one empty line, no control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    text = re.sub(r".\x08", "", text)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffd]", "", text)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_text(path):
    """A file's text (gzip and dictzip unpacked), as UTF-8 or else Latin-1."""
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# ---------------------------------------------------------------- licences


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


# ---------------------------------------------------------------- download and extract


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
    """name -> version of the packages and of those they name under `with`."""
    return {p["name"]: p["version"] for p in packages} | {
        name: version for p in packages for name, version in p.get("with", {}).items()}


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


# ---------------------------------------------------------------- pack


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
