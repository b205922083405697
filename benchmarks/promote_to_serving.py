"""How long after a promotion the adapter's first answer comes from the new version; and after a rollback.

    python -m benchmarks.promote_to_serving [--rounds 20]

Registry and adapter on this machine, SQLite and disk, the breast-cancer pipeline of the demo. Each promotion is of a
version that the adapter has never seen: it fetches, verifies, loads in a child, checks the example, and swaps. A rollback
returns to the version before, which is still in memory. Time runs from the registry's answer to the first answer of the
other version, seen by a client that keeps asking. Last line: JSON, milliseconds.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import modelyard

from deploy.local import Stack
from examples.demo import MODEL, Load, breast_cancer, free_port, train
from examples.inference import wait_for_version


def measure(rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, for promotions and for rollbacks."""
    data = breast_cancer()
    model, _ = train(data, components=2)
    times: dict[str, list[float]] = {"promote_to_serving_ms": [], "rollback_to_serving_ms": []}
    with (
        tempfile.TemporaryDirectory(prefix="modelyard-bench-") as home,
        Stack(Path(home), free_port(), free_port()) as stack,
        stack.client() as client,
    ):
        for _ in range(rounds + 1):
            client.publish(MODEL, model, example=data.features[:5])
        client.promote(MODEL, 1)
        wait_for_version(stack.adapter_url, MODEL, 1)
        with Load(stack, data.held_out, dict.fromkeys(range(1, rounds + 2), model)) as load:
            for number in range(2, rounds + 2):
                promote, rollback = promotion(client, number), rolling_back(client)
                times["promote_to_serving_ms"].append(load.move_to(number, promote))
                times["rollback_to_serving_ms"].append(load.move_to(number - 1, rollback))
                load.move_to(number, promote)
        load.check()
    return times


def promotion(client: modelyard.Client, number: int) -> Callable[[], object]:
    return lambda: client.promote(MODEL, number)


def rolling_back(client: modelyard.Client) -> Callable[[], object]:
    return lambda: client.rollback(MODEL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    found = measure(parser.parse_args().rounds)
    for name, values in found.items():
        print(
            f"{name:24} min {min(values):7.1f}  median {statistics.median(values):7.1f}  max {max(values):7.1f}"
        )
    medians = {name: round(statistics.median(values), 1) for name, values in found.items()}
    rounds = len(found["promote_to_serving_ms"])
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"bench": "promote_to_serving", "rounds": rounds, "machine": machine, **medians}))


if __name__ == "__main__":
    main()
