"""Peak memory, as Linux counts it: of a transfer in a process of its own, and of a process that runs already.

    reset the peak (5 > clear_refs)  ->  VmRSS now  ->  work  ->  VmHWM - VmRSS = what the work took at its height

Not ru_maxrss: a child inherits the peak of the process that forked it.

    python -m benchmarks._memory register|download URL PATH        prints the bytes
"""

import subprocess
import sys
from pathlib import Path

import modelyard

ROOT = Path(__file__).parent.parent


class Peak:
    """How far the resident memory of a process rises above what it is when this is made."""

    def __init__(self, pid: int | str = "self") -> None:
        self._proc = Path("/proc") / str(pid)
        (self._proc / "clear_refs").write_text("5")
        self._before = self._status("VmRSS")

    def growth(self) -> int:
        """Bytes at the highest point since then."""
        return self._status("VmHWM") - self._before

    def _status(self, field: str) -> int:
        for line in (self._proc / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
        raise RuntimeError(f"{self._proc / 'status'} has no {field}")


def of_transfer(verb: str, url: str, path: Path) -> int:
    """Bytes that `register` or `download` of the model "bench" takes on top of an imported, connected SDK."""
    argv = [sys.executable, "-m", "benchmarks._memory", verb, url, str(path)]
    return int(subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(verb: str, url: str, path: str) -> None:
    with modelyard.Client(url) as client:
        client.info()
        peak = Peak()
        if verb == "register":
            client.register("bench", path)
        else:
            client.download(next(client.versions("bench")), path)
        print(peak.growth())


if __name__ == "__main__":
    main(*sys.argv[1:])
