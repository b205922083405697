"""Deliveries: how events reach the receivers of webhooks, at least once each.

    change ── one transaction ──> events          the table of events is the outbox: nothing else is written for a webhook
                                    │ outbox.py   inserts deliveries and moves the webhook's cursor, in one transaction
                                    v
                                deliveries        queue.py   claim (a lease) ──> settle (the attempt, and when the next is)
                                    │                              ^
                                    v sender.py   threads          │ outcome
    target.py (which addresses) ──> transport.py (one request) ────┘        signature.py, payload.py: what is in it

Several registry processes share the work. An event is one delivery per webhook, because cursor and deliveries move together
under the webhook's lock. A delivery is sent again when its sender died before it could say what came of it, so a receiver can
get it twice: under one id, which it keeps for ever.
"""
