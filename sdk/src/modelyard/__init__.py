"""Register, promote and fetch trained models in a Modelyard registry.

    import modelyard

    version = modelyard.publish("fraud", pipeline, example=X[:5], metrics={"auc": 0.971})
    modelyard.promote("fraud", version.number)
    folder = modelyard.download("fraud@production")

The functions use one Client, made on first use from MODELYARD_URL, MODELYARD_TOKEN or what `modelyard login` stored.
Importing this package imports no HTTP client, no numpy and no scikit-learn: those come when they are used.
"""

from modelyard._client import Client
from modelyard._default import (
    download,
    download_files,
    events,
    export,
    history,
    import_,
    info,
    model,
    models,
    pointer,
    promote,
    publish,
    register,
    remove_alias,
    resolve,
    rollback,
    versions,
)
from modelyard._errors import (
    ApiError,
    CaptureError,
    CaptureWarning,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    IntegrityError,
    InvalidArchive,
    InvalidPath,
    InvalidReference,
    InvalidRequest,
    MissingDependency,
    ModelyardError,
    NotCached,
    NotFound,
    Unauthorized,
    UnexpectedAnswer,
    UnsupportedModel,
)
from modelyard._ref import Ref, parse_ref
from modelyard._types import (
    Event,
    Feed,
    File,
    Model,
    Move,
    Pointer,
    Promotion,
    ServerInfo,
    Signature,
    Tensor,
    Variant,
    Version,
)
from modelyard._version import __version__

__all__ = [
    "ApiError",
    "CaptureError",
    "CaptureWarning",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Feed",
    "File",
    "Forbidden",
    "IntegrityError",
    "InvalidArchive",
    "InvalidPath",
    "InvalidReference",
    "InvalidRequest",
    "MissingDependency",
    "Model",
    "ModelyardError",
    "Move",
    "NotCached",
    "NotFound",
    "Pointer",
    "Promotion",
    "Ref",
    "ServerInfo",
    "Signature",
    "Tensor",
    "Unauthorized",
    "UnexpectedAnswer",
    "UnsupportedModel",
    "Variant",
    "Version",
    "__version__",
    "download",
    "download_files",
    "events",
    "export",
    "history",
    "import_",
    "info",
    "model",
    "models",
    "parse_ref",
    "pointer",
    "promote",
    "publish",
    "register",
    "remove_alias",
    "resolve",
    "rollback",
    "versions",
]
