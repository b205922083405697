"""From which address a request comes: the last one that no trusted proxy has written."""

import ipaddress
from typing import Annotated

from fastapi import Depends, Request
from pydantic import IPvAnyNetwork

from registry.http.deps import Config


def client_address(request: Request, settings: Config) -> str:
    """The peer's address; behind proxies that the operator trusts, the one that they were asked from."""
    address = request.client.host if request.client else ""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    for hop in reversed([each.strip() for each in forwarded]):
        # What stands further left was written by whoever is at `address`, and may be anything.
        if not _is_trusted(address, settings.trusted_proxies) or not _is_address(hop):
            break
        address = hop
    return address


def _is_trusted(address: str, proxies: tuple[IPvAnyNetwork, ...]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in proxies)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Address = Annotated[str, Depends(client_address)]
