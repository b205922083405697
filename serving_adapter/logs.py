"""The log: one line per event on standard error, as text or as JSON. There is no line per request."""

import json
import logging
import sys
from datetime import UTC, datetime

# Control characters in a model's or library's message must not make lines, or colours, of their own.
_VISIBLE = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


class TextLines(logging.Formatter):
    """`2026-11-22T10:00:00.000Z INFO message`"""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_time(record)} {record.levelname} {self._message(record).translate(_VISIBLE)}"

    def _message(self, record: logging.LogRecord) -> str:
        cause = f" | {self.formatException(record.exc_info)}" if record.exc_info else ""
        return record.getMessage() + cause


class JsonLines(TextLines):
    """`{"at": …, "level": …, "logger": …, "message": …}`"""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        return json.dumps(line, ensure_ascii=False)


def configure(*, as_json: bool) -> None:
    """Send what this package logs, and warnings of others, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("serving_adapter").setLevel(logging.INFO)


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
