"""One life of a model, from its first bytes to the last: every operation that the registry has for versions.

publish whole files (shared bytes, own bytes) · publish the same again · publish in a pack (large: verified afterwards)
promote · promote · download · delete · restore · delete for good · sweep · download
"""

from tests.reliability.caller import Violation
from tests.reliability.world import LARGE, World


def contents(model: str) -> list[dict[str, bytes]]:
    """The files of the three versions."""
    shared = {"shared": b"the same bytes in every model"}
    large = {"large": (model.encode() * LARGE)[:LARGE], "small": model.encode() + b"3", "empty": b""}
    own = {"own": model.encode(), "empty": b""}
    return [shared | own, own | {"other": model.encode() + b"2"}, large]


def live(world: World, model: str) -> None:
    """All of it, as often as needed until each step has succeeded. Raises Violation."""
    caller, (first, second, third) = world.caller, contents(model)
    _expect(caller.publish(model, first), 1)
    _expect(caller.publish(model, second), 2)
    _expect(caller.publish(model, third, packed=True), 3)
    world.verify()
    caller.promote(model, 2, 0)
    caller.promote(model, 3, 1)
    caller.download(model, 1, first)
    caller.delete(model, 1)
    caller.restore(model, 1)
    caller.delete(model, 1)
    world.sweep()
    caller.download(model, 2, second)
    caller.download(model, 3, third)
    _expect(caller.numbers(model), [2, 3])
    _expect(caller.numbers(model, deleted=True), [1])


def _expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise Violation(f"expected {wanted}, got {got}")
