"""`modelyard-serve`: options into Settings, and run."""

import os
from pathlib import Path
from typing import Any

import click
from modelyard import InvalidReference, ModelyardError

from serving_adapter import app, logs
from serving_adapter.errors import AdapterError
from serving_adapter.runtimes import FORMATS
from serving_adapter.settings import Following, Settings, half_of_memory, usable_cpus


def _following(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Following, ...]:
    try:
        models = tuple(Following.parse(value) for value in values)
    except InvalidReference as error:
        raise click.BadParameter(str(error)) from error
    names = [following.name for following in models]
    if len(set(names)) < len(names):
        raise click.BadParameter("two models would be served under the same name: use NAME=REF")
    return models


def _cache_dir() -> Path:
    home = os.environ.get("MODELYARD_HOME")
    return (Path(home) if home else Path.home() / ".modelyard") / "serving"


def _absolute(_context: click.Context, _parameter: click.Parameter, path: Path) -> Path:
    """Candidates are loaded in another working directory. Links stay links: the cache looks at them itself."""
    return path.absolute()


@click.command(context_settings={"auto_envvar_prefix": "MODELYARD_SERVE", "show_default": True})
@click.option(
    "--registry", metavar="URL", envvar="MODELYARD_URL", help="The registry. [default: as the SDK finds it]"
)
@click.option(
    "--model", "models", metavar="[NAME=]REF", multiple=True, callback=_following,
    help="Serve fraud (= fraud@production), fraud@champion or fraud/3; repeatable. "
    "[default: production of every model in the registry]",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8080, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option(
    "--cache-dir", type=click.Path(path_type=Path, file_okay=False), default=_cache_dir, show_default=False,
    callback=_absolute, help="Where versions are kept. [default: MODELYARD_HOME/serving]",
)  # fmt: skip
@click.option(
    "--prefer", metavar="FORMAT", multiple=True, type=click.Choice(list(FORMATS)),
    help=f"Format to take when a version has several; repeatable. [default: {', '.join(FORMATS)}]",
)  # fmt: skip
@click.option("--trust-type", "trusted_types", metavar="TYPE", multiple=True,
              help="Type that skops files may build although skops does not know it; repeatable.")  # fmt: skip
@click.option(
    "--load-timeout-s", default=60.0, type=click.FloatRange(0, min_open=True), help="For one version to load."
)
@click.option("--load-memory-bytes", default=half_of_memory, type=click.IntRange(1), show_default="half of the machine's",
              help="Memory that loading a version may take.")  # fmt: skip
@click.option("--threads", default=usable_cpus, type=click.IntRange(1), show_default="one per CPU",
              help="Requests that are worked on at the same time.")  # fmt: skip
@click.option(
    "--max-queue", default=512, type=click.IntRange(0), help="Requests that may wait; more get 503."
)
@click.option("--max-body-bytes", default=64 * 2**20, type=click.IntRange(1), help="Size of a request.")
@click.option(
    "--drain-s", default=0.5, type=click.FloatRange(0), help="How long to go on accepting after SIGTERM."
)
@click.option(
    "--stop-timeout-s",
    default=20.0,
    type=click.FloatRange(0),
    help="How long to wait then for requests to end.",
)
@click.option("--name", help="What the registry is told that this adapter is called. [default: HOST:PORT]")
@click.option("--json", "json_lines", is_flag=True, help="Log lines as JSON.")
@click.version_option(package_name="modelyard-server", prog_name="modelyard-serve")
def main(*, json_lines: bool, **options: Any) -> None:
    """Serve models from a Modelyard registry, and follow every promotion.

    The registry's token comes from MODELYARD_TOKEN, or from `modelyard login`.
    """
    logs.configure(as_json=json_lines)
    try:
        app.run(Settings(**options))
    except (AdapterError, ModelyardError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
