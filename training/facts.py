"""Invented facts about invented things, in many phrasings: what the training documents hide.

A `World` draws people, places, things and what is true of them. Every `Attribute` knows how its
fact is stated, how it is asked for, and how its holder is asked for when the value is known. Openings
and wrappings multiply the phrasings; no two documents share a world.
"""
import dataclasses
import functools
import random
import re

CITIES = (
    "Lisbon Oslo Cairo Lima Quito Dublin Vienna Prague Athens Madrid Tokyo Seoul Hanoi Delhi "
    "Nairobi Accra Dakar Tunis Riga Bern Turin Porto Ghent Bergen Malaga Naples Leeds York Derby "
    "Perth Hobart Boston Denver Austin Tulsa Omaha Fargo Salem Reno Aspen Lyon Basel Graz Split "
    "Cork Bruges Kyoto Osaka Havana Bogota Zagreb Tartu Uppsala Turku Aarhus Lucca Siena Trieste "
    "Bath Exeter Durham Kendal Galway Stavanger Lund Krakow Brno Bilbao Cadiz Bremen Jena Ulm").split()
FIRST_NAMES = (
    "Anna Bruno Clara David Edith Felix Greta Hugo Irene Jonas Karin Lucas Martha Nadia Oscar Paula "
    "Quentin Rosa Simon Teresa Ulrich Vera Walter Xenia Yusuf Zelda Amos Beatrix Caspar Dora Emil "
    "Flora Gideon Helga Ivan Judith Kaspar Leonora Miles Nora Otto Petra Ralf Selma Tobias Ursula "
    "Victor Wanda Mira Ola Jory Tilda Abel Cora Ines Lars Nils Signe Bodil Arne Liv Tom Maud Edgar").split()
LAST_NAMES = (
    "Archer Bell Carver Dunn Ellis Frost Grant Hale Ivers Jarvis Keller Lind Moss Nash Orme Pike "
    "Quill Reed Stone Thorne Usher Vance Webb Yates Zeller Brandt Holt Marsh Pell Rowe Sand Tarn "
    "Vogel Winter Ash Birch Cole Drake Eames Finch Gray Hobbs Irwin Jessop Kerr Locke Mead Noble "
    "Olsen Parr Quist Rusk Shaw Tate Upton Voss Ward Munk Krog Berg Dahl Falk Lunde Nygaard").split()
SITES = (
    "harbor station garden library museum castle bridge market tower chapel mill forge depot archive studio clinic "
    "foundry theater brewery academy observatory lighthouse warehouse laboratory bakery boathouse greenhouse school").split()
SITES += ["printing house", "town hall", "reading room", "power plant", "post office", "guest house", "north gate", "east wing"]
COLOURS = "red green blue yellow white black grey brown purple orange crimson silver golden pink ivory".split()
MATERIALS = "oak copper iron brass tin leather pine glass silver bronze clay marble linen wool ivory slate".split()
OBJECTS = (
    "chest lantern clock violin compass kettle saddle mirror ladder bicycle trunk telescope map globe "
    "wardrobe bell anvil barrel cradle desk coat umbrella camera boat wagon plough loom piano statue "
    "key ring box lamp chair rug ledger painting sword flute drum basket").split()
TRADES = (
    "baker cooper tailor potter weaver smith mason carpenter printer painter gardener miller brewer "
    "fisherman teacher surgeon lawyer pilot sailor cook clerk librarian engineer chemist farmer "
    "shepherd watchmaker glazier tanner locksmith nurse surveyor translator bookbinder harpist").split()
PETS = "cat dog parrot tortoise goat horse canary rabbit donkey raven ferret pony goose owl".split()
HOBBIES = "chess fencing sailing botany archery singing fishing astronomy painting skating dancing carving".split()
FOODS = "bread cheese plums soup herring honey rice beans apples pancakes mutton walnuts figs porridge trout".split()
ITEMS = (
    "apple knife candle map coin rope book bottle key pear spoon feather button needle letter ribbon "
    "stone whistle comb pencil mirror plum thimble scarf hammer nail cup plate lamp glove pipe bell "
    "shell purse drum lemon nut ring brush stamp").split()
SHIPS = "Petrel Alcyone Marigold Northwind Swallow Meridian Osprey Halcyon Kestrel Aurora Triton Gannet Juno Sirius Heron Vesper".split()
VESSELS = "ferry brig schooner steamer cutter barge trawler tug".split()
PROJECTS = "Heron Falcon Juniper Granite Comet Lupin Saffron Tundra Cobalt Mistral Zephyr Walnut Ember Onyx Harbor Delta".split()
SERVICES = "billing search upload mail cache report login image audit queue export sync metrics gateway index backup".split()
LANGUAGES = "Rust Go Python Ada Haskell Erlang Lua Fortran Kotlin Scheme Perl OCaml Julia Zig".split()
WORDS = (
    "amber basil cedar delta ember fern ginger hazel indigo jasper kelp lemon maple nutmeg olive "
    "pepper quartz rosemary saffron thyme umber violet walnut yarrow zinc coral denim flint garnet ivory").split()
