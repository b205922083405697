"""A runtime for tests: the model's file is JSON that says how the model behaves, well or badly.

{"answer": 3}                    y = 3 for every row of x, so that an answer tells which version gave it
{"answer": 3, "predict_s": 0.5}  the same, slowly
{"answer": 3, "closed": "/file"} answers only once that file is gone
{"load": "hang"}                 also: raise, exit, segfault, memory; environment tells what a candidate could see
{"answer": 3, "needs": "/file"}  loads only while that file exists
{"answer": "nan"}                also: shape, type, nothing, raise
"""

import ctypes
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving_adapter.runtimes.base import Options
from serving_adapter.tensors import Array, Signature, TensorSpec

FORMAT = "scripted"
FORMATS = {FORMAT: "tests.servers.adapter_runtime"}
SIGNATURE = Signature((TensorSpec("x", "FP64", (-1, 1)),), (TensorSpec("y", "FP64", (-1, 1)),))


class ScriptedRuntime:
    platform = "scripted"
    signature = SIGNATURE

    def __init__(self, script: Mapping[str, Any]) -> None:
        self._script = script
        self._closed = False

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        x = inputs["x"]
        time.sleep(self._script.get("predict_s", 0))
        while Path(self._script.get("closed", "/nonexistent")).exists():
            time.sleep(0.005)
        if self._closed:
            raise RuntimeError("the model was closed under a request")
        answer = self._script["answer"]
        match answer:
            case "raise":
                raise ValueError("the secret path /etc/model")
            case "nan":
                return {"y": np.full(x.shape, np.nan)}
            case "shape":
                return {"y": np.zeros((len(x), 2))}
            case "type":
                return {"y": np.full(x.shape, "text")}
            case "nothing":
                return {}
        return {"y": np.full(x.shape, float(answer))}

    def close(self) -> None:
        self._closed = True


def load(path: Path, _: Options) -> ScriptedRuntime:
    script = json.loads(path.read_text())
    match script.get("load"):
        case "hang":
            time.sleep(3600)
        case "raise":
            raise RuntimeError("this model does not want to be loaded")
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "environment":
            raise RuntimeError(f"cwd={Path.cwd()} variables={' '.join(sorted(os.environ))}")
        case "memory":
            script["ballast"] = np.ones(2**40, np.uint8)
    if "needs" in script and not Path(script["needs"]).exists():
        raise RuntimeError("something that this model needs is not there")
    time.sleep(script.get("load_s", 0))
    return ScriptedRuntime(script)
