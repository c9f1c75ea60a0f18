"""The catalogue against MLflow's own server, and the documentation against the catalogue."""

import functools

import pytest
from conformance import (
    CATALOGUE,
    CLAIMS,
    DOCUMENT,
    FILES,
    HERE,
    ROUTES,
    RULES,
    Claims,
    go_claims,
    row,
)

pytest.importorskip("mlflow.protos.webhooks_pb2", reason="the catalogue is that of mlflow 3")
from mlflow.server import app
from mlflow.server.fastapi_app import create_fastapi_app


@functools.cache
def mlflow_routes() -> set[tuple[str, str]]:
    """Every method and path of the installed MLflow server."""
    flask = {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    # Its paths of one file are the same as Flask's.
    fastapi = {
        (method.upper(), path)
        for path, methods in create_fastapi_app().openapi()["paths"].items()
        for method in methods
        if "{artifact_path}" not in path
    }
    return flask | fastapi


def excluded(path: str) -> bool:
    path = path.replace("/ajax-api/", "/api/", 1)
    prefixes = [p for paths in CATALOGUE["not_served"].values() for p in paths]
    return any(path == p or (p != "/" and path.startswith(p)) for p in prefixes)


def test_every_route_of_mlflow_is_served_or_excluded() -> None:
    ours = {(r.method, path) for r in ROUTES.values() for path in r.paths}
    assert sorted(ours - mlflow_routes()) == []
    left = {(method, path) for method, path in mlflow_routes() - ours if not excluded(path)}
    assert sorted(left) == []
    assert [path for _, path in ours if excluded(path)] == []


@pytest.fixture
def claims(pytestconfig: pytest.Config) -> Claims:
    """What all tests claim."""
    if pytestconfig.stash[FILES] != {file.name for file in HERE.glob("test_*.py")}:
        pytest.skip("not all tests were collected")
    return pytestconfig.stash[CLAIMS]


def test_everything_has_a_test(claims: Claims) -> None:
    claimed = set(claims) | set(go_claims())
    pending = {r.name for r in ROUTES.values() if r.pending}
    assert sorted((ROUTES.keys() | RULES.keys()) - claimed - pending) == []
    assert sorted(claimed - ROUTES.keys() - RULES.keys()) == []


def test_documentation_names_the_tests(claims: Claims) -> None:
    document = DOCUMENT.read_text()
    missing = [row(name, claims) for name in [*ROUTES, *RULES] if row(name, claims) not in document]
    assert missing == [], "make conformance writes them"
