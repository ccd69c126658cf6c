"""Facts as whole clauses: somebody does something to something, somewhere, some day, with somebody.

Any part of the clause may be what is asked for; of the others one or two stand beside it, in the statement and in the
question. So neither the words of a question nor the place of its answer can be learned by heart.
"""
import random

from facts import COLOURS, MONTHS, SITES, TRADES, WEEKDAYS, Attribute, article, city, clock, code, date, number, person, word
from open_facts import (ADJECTIVES, KINDS, MEASURES, MONEY, MOTIONS, NOUNS, NUMBERED, PLURALS, THINGS, VERBS, place, quantity,
                        thing, third)

PLACES = "town city village port harbour country district parish valley county place street square island".split()
BUILDINGS = "house building room inn church shop tavern office".split()
PERIODS = "day night week month year mile head piece hour".split()
RATES = (("charge", "charges"), ("cost", "costs"), ("earn", "earns"), ("lose", "loses"), ("pay", "pays"), ("take", "takes"), ("ask", "asks"))
NEEDS = ("type", "say", "press", "need", "use", "present", "know", "dial", "enter", "write")


def _site(r: random.Random) -> str:
    return f"the {r.choice(SITES)}" + (f" of {city(r)}" if r.random() < 0.5 else "")


def _slot_place(r):
    """Preposition, a drawer of values, and the words that ask for one."""
    if r.random() < 0.7:
        kind = r.choice(PLACES)
        return "in", place, ("Where", f"In which {kind}", f"In what {kind}", f"In which {kind}", "At which place")
    kind = r.choice(BUILDINGS)
    return r.choice(["at", "in", "behind", "near"]), _site, ("Where", f"At which {kind}", "At which place", f"In what {kind}")


def _slot_time(r):
    return r.choice([
        ("on", lambda q: q.choice(WEEKDAYS), ("When", "On which day", "On what day", "On which day of the week")),
        ("on", date, ("When", "On which day", "On what date", "On which date")),
        ("in", lambda q: q.choice(MONTHS), ("When", "In which month", "In what month")),
        ("in", lambda q: number(q, 1400, 2029), ("When", "In which year", "In what year")),
        ("at", clock, ("When", "At what time", "At what hour", "At which hour"))])


def _slot_person(r):
    preposition, ask = r.choice([("with", "With whom"), ("for", "For whom"), ("with", "Together with whom"), ("in front of", "In front of whom"),
                                 ("without", "Without whom"), ("against", "Against whom"), ("on behalf of", "On behalf of whom")])
    return preposition, person, (ask, ask)


def _adverbial(r) -> tuple:
    return r.choices([_slot_place, _slot_time, _slot_person], [5, 4, 3])[0](r)


def _said(r) -> tuple:
    """Base, finite form and auxiliary of a verb."""
    base, past, _ = r.choice(VERBS)
    return (base, past, "did") if r.random() < 0.6 else (base, third(base), "does")


def _object(r) -> str:
    return r.choice([thing, thing, lambda q: article(q.choice(THINGS)), lambda q: f"the {q.choice(PLURALS)}",
                     lambda q: f"{q.choice(COUNTS_OF)} {q.choice(PLURALS)}", lambda q: f"the {q.choice(NOUNS)} of {thing(q)}"])(r)


COUNTS_OF = "two three four five six seven eight nine ten twelve twenty".split()


def _when_where(r) -> Attribute:
    """{s} mended the bell with Ola Brandt in {v}: the adverbial is asked for."""
    (base, does, did), what = _said(r), _object(r)
    preposition, value, asks = _adverbial(r)
    beside, beside_value, _ = _adverbial(r)
    more = f" {beside} {beside_value(r)}" if r.random() < 0.4 and beside != preposition else ""
    front = preposition[:1].upper() + preposition[1:]
    statements = (f"{{s}} {does} {what}{more} {preposition} {{v}}.", f"{{s}} {does} {what} {preposition} {{v}}{more}.",
                  f"{front} {{v}} {{s}} {does} {what}{more}.", f"{front} {{v}}, {{s}} {does} {what}{more}.",
                  f"It {'was' if did == 'did' else 'is'} {preposition} {{v}} that {{s}} {does} {what}{more}.")
    shown = more if r.random() < 0.6 else ""
    questions = tuple(f"{ask} {did} {{s}} {base} {what}{shown}?" for ask in asks)
    return Attribute(f"{asks[0].lower()} {base}", value, statements, questions, f"{does} {what} {preposition} {{v}}", named=False)