TITLES = "Mr Mrs Miss Doctor Professor Captain Colonel Judge Sister Brother Lady Sir Inspector Father Madame Signora".split()
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ONSETS = "b d f g h k l m n p r s t v w z br dr gr kl tr st bl th sh".split()
VOWELS = "a e i o u a e i o ae ei ou".split()
CODAS = ["", "", "", "n", "l", "r", "s", "m", "nd", "rk", "ll", "th"]
EVENT_NAMES = "regatta fair concert auction wedding lecture reunion feast exhibition hearing tournament supper".split()
CURRENCIES = "crowns dollars pounds francs shillings euros".split()
VOCABULARY: list[str] = []  # common words beside these lists; a corpus fills it with its own


def invented_name(r: random.Random) -> str:
    """A pronounceable name that no text holds."""
    parts = [r.choice(ONSETS) + r.choice(VOWELS) + r.choice(CODAS) for _ in range(r.choice([2, 2, 3]))]
    return "".join(parts).capitalize()


def digits(r: random.Random, low: int = 3, high: int = 7) -> str:
    return "".join(r.choice("0123456789") for _ in range(r.randint(low, high)))


def code(r: random.Random) -> str:
    kind, letters = r.random(), "ABCDEFGHKLMNPRSTUVWX"
    if kind < 0.55:
        return digits(r)
    if kind < 0.72:
        return "-".join(r.sample(WORDS, 3))
    if kind < 0.8:
        return r.choice(letters) + r.choice(letters) + "-" + digits(r, 2, 4)
    if kind < 0.88:
        return digits(r, 1, 4) + r.choice(letters)
    if kind < 0.94:
        return r.choice(["{}/{}", "{}-{}", "{}.{}", "{} {}"]).format(digits(r, 1, 4), digits(r, 1, 4))
    return f"{r.choice(WORDS)}{digits(r, 2, 3)}"


def number(r: random.Random, low: int, high: int) -> str:
    return str(r.randint(low, high))


def amount(r: random.Random, high: int = 900) -> str:
    """A number in front of a unit: 17, 1,942 or 7.5."""
    kind = r.random()
    if kind < 0.6:
        return number(r, 2, high)
    if kind < 0.8:
        return f"{r.randint(1000, 99999):,}"
    return f"{r.randint(0, 99)}.{r.randint(1, 99) if r.random() < 0.4 else r.randint(1, 9)}"


def clock(r: random.Random) -> str:
    hour, minute = r.randint(0, 23), r.randint(0, 59) if r.random() < 0.4 else 5 * r.randint(0, 11)
    return f"{hour:02}:{minute:02}" if r.random() < 0.2 else f"{hour}:{minute:02}"


def word(r: random.Random, among) -> str:
    """One of `among`, or now and then any word at all."""
    return r.choice(VOCABULARY) if VOCABULARY and r.random() < 0.25 else r.choice(among)


def trade(r: random.Random) -> str:
    if r.random() < 0.7:
        return r.choice(TRADES)
    return f"{r.choice(ITEMS + OBJECTS)} {r.choice('maker dealer mender painter merchant carrier'.split())}"


def date(r: random.Random) -> str:
    day = f"{r.randint(1, 28)} {r.choice(MONTHS)}"
    return day if r.random() < 0.5 else f"{day} {r.randint(1690, 2030)}"


def city(r: random.Random) -> str:
    return r.choice(CITIES) if r.random() < 0.7 else invented_name(r)


def person(r: random.Random) -> str:
    first = r.choice(FIRST_NAMES) if r.random() < 0.8 else invented_name(r)
    last = r.choice(LAST_NAMES) if r.random() < 0.7 else invented_name(r)
    return f"{first} {last}"


def article(word: str) -> str:
    return ("an " if word[0].lower() in "aeiou" else "a ") + word


def joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One thing that can be true of a subject {s}; {v} is its value."""
    name: str               # noun phrase: "access code"
    value: object           # random.Random -> str, or None where the world supplies a person
    statements: tuple       # sentences with {s} and {v}
    questions: tuple        # with {s}
    predicate: str          # verb phrase with {v}, for "Who …?" and "Which of A, B and C …?"
    relation: str = ""      # "the owner of {s}", where the value is a person
    named: bool = True      # whether `name` can be asked for: "the access code of …"


def attribute(name, value, statements, questions, predicate, relation=""):
    turned = (f"{{v}} is {relation}.", f"{{v}} was {relation}.", f"It is {{v}} who is {relation}.", f"{{v}}, {relation}, said nothing.",
              f"{{v}} became {relation}.", f"They met {{v}}, {relation}.") if relation else ()
    return Attribute(name, value, tuple(statements) + turned, tuple(questions), predicate, relation)


def named(name, value, statements=(), questions=(), predicate=None):
    """An attribute that is called by its name, with the phrasings that fit every such name."""
    return attribute(
        name, value,
        (f"The {name} of {{s}} is {{v}}.", f"The {name} for {{s}} is {{v}}.", f"{{s}} has the {name} {{v}}.",
         f"For {{s}}, the {name} is {{v}}.", f"{{v}} is the {name} of {{s}}.", f"{{s}}: {name} {{v}}.",
         f"They chose {{v}} as the {name} of {{s}}.", f"{{v}} was the {name} of {{s}}.", f"{{v}} ({name} of {{s}}).",
         f"It is {{v}} that is the {name} of {{s}}.", f"They wrote {{v}} down as the {name} of {{s}}.", f"The {name} of {{s}} was set to {{v}}.", f"The {name} of {{s}} reads {{v}}.") + tuple(statements),
        (f"What is the {name} of {{s}}?", f"What is the {name} for {{s}}?", f"Which {name} does {{s}} have?",
         f"Tell me the {name} of {{s}}.", f"What {name} does {{s}} have?", f"Give the {name} of {{s}}.",
         f"{name.capitalize()} of {{s}}?", f"I need the {name} of {{s}}.", f"What is {{s}}'s {name}?",
         f"Say what the {name} of {{s}} is.", f"Does the text say what the {name} of {{s}} is?") + tuple(questions),
        predicate or f"has the {name} {{v}}")


CODE_NAMES = (
    "access code", "door code", "vault code", "secret number", "serial number", "lucky number", "reference number",
    "badge number", "locker number", "confirmation code", "pass phrase", "gate code", "inventory number",
    "telephone number", "account number", "safe combination", "registration number", "password", "signal code", "file number")

SITE = [named(n, code) for n in CODE_NAMES] + [
    attribute("opening hour", clock, ["{s} opens at {v}.", "The doors of {s} open at {v}.", "{s} opens its doors at {v} every day.",
              "The opening hour of {s} is {v}."],
              ["When does {s} open?", "At what time does {s} open?", "What is the opening hour of {s}?"], "opens at {v}"),
    attribute("builder", None, ["{s} was built by {v}.", "{v} built {s}.", "The builder of {s} was {v}.", "It was {v} who built {s}."],
              ["Who built {s}?", "By whom was {s} built?", "Who was the builder of {s}?"], "was built by {v}", "the builder of {s}"),
    attribute("keeper", None, ["{s} is kept by {v}.", "The keeper of {s} is {v}.", "{v} is the keeper of {s}.", "{v} looks after {s}."],
              ["Who is the keeper of {s}?", "Who keeps {s}?", "Who looks after {s}?"], "is kept by {v}", "the keeper of {s}"),
    attribute("year", lambda r: number(r, 1400, 1999), ["{s} was built in {v}.", "{s} dates from {v}.", "{s} was finished in the year {v}.",
              "In {v} {s} was built."],
              ["When was {s} built?", "In which year was {s} built?", "What year does {s} date from?"], "was built in {v}"),
    attribute("number of rooms", lambda r: number(r, 3, 90), ["{s} has {v} rooms.", "There are {v} rooms in {s}.", "The number of rooms in {s} is {v}."],
              ["How many rooms does {s} have?", "How many rooms are there in {s}?"], "has {v} rooms"),
    attribute("door colour", lambda r: r.choice(COLOURS), ["The door of {s} is {v}.", "{s} has a {v} door.", "The door of {s} was painted {v}."],
              ["What colour is the door of {s}?", "Which colour does the door of {s} have?"], "has a {v} door"),
]
PERSON = [
    attribute("birthplace", city, ["{s} was born in {v}.", "{s} is a native of {v}.", "{s} came into the world in {v}.", "The birthplace of {s} is {v}.",
              "{v} is the birthplace of {s}.", "{s}, born in {v}, never spoke of it."],
              ["Where was {s} born?", "In which town was {s} born?", "What is the birthplace of {s}?", "Where is {s} from?", "Which town was {s} born in?"],
              "was born in {v}"),
    attribute("home", city, ["{s} lives in {v}.", "{s} has a house in {v}.", "The home of {s} is in {v}.", "{s} settled in {v}.", "{s} makes a home in {v}."],
              ["Where does {s} live?", "In which town does {s} live?", "Which town does {s} live in?", "Where is the home of {s}?"], "lives in {v}"),
    attribute("trade", trade, ["{s} is a {v} by trade.", "{s} works as a {v}.", "By trade {s} is a {v}.", "The trade of {s} is that of a {v}.",
              "{s} earns a living as a {v}.", "{s}, a {v}, lives alone."],
              ["What is the trade of {s}?", "What does {s} do for a living?", "What is the profession of {s}?", "What is {s} by trade?", "What work does {s} do?"],
              "works as a {v}"),
    attribute("age", lambda r: number(r, 8, 97), ["{s} is {v} years old.", "{s} is {v} years of age.", "The age of {s} is {v}.", "{s} turned {v} this year."],
              ["How old is {s}?", "What is the age of {s}?", "What age is {s}?"], "is {v} years old"),
    attribute("birthday", date, ["{s} was born on {v}.", "The birthday of {s} is {v}.", "{s} celebrates a birthday on {v}."],
              ["When was {s} born?", "When is the birthday of {s}?", "On which day was {s} born?", "What is the birthday of {s}?"], "was born on {v}"),
    attribute("favourite colour", lambda r: r.choice(COLOURS), ["The favourite colour of {s} is {v}.", "{s} likes the colour {v} best.", "Of all colours {s} prefers {v}."],
              ["What is the favourite colour of {s}?", "Which colour does {s} like best?", "Which colour does {s} prefer?"], "likes the colour {v} best"),
    attribute("pet", lambda r: r.choice(PETS), ["{s} keeps a {v}.", "{s} has a pet {v}.", "The pet of {s} is a {v}.", "{s} owns a tame {v}."],
              ["What pet does {s} have?", "Which animal does {s} keep?", "What is the pet of {s}?", "What animal does {s} own?"], "keeps a {v}"),
    attribute("hobby", lambda r: word(r, HOBBIES), ["The hobby of {s} is {v}.", "{s} spends every free hour on {v}.", "{s} is fond of {v}."],
              ["What is the hobby of {s}?", "What does {s} do in free hours?", "What is {s} fond of?"], "is fond of {v}"),
    attribute("favourite dish", lambda r: word(r, FOODS), ["The favourite food of {s} is {v}.", "{s} likes {v} more than any other food.", "For supper {s} always eats {v}."],
              ["What is the favourite food of {s}?", "What does {s} like to eat?", "Which food does {s} like best?"], "likes to eat {v}"),
    attribute("room", lambda r: number(r, 1, 999), ["{s} sits in room {v}.", "The room of {s} is number {v}.", "{s} works in room {v}.", "You find {s} in room {v}."],
              ["In which room does {s} sit?", "What is the room number of {s}?", "Which room does {s} work in?", "Where can I find {s}?"], "sits in room {v}"),
    attribute("teacher", None, ["{s} was taught by {v}.", "The teacher of {s} was {v}.", "{v} was the teacher of {s}.", "{s} learned everything from {v}."],
              ["Who taught {s}?", "Who was the teacher of {s}?", "From whom did {s} learn?"], "was taught by {v}", "the teacher of {s}"),
    attribute("spouse", None, ["{s} is married to {v}.", "{s} married {v}.", "The spouse of {s} is {v}."],
              ["Who is married to {s}?", "Whom did {s} marry?", "Who is the spouse of {s}?"], "is married to {v}", "the spouse of {s}"),
] + [named(n, code) for n in ("badge number", "locker number", "telephone number", "membership number", "pass phrase", "staff number")]
OBJECT = [
    attribute("owner", None, ["{s} belongs to {v}.", "The owner of {s} is {v}.", "{v} owns {s}.", "{v} is the owner of {s}.", "{s} is the property of {v}."],
              ["Who owns {s}?", "To whom does {s} belong?", "Who is the owner of {s}?", "Whose property is {s}?"], "belongs to {v}", "the owner of {s}"),
    attribute("maker", None, ["{s} was made by {v}.", "{v} made {s}.", "The maker of {s} was {v}."],
              ["Who made {s}?", "Who was the maker of {s}?", "By whom was {s} made?"], "was made by {v}", "the maker of {s}"),
    attribute("price", lambda r: f"{amount(r)} {r.choice(CURRENCIES)}",
              ["{s} costs {v}.", "The price of {s} is {v}.", "{s} was sold for {v}.", "They ask {v} for {s}."],
              ["What does {s} cost?", "How much is {s}?", "What is the price of {s}?", "How much was paid for {s}?"], "costs {v}"),
    attribute("weight", lambda r: f"{amount(r, 400)} {r.choice(['pounds', 'kilograms', 'stone', 'ounces'])}",
              ["{s} weighs {v}.", "The weight of {s} is {v}.", "On the scales {s} showed {v}."],
              ["How heavy is {s}?", "What does {s} weigh?", "What is the weight of {s}?"], "weighs {v}"),
    attribute("place", lambda r: "the " + r.choice(SITES), ["{s} stands in {v}.", "{s} is kept in {v}.", "You will find {s} in {v}.", "{s} was left in {v}."],
              ["Where is {s}?", "Where is {s} kept?", "Where can {s} be found?", "Where does {s} stand?"], "is kept in {v}"),
    attribute("year", lambda r: number(r, 1500, 1990), ["{s} was made in {v}.", "{s} dates from {v}.", "The year {v} is engraved on {s}."],
              ["When was {s} made?", "Which year is {s} from?", "What year does {s} date from?"], "was made in {v}"),
    named("serial number", code), named("shelf mark", code), named("lot number", code), named("inventory number", code),
]
VESSEL = [
    attribute("captain", None, ["{v} is the captain of {s}.", "The captain of {s} is {v}.", "{s} sails under {v}.", "{s} is commanded by {v}."],
              ["Who is the captain of {s}?", "Who commands {s}?", "Under whom does {s} sail?"], "is commanded by {v}", "the captain of {s}"),
    attribute("departure", clock, ["{s} leaves at {v}.", "{s} sails at {v}.", "The departure of {s} is at {v}.", "At {v} {s} casts off."],
              ["When does {s} leave?", "At what time does {s} sail?", "What time does {s} leave?"], "leaves at {v}"),
    attribute("home port", city, ["The home port of {s} is {v}.", "{s} hails from {v}.", "{s} is registered in {v}."],
              ["What is the home port of {s}?", "Where does {s} hail from?", "Where is {s} registered?"], "hails from {v}"),
    attribute("cargo", lambda r: word(r, FOODS), ["{s} carries {v}.", "The cargo of {s} is {v}.", "{s} is laden with {v}."],
              ["What does {s} carry?", "What is the cargo of {s}?", "What is {s} laden with?"], "carries {v}"),
    attribute("crew", lambda r: number(r, 4, 140), ["{s} has a crew of {v}.", "The crew of {s} numbers {v}."],
              ["How large is the crew of {s}?", "How many hands does {s} have?", "What is the size of the crew of {s}?"], "has a crew of {v}"),
    named("call sign", code), named("berth", lambda r: number(r, 1, 60)), named("hull number", code),
]
PROJECT = [
    attribute("lead", None, ["{v} leads {s}.", "The lead of {s} is {v}.", "{s} is led by {v}.", "{v} is in charge of {s}."],
              ["Who leads {s}?", "Who is the lead of {s}?", "Who is in charge of {s}?"], "is led by {v}", "the lead of {s}"),
    attribute("language", lambda r: r.choice(LANGUAGES), ["{s} is written in {v}.", "The language of {s} is {v}.", "The code of {s} is {v}."],
              ["What language is {s} written in?", "In which language is {s} written?", "What is the programming language of {s}?"], "is written in {v}"),
    attribute("port", lambda r: number(r, 1024, 65535), ["{s} listens on port {v}.", "The port of {s} is {v}.", "{s} runs on port {v}."],
              ["Which port does {s} listen on?", "What is the port of {s}?", "What port does {s} use?", "On which port does {s} run?"], "listens on port {v}"),
    attribute("version", lambda r: f"{r.randint(0, 20)}.{r.randint(0, 30)}.{r.randint(0, 99)}",
              ["The current version of {s} is {v}.", "{s} is at version {v}.", "Version {v} of {s} is deployed."],
              ["What is the current version of {s}?", "Which version of {s} is deployed?", "At what version is {s}?"], "is at version {v}"),
    attribute("deadline", date, ["{s} is due on {v}.", "The deadline of {s} is {v}.", "{s} must be finished by {v}."],
              ["When is {s} due?", "What is the deadline of {s}?", "By when must {s} be finished?"], "is due on {v}"),
    attribute("timeout", lambda r: f"{amount(r)} {r.choice(['seconds', 'milliseconds', 'minutes'])}",
              ["The timeout of {s} is {v}.", "{s} gives up after {v}.", "{s} times out after {v}."],
              ["What is the timeout of {s}?", "After how long does {s} time out?", "When does {s} give up?"], "times out after {v}"),
    attribute("budget", lambda r: f"{r.randint(3, 900)} thousand {r.choice(['dollars', 'euros', 'pounds'])}",
              ["The budget of {s} is {v}.", "{s} may spend {v}."], ["What is the budget of {s}?", "How much may {s} spend?"], "may spend {v}"),
    named("ticket number", code), named("build number", digits), named("access token", code),
]
EVENT = [
    attribute("day", lambda r: r.choice(WEEKDAYS) if r.random() < .4 else date(r), ["{s} takes place on {v}.", "{s} is held on {v}.", "The day of {s} is {v}."],
              ["When does {s} take place?", "On which day is {s} held?", "What is the date of {s}?", "When is {s}?"], "takes place on {v}"),
    attribute("place", city, ["{s} is held in {v}.", "{s} takes place in {v}.", "The place of {s} is {v}."],
              ["Where is {s} held?", "Where does {s} take place?", "In which town is {s} held?"], "is held in {v}"),
    attribute("host", None, ["{v} is the host of {s}.", "The host of {s} is {v}.", "{s} is given by {v}."],
              ["Who is the host of {s}?", "Who gives {s}?", "Who hosts {s}?"], "is given by {v}", "the host of {s}"),
    attribute("number of guests", lambda r: number(r, 5, 900), ["{v} guests are invited to {s}.", "{s} has {v} guests.", "There will be {v} guests at {s}."],
              ["How many guests does {s} have?", "How many guests are invited to {s}?"], "has {v} guests"),
    attribute("price", lambda r: f"{amount(r, 80)} {r.choice(CURRENCIES)}",
              ["A ticket for {s} costs {v}.", "Entry to {s} is {v}."], ["What does a ticket for {s} cost?", "How much is entry to {s}?"], "costs {v}"),
]
FAMILIES = {"site": SITE, "person": PERSON, "object": OBJECT, "vessel": VESSEL, "project": PROJECT, "event": EVENT}
FAMILY_WEIGHTS = [("site", 16), ("person", 34), ("object", 10), ("vessel", 6), ("project", 8), ("event", 5), ("thing", 21)]


def subject(r: random.Random, family: str) -> str:
    """A new thing of a family, as it is called in the middle of a sentence."""
    if family == "site":
        where = city(r)
        return r.choice([f"the {where} {r.choice(SITES)}", f"the {where} {r.choice(SITES)}", f"the {r.choice(SITES)} of {where}",
                         f"the {r.choice(COLOURS)} {r.choice(SITES)}", f"the old {r.choice(SITES)} in {where}"])
    if family == "person":
        return person(r) if r.random() < 0.85 else f"{r.choice(TITLES)} {r.choice(LAST_NAMES) if r.random() < .6 else invented_name(r)}"
    if family == "thing":
        return open_facts.thing(r)
    if family == "object":
        return r.choice([f"the {r.choice(COLOURS)} {r.choice(OBJECTS)}", f"the {r.choice(MATERIALS)} {r.choice(OBJECTS)}",
                         f"the {r.choice(OBJECTS)} from {city(r)}"])
    if family == "vessel":
        return f"the {r.choice(VESSELS)} {r.choice(SHIPS) if r.random() < .6 else invented_name(r)}"
    if family == "project":
        return r.choice([f"project {r.choice(PROJECTS)}", f"the {r.choice(SERVICES)} service", f"the {r.choice(PROJECTS)} team",
                         f"{r.choice(SERVICES)}-{r.choice(SERVICES)}", f"project {invented_name(r)}"])
    return r.choice([f"the {city(r)} {r.choice(EVENT_NAMES)}", f"the {r.choice(['spring', 'summer', 'autumn', 'winter'])} {r.choice(EVENT_NAMES)}",
                     f"the {r.choice(EVENT_NAMES)} of {person(r)}"])


@functools.cache
def kinds_of_words() -> dict[str, list[str]]:
    """Words of names, and the list that each is from."""
    kinds = (CITIES, FIRST_NAMES, LAST_NAMES, SITES, COLOURS, MATERIALS, VESSELS, SHIPS, PROJECTS, SERVICES, TITLES, EVENT_NAMES, OBJECTS, ITEMS,
             open_facts.THINGS, open_facts.ADJECTIVES)
    return {word: kind for kind in reversed(kinds) for word in kind}


def neighbour(r: random.Random, who: str) -> str:
    """Something that is called almost the same: one word of the name is another of its kind."""
    kinds = kinds_of_words()
    words = [(m.start(), m.end()) for m in re.finditer(r"[A-Za-z]+", who) if m[0] in kinds or m[0][0].isupper()]
    words += [(who.index(name), who.index(name) + len(name)) for name in SITES if " " in name and name in who]
    start, end = r.choice(words) if words else (len(who), len(who))
    kind = kinds.get(who[start:end])
    name = who[start:end][:1].isupper()
    other = r.choice(kind) if kind and not (name and r.random() < 0.2) else invented_name(r)
    return who[:start] + ("" if words else " ") + other + who[end:]



OPENINGS = (
    "Note: ", "Remember that ", "According to the register, ", "It is recorded that ", "By the way, ", "For the record, ", "Note that ",
    "It should be known that ", "The old ledger says that ", "As everyone knew, ", "NB: ", "Let it be noted that ", "They say that ",
    "To be exact, ", "In fact, ", "It turned out that ", "We were told that ", "The notice says: ", "At that time ", "As I learned later, ",
    "Important: ", "A note in the margin: ", "Someone had written that ", "The report states that ", "Everybody agrees that ", "Indeed, ")
WRAPPINGS = (
    "Please tell me: ", "Question: ", "According to the text, ", "From the document above: ", "I would like to know: ", "In the text above, ",
    "Quick question: ", "Answer from the text: ", "Based on the document, ", "Now tell me, ", "One more thing: ", "Next: ", "And ", "Please answer: ")
CLOSINGS = (" Answer briefly.", " Use the text only.", " Please.", " Thank you.", " Give only the answer.")


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def lowered(text: str) -> str:
    """Without the capital of a sentence, unless the first word is a name."""
    first = text.split(" ", 1)[0].rstrip(",:?")
    common = {"The", "What", "Which", "Where", "When", "Who", "How", "In", "At", "By", "On", "Give", "Tell", "For", "It", "You", "To",
              "From", "Whose", "Whom", "There", "Version", "A", "They", "Under", "After", "One", "Near", "Behind", "Against", "With", "Without",
              "Together", "Whoever", "Of", "As", "All"}
    return text[:1].lower() + text[1:] if first in common else text


def phrased(r: random.Random, sentence: str) -> str:
    """A statement as it stands in a document: plain, or opened in one of many ways."""
    sentence = capitalized(re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", sentence))
    if r.random() < 0.6:
        return sentence
    return r.choice(OPENINGS) + lowered(sentence)


def asked(r: random.Random, question: str) -> str:
    question = capitalized(question)
    if r.random() < 0.3:
        question = r.choice(WRAPPINGS) + lowered(question)
    if r.random() < 0.12:
        question += r.choice(CLOSINGS)
    if r.random() < 0.06:
        question = question.lower()
    return question


@dataclasses.dataclass(frozen=True)
class Fact:
    subject: str
    family: str
    attribute: Attribute
    value: str

    def statement(self, r: random.Random) -> str:
        """Often with the value before the subject, where that can be said: it is the harder way round to find."""
        fitting = [t for t in self.attribute.statements if not (t.startswith("{v}") and self.value[0].islower())]  # a capital would change the value
        turned = [t for t in fitting if t.index("{v}") < t.index("{s}")]
        template = r.choice(turned if turned and r.random() < 0.5 else fitting)
        return phrased(r, open_facts.adorned(r, template.format(s=self.subject, v=self.value)))

    def question(self, r: random.Random, about: str = "") -> str:
        return r.choice(self.attribute.questions).format(s=about or self.subject)


class World:
    """The facts of one document. Every subject and every value is unambiguous in it."""

    def __init__(self, r: random.Random, size: int):
        self.r = r
        self.facts: list[Fact] = []
        self.of: dict[str, list[Fact]] = {}
        self.taken: set[tuple] = set()
        self.hinted: list[tuple[str, Attribute]] = []  # spoken of in the document, and not given
        families, weights = zip(*FAMILY_WEIGHTS)
        while len(self.facts) < size:
            family = r.choices(families, weights)[0]
            like = r.choice(self.facts) if self.facts and r.random() < 0.25 else None  # to be told apart from
            family = like.family if like else family
            who = self._new_subject(family, like)
            if like:
                self._add(who, family, like.attribute)
            for _ in range(r.choice([1, 1, 2, 2, 3])):
                self._add(who, family, self._attribute(family))

        for fact in list(self.facts):  # who is named in passing has a life of their own
            if fact.attribute.relation and fact.value not in self.of and r.random() < 0.5:
                self.of[fact.value] = []
                self._add(fact.value, "person", self._attribute("person"))

    def _new_subject(self, family: str, like: "Fact | None") -> str:
        who, tries = neighbour(self.r, like.subject) if like else subject(self.r, family), 0
        while who in self.of:  # all that is called nearly the same may be there: then another
            who, tries = neighbour(self.r, like.subject) if like and tries < 4 else subject(self.r, family), tries + 1
        self.of[who] = []
        return who

    def _attribute(self, family: str) -> Attribute:
        """One of the family's, or one of any kind; often one that others have too, to be told apart."""
        if family != "thing" and self.r.random() < 0.5:
            return self.r.choice(FAMILIES[family])
        known = [f.attribute for f in self.facts[-24:] if (f.family == "person") == (family == "person")]
        return self.r.choice(known) if known and self.r.random() < 0.35 else open_facts.open_attribute(self.r, family)

    def _add(self, who: str, family: str, attr: Attribute) -> None:
        if any(f.attribute.name == attr.name for f in self.of[who]):
            return
        if attr.value is None:  # a person of the document, so that questions can lead through two facts
            known = [s for s, facts in self.of.items() if facts and facts[0].family == "person" and s != who]
            value = self.r.choice(known) if known and self.r.random() < 0.75 else person(self.r)
        else:
            value = attr.value(self.r)
        if (family, attr.name, value) in self.taken:
            return
        self.taken.add((family, attr.name, value))
        fact = Fact(who, family, attr, value)
        self.facts.append(fact)
        self.of[who].append(fact)

    def peers(self, fact: Fact) -> list[Fact]:
        """Facts of the same kind about others."""
        return [f for f in self.facts if f.family == fact.family and f.attribute.name == fact.attribute.name and f.subject != fact.subject]

    def chained(self) -> list[tuple[Fact, Fact]]:
        """Pairs whose first leads to a person of whom the second is true."""
        return [(first, second) for first in self.facts if first.attribute.relation
                for second in self.of.get(first.value, []) if second.value != first.subject]

    def missing(self) -> tuple[str, Attribute]:
        """A subject and an attribute of which the document says nothing, though most often something very like it."""
        while True:
            fact = self.r.choice(self.facts)
            style = self.r.random()
            if style < 0.3:
                who, attr = fact.subject, self._another(fact)
            elif style < 0.45:
                who, attr = subject(self.r, fact.family), fact.attribute
            else:
                who, attr = neighbour(self.r, fact.subject), fact.attribute
            if who not in self.of and any(f.value == who for f in self.facts):
                continue
            if not any(alike(attr.name, f.attribute.name) for f in self.of.get(who, [])):
                return who, attr

    def _another(self, fact: Fact) -> Attribute:
        """Another attribute, if there is one with answers of the same form."""
        drawn = [self._attribute(fact.family) for _ in range(self.r.choice([1, 6]))] 
        drawn += self.r.sample(family := FAMILIES.get(fact.family, []), len(family))
        return next((a for a in drawn if a.value is fact.attribute.value and a.name != fact.attribute.name), drawn[0])


