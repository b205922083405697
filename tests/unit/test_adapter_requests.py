"""Open Inference V2 requests as bytes, without a server: what is answered, and how each bad one is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_adapter.errors import AdapterError, BadInput, ModelFailed, NotReady, Unknown
from serving_adapter.infer import Inference
from serving_adapter.model import Model
from serving_adapter.protocols.http import Response, refusal
from serving_adapter.protocols.oip_rest import OipRest
from serving_adapter.slot import Slot, Snapshot
from serving_adapter.slots import Slots
from tests.servers.adapter_runtime import ScriptedRuntime

DIGEST = "sha256:" + "7" * 64
X = {"name": "x", "datatype": "FP64", "shape": [2, 1], "data": [1, 2]}


def protocol(answer: object = 7) -> OipRest:
    slots = Slots(follow_all=False)
    slot = Slot("m", "m@production", "production")
    slot.swap(Snapshot(3, DIGEST, "scripted", Model(ScriptedRuntime({"answer": answer}), None)), 1)
    slots.add(slot)
    slots.add(Slot("empty", "empty@production", "production"))
    return OipRest(slots, Inference(slots))


def infer(body: bytes | dict[str, Any], path: str = "v2/models/m/infer", answer: object = 7) -> Response:
    route = protocol(answer).route(path.split("/"))
    assert route is not None
    assert route.working is not None
    return route.working(body if isinstance(body, bytes) else json.dumps(body).encode(), {})


def get(path: str) -> Any:
    route = protocol().route(path.split("/"))
    assert route is not None
    assert route.quick is not None
    return json.loads(route.quick().body)


def test_an_answer_names_model_version_digest_and_id() -> None:
    response = infer({"id": "abc", "inputs": [X]})
    assert json.loads(response.body) == {
        "model_name": "m",
        "model_version": "3",
        "id": "abc",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [2, 1], "data": [7, 7]}],
    }
    assert dict(response.headers) == {"modelyard-version": "3", "modelyard-digest": DIGEST}


def test_an_id_is_made_when_none_is_given() -> None:
    ids = {json.loads(infer({"inputs": [X]}).body)["id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(ids)


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True}},
        {"parameters": {"timeout": 5, "priority": 1}},
        {"outputs": [{"name": "y"}]},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"outputs": []},
        {"something": {"new": [1, 2]}},
        {"inputs": [X | {"parameters": {"any": 1}}]},
        {"inputs": [X | {"data": [[1], [2]]}]},
    ],
)
def test_what_clients_add_does_not_matter(more: dict[str, Any]) -> None:
    """Some, tritonclient among them, ask for binary outputs unless told otherwise; JSON is a legal answer."""
    assert json.loads(infer({"inputs": [X]} | more).body)["outputs"][0]["data"] == [7, 7]


@pytest.mark.parametrize("version", ["3", "production"])
def test_the_version_in_the_path_may_be_the_number_or_the_pointer(version: str) -> None:
    assert infer({"inputs": [X]}, f"v2/models/m/versions/{version}/infer").status == 200
    assert get(f"v2/models/m/versions/{version}")["versions"] == ["3"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"inputs": []}, r"expected inputs \['x'\]: missing \['x'\]"),
        ({"inputs": [X, X]}, "given twice"),
        ({"inputs": [X, X | {"name": "z"}]}, r"unexpected \['z'\]"),
        ({"inputs": [X | {"name": "z"}]}, r"expected inputs \['x'\]: missing \['x'\], unexpected \['z'\]"),
        ({"inputs": [X | {"datatype": "FP32"}]}, "must be FP64"),
        ({"inputs": [X | {"datatype": "COMPLEX"}]}, "expected one of BOOL"),
        ({"inputs": [X | {"shape": [1, 2]}]}, r"must be FP64 of shape \[-1, 1\], got FP64 of shape \[1, 2\]"),
        ({"inputs": [X | {"shape": [2]}]}, r"must be FP64 of shape \[-1, 1\], got FP64 of shape \[2\]"),
        ({"inputs": [X | {"shape": [3, 1]}]}, "needs 3 values; data has 2"),
        ({"inputs": [X | {"shape": [0, 1], "data": []}]}, "Expected `int` >= 1"),
        ({"inputs": [X | {"shape": [2**62, 2]}]}, "Expected `int` <="),
        ({"inputs": [X | {"shape": "2"}]}, "Expected `array`"),
        ({"inputs": [X | {"data": ["1", "2"]}]}, "takes numbers"),
        ({"inputs": [X | {"data": {"b64": ""}}]}, "takes numbers"),
        ({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, "not binary ones"),
        ({"inputs": [{k: v for k, v in X.items() if k != "shape"}]}, "missing required field `shape`"),
        ({"inputs": X}, "Expected `array`, got `object`"),
        ({"inputs": None}, "Expected `array`, got `null`"),
        ({"outputs": [{"name": "nope"}]}, r"no outputs \['nope'\]; the model has \['y'\]"),
        ({"outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "classification"),
        ({"id": 5}, "Expected `str"),
    ],
)
def test_a_bad_request_is_told_what_was_expected(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        infer({"inputs": [X]} | change)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"inputs": [',
        b'{"inputs": []} x',
        b"\xff\xfe",
        b'{"inputs": [{"name":"x","datatype":"FP64","shape":[1,1],"data":[NaN]}]}',
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1,1],"data":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}]}",
        b'{"inputs":[{"name":"x","datatype":"FP64","shape":[1' + b"0" * 5000 + b'],"data":[1]}]}',
        b'{"inputs":[{"name":"' + b"x" * 5000 + b'","datatype":"FP64","shape":[1,1],"data":[1]}]}',
    ],
)
def test_malformed_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadInput):
        infer(body)


@given(st.binary(max_size=200))
def test_no_bytes_cause_anything_but_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadInput):
        infer(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("x") | JSON,
            "datatype": st.sampled_from(["FP64", "BYTES", "INT8"]) | JSON,
            "shape": st.lists(st.integers(-2, 3), max_size=3) | JSON,
            "data": st.lists(st.floats(), max_size=4) | JSON,
        },
    )
)
def test_no_tensor_causes_anything_but_an_answer_or_a_bad_request(tensor: dict[str, Any]) -> None:
    try:
        response = infer({"inputs": [tensor]})
    except BadInput as error:
        response = refusal(error)
    assert response.status in (200, 400)


@pytest.mark.parametrize(
    ("path", "kind", "status", "expected"),
    [
        ("v2/models/nope/infer", Unknown, 404, "Request for unknown model: 'nope' is not found"),
        ("v2/models/m/versions/2/infer", Unknown, 404, "model 'm' serves version 3, not '2'"),
        ("v2/models/m/versions/staging/infer", Unknown, 404, "serves version 3"),
        ("v2/models/empty/infer", NotReady, 503, "no version loaded"),
    ],
)
def test_a_model_that_cannot_answer_says_why(
    path: str, kind: type[AdapterError], status: int, expected: str
) -> None:
    with pytest.raises(kind, match=expected) as caught:
        infer({"inputs": [X]}, path)
    assert refusal(caught.value).status == status


@pytest.mark.parametrize("misbehaviour", ["raise", "shape", "type", "nothing"])
def test_a_failing_model_is_a_500_without_its_secrets(misbehaviour: str) -> None:
    with pytest.raises(ModelFailed) as caught:
        infer({"inputs": [X]}, answer=misbehaviour)
    response = refusal(caught.value)
    assert response.status == 500
    assert json.loads(response.body).keys() == {"error"}
    assert b"/etc" not in response.body


def test_nan_becomes_null_in_an_answer() -> None:
    assert json.loads(infer({"inputs": [X]}, answer="nan").body)["outputs"][0]["data"] == [None, None]


def test_failures_are_counted_and_bad_requests_are_not() -> None:
    slots = Slots(follow_all=False)
    slot = Slot("m", "m@production")
    slot.swap(Snapshot(1, DIGEST, "scripted", Model(ScriptedRuntime({"answer": "raise"}), None)), 1)
    slots.add(slot)
    route = OipRest(slots, Inference(slots)).route(["v2", "models", "m", "infer"])
    assert route is not None
    assert route.working is not None
    with pytest.raises(ModelFailed):
        route.working(json.dumps({"inputs": [X]}).encode(), {})
    with pytest.raises(BadInput):
        route.working(json.dumps({"inputs": []}).encode(), {})
    status = slot.status()
    assert (status["requests"], status["failures"]) == (2, 1)
    assert slot.current is not None
    assert slot.current.uses.count == 0


def test_metadata_has_the_signature() -> None:
    assert get("v2/models/m") == {
        "name": "m",
        "versions": ["3"],
        "platform": "scripted",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, 1]}],
    }


def test_server_pages() -> None:
    assert get("v2") == {"name": "modelyard", "version": "0.1.0", "extensions": []}
    assert get("v2/health/live") == {"live": True}
    assert get("v2/health/ready")["ready"] is False
    assert get("v2/models") == {"models": ["m"]}
    assert get("v2/models/m/ready") == {"name": "m", "ready": True}
    assert get("v2/models/empty/ready")["ready"] is False


@pytest.mark.parametrize(
    "path",
    ["", "v1", "v2/x", "v2/models/m/x", "v2/models/m/versions", "v2/models/m/versions/3/x", "v2/health"],
)
def test_other_paths_are_not_of_this_protocol(path: str) -> None:
    assert protocol().route(path.split("/")) is None