def _what(r) -> Attribute:
    """The object is asked for, and what stands beside it tells it from others."""
    base, does, did = _said(r)
    preposition, value, _ = _adverbial(r)
    beside = f"{preposition} {value(r)}"
    statements = (f"{{s}} {does} {{v}} {beside}.", f"{beside[:1].upper() + beside[1:]} {{s}} {does} {{v}}.", f"It is {{v}} that {{s}} {does} {beside}.")
    if r.random() < 0.5:
        kind = r.choice(list(KINDS))
        statements = tuple(s.replace("{v}", r.choice(["the {v}", "a certain {v}", "only the {v}"])) for s in statements[:2])
        asks, drawn = (f"Which {kind}", f"What {kind}"), lambda q: word(q, KINDS[kind])
    else:
        asks, drawn = ("What", "What"), lambda q: f"the {q.choice(PLURALS)}" if q.random() < 0.3 else thing(q)
    shown = f" {beside}" if r.random() < 0.7 else ""
    return Attribute(f"{base} what", drawn, statements, tuple(f"{ask} {did} {{s}} {base}{shown}?" for ask in asks), f"{does} {{v}} {beside}", named=False)


def _how_many(r) -> Attribute:
    (base, does, did), things = _said(r), r.choice(PLURALS)
    things = f"{r.choice(ADJECTIVES + COLOURS)} {things}" if r.random() < 0.5 else things
    preposition, value, _ = _adverbial(r)
    beside = f" {preposition} {value(r)}" if r.random() < 0.6 else ""
    shown = beside if r.random() < 0.7 else ""
    return Attribute(f"{base} {things}", quantity, (f"{{s}} {does} {{v}} {things}{beside}.", f"{{v}} {things} is what {{s}} {does}{beside}."),
                     (f"How many {things} {did} {{s}} {base}{shown}?",), f"{does} {{v}} {things}", named=False)


def _colour_of(r) -> Attribute:
    (_, does, _), noun = _said(r), r.choice(THINGS)
    return Attribute("colour", lambda q: q.choice(COLOURS),
                     (f"{{s}} {does} a {{v}} {noun}.", f"The {noun} that {{s}} {does} is {{v}}.", f"{{v}} is the colour of the {noun} that {{s}} {does}."),
                     (f"What colour is the {noun} that {{s}} {does}?", f"Which colour has the {noun} that {{s}} {does}?",
                      f"What is the colour of the {noun} that {{s}} {does}?"), "", named=False)


def _rate(r) -> Attribute:
    """Twelve crowns a night: the number is asked for where the question has the unit, the sum where it has not."""
    (base, does), unit, period = r.choice(RATES), r.choice(MONEY + MEASURES), r.choice(PERIODS)
    amount = lambda q: quantity(q)
    if r.random() < 0.5:
        return Attribute(f"{base} in {unit}", amount, (f"{{s}} {does} {{v}} {unit} a {period}.", f"{{s}} {does} {{v}} {unit} for every {period}."),
                         (f"How many {unit} a {period} does {{s}} {base}?", f"How many {unit} does {{s}} {base} a {period}?"), f"{does} {{v}} {unit} a {period}",
                         named=False)
    return Attribute(f"{base} price", lambda q: f"{amount(q)} {unit}", (f"{{s}} {does} {{v}} a {period}.", f"For every {period} {{s}} {does} {{v}}."),
                     (f"How much does {{s}} {base} a {period}?", f"What does {{s}} {base} for every {period}?"), f"{does} {{v}} a {period}", named=False)


def _trade_of_doer(r) -> Attribute:
    """Which surveyor drew {s}? The trade stands beside the name."""
    (base, past, participle), trade = r.choice(VERBS), r.choice(TRADES)
    preposition, value, _ = _adverbial(r)
    beside = f" {preposition} {value(r)}" if r.random() < 0.4 else ""
    return Attribute(f"{base} by", None, (f"{{s}} was {participle} by the {trade} {{v}}{beside}.", f"The {trade} {{v}} {past} {{s}}{beside}.",
                                          f"{{v}}, a {trade}, {past} {{s}}{beside}.", f"It was the {trade} {{v}} who {past} {{s}}{beside}."),
                     (f"Which {trade} {past} {{s}}?", f"By which {trade} was {{s}} {participle}?", f"Who {past} {{s}}?", f"What {trade} {past} {{s}}{beside}?"),
                     f"was {participle} by {{v}}", f"the person who {past} {{s}}", named=False)


