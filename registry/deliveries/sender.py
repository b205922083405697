"""Sending one delivery that was claimed: sign it, post it, and say what came of it. No transaction is open while it is under way."""

import logging
import ssl
import time

import httpcore2

from registry import __version__
from registry.database import Database
from registry.deliveries import queue, signature, transport
from registry.deliveries.outcome import Failure, NotSent, Outcome
from registry.deliveries.queue import Claim, Rules
from registry.deliveries.target import Reach, parse
from registry.errors import InvalidUrl
from registry.failpoints import failpoint
from registry.vault import Unreadable, Vault

TIMEOUT_S = 5.0
"""All that one attempt may take: name, connection, TLS, request and answer."""

_FIXED = {"Content-Type": "application/json", "User-Agent": f"Modelyard/{__version__}"}

log = logging.getLogger("modelyard.registry")


class Sender:
    """Sends what is due, one delivery at a time; many threads may use it at once."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        reach: Reach,
        rules: Rules,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._database = database
        self._vault = vault
        self._reach = reach
        self._rules = rules
        self._tls = tls or httpcore2.default_ssl_context()

    def deliver(self, claim: Claim) -> None:
        """One attempt at a delivery that was claimed."""
        failpoint("deliver.before_send")
        outcome = self._attempt(claim)
        failpoint("deliver.after_send")
        state = queue.settle(self._database, claim, outcome, self._rules)
        if not outcome.delivered:
            came = outcome.status or outcome.failure
            log.info("webhook %s, delivery %s: %s, %s", claim.webhook_id, claim.id, came, state or "lapsed")

    def _attempt(self, claim: Claim) -> Outcome:
        began = time.monotonic()
        status, failure = None, None
        try:
            status = self._send(claim, began + TIMEOUT_S)
        except NotSent as error:
            failure = error.failure
        except InvalidUrl:  # it was saved under other rules
            failure = Failure.REFUSED
        except Unreadable:
            failure = Failure.SECRET
            log.error("the secret of webhook %s is sealed with another secret key", claim.webhook_id)  # noqa: TRY400
        return Outcome(status, failure, round((time.monotonic() - began) * 1000))

    def _send(self, claim: Claim, deadline: float) -> int:
        keys = [self._vault.open(sealed, claim.webhook_id) for sealed in claim.secrets]
        target = parse(claim.url)
        addresses = self._reach.addresses(target, deadline - time.monotonic())
        headers = _FIXED | signature.headers(claim.id, claim.at, claim.body, keys)
        return transport.post(target, addresses, headers, claim.body, tls=self._tls, deadline=deadline)
