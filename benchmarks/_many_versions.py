"""A registry's database with many versions, written by the database itself: a thousand models with two hundred each.

Every version has a file, a signature, and eight facts:

    tags.team       8 values, the same for all versions of a model       tags.run       another for each version
    tags.dataset    100 values                                           params.depth   1 to 12
    metrics.auc     evenly from 0 to 1, and another on each of the datasets test and live; metrics.loss

One version of each model is in production, one in staging, and one is the champion.
"""

# ruff: noqa: S608 - statements of constants

import sqlalchemy as sa

from registry import migrate
from registry.database import Database

MODELS, VERSIONS = 1000, 200
DIGEST = "sha256:" + "0" * 64
SIGNATURE = (
    '{"inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 30]}], '
    '"outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}]}'
)

_EACH = f"""
    WITH RECURSIVE m(model) AS (SELECT 1 UNION ALL SELECT model + 1 FROM m WHERE model < {MODELS}),
    n(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM n WHERE number < {VERSIONS}),
    v(model, number, i, noise) AS (
        SELECT model, number, (number - 1) * {MODELS} + model, (((number - 1) * {MODELS} + model) * 7919) % 100003
        FROM m, n)
"""
_EACH_MODEL = (
    f"WITH RECURSIVE m(model) AS (SELECT 1 UNION ALL SELECT model + 1 FROM m WHERE model < {MODELS})"
)
_TAG = "'tag', '{name}', '', '', 'string', {value}, {value}, NULL"
_NUMBER = "'{kind}', '{name}', '{dataset}', '', 'number', NULL, NULL, {value}"
_FACTS = (
    _TAG.format(name="team", value="'team-' || (model % 8)"),
    _TAG.format(name="run", value="'run-' || i"),
    _TAG.format(name="dataset", value="'dataset-' || (noise % 100)"),
    _NUMBER.format(kind="parameter", name="depth", dataset="", value="1 + noise % 12"),
    _NUMBER.format(kind="metric", name="loss", dataset="", value="1 - noise / 200006.0"),
    _NUMBER.format(kind="metric", name="auc", dataset="", value="noise / 100003.0"),
    _NUMBER.format(kind="metric", name="auc", dataset="test", value="noise / 110000.0"),
    _NUMBER.format(kind="metric", name="auc", dataset="live", value="noise / 120000.0"),
)


def model_name(model: int) -> str:
    """The name of the model with this id."""
    return f"model-{model:04}"


def fill(url: str) -> None:
    """Make the newest schema in an empty database, and write all versions."""
    database = Database(url)
    try:
        migrate.upgrade(database)
        with database.transaction() as connection:
            for statement in _statements(is_sqlite=database.is_sqlite):
                connection.execute(sa.text(statement.replace(":", "\\:")))
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE"))
    finally:
        database.close()


def _statements(*, is_sqlite: bool) -> list[str]:
    at = "timestamptz '2025-01-01 00:00:00+00' + i * interval '1 minute'"
    now, name, json = "now()", "lpad(model::text, 4, '0')", "::jsonb"
    if is_sqlite:
        at = "strftime('%Y-%m-%dT%H:%M:%f000Z', '2025-01-01', '+' || i || ' minutes')"
        now, name, json = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')", "printf('%04d', model)", ""
    models = f"SELECT model, 1, 'model-' || {name}, '', {VERSIONS + 1}, {now} FROM m"
    version = (
        f"model, number, '{DIGEST}', CASE WHEN noise % 3 = 0 THEN 'files' ELSE 'onnx' END, '[]'{json}, '{SIGNATURE}'{json},"
        f" 'One of many versions.', 'u' || i, {at}, 'robot-' || (noise % 20)"
    )
    upload = f"'u' || i, 'model-' || {name}, {now}, 'robot-1', {now}"
    content = f"model, '{DIGEST}', 1000, '{{}}'{json}, {now}"
    file = f"model, number, 'model.onnx', '{DIGEST}', model"
    pointer = f"1, {now}, 'robot-1'"
    of_version = "model_id, number, manifest_digest, format, variants, signature, description, upload_id, created_at, created_by"
    of_pointer = "model_id, name, kind, number, generation, moved_at, moved_by"
    of_fact = "model_id, number, kind, name, dataset, slice, type, text, head, value"
    return [
        f"INSERT INTO models (id, workspace_id, name, description, next_number, created_at) {_EACH_MODEL} {models}",
        f"INSERT INTO uploads (id, model, created_at, created_by, expires_at) {_EACH} SELECT {upload} FROM v",
        f"INSERT INTO versions ({of_version}) {_EACH} SELECT {version} FROM v",
        f"INSERT INTO contents (id, digest, size, layout, verified_at) {_EACH_MODEL} SELECT {content} FROM m",
        f"INSERT INTO files (model_id, number, path, digest, content_id) {_EACH} SELECT {file} FROM v",
        *(f"INSERT INTO facts ({of_fact}) {_EACH} SELECT model, number, {fact} FROM v" for fact in _FACTS),
        *(
            f"INSERT INTO pointers ({of_pointer}) {_EACH_MODEL} SELECT model, '{name}', '{kind}', {number}, {pointer} FROM m"
            for name, kind, number in (
                ("production", "stage", 199),
                ("staging", "stage", 200),
                ("champion", "alias", 150),
            )
        ),
    ]
