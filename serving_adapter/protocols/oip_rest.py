"""Open Inference Protocol V2 over REST, with JSON tensors: decode ─▶ infer ─▶ encode.

    GET  /v2                                          name, version, extensions
    GET  /v2/health/live   /v2/health/ready           {"live": true}   {"ready": true}, or 503
    GET  /v2/models                                   {"models": […]}
    GET  /v2/models/{m}[/versions/{v}]                name, versions, platform, inputs, outputs
    GET  /v2/models/{m}[/versions/{v}]/ready          {"name", "ready": true}, or 503
    POST /v2/models/{m}[/versions/{v}]/infer          outputs; headers Modelyard-Version and Modelyard-Digest

{v} is the number that is being served, or the name of the pointer that is followed. Binary tensors are not read and
not advertised; a client that would like binary outputs gets JSON, which the protocol allows.
Protocol: github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from serving_adapter.errors import BadInput, NotReady
from serving_adapter.infer import Inference, require_version
from serving_adapter.protocols.http import Headers, Response, Route, answer
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.slots import Slots
from serving_adapter.tensors import DATATYPES, Array, JsonTensor, Name, decode, encode

SERVER = {"name": "modelyard", "version": "0.1.0", "extensions": []}


class RequestedOutput(msgspec.Struct):
    """An output that the caller asks for."""

    name: Name
    parameters: dict[str, Any] = {}


class Request(msgspec.Struct):
    """The body of an inference request; fields that are not known are ignored, as the protocol's extensions want."""

    inputs: list[JsonTensor]
    id: str | None = None
    outputs: list[RequestedOutput] = []


class OutputTensor(msgspec.Struct):
    """One output of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class Result(msgspec.Struct):
    """The body of an inference answer."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


_requests = msgspec.json.Decoder(Request)
_results = msgspec.json.Encoder()


class OipRest:
    """The routes of the protocol."""

    def __init__(self, slots: Slots, inference: Inference) -> None:
        self._slots = slots
        self._inference = inference

    def route(self, path: Sequence[str]) -> Route | None:
        match path:
            case ["v2", "models", name, "infer"]:
                return Route(working=partial(self._infer, name, None))
            case ["v2", "models", name, "versions", version, "infer"]:
                return Route(working=partial(self._infer, name, version))
            case ["v2"]:
                return Route(lambda: answer(SERVER))
            case ["v2", "health", "live"]:
                return Route(lambda: answer({"live": True}))
            case ["v2", "health", "ready"]:
                return Route(self._ready)
            case ["v2", "models"]:
                return Route(self._models)
            case ["v2", "models", name, *rest]:
                return self._model_route(name, rest)
        return None

    def _model_route(self, name: str, rest: Sequence[str]) -> Route | None:
        match rest:
            case []:
                return Route(partial(self._metadata, name, None))
            case ["ready"]:
                return Route(partial(self._model_ready, name, None))
            case ["versions", version]:
                return Route(partial(self._metadata, name, version))
            case ["versions", version, "ready"]:
                return Route(partial(self._model_ready, name, version))
        return None

    def _ready(self) -> Response:
        reason = self._slots.why_not_ready()
        return answer({"ready": True}) if reason is None else answer({"ready": False, "error": reason}, 503)

    def _models(self) -> Response:
        return answer({"models": [slot.name for slot in self._slots.all() if slot.current is not None]})

    def _metadata(self, name: str, version: str | None) -> Response:
        slot, snapshot = self._served(name, version)
        signature = snapshot.model.signature
        return answer(
            {
                "name": slot.name,
                "versions": [str(snapshot.version)],
                "platform": snapshot.model.platform,
                "inputs": signature.inputs if signature else [],
                "outputs": signature.outputs if signature else [],
            }
        )

    def _model_ready(self, name: str, version: str | None) -> Response:
        try:
            self._served(name, version)
        except NotReady as error:
            return answer({"name": name, "ready": False, "error": str(error)}, 503)
        return answer({"name": name, "ready": True})

    def _served(self, name: str, version: str | None) -> tuple[Slot, Snapshot]:
        slot = self._slots.get(name)
        snapshot = slot.current
        if snapshot is None:
            raise NotReady(slot.why_not_ready())
        require_version(slot, snapshot, version)
        return slot, snapshot

    def _infer(self, name: str, version: str | None, body: bytes, headers: Headers) -> Response:
        if headers.get("inference-header-content-length") is not None:
            raise BadInput("binary tensors are not read by this version: send the tensors' data as JSON")
        request = _read(body)
        result = self._inference.infer(
            name, version, _inputs(request), [output.name for output in request.outputs]
        )
        snapshot = result.snapshot
        content = Result(
            model_name=name,
            model_version=str(snapshot.version),
            id=request.id or secrets.token_hex(16),
            outputs=[_output(*output) for output in result.outputs.items()],
        )
        names = (("modelyard-version", content.model_version), ("modelyard-digest", snapshot.digest))
        return Response(200, _results.encode(content), names)


def _read(body: bytes) -> Request:
    try:
        request = _requests.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body is not an inference request in JSON: {error}") from error
    if any("classification" in output.parameters for output in request.outputs):
        raise BadInput("the classification extension is not supported: ask for the output itself")
    return request


def _inputs(request: Request) -> dict[str, Array]:
    inputs = {tensor.name: decode(tensor) for tensor in request.inputs}
    if len(inputs) != len(request.inputs):
        raise BadInput("an input is given twice")
    return inputs


def _output(name: str, array: Array) -> OutputTensor:
    return OutputTensor(name, DATATYPES[array.dtype], array.shape, encode(array))