def _passive(r) -> Attribute:
    """{s}, or a part of it, was mended in {v}."""
    (_, _, participle), (preposition, value, asks) = r.choice(VERBS), _adverbial(r)
    noun = r.choice(NOUNS + THINGS)
    who = r.choice(["{s}", f"the {noun} of {{s}}", f"{{s}}'s {noun}"])
    front = preposition[:1].upper() + preposition[1:]
    be = r.choice(["was", "is"])
    return Attribute(f"{participle} {asks[0].lower()}" if who == "{s}" else f"{noun} {participle} {asks[0].lower()}", value,
                     (f"{who} {be} {participle} {preposition} {{v}}.", f"{front} {{v}} {who} {be} {participle}.",
                      f"It was {preposition} {{v}} that {who} {be} {participle}."),
                     tuple(f"{ask} {be} {who} {participle}?" for ask in asks), f"{be} {participle} {preposition} {{v}}" if who == "{s}" else "", named=False)


def _needed(r) -> Attribute:
    (base, _, _), need = r.choice(VERBS), r.choice(NEEDS)
    value = r.choice([code, code, lambda q: f"the {q.choice(COLOURS)} {q.choice(THINGS)}", lambda q: article(q.choice(THINGS))])
    return Attribute(f"to {base}", value, (f"To {base} {{s}} one must {need} {{v}}.", f"{{s}} can be had by those who {need} {{v}}.",
                                           f"One has to {need} {{v}} to {base} {{s}}.", f"Whoever wants to {base} {{s}} must {need} {{v}}."),
                     (f"What must one {need} to {base} {{s}}?", f"What does one {need} to {base} {{s}}?", f"What has one to {need} to {base} {{s}}?"), "", named=False)


def _numbered_part(r) -> Attribute:
    """Cabin 12 of {s}; the question names the kind, and the answer may be the number alone."""
    noun, where = r.choice(NUMBERED + ["room", "pier", "gate", "berth", "locker", "platform"]), thing(r)
    told = r.choice(["belongs to", "is reserved for", "was given to", "is kept for", "is let to"])
    bare = r.random() < 0.5
    if bare:
        return Attribute(f"{noun} number", lambda q: number(q, 1, 900), (f"{noun.capitalize()} {{v}} of {where} {told} {{s}}.", f"{noun} {{v}} at {where} {told} {{s}}."),
                         (f"What number has the {noun} of {where} that {told} {{s}}?", f"Which number is on the {noun} that {told} {{s}}?"), "", named=False)
    return Attribute(f"{noun} of", lambda q: f"{noun} {q.randint(1, 900)}", (f"In {where} {{v}} {told} {{s}}.", f"They say that {{v}} of {where} {told} {{s}}."),
                     (f"Which {noun} of {where} {told} {{s}}?", f"What {told} {{s}} in {where}?"), "", named=False)


def _goes(r) -> Attribute:
    base, past, preposition = r.choice(MOTIONS)
    kind, noun = r.choice(PLACES), r.choice(THINGS + NOUNS)
    who = r.choice(["{s}", "{s}", f"the {noun} of {{s}}", f"{{s}}'s {noun}"])
    beside, value, _ = _slot_time(r) if r.random() < 0.5 else _slot_person(r)
    more = f" {beside} {value(r)}" if r.random() < 0.5 else ""
    end = f" {preposition}" if preposition in ("from", "through", "near") else ""
    return Attribute(f"{base} {preposition}" if who == "{s}" else f"{noun} {base} {preposition}", place,
                     (f"{who} {past} {preposition} {{v}}{more}.", f"{who} {past}{more} {preposition} {{v}}.", f"{preposition.capitalize()} {{v}} {who} {past}{more}."),
                     (f"{preposition.capitalize()} which {kind} did {who} {base}?", f"Where did {who} {base}{end}?", f"Where was it that {who} {past}{end}?",
                      f"{preposition.capitalize()} what {kind} did {who} {base}{more}?"), "", named=False)


PERSON_FORMS = (_when_where, _when_where, _when_where, _what, _what, _how_many, _colour_of, _rate, _goes, _numbered_part)
THING_FORMS = (_trade_of_doer, _trade_of_doer, _passive, _passive, _passive, _needed, _rate, _goes, _numbered_part)
