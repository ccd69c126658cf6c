"""Facts of any kind: verbs, nouns and roles thrown together, so that no list of attributes can be learned by heart.

`open_attribute` draws a kind of fact that may never have been seen: "Mira Holt mended the copper bell in Turku."
Its sentences and questions follow from the grammar.
"""
import random
import sys

from facts import (COLOURS, FOODS, HOBBIES, ITEMS, LANGUAGES, MATERIALS, MONTHS, OBJECTS, PETS, SITES, WEEKDAYS,
                   Attribute, amount, article, city, clock, code, date, invented_name, number, person, trade, word)

REGULAR = (
    "repair paint polish mend open close visit cross sign print publish plant collect deliver order receive bury discover "
    "measure weigh sew bake cook launch raise own rent hire train invent design compose record photograph translate copy "
    "edit review test install inspect guard watch mark count name borrow offer serve store unload load ship import export "
    "produce harvest gather carve lock deploy search clean sort finish start describe sketch chart survey cure brew tune "
    "roast pickle season dye press fold stack pack wrap label post address reach climb explore map drain pave restore "
    "replace remove move turn lift pull push carry marry study rescue trade exchange inherit promise notice mention "
    "recommend refuse accept welcome invite follow admire fear favour donate auction fetch fill empty warm cool smoke dry "
    "water weed assemble adopt appoint archive award balance bless bottle catalogue christen condemn confiscate decorate "
    "demolish display divide embroider enlarge examine extend finance gild guide heat honour insure judge knit locate "
    "manage mortgage narrate navigate occupy paper patent pawn perform pledge plough praise preserve protect prune purchase "
    "quote rebuild recover register release rename report request reserve salvage scrub sharpen shelter sponsor steer "
    "supply surround tend thatch trace varnish weld").split()
IRREGULAR = tuple(tuple(verb.split("/")) for verb in (
    "build/built/built sell/sold/sold buy/bought/bought find/found/found hide/hid/hidden lose/lost/lost steal/stole/stolen "
    "break/broke/broken write/wrote/written draw/drew/drawn leave/left/left teach/taught/taught catch/caught/caught "
    "keep/kept/kept hold/held/held send/sent/sent wear/wore/worn ride/rode/ridden drive/drove/driven sink/sank/sunk "
    "feed/fed/fed choose/chose/chosen win/won/won lend/lent/lent show/showed/shown make/made/made grow/grew/grown "
    "bring/brought/brought take/took/taken give/gave/given see/saw/seen read/read/read cut/cut/cut set/set/set cast/cast/cast "
    "pay/paid/paid forget/forgot/forgotten sing/sang/sung blow/blew/blown throw/threw/thrown weave/wove/woven tear/tore/torn "
    "lay/laid/laid found/founded/founded burn/burnt/burnt spend/spent/spent dig/dug/dug").split())


