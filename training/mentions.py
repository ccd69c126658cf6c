"""Sentences that name the subjects of a document without saying anything that is asked for.

In a real document people are mentioned all the time. A model that has met names only where a fact is stated
takes any mention for the fact.
"""
import collections
import random
import re

import facts

PEOPLE = (
    "{s} said nothing", "{s} was silent for a while", "{s} looked up", "{s} laughed", "{s} nodded", "{s} went to the window",
    "{s} did not answer", "{s} smiled at {t}", "{s} and {t} talked about the weather", "{s} walked on with {t}", "{s} asked {t} about it",
    "{s} knew {t} well", "{s} had heard it before", "{s} came back without {t}", "{s} thought of {t}", "{s} wrote to {t}",
    "nobody had seen {s}", "we met {s} again", "I thought of {s}", "a letter from {s} lay on the table", "they waited for {s}",
    "it was {s} who laughed first", "what {s} thought of it is not known", "nobody asked {s}", "{t} did not like {s}",
    "{t} told {s} everything", "somebody called for {s}", "there was no word from {s}", "the story of {s} is soon told",
    "I do not know, said {s}", "not today, {s} answered", "so it is, said {s} to {t}")
THINGS = (
    "they passed {s}", "nobody spoke of {s}", "{s} was mentioned again", "{p} asked about {s}", "there was talk of {s}",
    "a picture of {s} hung on the wall", "some preferred {s} to {t}", "{s} is not like {t}", "not everybody likes {s}", "{p} dreamt of {s}",
    "it was quiet around {s}", "{s} has been described by others", "I had forgotten {s}", "{p} told us about {s}", "everybody knows {s}",
    "of {s} more will be said", "it is a pity about {s}", "{p} laughed at {s}", "there are many stories about {s}", "we looked for {s}",
    "{s} is old, they say", "{p} praised {s}", "{s} was as it had always been", "children are fond of {s}")
HINTS = (  # {a} is asked for, {v} is not there
    "nobody remembered the {a} of {s}", "the {a} of {s} was changed more than once", "{p} asked for the {a} of {s} in vain",
    "the {a} of {s} is not given here", "there was a quarrel about the {a} of {s}", "do not ask me for the {a} of {s}",
    "the {a} of {s} is known to few", "{p} had forgotten the {a} of {s}", "the {a} of {s} matters to nobody",
    "the {a} of {s} was mentioned in a letter that is lost")
LEADS = ("", "", "", "", "that evening ", "the next morning ", "in the end ", "once more ", "at first ", "later ", "after that ", "as always ",
         "for a moment ", "on the way home ", "when it was over, ", "then ", "meanwhile ", "as far as I remember, ")
ENDS = ("", "", "", "", ", and that was all", " after all", ", of course", " that day", ", so it seemed", ", as before", " and went on",
        ", or nearly", ", I believe", " once again", " all the same")


def mention(r: random.Random, world: facts.World) -> str:
    """A sentence about a subject of the world, and now and then about another."""
    fact = r.choice(world.facts)
    peers = [f.subject for f in world.facts if f.family == fact.family and f.subject != fact.subject]
    other = r.choice(peers) if peers and r.random() < 0.7 else facts.subject(r, fact.family)
    who = fact.subject if r.random() < 0.8 else facts.neighbour(r, fact.subject)
    frame = r.choice(PEOPLE if fact.family == "person" else THINGS)
    return _sentence(r, frame.format(s=who, t=other, p=facts.person(r)))


def hint(r: random.Random, world: facts.World) -> str | None:
    """A sentence that names what is missing in the world, and does not give it."""
    who, attribute = world.missing()
    if not attribute.named:
        return None
    world.hinted.append((who, attribute))
    return _sentence(r, r.choice(HINTS).format(a=attribute.name, s=who, p=facts.person(r)))


def _sentence(r: random.Random, text: str) -> str:
    return facts.capitalized(r.choice(LEADS) + text + r.choice(ENDS) + ".")


def renamed(r: random.Random, text: str, people: list[str]) -> str:
    """The text with the names that it mentions most replaced by those of `people`, whole or in part."""
    counts = collections.Counter(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]{2,}", text))
    names = [name for name, count in counts.most_common(2 * len(people)) if count > 1 and name not in facts.MONTHS + facts.WEEKDAYS]
    if not names:
        return text
    person_of = {name: r.choice(people) for name in names}

    def substitute(match):
        person = person_of[match[0]]
        return person if r.random() < 0.4 else r.choice(person.split(" "))
    return re.sub(r"\b(" + "|".join(names) + r")\b", substitute, text)
