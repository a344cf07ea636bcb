"""HTML pages, read strictly."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps its tables' texts, its text and its attributes.

    `structure` is all of it but the style, in order, whatever its white space: tags, attributes, texts.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.text, self.tables = [], [], [], "", []
        self.structure = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.structure.append((tag, dict(attributes)))
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.structure.append(f"/{tag}")

    def handle_decl(self, decl):
        self.structure.append(decl)

    def handle_data(self, data):
        if data.strip() and self.open[-1] != "style":
            self.structure.append(re.sub(r"\s+", " ", data))
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] != "style":
            self.text += data
