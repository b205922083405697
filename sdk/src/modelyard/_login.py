"""Getting a token from a registry, by proving who one is.

password           name, password                        ──────────────────────────> token for some hours
browser            listen on loopback, open a page there ──> code comes back by it ──> token for some hours
identity token     what a CI signs for its job           ──────────────────────────> token for some minutes

In a browser it is the identity provider's business how people prove who they are; nothing of that comes by here. The code
that does come by is worth nothing without the verifier, which never leaves this process but for the registry (RFC 7636).
"""

import base64
import hashlib
import hmac
import queue
import secrets
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from modelyard import _config
from modelyard._errors import ConfigurationError, ConnectionFailed, UnexpectedAnswer, api_error
from modelyard._http import Http

WAIT_S = 600.0
"""As long as a registry waits for the browser."""

_PATH = "/modelyard/login"
# They would take over the terminal that the address is shown on.
_IN_TERMINALS = frozenset(["elinks", "links", "lynx", "w3m", "www-browser"])
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Modelyard</title><p>{}</p></html>"""


@dataclass(frozen=True, slots=True)
class Session:
    """A token, whose it is, and for how many seconds it is good."""

    token: str = field(repr=False)
    principal: str
    expires_in: int


@contextmanager
def connected(url: str) -> Iterator[Http]:
    """A connection to the registry at `url`, without any token."""
    http = Http(_config.load(url, ""), timeout_s=30.0)
    try:
        yield http
    finally:
        http.close()


def with_password(http: Http, name: str, password: str) -> Session:
    """Raises Unauthorized, or ApiError with status 429 after too many failures."""
    return _session(http.send("POST", "/api/v1/auth/password", {"name": name, "password": password}))


def change_password(http: Http, name: str, password: str, new: str) -> None:
    """Raises as with_password does, and InvalidRequest when the new one breaks the rules."""
    body = {"name": name, "password": password, "new_password": new}
    http.send("PUT", "/api/v1/auth/password", body)


def with_identity_token(http: Http, token: str, principal: str | None = None) -> Session:
    """Exchange a CI job's token, as whom a trusted publisher makes it; `principal` chooses among several."""
    body = {"token": token} | ({"principal": principal} if principal else {})
    return _session(http.send("POST", "/api/v1/auth/exchange", body))


def with_browser(
    http: Http, issuer: str | None, show: Callable[[str], None], *, wait_s: float = WAIT_S
) -> Session:
    """Wait until somebody has logged in at the address that is opened, if there is a browser, and given to `show`."""
    start = _choose(http.get("/api/v1/auth/methods"), issuer)
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    with _listening(state) as (redirect_uri, answers):
        query = {"redirect_uri": redirect_uri, "state": state, "code_challenge": _challenge_of(verifier)}
        address = f"{start}?{urlencode(query)}"
        show(address)
        _open(address)
        answer = _wait(answers, wait_s)
    if "code" not in answer:
        raise api_error(
            answer.get("error", "login_refused"), 401, answer.get("error_description", "Nobody logged in.")
        )
    body = {"code": answer["code"], "code_verifier": verifier, "redirect_uri": redirect_uri}
    return _session(http.send("POST", "/api/v1/auth/oidc/token", body))


def _choose(methods: Any, wanted: str | None) -> str:
    """Where to begin, out of what the registry offers."""
    try:
        offered = {each["name"]: each["start"] for each in methods["issuers"] if each["start"]}
    except (KeyError, TypeError) as error:
        raise UnexpectedAnswer("This is not how a Modelyard registry says how to log in.") from error
    names = ", ".join(sorted(offered))
    if not offered:
        raise ConfigurationError(
            "This registry has no identity provider to log in with in a browser. Use --user NAME, or a token."
        )
    if wanted is None and len(offered) > 1:
        raise ConfigurationError(
            f"This registry has several identity providers: choose with --issuer ({names})."
        )
    if wanted is not None and wanted not in offered:
        raise ConfigurationError(f"This registry has no identity provider {wanted!r}, but {names}.")
    start = offered[wanted or names]
    if not isinstance(start, str) or urlsplit(start).scheme not in ("http", "https"):
        raise UnexpectedAnswer("The registry's login page is not a page on the web.")
    return start


@contextmanager
def _listening(state: str) -> Iterator[tuple[str, "queue.Queue[Mapping[str, str]]"]]:
    """Listen on loopback for the answer to the login with this state; yields our address, and where answers arrive."""
    answers: queue.Queue[Mapping[str, str]] = queue.Queue()
    # Threads: browsers open connections ahead of time, and ask nothing on them.
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state, answers)) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{_PATH}", answers
        finally:
            server.shutdown()


def _handler(state: str, answers: "queue.Queue[Mapping[str, str]]") -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            host = f"127.0.0.1:{self.connection.getsockname()[1]}"
            if parts.path != _PATH or self.headers.get("Host") != host:
                self._tell(404, "There is nothing here.")
            elif not hmac.compare_digest(query.get("state", "").encode(), state.encode()):
                self._tell(400, "This is not the login that the command line is waiting for.")
            else:
                worked = "code" in query
                self._tell(200, "You are logged in." if worked else "You are not logged in.")
                # Only now: the program may end as soon as it has the answer.
                answers.put(query)

        def _tell(self, status: int, sentence: str) -> None:
            content = _PAGE.format(
                f"{sentence} You can close this page and go back to the command line."
            ).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", "default-src 'none'")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """The query holds the code."""

    return Handler


def _wait(answers: "queue.Queue[Mapping[str, str]]", wait_s: float) -> Mapping[str, str]:
    try:
        return answers.get(timeout=wait_s)
    except queue.Empty as error:
        raise ConnectionFailed(
            f"Nobody has logged in in the browser within {wait_s:g} s. Begin again."
        ) from error


def _open(address: str) -> None:
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return
    if getattr(browser, "basename", "") not in _IN_TERMINALS:
        # Some programs return only when the window is closed.
        threading.Thread(target=browser.open, args=[address], daemon=True).start()


def _challenge_of(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _session(answer: Any) -> Session:
    try:
        return Session(str(answer["token"]), str(answer["principal"]), int(answer["expires_in"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer("This is not how a Modelyard registry lets somebody in.") from error
