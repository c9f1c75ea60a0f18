"""Every route of the catalogue: a good request, a bad one, and junk; and every route not served.

The answers are read with the messages of MLflow's own protos, which know no other fields.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from conformance import CATALOGUE, ROUTES, Route, covers
from mlflow import MlflowClient

from support import Api, unique

# The protos of mlflow 2 lack half of the routes.
webhooks_pb2 = pytest.importorskip("mlflow.protos.webhooks_pb2")
from google.protobuf.json_format import ParseDict  # noqa: E402
from google.protobuf.message_factory import GetMessageClass  # noqa: E402
from mlflow.protos import (  # noqa: E402
    databricks_pb2,
    mlflow_artifacts_pb2,
    model_registry_pb2,
    service_pb2,
)

SERVED = [
    pytest.param(r, id=r.name, marks=covers(r.name)) for r in ROUTES.values() if not r.pending
]
NO_RUN = "0" * 32
NO_MODEL = "m-" + "0" * 32


def messages() -> Iterator[tuple[str, Any]]:
    """The request message of each route in the protos."""
    for service in (
        service_pb2.MlflowService,
        model_registry_pb2.ModelRegistryService,
        mlflow_artifacts_pb2.MlflowArtifactsService,
        webhooks_pb2.WebhookService,
    ):
        for method in service.DESCRIPTOR.methods:
            for endpoint in method.GetOptions().Extensions[databricks_pb2.rpc].endpoints:
                path = endpoint.path.replace("{", "<").replace("}", ">")
                yield f"{endpoint.method} {path}", GetMessageClass(method.input_type)


MESSAGES = dict(messages())


@dataclass
class New:
    """What requests name in angle brackets, made when they first do."""

    api: Api
    names: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        if name not in self.names:
            self.names[name] = getattr(self, f"new_{name}")()
        return self.names[name]

    def fill(self, template: Any) -> Any:
        if isinstance(template, dict):
            return {key: self.fill(value) for key, value in template.items()}
        if isinstance(template, list):
            return [self.fill(value) for value in template]
        if isinstance(template, str) and "<" in template:
            for name in (m.removeprefix("new_") for m in dir(self) if m.startswith("new_")):
                if f"<{name}>" in template:
                    template = template.replace(f"<{name}>", self[name])
        return template

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.api.uri)

    def new_name(self) -> str:
        return unique("new")

    def new_experiment(self) -> str:
        return str(self.client.create_experiment(unique("routes"), tags={"t": "v"}))

    def new_experiment_name(self) -> str:
        return str(self.client.get_experiment(self["experiment"]).name)

    def new_dead(self) -> str:
        dead = str(self.client.create_experiment(unique("dead")))
        self.client.delete_experiment(dead)
        return dead

    def new_run(self) -> str:
        run = self.api.create_run(self["experiment"])
        self.client.log_metric(run, "m", 0.5, timestamp=1, step=2)
        self.client.set_tag(run, "t", "v")
        self.client.log_text(run, "hello", "d/a.txt")
        return run

    def new_deleted(self) -> str:
        run = self.api.create_run(self["experiment"])
        self.client.delete_run(run)
        return run

    def new_file(self) -> str:
        return f"{self['experiment']}/{self['run']}/artifacts/d/a.txt"

    def new_model(self) -> str:
        name = unique("model")
        self.client.create_registered_model(name, tags={"t": "v"})
        return name

    def new_version(self) -> str:
        source = f"mlflow-artifacts:/{self['experiment']}/{self['run']}/artifacts/d"
        version = self.client.create_model_version(self["model"], source, self["run"], {"t": "v"})
        self.client.set_registered_model_alias(self["model"], "champion", str(version.version))
        return str(version.version)

    def new_webhook(self) -> str:
        answer = self.api.post("webhooks", **self.fill(WEBHOOK))
        return str(answer["webhook"]["webhook_id"])

    def new_logged(self) -> str:
        model = self.client.create_logged_model(self["experiment"], tags={"t": "v"})
        url = f"{self.api.uri}/api/2.0/mlflow-artifacts/artifacts"
        path = str(model.artifact_location).removeprefix("mlflow-artifacts:")
        assert requests.put(f"{url}{path}/MLmodel", data=b"x: 1\n", timeout=60).ok
        return str(model.model_id)


@dataclass(frozen=True)
class Case:
    """A request that is answered, with what the answer must hold, and one that is refused."""

    good: Any = field(default_factory=dict)
    holds: str = ""
    bad: Any = field(default_factory=dict)
    refused: int = 400
    path: dict[str, str] = field(default_factory=dict)
    bad_path: dict[str, str] = field(default_factory=dict)


FILE = {"path:artifact_path": "<file>"}
OUTSIDE = {"path:artifact_path": "%2e%2e/x"}
LOGGED = {"model_id": "<logged>"}
NOBODY = {"model_id": NO_MODEL}
POINT = {"key": "m", "value": 0.5, "timestamp": 1, "step": 2}
PAIR = {"key": "k", "value": "v"}
MODEL_JSON = '{"artifact_path":"m","flavors":{},"run_id":"r","utc_time_created":"now"}'
WEBHOOK = {
    "name": "<name>",
    "url": "https://127.0.0.1:9/hook",
    "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}],
}
HOOK = {"webhook_id": "<webhook>"}
NO_HOOK = {"webhook_id": "none"}
NO_VERSION = {"name": "<model>", "version": "9"}
MANY = {"max_results": 1_000_000}

CASES: dict[str, Case] = {
    "POST /mlflow/experiments/create": Case({"name": "<name>"}, "experiment_id"),
    "GET /mlflow/experiments/get": Case({"experiment_id": "<experiment>"}, "experiment"),
    "GET /mlflow/experiments/get-by-name": Case(
        {"experiment_name": "<experiment_name>"}, "experiment", {"experiment_name": "<name>"}, 404
    ),
    "POST /mlflow/experiments/search": Case({"max_results": 1}, "experiments", MANY),
    "GET /mlflow/experiments/search": Case({"max_results": 1}, "experiments", MANY),
    "POST /mlflow/experiments/update": Case(
        {"experiment_id": "<experiment>", "new_name": "<name>"}
    ),
    "POST /mlflow/experiments/delete": Case(
        {"experiment_id": "<experiment>"}, "", {"experiment_id": "987654321"}, 404
    ),
    "POST /mlflow/experiments/restore": Case({"experiment_id": "<dead>"}),
    "POST /mlflow/experiments/set-experiment-tag": Case({"experiment_id": "<experiment>", **PAIR}),
    "POST /mlflow/experiments/delete-experiment-tag": Case(
        {"experiment_id": "<experiment>", "key": "t"}, "", {"experiment_id": "<dead>", "key": "t"}
    ),
    "POST /mlflow/runs/create": Case({"experiment_id": "<experiment>"}, "run"),
    "GET /mlflow/runs/get": Case({"run_id": "<run>"}, "run", {"run_id": NO_RUN}, 404),
    "POST /mlflow/runs/update": Case({"run_id": "<run>", "status": "FINISHED"}, "run_info"),
    "POST /mlflow/runs/delete": Case({"run_id": "<run>"}, "", {"run_id": NO_RUN}, 404),
    "POST /mlflow/runs/restore": Case({"run_id": "<deleted>"}, "", {"run_id": NO_RUN}, 404),
    "POST /mlflow/runs/search": Case(
        {"experiment_ids": ["<experiment>"], "filter": "run_id = '<run>'"}, "runs", {"filter": "x"}
    ),
    "POST /mlflow/runs/log-metric": Case({"run_id": "<run>", **POINT}, "", {"run_id": "<run>"}),
    "POST /mlflow/runs/log-parameter": Case({"run_id": "<run>", **PAIR}, "", {"run_id": "<run>"}),
    "POST /mlflow/runs/set-tag": Case({"run_id": "<run>", **PAIR}, "", {"run_id": "<run>"}),
    "POST /mlflow/runs/delete-tag": Case(
        {"run_id": "<run>", "key": "t"}, "", {"run_id": "<run>", "key": "none"}, 404
    ),
    "POST /mlflow/runs/log-batch": Case(
        {"run_id": "<run>", "metrics": [POINT], "params": [PAIR], "tags": [PAIR]}
    ),
    "POST /mlflow/runs/log-inputs": Case(
        {"run_id": "<run>", "datasets": [{"dataset": {"name": "d", "digest": "1",
         "source_type": "local", "source": "s"}, "tags": [PAIR]}]}
    ),
    "POST /mlflow/runs/outputs": Case({"run_id": "<run>", "models": [{"model_id": "<logged>"}]}),
    "POST /mlflow/runs/log-model": Case({"run_id": "<run>", "model_json": MODEL_JSON}),
    "GET /mlflow/metrics/get-history": Case({"run_id": "<run>", "metric_key": "m"}, "metrics"),
    "GET /mlflow/metrics/get-history-bulk-interval": Case(
        {"run_ids": ["<run>"], "metric_key": "m"}, "metrics"
    ),
    "GET /ajax-api/2.0/mlflow/metrics/get-history-bulk": Case(
        {"run_id": "<run>", "metric_key": "m"}, "metrics"
    ),
    "POST /ajax-api/2.0/mlflow/experiments/search-datasets": Case(
        {"experiment_ids": ["<experiment>"]}
    ),
    "POST /mlflow/logged-models": Case({"experiment_id": "<experiment>"}, "model"),
    "GET /mlflow/logged-models/<model_id>": Case(
        path=LOGGED, holds="model", bad_path=NOBODY, refused=404
    ),
    "PATCH /mlflow/logged-models/<model_id>": Case(
        {"model_id": "<logged>", "status": "LOGGED_MODEL_READY"}, "model", path=LOGGED,
        bad={"model_id": NO_MODEL, "status": "LOGGED_MODEL_READY"}, bad_path=NOBODY, refused=404,
    ),
    "DELETE /mlflow/logged-models/<model_id>": Case(path=LOGGED, bad_path=NOBODY, refused=404),
    "POST /mlflow/logged-models/search": Case(
        {"experiment_ids": ["<experiment>"], "filter": "name != '<logged>'"}, "models",
        {"experiment_ids": ["<experiment>"], "filter": "x"},
    ),
    "PATCH /mlflow/logged-models/<model_id>/tags": Case(
        {"tags": [PAIR]}, path=LOGGED, bad={"tags": [PAIR]}, bad_path=NOBODY, refused=404
    ),
    "DELETE /mlflow/logged-models/<model_id>/tags/<tag_key>": Case(
        path={**LOGGED, "tag_key": "t"}, bad_path={**LOGGED, "tag_key": "none"}, refused=404
    ),
    "POST /mlflow/logged-models/<model_id>/params": Case(
        {"model_id": "<logged>", "params": [PAIR]}, path=LOGGED,
        bad={**NOBODY, "params": [PAIR]}, bad_path=NOBODY, refused=404,
    ),
    "GET /mlflow/logged-models/<model_id>/artifacts/directories": Case(
        path=LOGGED, holds="files", bad_path=NOBODY, refused=404
    ),
    "GET /ajax-api/2.0/mlflow/logged-models/<model_id>/artifacts/files": Case(
        {"artifact_file_path": "MLmodel"}, "x: 1", path=LOGGED, bad_path=LOGGED
    ),
    "GET /mlflow/artifacts/list": Case({"run_id": "<run>"}, "files"),
    "POST /mlflow/artifacts/presigned-upload-url": Case(
        {"run_id": "<run>", "path": "a"}, "message"
    ),
    "POST /mlflow/artifacts/presigned-download-url": Case(
        {"run_id": "<run>", "path": "a"}, "message"
    ),
    "GET /mlflow-artifacts/artifacts": Case({"path": "<experiment>"}, "", {"path": "../x"}),
    "GET /mlflow-artifacts/artifacts/<path:artifact_path>": Case(
        path=FILE, holds="hello", bad_path=OUTSIDE
    ),
    "PUT /mlflow-artifacts/artifacts/<path:artifact_path>": Case(path=FILE, bad_path=OUTSIDE),
    "DELETE /mlflow-artifacts/artifacts/<path:artifact_path>": Case(path=FILE, bad_path=OUTSIDE),
    **{
        f"POST /mlflow-artifacts/mpu/{what}/<path:artifact_path>": Case(
            {"path": "f", "upload_id": "1", "num_parts": 2, "parts": [{"part_number": 1}]},
            "message", path=FILE, bad_path=OUTSIDE,
        )
        for what in ("create", "complete", "abort")
    },
    "GET /mlflow-artifacts/presigned/<path:artifact_path>": Case(
        path=FILE, holds="message", bad_path=OUTSIDE
    ),
    "GET /get-artifact": Case(
        {"run_id": "<run>", "path": "d/a.txt"}, "hello", {"run_id": NO_RUN, "path": "a"}, 404
    ),
    "GET /model-versions/get-artifact": Case(
        {"name": "<model>", "version": "<version>", "path": "a.txt"}, "hello",
        {**NO_VERSION, "path": "a"}, 404,
    ),
    "POST /ajax-api/2.0/mlflow/upload-artifact": Case(b"data"),
    "POST /mlflow/registered-models/create": Case({"name": "<name>"}, "registered_model"),
    "GET /mlflow/registered-models/get": Case({"name": "<model>"}, "registered_model"),
    "GET /mlflow/registered-models/search": Case(
        {"filter": "name = '<model>'"}, "registered_models", MANY
    ),
    "POST /mlflow/registered-models/rename": Case(
        {"name": "<model>", "new_name": "<name>"}, "registered_model"
    ),
    "PATCH /mlflow/registered-models/update": Case(
        {"name": "<model>", "description": "d"}, "registered_model"
    ),
    "DELETE /mlflow/registered-models/delete": Case({"name": "<model>"}, "", {"name": "x"}, 404),
    **{
        f"{method} /mlflow/registered-models/get-latest-versions": Case(
            {"name": "<model>"}, "", {"name": "<name>"}, 404
        )
        for method in ("GET", "POST")
    },
    "POST /mlflow/registered-models/set-tag": Case({"name": "<model>", **PAIR}),
    "DELETE /mlflow/registered-models/delete-tag": Case({"name": "<model>", "key": "t"}),
    "GET /mlflow/registered-models/alias": Case(
        {"name": "<model>", "alias": "champion", "version": "<version>"}, "model_version",
        {"name": "<model>", "alias": "none"},
    ),
    "POST /mlflow/registered-models/alias": Case(
        {"name": "<model>", "alias": "best", "version": "<version>"}, "",
        {"name": "<model>", "alias": "v1", "version": "<version>"},
    ),
    "DELETE /mlflow/registered-models/alias": Case({"name": "<model>", "alias": "none"}),
    "POST /mlflow/model-versions/create": Case(
        {"name": "<model>", "source": "runs:/<run>/model", "run_id": "<run>"}, "model_version"
    ),
    "GET /mlflow/model-versions/get": Case(
        {"name": "<model>", "version": "<version>"}, "model_version", NO_VERSION, 404
    ),
    "GET /mlflow/model-versions/search": Case(
        {"filter": "name = '<model>' and version_number = <version>"}, "model_versions", MANY
    ),
    "GET /mlflow/model-versions/get-download-uri": Case(
        {"name": "<model>", "version": "<version>"}, "artifact_uri", NO_VERSION, 404
    ),
    "PATCH /mlflow/model-versions/update": Case(
        {"name": "<model>", "version": "<version>", "description": "d"}, "model_version",
        NO_VERSION, 404,
    ),
    "DELETE /mlflow/model-versions/delete": Case(
        {"name": "<model>", "version": "<version>"}, "", NO_VERSION, 404
    ),
    "POST /mlflow/model-versions/transition-stage": Case(
        {"name": "<model>", "version": "<version>", "stage": "staging",
         "archive_existing_versions": True}, "model_version",
        {"name": "<model>", "version": "<version>", "stage": "?"},
    ),
    "POST /mlflow/model-versions/set-tag": Case(
        {"name": "<model>", "version": "<version>", **PAIR}, "", NO_VERSION
    ),
    "DELETE /mlflow/model-versions/delete-tag": Case(
        {"name": "<model>", "version": "<version>", "key": "t"}, "", NO_VERSION
    ),
    "POST /mlflow/webhooks": Case(WEBHOOK, "webhook"),
    "GET /mlflow/webhooks": Case(bad=MANY),
    "GET /mlflow/webhooks/<webhook_id>": Case(
        path=HOOK, holds="webhook", bad_path=NO_HOOK, refused=404
    ),
    "PATCH /mlflow/webhooks/<webhook_id>": Case(
        {"description": "d"}, "webhook", {"description": "d"}, 404, HOOK, NO_HOOK
    ),
    "DELETE /mlflow/webhooks/<webhook_id>": Case(path=HOOK, bad_path=NO_HOOK, refused=404),
    "POST /mlflow/webhooks/<webhook_id>/test": Case(
        path=HOOK, holds="result", bad_path=NO_HOOK, refused=404
    ),
    "GET /health": Case(holds="OK"),
    "GET /version": Case(holds="."),
    "GET /api/3.0/mlflow/server-info": Case(holds="store_type"),
    "GET /ajax-api/3.0/mlflow/server-info": Case(holds="store_type"),
}  # fmt: skip


def send(
    new: New, route: Route, template: str, body: Any, path: dict[str, str]
) -> requests.Response:
    for name, value in path.items():
        template = template.replace(f"<{name}>", new.fill(value))
    url, query = new.api.uri + template, {}
    if route.name.endswith("/upload-artifact"):
        query = {"run_uuid": new["run"], "path": "up.txt"} if body else {}
    if route.name.startswith("PUT "):
        return requests.put(url, data=b"hello", timeout=60)
    if route.method == "GET" or isinstance(body, bytes):
        data = body if isinstance(body, bytes) else None
        return requests.request(
            route.method, url, params=query or new.fill(body), data=data, timeout=60
        )
    return requests.request(route.method, url, json=new.fill(body), timeout=60)


def test_each_route_has_a_case() -> None:
    assert sorted(CASES) == sorted(ROUTES)


@covers("both-prefixes", "json-snake-case")
@pytest.mark.parametrize("route", SERVED)
def test_route(api: Api, route: Route) -> None:
    case = CASES[route.name]
    for path in route.paths:
        answer = send(New(api), route, path, case.good, case.path)
        assert (answer.status_code, case.holds in answer.text) == (route.status, True), answer.text
        if answer.status_code == 200 and route.name in MESSAGES and "<path:" not in route.name:
            message = MESSAGES[route.name].Response()
            ParseDict(answer.json(), message)
            assert not re.search(r'"[a-z]+[A-Z]\w*":', answer.text)
            assert not case.holds or case.holds in answer.json()


@pytest.mark.parametrize("route", [p for p in SERVED if p.id not in CATALOGUE["without_input"]])
def test_route_refuses(api: Api, route: Route) -> None:
    case = CASES[route.name]
    for path in route.paths:
        answer = send(New(api), route, path, case.bad, case.bad_path)
        assert answer.status_code == case.refused, answer.text
        assert_error(answer)


def assert_error(answer: requests.Response) -> None:
    assert answer.headers["Content-Type"].startswith("application/json"), answer.text
    error = answer.json()
    assert isinstance(error["message"], str)
    assert isinstance(error["error_code"], str)


# Values that belong into no field, or hardly.
JUNK: list[Any] = [
    True, -1, 1.5, 2**63, 10**400, "", "x", "\x00", "NaN", "é" * 9000, "../..", [[]],
    [None, "x", 1], {"key": {}}, json.loads("[" * 200 + "]" * 200),
    "eyJvZmZzZXQiOiAtMX0=", "metrics.`a > " + "(" * 5000, ["a DESC, b", "\x00", "a" * 9000],
]  # fmt: skip


def junk_of(message: Any, depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Junk for each field of a message, and for the fields of the messages in it."""
    for name, inner in message.fields_by_name.items():
        yield from ((name, junk) for junk in JUNK)
        if inner.message_type is not None and depth:
            for member, junk in junk_of(inner.message_type, depth - 1):
                yield name, {member: junk}
                yield name, [{"key": "k", "value": "1", "timestamp": 1, member: junk}]


