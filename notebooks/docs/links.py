"""The check of a built site: every link inside it leads somewhere, and no page loads anything from another host."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
FOREIGN = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""")


class Page(HTMLParser):
    """ids: what can be linked to.  links: (tag, attribute, target)."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [(tag, key, given[key]) for key in ("href", "src") if given.get(key)]


def faults(site):
    """Sentences about what is wrong in the folder `site`."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [fault for path, page in pages.items() for fault in _of(path, page, pages, site)]
    for path in sorted(site.rglob("*.css")):
        found += [f"{path.relative_to(site)} loads {target}." for target in FOREIGN.findall(path.read_text())]
    return found


def _of(path, page, pages, site):
    here = path.relative_to(site)
    for tag, key, target in page.links:
        parts = urlsplit(target)
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            if (tag, key) in LOADED:
                yield f"{here} loads {target}."
            continue
        there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not there.exists():
            yield f"{here} links to {target}, which is not there."
        elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].ids:
            yield f"{here} links to {target}, a place that is not on that page."
