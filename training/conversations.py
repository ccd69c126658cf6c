"""Training sequences: conversations about long documents with hidden facts, and plain text.

A document is a stretch of the corpus into which statements, lists, tables and headings are put. The
questions that follow ask for facts, through one fact for another, for the holder of a value, for
several facts at once, for counts, for the section, for what is not there, and for the next words of a
passage. Everything is made of tokens; the text around a statement keeps its own.
"""
import collections
import random
import re
import textwrap

import numpy as np
from tokenizers import Tokenizer

import facts as invented
import mentions

BOS, EOS, PAD = 0, 1, 2
ABSENT = "The text does not say."
ANSWER_WEIGHT, QUOTE_WEIGHT, QUESTION_WEIGHT = 6.0, 3.0, 0.2
KINDS = [("fact", 27), ("holder", 6), ("several", 5), ("chain", 8), ("which", 5), ("count", 3), ("list", 3), ("section", 5),
         ("absent", 11), ("quote", 22), ("sentence", 5)]
SPARE_KINDS = [("fact", 30), ("several", 3), ("holder", 3), ("absent", 34), ("quote", 22), ("sentence", 4)]  # where facts are few
CONTINUE = (
    "Continue: {p}", "Continue: {p}", "Continue: {p}", "Continue the passage: {p}", "How does the passage go on that begins with \"{p}\"?",
    "What comes after \"{p}\"?", "Quote what follows: {p}", "Complete this passage of the text: {p}", "Which words follow \"{p}\"?",
    "Go on from here: {p}", "The text says: \"{p}\" What comes next?", "Quote the words after \"{p}\".")
SENTENCE = (
    "Quote the sentence that begins with \"{p}\".", "Quote the whole sentence: {p}", "Which sentence begins with \"{p}\"?",
    "Give the sentence that starts with \"{p}\".", "Write out the sentence that begins \"{p}\".")
SECTION = {
    "fact": ("In which {k} does the text say: \"{p}\"?", "In which {k} is it written that {l}", "Which {k} says: \"{p}\"?",
             "Under which heading stands \"{p}\"?"),
    "about": ("In which {k} is the {a} of {s}?", "Which {k} mentions the {a} of {s}?", "In which {k} do I find the {a} of {s}?",
              "Under which heading is the {a} of {s} given?")}


class Corpus:
    """Tokens of documents, each after a BOS, and what the tokenizer says about single tokens."""

    def __init__(self, paths: list[str], tokenizer_path: str):
        self.tokens = np.concatenate([np.fromfile(p, dtype=np.uint16) for p in paths])
        self.tokenizer = Tokenizer.from_file(tokenizer_path)
        words = [self.tokenizer.id_to_token(i) or "" for i in range(self.tokenizer.get_vocab_size())]
        self.user, self.assistant, self.end_of_thought = (words.index(w) for w in ("<｜User｜>", "<｜Assistant｜>", "</think>"))
        self.has_newline = np.array(["Ċ" in w for w in words])
        self.blank_line = np.array(["ĊĊ" in w for w in words])
        self.ends_sentence = np.array([w.rstrip("Ċ").endswith((".", "!", "?")) and "Ċ" not in w for w in words])
        self.starts_word = np.array([w.startswith("Ġ") and len(w) > 1 for w in words])
        if not invented.VOCABULARY:
            parts = np.linspace(0, max(0, len(self.tokens) - 10000), 40).astype(int)
            text = " ".join(self.decode(self.tokens[p:p + 10000]) for p in parts)
            common = collections.Counter(re.findall(r"(?<= )[a-z]{4,12}(?=[ ,.])", text))
            invented.VOCABULARY += sorted(word for word, count in common.items() if count > 2 and not word.endswith(("ing", "ed", "ly")))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids) -> str:
        return self.tokenizer.decode([int(i) for i in ids])

    def sentence_ends(self, ids: np.ndarray) -> np.ndarray:
        """Where a sentence of `ids` ends: a full stop that a space or a line's end follows."""
        follows = self.starts_word | self.has_newline
        return np.flatnonzero(self.ends_sentence[ids[:-1]] & follows[ids[1:]])

    def window(self, r: random.Random, length: int) -> np.ndarray:
        start = r.randrange(0, len(self.tokens) - length - 1)
        return self.tokens[start:start + length]

    def body(self, r: random.Random, length: int) -> np.ndarray:
        """`length` tokens of text without special ones."""
        text = self.window(r, min(length + 256, len(self.tokens) - 2))
        return text[text > PAD][:length]