# Bodies that are no request, or hardly.
BODIES = [
    b"", b"null", b"5", b"[]", b'"x"', b'{"run_id": "', b'{"\xff": 1}', b"\xff\xfe",
    b'{"name": NaN}', b"[" * 50_000, b'{"a":' * 20_000, b'{"name": "\\ud800"}', b'{"a": 1e999999}',
]  # fmt: skip
PATHS = ["%00", "%ff", "..%2f..", "x" * 5000, "%C3%A9", "%25", "-1"]


def check_junk(route: Route, answer: requests.Response, what: object) -> None:
    shown = f"{str(what)[:200]}: {answer.status_code} {answer.text[:500]}"
    refused = CATALOGUE["refused_on_disk"].get(route.name)
    assert answer.status_code < 500 or answer.status_code == refused, shown
    if answer.status_code >= 400:
        assert_error(answer)


@pytest.mark.runledger
@covers("error-no-5xx", "error-body")
@pytest.mark.parametrize("route", [pytest.param(p.values[0], id=p.id) for p in SERVED])
def test_junk(api: Api, route: Route) -> None:
    """Every field of a route with values of every other type, and bodies that are no request."""
    case, new, template = CASES[route.name], New(api), route.paths[0]
    good = new.fill(case.good) if isinstance(case.good, dict) else {}
    fields = [(name, junk) for name in good for junk in JUNK]
    if route.name in MESSAGES:
        fields = list(junk_of(MESSAGES[route.name].DESCRIPTOR))
    path = template
    for name, value in case.path.items():
        path = path.replace(f"<{name}>", new.fill(value))
    url = api.uri + path
    with requests.Session() as session:

        def sent(what: object, **options: Any) -> None:
            target = options.pop("url", url)
            answer = session.request(route.method, target, timeout=60, **options)
            check_junk(route, answer, what)

        for name, junk in fields:
            if route.method == "GET":
                sent((name, junk), params={**good, name: str(junk)[:20_000]})
                sent((name, [junk]), params={**good, name: [str(junk)[:99], "2"]})
            else:
                sent((name, junk), json={**good, name: junk})
        for body in BODIES:
            for kind in ("application/json", "text/plain", "application/json; charset=x"):
                sent(body[:50], data=body, headers={"Content-Type": kind})
        sent("a query that is none", url=url + "?%zz=1&run_id=%ff&max_results=%00;&a=b=c")
        for junk_path in PATHS if case.path else []:
            target = template
            for name in case.path:
                target = target.replace(f"<{name}>", junk_path)
            sent(junk_path, url=api.uri + target, json=good)


def not_served() -> Iterator[Any]:
    """Every route of MLflow's server that is not in the catalogue."""
    from test_conformance_catalogue import mlflow_routes

    for method, path in sorted(mlflow_routes()):
        if f"{method} {path}" not in {
            f"{r.method} {p}" for r in ROUTES.values() for p in r.paths if not r.pending
        }:
            yield pytest.param(method, path, id=f"{method} {path}")


@pytest.mark.runledger
@covers("error-endpoint-not-found")
@pytest.mark.parametrize(("method", "path"), not_served())
def test_not_served(api: Api, method: str, path: str) -> None:
    for name in ("<", "{"):
        while name in path:
            end = path.index({"<": ">", "{": "}"}[name])
            path = path[: path.index(name)] + "1" + path[end + 1 :]
    for body in ({}, {"json": {"name": "x"}}, {"data": b"junk"}):
        answer = requests.request(method, api.uri + path, timeout=60, **body)
        assert (answer.status_code, answer.json()) == (
            404,
            {"error_code": "ENDPOINT_NOT_FOUND", "message": "Not Found"},
        )