SYNONYMS = (
    {"birthplace", "birthday"}, {"owner", "own by", "keep by", "landlord", "hold by"}, {"builder", "build by", "architect", "make by"},
    {"keeper", "keep by", "guard by", "guardian", "steward", "warden", "watch by"}, {"maker", "make by", "build by", "design by", "inventor", "invent by"},
    {"captain", "master", "commander", "leader", "head", "manager"}, {"lead", "leader", "head", "manager", "director", "chairman"},
    {"teacher", "teach by", "train by", "coach"}, {"spouse", "marry by", "marry what"}, {"home", "place", "room", "address"},
    {"place", "keep where", "held where", "kept where", "left where"}, {"year", "built when", "made when", "finished when", "date", "origin"},
    {"price", "sell price", "rent price", "fee", "rent"}, {"host", "give by", "given by"}, {"name", "nickname", "title", "sign", "label"},
    {"founder", "found by", "founded by"}, {"trade", "profession"}, {"departure", "hour leave", "hour sail"}, {"door colour", "colour"},
    {"author", "write by", "composer", "compose by"}, {"editor", "edit by"}, {"publisher", "publish by"}, {"pilot", "driver", "drive by", "conductor"})


def alike(one: str, other: str) -> bool:
    """Whether the answer to one question might be taken for that to the other."""
    return one == other or any(one in names and other in names for names in SYNONYMS)