class Headings:
    """The headings of one document, all of one style."""
    STYLES = (("chapter", "Chapter {n}. {t}"), ("chapter", "Chapter {n}: {t}"), ("section", "Section {n}. {t}"), ("section", "{n}. {t}"),
              ("section", "## {t}"), ("chapter", "# {n} {t}"), ("section", "=== {t} ==="), ("part", "Part {n}. {t}"), ("letter", "Letter {n}: {t}"),
              ("chapter", "CHAPTER {n}. {t}"))

    def __init__(self, r: random.Random, count: int):
        self.kind, style = r.choice(self.STYLES)
        titles: list[str] = []
        while len(titles) < count:
            title = self._title(r)
            if title not in titles:
                titles.append(title)
        first = r.choice([1, 1, 1, r.randint(2, 30)])
        self.lines = [style.format(n=first + i, t=t.upper() if style.startswith("CHAPTER") else t) for i, t in enumerate(titles)]

    @staticmethod
    def _title(r: random.Random) -> str:
        site, thing = r.choice(invented.SITES).title(), r.choice(invented.OBJECTS).title()
        return r.choice([f"The {site}", f"The {r.choice(invented.COLOURS).title()} {thing}", f"{invented.city(r)}", f"The {thing} of {invented.city(r)}",
                         f"A {r.choice(invented.WEEKDAYS)} in {r.choice(invented.MONTHS)}", f"{invented.person(r)}", f"The {r.choice(invented.TRADES).title()}",
                         f"{r.choice(invented.SERVICES).title()} and {r.choice(invented.SERVICES).title()}", f"On {r.choice(invented.HOBBIES).title()}"])


