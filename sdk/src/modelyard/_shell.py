"""Running a command: what becomes of its errors and warnings, and which status the program ends with.

    done 0 · ModelyardError 1 · wrong usage 2 · Ctrl-C 130

On stderr, for people `error: …`, `hint: …` and `warning: …`; with --json one JSON object a line instead.
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn, TextIO

import click

from modelyard._errors import CaptureWarning, ModelyardError

HINTS = {
    "invalid_query": "`modelyard search --help` shows what a search looks like.",
    "unauthorized": "Log in with `modelyard login URL`, or set MODELYARD_TOKEN.",
    "forbidden": "`modelyard whoami` shows what you may do here.",
    "workspace_not_found": "`modelyard whoami` shows which workspace is asked, and what you may do there.",
    "quota_exceeded": "`modelyard workspace show` shows what the workspace has, and what it may have.",
    "too_many_requests": "`modelyard workspace show` shows how many there may be.",
    "principal_not_found": "`modelyard principal ls` lists people and robots.",
    "group_not_found": "`modelyard group ls` lists the groups.",
    "grant_not_found": "`modelyard grant ls` lists what is granted.",
    "token_not_found": "`modelyard token ls` lists your tokens.",
    "model_not_found": "`modelyard ls` lists the models.",
    "version_not_found": "`modelyard ls MODEL` lists its versions.",
    "pointer_not_found": "`modelyard promote MODEL VERSION --to POINTER` gives it a version.",
    "pointer_vacant": "`modelyard promote MODEL VERSION --to POINTER` gives it a version.",
    "checks_failed": "`modelyard promote MODEL VERSION --dry-run` shows what each check found.",
    "no_such_edge": "`modelyard policy ls MODEL` shows which moves there are.",
    "not_by_policy": "`modelyard policy ls MODEL` shows what its promotions need.",
    "request_not_found": "`modelyard request ls MODEL --all` lists its promotion requests.",
    "generation_conflict": "Look with `modelyard history MODEL`, then repeat with the --expect that you mean.",
    "nothing_to_roll_back": "`modelyard history MODEL` shows every move.",
}


def run_and_exit(app: click.Group, arguments: Sequence[str]) -> NoReturn:
    """Run one command and end the program."""
    status = run(app, arguments)
    if status == 130:
        # Everything is cleaned up; a transfer thread may still be waiting for a dead server, and nobody waits for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(app: click.Group, arguments: Sequence[str]) -> int:
    """Run one command and return the exit status."""
    as_json = "--json" in arguments
    try:
        # Not app.main(), which prints on its own when it is interrupted.
        with _warnings_on_stderr(as_json=as_json), app.make_context("modelyard", list(arguments)) as context:
            app.invoke(context)
            sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        if as_json:
            _tell(as_json=True, kind="error", code="usage", message=error.format_message())
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _tell(as_json=as_json, kind="error", code="interrupted", message="interrupted")
        return 130
    except ModelyardError as error:
        _tell(as_json=as_json, kind="error", code=error.code, message=str(error), hint=HINTS.get(error.code))
        return 1
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _tell(
    *, as_json: bool, kind: str, message: str, code: str | None = None, hint: str | None = None
) -> None:
    """An error or a warning on stderr."""
    from modelyard._tables import printable  # rich takes 50 ms that most commands do without

    if as_json:
        content = {"code": code, "message": message, "hint": hint}
        told = json.dumps({kind: {key: value for key, value in content.items() if value is not None}})
    else:
        told = f"{kind}: {printable(message)}" + (f"\nhint: {hint}" if hint else "")
    click.echo(told, err=True)


@contextlib.contextmanager
def _warnings_on_stderr(*, as_json: bool) -> Iterator[None]:
    """CaptureWarnings as one line of ours, instead of a place in the source."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, CaptureWarning):
                _tell(as_json=as_json, kind="warning", message=str(message))
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", CaptureWarning)
        warnings.showwarning = show
        yield