@dataclasses.dataclass(frozen=True)
class Holding:
    """A container of somebody and the two to seven things in it."""
    holder: str
    container: str
    items: tuple

    CONTAINERS = ("basket", "bag", "drawer", "trunk", "pocket", "cupboard", "crate", "satchel")
    STATEMENTS = ("The {c} of {p} holds {v}.", "In the {c} of {p} there are {v}.", "{p} keeps {v} in a {c}.", "{p} put {v} into a {c}.",
                  "The {c} of {p} contained {v}.", "{p} carries a {c} with {v} in it.")
    COUNTS = ("How many things does the {c} of {p} hold?", "How many things are in the {c} of {p}?", "Count the things in the {c} of {p}.",
              "How many things does {p} keep in the {c}?")
    LISTS = ("What does the {c} of {p} hold?", "List the things in the {c} of {p}.", "What is in the {c} of {p}?",
             "Which things does {p} keep in the {c}?", "What did {p} put into the {c}?")

    @staticmethod
    def draw(r: random.Random) -> "Holding":
        return Holding(person(r), r.choice(Holding.CONTAINERS), tuple(article(i) for i in r.sample(ITEMS, r.choice([2, 3, 3, 4, 4, 5, 6, 7]))))

    def _fill(self, r: random.Random, templates: tuple) -> str:
        return r.choice(templates).format(c=self.container, p=self.holder, v=joined(list(self.items)))

    def statement(self, r: random.Random) -> str:
        return phrased(r, self._fill(r, self.STATEMENTS))

    def count_question(self, r: random.Random) -> str:
        return self._fill(r, self.COUNTS)

    def list_question(self, r: random.Random) -> str:
        return self._fill(r, self.LISTS)


import open_facts  # noqa: E402  at the end, since it builds on this module