class Document:
    """A document of `length` tokens with `world`, `holdings` and `headings` in it."""

    def __init__(self, corpus: Corpus, r: random.Random, length: int, world: invented.World, holdings: list, headings: Headings | None):
        self.corpus, self.r = corpus, r
        self.depth: dict = {}      # fact or holding -> share of the document before it
        self.section: dict = {}    # fact or holding -> heading above it
        self.stated: dict = {}     # fact or holding -> its sentence
        pieces = self._pieces(world, holdings)
        pieces += [([], None, text) for text in self._mentions(world)]
        lines = [(None, None, h) for h in (headings.lines if headings else [])]
        places = sorted(r.random() for _ in range(len(pieces) + len(lines)))
        heading_at = set(r.sample(range(len(places)), len(lines)))
        r.shuffle(pieces)
        ordered = [lines.pop(0) if i in heading_at else pieces.pop() for i in range(len(places))]
        drafts = [(what, self._draft(what, text)) for what, _, text in ordered]
        room = max(64, length - sum(len(d["line"]) for _, d in drafts) - 2)
        wrapped = r.random() < 0.3
        body = corpus.body(r, int(room * 0.97) if wrapped else room)  # breaks are tokens too
        people = [who for who, known in world.of.items() if known and known[0].family == "person"]
        if people and r.random() < 0.25:
            text = mentions.renamed(r, corpus.decode(body), people)
            body = np.array(corpus.encode(text)[:len(body)], dtype=np.uint16)
        if r.random() < 0.5:
            body = self._spliced(body, r.uniform(0.5, 5))[:len(body)]
        self.ids = self._assemble(body, places, drafts)
        if wrapped:
            self.ids = self._wrapped(r.randint(60, 100))

    def _spliced(self, body: np.ndarray, per_thousand: float) -> np.ndarray:
        """The body with phrases of its own repeated elsewhere in it, every other one with a word changed.

        So a passage goes on one way here and another way there, and only who keeps the place quotes it right.
        """
        starts = np.flatnonzero(self.corpus.starts_word[body])
        if len(starts) < 40:
            return body
        parts, last = [], 0
        for at in sorted(self.r.sample(range(1, len(starts)), min(len(starts) // 8, 1 + int(len(body) * per_thousand / 1000)))):
            first = self.r.randrange(len(starts) - 18)
            phrase = body[starts[first]:starts[first + self.r.randint(2, 16)]].copy()
            if self.r.random() < 0.5:
                inner = np.flatnonzero(self.corpus.starts_word[phrase])
                phrase[inner[self.r.randrange(len(inner))]] = body[self.r.choice(starts)]
            parts += [body[last:starts[at]], phrase]
            last = starts[at]
        return np.concatenate([*parts, body[last:]])

    def _wrapped(self, width: int) -> list[int]:
        """The document with its long lines broken, as many texts are stored."""
        lines = self.corpus.decode(self.ids).split("\n")
        broken = [part for line in lines for part in (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
                                                      if len(line) > width and not line.startswith((" ", "|")) else [line])]
        return self.corpus.encode("\n".join(broken))

    def _pieces(self, world, holdings) -> list:
        """(kind, members, text): most facts as a sentence of their own, some together in a list or table."""
        r, single, pieces = self.r, list(world.facts) + list(holdings), []
        r.shuffle(single)
        while len(single) > 6 and r.random() < 0.25:
            members = [m for m in single[:r.randint(3, 6)] if isinstance(m, invented.Fact) and m.attribute.named]
            single = [m for m in single if m not in members]
            if members:
                pieces.append((members, None, self._table(members)))
        for member in single:
            self.stated[member] = member.statement(r)
            pieces.append(([member], None, self.stated[member]))
        return pieces

    def _mentions(self, world) -> list[str]:
        """In half of all documents, sentences that name subjects and say nothing about them."""
        if self.r.random() < 0.5:
            return []
        count = int(len(world.facts) * self.r.uniform(0.3, 2)) + 1
        made = [mentions.hint(self.r, world) if self.r.random() < 0.15 else mentions.mention(self.r, world) for _ in range(count)]
        return [text for text in made if text]

    def _table(self, members) -> str:
        row = self.r.choice(["- {s}: {a} {v}", "| {s} | {a} | {v} |", "{s} - {a}: {v}", "* the {a} of {s} is {v}", "{s}, {a}: {v};"])
        lines = [row.format(s=m.subject, a=m.attribute.name, v=m.value) for m in members]
        title = self.r.choice(["Register", "Inventory", "List", "Notes", "From the ledger", "Table", "Summary"])
        return title + ":\n" + "\n".join(lines)

    def _draft(self, what, text) -> dict:
        line = self.corpus.encode(("\n" if what is None else "") + text + ("\n\n" if what is None or "\n" in text else "\n"))
        inline = self.corpus.encode(" " + text) if what is not None and "\n" not in text else None
        return {"line": line, "inline": inline, "text": text}

    def _place(self, body: np.ndarray, start: int, inline: bool) -> int:
        """The first end of a line (or of a sentence) at or after `start`, if one is near."""
        window = body[start:start + 160]
        hits = self.corpus.sentence_ends(window) if inline else np.flatnonzero(self.corpus.has_newline[window])
        return start + int(hits[0]) + 1 if len(hits) else -1

    def _assemble(self, body, places, drafts) -> list[int]:
        ids: list[int] = []
        last, heading = 0, None
        total = len(body) + sum(len(d["line"]) for _, d in drafts)
        for place, (what, draft) in zip(places, drafts):
            start, inline = max(last, int(place * len(body))), draft["inline"] is not None and self.r.random() < 0.55
            cut = self._place(body, start, inline)
            if cut < 0 and inline:
                inline, cut = False, self._place(body, start, False)
            broken = cut < 0
            cut = min(start, len(body)) if broken else cut
            ids += body[last:cut].tolist()
            last = cut
            at = len(ids) / total
            if broken:
                ids += self.corpus.encode("\n")
            ids += draft["inline"] if inline else draft["line"]
            if what is None:
                heading = draft["text"]
            else:
                for member in what:
                    self.depth[member], self.section[member] = at, heading
        return ids + body[last:].tolist()


def forks(ids: np.ndarray, n: int) -> np.ndarray:
    """Positions whose `n` tokens before them stand elsewhere too, and go on there with another token."""
    wide = ids.astype(np.uint64)
    before = np.zeros(max(0, len(ids) - n), dtype=np.uint64)
    for i in range(n):
        before = before * np.uint64(0x9E3779B97F4A7C15) + wide[i:i + len(before)]  # a hash: what falls together by chance is rare
    after = before * np.uint64(0x9E3779B97F4A7C15) + wide[n:]
    same_before, same_after = (counts[inverse] for _, inverse, counts in (np.unique(h, return_inverse=True, return_counts=True) for h in (before, after)))
    return n + np.flatnonzero(same_before > same_after)


class Examiner:
    """Asks about one document. Every question has one right answer in it."""

    def __init__(self, corpus: Corpus, r: random.Random, document: Document, world: invented.World, holdings: list, headings: Headings | None):
        self.corpus, self.r, self.document, self.world = corpus, r, document, world
        self.holdings, self.headings = holdings, headings
        self.plain = np.array(document.ids, dtype=np.uint16)
        self.chained = world.chained()
        self.forks = None  # found when the first quotation needs them

    def ask(self, kind: str):
        """(question, answer tokens, depth), or None where the document holds no such question."""
        made = getattr(self, "_" + kind)()
        if made is None:
            return None
        question, answer, depth = made
        if isinstance(answer, str):
            question, answer = invented.asked(self.r, question) if kind != "section" else question, self.corpus.encode(answer)
        return question, answer, depth

    def _fact(self):
        fact = self.r.choice(self.world.facts)
        return fact.question(self.r), fact.value, self.document.depth[fact]

    def _holder(self):
        fact = self.r.choice(self.world.facts)
        if not fact.attribute.predicate:
            return None
        if sum(fact.value in f.value for f in self.world.facts if f.attribute.name == fact.attribute.name) != 1 or fact.value.isdigit() and len(fact.value) < 3:
            return None
        person = fact.family == "person"
        who = "who" if person else self.r.choice(["what", "which " + {"site": "place", "vessel": "vessel", "project": "project", "event": "event"}.get(fact.family, "thing")])
        return f"{who} {fact.attribute.predicate.format(v=fact.value)}?", fact.subject, self.document.depth[fact]

    def _several(self):
        fact = self.r.choice(self.world.facts)
        known = [f for f in self.world.of[fact.subject] if f.attribute.named]
        if len(known) < 2:
            return None
        chosen = self.r.sample(known, min(len(known), self.r.choice([2, 2, 3])))
        names = invented.joined(["the " + f.attribute.name for f in chosen])
        question = self.r.choice(["What are {n} of {s}?", "Tell me {n} of {s}.", "Give {n} of {s}."]).format(n=names, s=fact.subject)
        return question, ", ".join(f.value for f in chosen), self.document.depth[chosen[0]]

    def _chain(self):
        if not self.chained:
            return None
        first, second = self.r.choice(self.chained)
        if sum(f.attribute.name == first.attribute.name and f.subject == first.subject for f in self.world.facts) != 1:
            return None
        return second.question(self.r, first.attribute.relation.format(s=first.subject)), second.value, self.document.depth[second]

    def _which(self):
        fact = self.r.choice(self.world.facts)
        peers = self.world.peers(fact)
        if not peers or not fact.attribute.predicate:
            return None
        others = [p.subject for p in self.r.sample(peers, min(len(peers), self.r.choice([1, 2, 2, 3])))]
        names = others + [fact.subject]
        self.r.shuffle(names)
        question = self.r.choice(["Which of {n} {p}?", "Which one {p}: {n}?"]).format(n=invented.joined(names), p=fact.attribute.predicate.format(v=fact.value))
        return question, fact.subject, self.document.depth[fact]

    def _count(self):
        if not self.holdings:
            return None
        held = self.r.choice(self.holdings)
        return held.count_question(self.r), str(len(held.items)), self.document.depth[held]

    def _list(self):
        if not self.holdings:
            return None
        held = self.r.choice(self.holdings)
        return held.list_question(self.r), invented.joined(list(held.items)), self.document.depth[held]

    def _section(self):
        if not self.headings:
            return None
        fact = self.r.choice(self.world.facts)
        heading = self.document.section[fact]
        if heading is None:
            return None
        style = "fact" if fact in self.document.stated and self.r.random() < 0.3 or not fact.attribute.named else "about"
        sentence = self.document.stated.get(fact, "")
        question = self.r.choice(SECTION[style]).format(
            k=self.headings.kind, p=sentence, l=invented.lowered(sentence)[:-1] + "?", a=fact.attribute.name, s=fact.subject)
        return question, heading.strip("#= ") if heading.startswith(("#", "=")) else heading, self.document.depth[fact]

    def _absent(self):
        hinted = self.world.hinted
        who, attr = self.r.choice(hinted) if hinted and self.r.random() < 0.3 else self.world.missing()
        return self.r.choice(attr.questions).format(s=who), ABSENT, None

    def _passage(self, cue_low: int, cue_high: int, sentence: bool):
        """Start of a cue and the length of the cue, at word boundaries and unique in the document."""
        for _ in range(8):
            n = self.r.randint(cue_low, cue_high)
            p = self._start_before_a_fork(n) if not sentence and self.r.random() < 0.5 else self.r.randrange(1, max(2, len(self.plain) - 80))
            if sentence:
                hits = self.corpus.sentence_ends(self.plain[p:p + 200])
                if not len(hits):
                    continue
                p += int(hits[0]) + 1
            word = np.flatnonzero(self.corpus.starts_word[self.plain[p:p + 12]])
            if not len(word) or (sentence and word[0] > 0):
                continue
            p += int(word[0])
            stop = np.flatnonzero(self.corpus.starts_word[self.plain[p + n:p + n + 8]])
            if not len(stop) or p + n + 60 > len(self.plain):
                continue
            n += int(stop[0])
            if self._occurrences(self.plain[p:p + n]) == 1:
                return p, n
        return None

    def _start_before_a_fork(self, cue: int) -> int:
        """A place so that the words after the cue pass a fork, where what was just said goes on in another way elsewhere."""
        if self.forks is None:
            self.forks = [found for n in (2, 3, 5) if len(found := forks(self.plain, n))]
        if not self.forks:
            return self.r.randrange(1, max(2, len(self.plain) - 80))
        return max(1, int(self.r.choice(self.r.choice(self.forks))) - cue - self.r.randint(0, 18))

    def _occurrences(self, cue: np.ndarray) -> int:
        at = np.flatnonzero(self.plain[:len(self.plain) - len(cue)] == cue[0])
        for i in range(1, len(cue)):
            at = at[self.plain[at + i] == cue[i]]
        return len(at)

    def _cue(self, p: int, n: int) -> str | None:
        text = self.corpus.decode(self.plain[p:p + n]).strip()
        if "\ufffd" in text:
            return None
        return " ".join(text.split()) if self.r.random() < 0.4 else text

    def _quote(self):
        found = self._passage(5, 16, sentence=False)
        if not found or (cue := self._cue(*found)) is None:
            return None
        start = sum(found)
        ends = self.corpus.sentence_ends(self.plain[start + 19:start + 44])
        stop = start + 20 + (int(ends[0]) if len(ends) else self.r.randint(0, 8))
        return self.r.choice(CONTINUE).format(p=cue), self.plain[start:stop].tolist(), start / len(self.plain)

    def _sentence(self):
        found = self._passage(3, 7, sentence=True)
        if not found or (cue := self._cue(*found)) is None:
            return None
        ends = self.corpus.sentence_ends(self.plain[sum(found):found[0] + 60])
        if not len(ends):
            return None
        return self.r.choice(SENTENCE).format(p=cue), self.plain[found[0]:sum(found) + int(ends[0]) + 1].tolist(), found[0] / len(self.plain)


def conversation(corpus: Corpus, r: random.Random, length: int, kinds=KINDS, tail: float | None = None):
    """Ids and loss weights of exactly `length` tokens, and the (kind, start, end, depth) of the answers."""
    spare = r.random() < 0.3  # few facts and few questions, so that what is asked first is often not there
    size = max(2, min(int(r.choice([4, 8, 8, 16, 32, 48]) * (length / 8192) ** 0.6), length // 60))
    share = tail if tail is not None else 0.3 if length <= 4096 else 0.2 if length <= 8192 else 0.12
    tail_tokens = int(length * share * r.choice([0.5, 1, 1, 1.2]))
    if spare:
        size, kinds = r.choice([1, 1, 2, 3, size]), SPARE_KINDS
        tail_tokens = min(tail_tokens, r.randint(50, 400))
    world = invented.World(r, size)
    holdings = [invented.Holding.draw(r) for _ in range(r.randint(0, 1 + size // 8))]
    headings = Headings(r, r.randint(2, max(3, min(24, length // 600)))) if length >= 1024 and r.random() < 0.5 else None
    document = Document(corpus, r, length - tail_tokens, world, holdings, headings)
    examiner = Examiner(corpus, r, document, world, holdings, headings)
    ids, weights, spans = [BOS, corpus.user] + document.ids, [1.0] * (len(document.ids) + 2), []
    names, shares = zip(*kinds)
    misses = 0
    while misses < 6:
        kind = r.choices(names, shares)[0]
        made = examiner.ask(kind)
        if made is None:
            misses += 0.1
            continue
        question, answer, depth = made
        opening = ([corpus.user] if spans else []) + corpus.encode(("" if spans else "\n\n") + question) + [corpus.assistant, corpus.end_of_thought]
        if len(ids) + len(opening) + len(answer) + 1 > length:
            misses += 1
            continue
        ids += opening
        weights += [QUESTION_WEIGHT] * len(opening)
        spans.append((kind, len(ids), len(ids) + len(answer) + 1, depth))
        ids += answer + [EOS]
        weights += [QUOTE_WEIGHT if kind in ("quote", "sentence") else ANSWER_WEIGHT] * (len(answer) + 1)
    ids, weights = ids[:length], weights[:length]
    pad = length - len(ids)
    return ids + [PAD] * pad, weights + [0.0] * pad, [s for s in spans if s[2] <= length]


def packed(corpus: Corpus, r: random.Random, length: int):
    """Several short conversations, one after another, in `length` tokens."""
    ids, weights = [], []
    while (room := length - len(ids)) >= 256:
        part, weight, _ = conversation(corpus, r, min(room, int(2 ** r.uniform(8, 11.5))))
        ids, weights = ids + part, weights + weight
    return ids + [PAD] * room, weights + [0.0] * room


def sequence(corpus: Corpus, r: random.Random, length: int, text_share: float, packed_share: float, tail: float | None = None):
    """One training sequence: plain text, several short conversations or one about a long document.

    `tail` is the share of the last that questions take; by default less, the longer it is.
    """
    u = r.random()
    if u < text_share:
        ids = corpus.window(r, length)
        weights = (ids != BOS).astype(np.float32)
        return ids.astype(np.int32), weights
    ids, weights = packed(corpus, r, length) if u < text_share + packed_share else conversation(corpus, r, length, tail=tail)[:2]
    return np.array(ids, dtype=np.int32), np.array(weights, dtype=np.float32)
