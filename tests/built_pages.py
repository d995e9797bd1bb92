"""``python -m tests.built_pages DIR``: links of a built site that lead to no file, or no place in it."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What one page refers to, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.places |= {values[name] or "" for name in ("id", "name") if name in values}
        self.links += [values[name] or "" for name in ("href", "src") if name in values]


def broken(site: Path) -> list[str]:
    """Page and target of each relative link that leads nowhere.

    Args:
        site: the folder of the built pages.
    """
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            lost = place and target in pages and place not in pages[target].places
            if lost or not target.is_file():
                wrong.append(f"{path.relative_to(site.resolve())}: {link}")
    return wrong


def main(site: Path) -> int:
    """Print the broken links of a site; 1 if there are some, or no page."""
    if not any(site.rglob("*.html")):
        print(f"{site} has no page")
        return 1
    wrong = broken(site)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
