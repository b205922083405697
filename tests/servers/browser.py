"""A browser, as far as logging in needs one: cookies for each host, redirects, and forms that a person fills in.

As a program (`python -m tests.servers.browser URL`) it goes through a login until no form is left: what $BROWSER may be.
"""

import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from urllib.parse import urlsplit

import httpx2

from tests.servers.canaille import PASSWORD, PERSON

MOST_STEPS = 20


class Browser:
    """`visited` are the addresses of all pages, redirects included."""

    def __init__(self) -> None:
        self._jars: dict[str, httpx2.Client] = {}
        self.visited: list[str] = []

    def close(self) -> None:
        for each in self._jars.values():
            each.close()

    def get(self, url: str, *, until: str = "") -> httpx2.Response:
        """Follow redirects; with `until`, up to one that leads to an address beginning like that, which is not asked."""
        return self._follow(self._send("GET", url), until)

    def submit(self, page: httpx2.Response, *, until: str = "", **filled: str) -> httpx2.Response:
        """Fill in the page's form and send it."""
        fields = {**form_of(page.text), **filled}
        return self._follow(self._send("POST", str(page.url), fields), until)

    def log_in(self, url: str, *, until: str = "", who: str = PERSON) -> httpx2.Response:
        """Go where `url` leads, and be somebody whom Canaille knows."""
        page = self.get(url, until=until)
        for _ in range(MOST_STEPS):
            fields = form_of(page.text)
            if page.is_redirect or not fields:
                return page
            known = {"login": who, "password": PASSWORD}
            filled = {name: value for name, value in known.items() if name in fields}
            page = self.submit(
                page, until=until, **filled or {"answer": "accept" if who == PERSON else "deny"}
            )
        raise AssertionError(f"there is no end to forms: {self.visited}")

    def _follow(self, response: httpx2.Response, until: str) -> httpx2.Response:
        for _ in range(MOST_STEPS):
            if not response.is_redirect:
                return response
            target = str(response.url.join(response.headers["location"]))
            if until and target.startswith(until):
                return response
            response = self._send("GET", target)
        raise AssertionError(f"there is no end to redirects: {self.visited}")

    def _send(self, method: str, url: str, fields: Mapping[str, str] | None = None) -> httpx2.Response:
        self.visited.append(url)
        # Browsers share cookies among the ports of a host; the jars of Python's library do, too, but here each server has
        # its own: no server of a test must rely on what another one set.
        jar = self._jars.setdefault(urlsplit(url).netloc, httpx2.Client(follow_redirects=False, timeout=30))
        return jar.request(method, url, data=dict(fields) if fields else None)


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._inside = False
        self._over = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag == "form" and not self._over:
            self._inside = (given.get("method") or "").upper() == "POST"
        elif tag == "input" and self._inside and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._inside:
            self._inside, self._over = False, True


def form_of(page: str) -> dict[str, str]:
    """The fields of the first form that is sent by POST; empty when there is none."""
    form = _Form()
    form.feed(page)
    return form.fields


if __name__ == "__main__":
    Browser().log_in(sys.argv[1])
