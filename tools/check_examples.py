#!/usr/bin/env python3
"""Checks the questions of examples/ against their documents, without a model.

    tools/check_examples.py [FILE...]      question files; without any, examples/*questions.json

Prints file: question: message for each finding; exits 1 if there are any. A statement must stand in
its document exactly once (line ends count as spaces), on the line and at the depth given, and the
answer must follow from the statements as the kind of the question asks. That what an absent question
asks for is nowhere said, it cannot check: the answer must be ABSENT and there must be no statements.

Depth is the share of the document before the first statement: of its tokens if the question gives
"token" (which is believed), else of its characters.
"""
import json
import pathlib
import re
import sys

ABSENT = "The text does not say."
HEADING = re.compile(r"^Chapter \d+\. .+$")
QUOTED_WORDS = 12  # that a quote question gives
KINDS = {"fact", "two-facts", "several", "which", "count", "list", "section", "absent", "quote"}


class Document:
    def __init__(self, text):
        self.text = text
        self.headings = [(number, line) for number, line in enumerate(text.split("\n"), 1)
                         if HEADING.match(line)]

    def places(self, statement):
        """Offsets of the statement, which may be broken over lines."""
        words = r"\s+".join(map(re.escape, statement.split()))
        return [match.start() for match in re.finditer(r"(?<!\w)" + words + r"(?!\w)", self.text)]

    def line(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def depth(self, offset):
        return round(offset / len(self.text), 3)

    def section(self, line):
        before = [heading for number, heading in self.headings if number <= line]
        return before[-1] if before else None


def items(statement):
    """What a sentence such as "The bag holds a knife, a candle and a map." lists."""
    listed = re.split(r" h(?:olds|eld) ", statement.rstrip("."), maxsplit=1)[-1]
    return re.split(r", | and ", listed)


def holds(statement, answer):
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", statement, re.IGNORECASE) is not None


def names(text):
    return set(re.findall(r"[A-Z][a-z]+ [A-Z][a-z]+", text))


def answer_findings(kind, question, answer, statements, document, line):
    """What is wrong with the answer, given that the statements stand in the document."""
    text = " ".join(statements)
    if kind == "two-facts":
        if len(statements) != 2 or not names(statements[0]) & names(statements[1]):
            yield "two statements that share a name were expected"
        if not holds(statements[-1], answer):
            yield f"the second statement does not hold the answer {answer!r}"
        if names(statements[0]) & names(statements[1]) & names(question):
            yield "the question gives away the name that links the statements"
    elif kind == "several":
        parts = answer.split(", ")
        if len(parts) < 2 or len(statements) != len(parts):
            yield f"{len(statements)} statements for {len(parts)} parts of the answer"
        for part, statement in zip(parts, statements):
            if not holds(statement, part):
                yield f"{statement!r} does not hold {part!r}"
    elif kind == "which":
        if not holds(question, answer) or not holds(statements[0], answer):
            yield f"question and first statement do not both name {answer!r}"
        asked = question.rstrip("?").split()[-1]
        if [holds(statement, asked) for statement in statements] != [True] + [False] * (
                len(statements) - 1):
            yield f"the first statement alone should hold {asked!r}"
    elif kind == "count":
        if str(len(items(text))) != answer:
            yield f"{len(items(text))} things listed, {answer} given"
    elif kind == "section":
        if document.section(line) != answer:
            yield f"stands in {document.section(line)!r}, not in {answer!r}"
    elif kind == "quote":
        words = text.split()
        if question != "Continue: " + " ".join(words[:QUOTED_WORDS]):
            yield f"does not begin with the first {QUOTED_WORDS} words of the statement"
        if answer != " ".join(words[QUOTED_WORDS:]):
            yield "the answer is not what follows in the statement"
    elif not holds(text, answer):
        yield f"the statement does not hold the answer {answer!r}"


def findings(entry, document, tokens):
    kind = entry.get("kind") or ("absent" if entry["statement"] is None else "fact")
    statements = entry.get("statements")
    if statements is None:
        statements = [] if entry["statement"] is None else [entry["statement"]]
    if kind not in KINDS:
        yield f"kind {kind!r}, expected one of {', '.join(sorted(KINDS))}"
        return
    if kind == "absent":
        if entry["answer"] != ABSENT or statements:
            yield f"an absent question has no statements and the answer {ABSENT!r}"
        if entry["line"] is not None or entry["depth"] is not None:
            yield "an absent question has neither line nor depth"
        return
    if not statements:
        yield "no statements"
        return
    places = [document.places(statement) for statement in statements]
    for statement, found in zip(statements, places):
        if len(found) != 1:
            yield f"{statement!r} stands in the document {len(found)} times, expected once"
            return
    first = places[0][0]
    if entry["line"] != document.line(first):
        yield f"line {entry['line']}, found on {document.line(first)}"
    depth = round(entry["token"] / tokens, 3) if "token" in entry else document.depth(first)
    if entry["depth"] != depth:
        yield f"depth {entry['depth']}, found at {depth}"
    yield from answer_findings(kind, entry["question"], entry["answer"], statements, document,
                               document.line(first))


def check(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    document = Document((path.parent / content["document"]).read_text(encoding="utf-8"))
    asked = set()
    for entry in content["questions"]:
        question = entry["question"]
        if question in asked:
            yield f"{path}: {question}: asked twice"
        asked.add(question)
        for finding in findings(entry, document, content.get("tokens")):
            yield f"{path}: {question}: {finding}"


def main():
    examples = pathlib.Path(__file__).resolve().parent.parent / "examples"
    paths = [pathlib.Path(name) for name in sys.argv[1:]]
    paths = paths or sorted(examples.glob("*questions.json"))
    wrong = 0
    for path in paths:
        for finding in check(path):
            print(finding)
            wrong += 1
    return 1 if wrong or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
