"""Pages, manuals, dictionaries and code of packages turned into clean text, by kind of file."""

import gzip
import html.parser
import re

SHORTEST_DOCUMENT = 200  # characters; below this a page is navigation, not text


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