def _past(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    if verb in ("map", "ship", "wrap"):  # the consonant is doubled
        return verb + verb[-1] + "ed"
    return verb + ("d" if verb.endswith("e") else "ed")


VERBS = [(verb, _past(verb), _past(verb)) for verb in REGULAR] + list(IRREGULAR)
MOTIONS = tuple(tuple(verb.split("/")) for verb in (
    "arrive/arrived/in travel/travelled/to sail/sailed/from escape/escaped/from retire/retired/to walk/walked/to return/returned/from "
    "emigrate/emigrated/to drown/drowned/near rest/rested/in work/worked/in land/landed/at depart/departed/from hurry/hurried/to "
    "settle/settled/near march/marched/through winter/wintered/in perish/perished/near come/came/from go/went/to flee/fled/to "
    "fight/fought/near speak/spoke/in stay/stayed/at fly/flew/to sleep/slept/in preach/preached/at vanish/vanished/near").split())
NOUNS = (
    "motto height depth length name title colour shape price weight age date origin purpose symbol emblem flag anthem nickname "
    "password code number capacity speed range width limit rate score rank grade level size volume area border centre summit "
    "source mouth crest seal signature heading label brand model format encoding address channel frequency key sign meaning "
    "author publisher patron saint founder rent wage fee fine tax debt prize reward salary pension deposit share stake balance "
    "total sum average maximum minimum threshold deadline duration period season month hour destination route platform gate "
    "berth dock runway terminal exit entrance floor wing cellar attic roof ceiling wall window shutter curtain carpet lining "
    "handle hinge lid base rim stem blade hilt sheath cover spine page chapter verse refrain theme subject topic question answer "
    "verdict sentence plea charge cause result effect symptom remedy dose diet breed coat tail nest egg seed fruit root leaf bark "
    "sap resin grain yield").split()
THINGS = OBJECTS + SITES + (
    "inn farm well weir canal road tunnel dam orchard vineyard meadow island cave quarry mine railway coach train tram mail van "
    "cart sledge balloon locomotive engine pump furnace oven press mast sail anchor rope net oar rudder lens prism magnet battery "
    "printer server cable antenna treaty letter diary poem ballad hymn novel essay speech lecture report contract will chart "
    "recipe portrait medal coin stamp trophy flag banner uniform helmet shield rifle cannon tent harness carriage parcel crate "
    "sack jar bottle flask cask bucket guild club league choir orchestra regiment expedition committee council parish bank dairy "
    "tannery smithy laundry dog horse mule cow ox ram hen goose falcon owl raven parrot tortoise cat village town hamlet valley "
    "hill moor forest pond spring reef cape").split()
ADJECTIVES = "old new small great first last north south".split()
PLURALS = (
    "members books windows pages bells horses ships sheep rooms tables chairs candles lamps keys letters coins medals paintings "
    "songs chapters verses pupils soldiers sailors nurses guests tenants barrels crates sacks bottles jars trees vines hives hens "
    "geese ducks trout boats oars sails bridges towers gates doors steps shelves drawers clocks violins drums maps stamps hats "
    "coats boots gloves shirts acres miles villages farms mills wells engines wheels wagons trams servers disks tickets errors "
    "tests commits files volumes copies issues rounds goals prizes").split()
ROLES = (
    "owner captain master constable mayor editor publisher founder director chairman treasurer secretary keeper steward guardian "
    "architect builder inventor discoverer patron landlord tenant driver pilot conductor composer author translator leader manager "
    "head commander chaplain doctor surgeon teacher coach referee judge sheriff warden ranger gardener cook baker brewer miller "
    "librarian curator maintainer reviewer sponsor heir").split()
KINDS = {
    "bird": "heron falcon owl raven swan gull lark wren robin crane stork eagle kite finch plover".split(),
    "fish": "trout herring pike perch salmon cod eel carp tench mackerel sole".split(),
    "fruit": "apple pear plum quince cherry fig lemon melon".split(),
    "tree": "oak elm ash birch beech willow poplar larch cedar yew".split(),
    "flower": "rose lily tulip iris daisy poppy orchid violet".split(),
    "metal": "iron copper tin silver gold lead zinc brass".split(), "animal": PETS,
    "language": LANGUAGES + ["Latin", "Danish", "Welsh", "Polish"], "month": MONTHS, "day": WEEKDAYS, "colour": COLOURS,
    "instrument": "violin flute drum harp cello trumpet organ lute oboe".split(),
    "subject": "arithmetic geography history grammar botany music drawing logic chemistry rhetoric".split(),
    "game": "chess draughts whist dominoes tennis croquet".split(),
    "tool": "hammer saw chisel plane rasp file awl spade scythe sickle".split(), "dish": FOODS, "material": MATERIALS, "sport": HOBBIES}
UNITS = "feet metres miles inches yards fathoms kilometres paces".split()
MEASURES = UNITS + "litres tonnes kilograms grams hectares degrees volts watts GB MB kB ms seconds hours days weeks m km kg".split()
MONEY = "crowns shillings ducats francs dollars pounds guilders euros pence marks".split()
STREETS = "Street Lane Alley Court Square Row Road Hill Quay Steps".split()
COUNTS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen twenty thirty forty".split()
NUMBERED = "shed room hall bay box drawer shelf hook cabin cell locker stall aisle row dock vault".split()
ADVERBS = ("with great care", "as everybody knows", "after the war", "in secret", "to the surprise of all", "without a word",
           "for a friend", "before winter", "once more")


def third(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def place(r: random.Random) -> str:
    """A town, or an address in one."""
    if r.random() < 0.6:
        return city(r)
    return f"{invented_name(r) if r.random() < 0.5 else r.choice(ITEMS).capitalize()} {r.choice(STREETS)}"


def thing(r: random.Random) -> str:
    """A thing as it is named in the middle of a sentence."""
    noun = word(r, THINGS)
    return r.choice([
        f"the {noun} of {city(r)}", f"the {r.choice(COLOURS + MATERIALS)} {noun}", f"the {noun} {invented_name(r)}",
        f"the {noun} of {person(r)}", f"the {r.choice(ADJECTIVES)} {noun}", f"the {noun} at {city(r)}", f"{person(r)}'s {noun}",
        f"the {r.choice(ITEMS)} {noun}", f"the {noun} of the {r.choice(SITES)} in {city(r)}",
        f"the {r.choice(ADJECTIVES + COLOURS)} {noun} of {person(r)}", f"the {noun} in the {city(r)} {r.choice(SITES)}"])


def quantity(r: random.Random) -> str:
    return r.choice(COUNTS) if r.random() < 0.35 else number(r, 2, r.choice([12, 99, 999, 9999]))


def value_of_any_kind(r: random.Random) -> str:
    return r.choice([
        code, city, invented_name, person, date, lambda q: number(q, 1, 9999), lambda q: word(q, COLOURS),
        lambda q: " and ".join(w.capitalize() for w in q.sample(ITEMS, 2)), lambda q: f"{amount(q)} {q.choice(MONEY + MEASURES)}",
        lambda q: f"{word(q, ITEMS)} {word(q, THINGS)}"])(r)


def _did(r: random.Random, past_share: float = 0.5) -> tuple[str, str, str]:
    """A verb, its finite form, and "does" or "did" to ask with."""
    base, past, _ = r.choice(VERBS)
    return (base, past, "did") if r.random() < past_share else (base, third(base), "does")


def _noun_of(r):
    noun = word(r, NOUNS)
    if r.random() < 0.2:
        noun = f"{noun} of the {r.choice(THINGS)}"
    statements = (f"The {noun} of {{s}} is {{v}}.", f"The {noun} of {{s}} was {{v}}.", f"{{s}} has {{v}} for its {noun}.",
                  f"As its {noun} {{s}} has {{v}}.", f"{{s}}, whose {noun} is {{v}}, is well known.", f"{{s}}'s {noun} is {{v}}.",
                  f"They gave {{s}} {{v}} as its {noun}.", f"With {{v}} as its {noun}, {{s}} is an exception.")
    questions = (f"What is the {noun} of {{s}}?", f"Which {noun} does {{s}} have?", f"Tell me the {noun} of {{s}}.",
                 f"What is {{s}}'s {noun}?", f"Say what the {noun} of {{s}} is.", f"What {noun} has {{s}}?")
    return Attribute(noun, value_of_any_kind, statements, questions, "")


def _counted(r):
    (base, does, did), things = _did(r), r.choice(PLURALS)
    return Attribute(f"{base} {things}", quantity, (f"{{s}} {does} {{v}} {things}.", f"All in all {{s}} {does} {{v}} {things}."),
                     (f"How many {things} {did} {{s}} {base}?", f"What number of {things} {did} {{s}} {base}?"),
                     f"{does} {{v}} {things}", named=False)


def _object(r):
    base, does, did = _did(r, 0.6)
    return Attribute(f"{base} what", lambda q: article(q.choice(OBJECTS + ITEMS)) if q.random() < 0.5 else thing(q),
                     (f"{{s}} {does} {{v}}.", f"It is {{v}} that {{s}} {does}."), (f"What {did} {{s}} {base}?",),
                     f"{does} {{v}}", named=False)


def _of_a_kind(r):
    (base, does, did), kind = _did(r, 0.4), r.choice(list(KINDS))
    return Attribute(f"{base} {kind}", lambda q: word(q, KINDS[kind]),
                     (f"{{s}} {does} the {{v}}.", f"{{s}} {does} only one {kind}, the {{v}}.", f"Of every {kind} {{s}} {does} the {{v}}."),
                     (f"Which {kind} {did} {{s}} {base}?", f"What {kind} {did} {{s}} {base}?"), f"{does} the {{v}}", named=False)


def _where(r):
    (base, past, _), what = r.choice(VERBS), thing(r)
    return Attribute(f"where {base}", place, (f"{{s}} {past} {what} in {{v}}.", f"In {{v}} {{s}} {past} {what}."),
                     (f"Where did {{s}} {base} {what}?", f"In which place did {{s}} {base} {what}?",
                      f"In what town did {{s}} {base} {what}?"), f"{past} {what} in {{v}}", named=False)


def _moved(r):
    base, past, preposition = r.choice(MOTIONS)
    end = "" if preposition in ("in", "at") else f" {preposition}"
    return Attribute(f"{base} {preposition}", place, (f"{{s}} {past} {preposition} {{v}}.", f"It was {preposition} {{v}} that {{s}} {past}."),
                     (f"Where did {{s}} {base}{end}?", f"{preposition.capitalize()} which place did {{s}} {base}?",
                      f"{preposition.capitalize()} what town did {{s}} {base}?"), f"{past} {preposition} {{v}}", named=False)


def _when(r):
    (base, past, _), what = r.choice(VERBS), thing(r)
    preposition, ask, when = r.choice([("in", "In which year", lambda q: number(q, 1400, 2029)), ("on", "On which day", date),
                                       ("at", "At what time", clock)])
    return Attribute(f"when {base}", when, (f"{{s}} {past} {what} {preposition} {{v}}.",),
                     (f"When did {{s}} {base} {what}?", f"{ask} did {{s}} {base} {what}?"), f"{past} {what} {preposition} {{v}}", named=False)


def _by(r):
    base, past, participle = r.choice(VERBS)
    return Attribute(f"{base} by", None, (f"{{s}} was {participle} by {{v}}.", f"{{v}} {past} {{s}}.", f"It was {{v}} who {past} {{s}}.",
                                          f"The one who {past} {{s}} was {{v}}."),
                     (f"Who {past} {{s}}?", f"By whom was {{s}} {participle}?", f"Who was it that {past} {{s}}?"),
                     f"was {participle} by {{v}}", f"the person who {past} {{s}}", named=False)


def _passive_where(r):
    participle = r.choice(VERBS)[2]
    return Attribute(f"{participle} where", place, (f"{{s}} was {participle} in {{v}}.", f"It was in {{v}} that {{s}} was {participle}."),
                     (f"Where was {{s}} {participle}?", f"In which place was {{s}} {participle}?", f"In which town was {{s}} {participle}?"),
                     f"was {participle} in {{v}}", named=False)


def _passive_when(r):
    participle = r.choice(VERBS)[2]
    preposition, when, ask = r.choice([("in", lambda q: number(q, 1400, 2029), "In which year"), ("on", date, "On which day"),
                                       ("in", lambda q: q.choice(MONTHS), "In which month")])
    return Attribute(f"{participle} when", when, (f"{{s}} was {participle} {preposition} {{v}}.",),
                     (f"When was {{s}} {participle}?", f"{ask} was {{s}} {participle}?"), f"was {participle} {preposition} {{v}}", named=False)


def _role(r):
    role = r.choice(ROLES)
    return Attribute(role, None, (f"{{v}} is the {role} of {{s}}.", f"The {role} of {{s}} is {{v}}.", f"{{s}} has {{v}} as its {role}.",
                                  f"{{v}}, the {role} of {{s}}, said nothing.", f"{{s}}'s {role} is {{v}}.",
                                  f"The {role} of {{s}} is called {{v}}."),
                     (f"Who is the {role} of {{s}}?", f"Who is {role} of {{s}}?", f"What is the name of the {role} of {{s}}?",
                      f"Who is {{s}}'s {role}?", f"What is the {role} of {{s}} called?"), "", f"the {role} of {{s}}")


def _part(r):
    noun, (kind, values) = r.choice(THINGS + NOUNS), r.choice([("colour", COLOURS), ("colour", COLOURS), ("material", MATERIALS)])
    colour = kind == "colour"
    ask = ((f"What colour is the {noun} of {{s}}?", f"Which colour does the {noun} of {{s}} have?",
            f"What is the colour of the {noun} of {{s}}?") if colour else (f"What is the {noun} of {{s}} made of?",))
    return Attribute(f"{kind} of the {noun}", lambda q: q.choice(values),
                     (f"The {noun} of {{s}} is {'' if colour else 'made of '}{{v}}.",
                      f"{{s}} has a {noun} {'painted' if colour else 'of'} {{v}}."), ask, "")


def _numbered(r):
    noun, participle = r.choice(NUMBERED), r.choice(VERBS)[2]
    preposition = "on" if noun in ("hook", "shelf", "row") else "in"
    return Attribute(f"{noun} {participle}", lambda q: f"{noun} {q.randint(1, 60)}",
                     (f"{{s}} is {participle} {preposition} {{v}}.", f"You will find {{s}} {preposition} {{v}}."),
                     (f"{preposition.capitalize()} which {noun} is {{s}} {participle}?", f"{preposition.capitalize()} which {noun} is {{s}}?"),
                     f"is {participle} {preposition} {{v}}", named=False)


def _assigned(r):
    noun, participle = r.choice(NUMBERED), r.choice("given assigned offered promised shown".split())
    return Attribute(f"{noun} {participle}", lambda q: f"{noun} {q.randint(1, 400)}",
                     (f"{{s}} was {participle} {{v}}.", f"They have kept {{v}} for {{s}}."),
                     (f"Which {noun} was {{s}} {participle}?", f"What {noun} was {{s}} {participle}?"), f"was {participle} {{v}}", named=False)


def _called(r):
    return Attribute("name", lambda q: invented_name(q) if q.random() < 0.5 else word(q, ITEMS).capitalize(),
                     ("{s} is called {v}.", "{s} was called {v}.", "{s} answers to the name of {v}.", "{s} goes by the name of {v}.",
                      "They named {s} {v}."),
                     ("What is {s} called?", "What was {s} called?", "What is the name of {s}?", "To what name does {s} answer?",
                      "By what name does {s} go?"), "is called {v}")


def _measured(r):
    adjective, unit = r.choice("long high deep wide tall thick".split()), r.choice(UNITS)
    return Attribute(f"how {adjective}", lambda q: f"{quantity(q) if q.random() < 0.5 else amount(q)} {unit}",
                     (f"{{s}} is {{v}} {adjective}.", f"They say {{s}} is {{v}} {adjective}.", f"{{s}} measures {{v}}, and is that {adjective}."),
                     (f"How {adjective} is {{s}}?",), f"is {{v}} {adjective}", named=False)


def _paid(r):
    verb = r.choice(["sell", "rent", "ship", "insure", "restore"])
    past = {"sell": "sold", "rent": "rented", "ship": "shipped", "insure": "insured", "restore": "restored"}[verb]
    return Attribute(f"{verb} price", lambda q: f"{amount(q, 9000)} {q.choice(MONEY)}", (f"{{s}} was {past} for {{v}}.", f"For {{v}} {{s}} was {past}."),
                     (f"For how much was {{s}} {past}?", f"How much was paid for {{s}}?", f"At what price was {{s}} {past}?"),
                     f"was {past} for {{v}}", named=False)


def _numbers_of_units(r):
    """The unit is in the question, the answer is the number alone."""
    unit, (base, does, did) = r.choice(MONEY + MEASURES[:20]), r.choice(
        [("cost", "costs", "does"), ("weigh", "weighed", "did"), ("measure", "measures", "does"), ("earn", "earns", "does"), ("lose", "lost", "did")])
    return Attribute(f"{base} in {unit}", amount, (f"{{s}} {does} {{v}} {unit}.", f"In all {{s}} {does} {{v}} {unit}."),
                     (f"How many {unit} {did} {{s}} {base}?",), f"{does} {{v}} {unit}", named=False)


def _at_hours(r):
    base = r.choice("leave arrive begin close open".split()) if r.random() < 0.5 else r.choice(VERBS)[0]
    return Attribute(f"hour {base}", clock, (f"{{s}} {third(base)} at {{v}}.", f"At {{v}} {{s}} {third(base)}."),
                     (f"When does {{s}} {base}?", f"At what time does {{s}} {base}?"), f"{third(base)} at {{v}}", named=False)


def _lives(r):
    return Attribute("home", place, ("{s} lives in {v}.", "{s} has rooms in {v}.", "{s} moved to {v}.", "The home of {s} is in {v}.",
                                     "You will find {s} in {v}."),
                     ("Where does {s} live?", "What is the home of {s}?", "Where is the home of {s}?", "In which street does {s} live?"),
                     "lives in {v}")


def _works(r):
    where = r.choice(SITES)
    return Attribute("trade", trade, (f"{{s}} is the {{v}} of the {where}.", "{s} is {v} here.", "{s} is a {v}.", f"{{s}} is the {where}'s {{v}}.",
                                      "{s} earned a living as a {v}.", "They took {s} on as a {v}."),
                     ("What is the trade of {s}?", "What was the trade of {s}?", "What is the occupation of {s}?",
                      "What does {s} do for a living?", "As what does {s} work?"), "is a {v}")


PERSON_FORMS = (_counted, _object, _object, _of_a_kind, _where, _when, _moved, _noun_of, _called, _assigned, _numbers_of_units,
                _lives, _lives, _works, _works)
THING_FORMS = (_noun_of, _noun_of, _noun_of, _by, _passive_where, _passive_when, _role, _role, _part, _numbered, _assigned, _called, _measured,
               _paid, _numbers_of_units, _at_hours, _moved, _counted, _of_a_kind)


def open_attribute(r: random.Random, family: str) -> Attribute:
    """A kind of fact that fits a person, or a thing."""
    forms = clauses if r.random() < 0.4 else sys.modules[__name__]
    return r.choice(forms.PERSON_FORMS if family == "person" else forms.THING_FORMS)(r)


def adorned(r: random.Random, sentence: str) -> str:
    """The sentence with a few words more, which change nothing."""
    if r.random() < 0.15 and sentence.endswith(".") and not sentence[-2].isdigit():
        return f"{sentence[:-1]}, {r.choice(ADVERBS)}."
    return sentence


import clauses  # noqa: E402  at the end, since it builds on this module
