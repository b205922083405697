"""One byte range of a request (RFC 9110, section 14): all that resuming and parallel downloads need."""

import re

NOT_SATISFIABLE = (-1, -1)

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(offset, length) that a Range header asks for of `size` bytes; NOT_SATISFIABLE if there are no such bytes.

    None means everything: without a header, and, as the RFC wants it, with one that is not understood.
    """
    match = _RANGE.fullmatch(header or "")
    if not match or match[0] == "bytes=-":
        return None
    if match[1]:
        start, end = int(match[1]), int(match[2] or size - 1)
        if match[2] and end < start:
            return None
    else:
        start, end = max(0, size - int(match[2])), size - 1
    end = min(end, size - 1)
    return (start, end - start + 1) if start <= end else NOT_SATISFIABLE
