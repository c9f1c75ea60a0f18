"""What a client gets for bad input: MLflow's own status, error code and words, and no trace of it.

The expected answers were recorded from MLflow's own server. Cases marked `ours` are those for which
that server answers with a 5xx, or stores something that nobody sent.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from conformance import covers
from mlflow import MlflowClient

from support import SEE_DOCS, Api, unique

BAD = "INVALID_PARAMETER_VALUE"
MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
NO_RUN = "0" * 32
BAD_NAME = (
    "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ),"
    " colon(:) and slashes (/)."
)
BAD_PATH = (
    "Names may be treated as files in certain cases, and must not resolve to other names when"
    " treated as such. This name would resolve to "
)
NOT_ACTIVE = "The run <deleted> must be in the 'active' state. Current state is deleted."
SOURCE_OWNER = "The run_id request parameter must identify the resource that contains the source."
ours = pytest.mark.runledger


@dataclass(frozen=True)
class World:
    """What the cases below may name in angle brackets."""

    api: Api
    names: dict[str, str]

    def fill(self, template: Any) -> Any:
        """Replaces <run>, <experiment> and so on in every string of `template`."""
        if isinstance(template, str):
            for name, value in self.names.items():
                template = template.replace(f"<{name}>", value)
            return template
        if isinstance(template, dict):
            return {key: self.fill(value) for key, value in template.items()}
        if isinstance(template, list):
            return [self.fill(value) for value in template]
        return template

    def snapshot(self) -> Any:
        """All that a refused request could have changed."""
        api, names = self.api, self.names
        versions = {"filter": f"name = '{names['model']}'"}
        return (
            [api.run_data(names[run]) for run in ("run", "deleted", "dead_run")],
            [api.get("experiments/get", experiment_id=names[e]) for e in ("experiment", "dead")],
            api.get("registered-models/get", name=names["model"]),
            api.get("model-versions/search", **versions),
        )


@pytest.fixture(scope="module")
def world(server: str) -> World:
    client, api = MlflowClient(server), Api(server)
    experiment = client.create_experiment(unique("errors"))
    run = api.create_run(experiment)
    client.log_param(run, "lr", "0.1")
    deleted = api.create_run(experiment)
    client.delete_run(deleted)
    dead = client.create_experiment(unique("dead"))
    dead_run = api.create_run(dead)
    client.delete_experiment(dead)
    model = unique("model")
    client.create_registered_model(model)
    client.create_model_version(model, f"runs:/{run}/model", run)
    names = {
        "run": run, "deleted": deleted, "experiment": experiment, "dead": dead,
        "dead_run": dead_run, "model": model, "nobody": unique("nobody"),
        "experiment_name": client.get_experiment(experiment).name,
        "dead_name": client.get_experiment(dead).name,
    }  # fmt: skip
    return World(api, names)


def check(
    world: World, answer: requests.Response, before: Any, status: int, code: str, message: str
) -> None:
    """`message` may end in * to leave the rest open."""
    assert answer.headers["Content-Type"].startswith("application/json"), answer.text
    body = answer.json()
    expected = world.fill(message)
    said = body["message"]
    if expected.endswith("*"):
        expected, said = expected[:-1], said[: len(expected) - 1]
    assert (answer.status_code, body["error_code"], said) == (status, code, expected)
    assert world.snapshot() == before


def metric(**change: Any) -> dict[str, Any]:
    return {"run_id": "<run>", "key": "k", "value": 1.0, "timestamp": 1, "step": 0, **change}


def without(body: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k != key}


def batch(**change: Any) -> dict[str, Any]:
    return {"run_id": "<run>", **change}


def points(count: int) -> list[dict[str, Any]]:
    return [{"key": "k", "value": 1.0, "timestamp": 1, "step": i} for i in range(count)]


def pairs(count: int) -> list[dict[str, str]]:
    return [{"key": f"k{i}", "value": "1"} for i in range(count)]


def required(name: str) -> str:
    return f"Missing value for required parameter '{name}'.{SEE_DOCS}"


def mistyped(value: str, name: str, kind: str) -> str:
    return (
        f"Invalid value {value} for parameter '{name}' supplied:  Hint: Value was of type"
        f" '{kind}'.{SEE_DOCS}"
    )


def too_many(limit: int, what: str, got: int) -> str:
    return (
        f"A batch logging request can contain at most {limit} {what}. Got {got} {what}. Please"
        f" split up {what} across multiple requests and try again."
    )


LOG_METRIC, LOG_BATCH, LOG_PARAMETER = "runs/log-metric", "runs/log-batch", "runs/log-parameter"
SET_TAG, CREATE_RUN, SEARCH_RUNS = "runs/set-tag", "runs/create", "runs/search"
VERSION, TRANSITION = "model-versions/create", "model-versions/transition-stage"
ALIAS = "registered-models/alias"
P, G = "POST", "GET"
Case = tuple[str, str, dict[str, Any], int, str, str]

UNKNOWN_RUN: list[Case] = [
    *(
        (P, path, {"run_id": NO_RUN, **body}, 404, MISSING, f"Run with id={NO_RUN} not found")
        for path, body in [
            (LOG_METRIC, without(metric(), "run_id")),
            (LOG_PARAMETER, {"key": "a", "value": "b"}),
            (SET_TAG, {"key": "a", "value": "b"}),
            (LOG_BATCH, {"metrics": points(1)}),
            ("runs/update", {"status": "FINISHED"}),
            ("runs/delete", {}),
            ("runs/restore", {}),
        ]
    ),
    (G, "runs/get", {"run_id": NO_RUN}, 404, MISSING, f"Run with id={NO_RUN} not found"),
    (G, "artifacts/list", {"run_id": NO_RUN}, 404, MISSING, f"Run with id={NO_RUN} not found"),
    (P, LOG_METRIC, metric(run_id="a b"), 404, MISSING, "Run with id=a b not found"),
]

DELETED_RUN: list[Case] = [
    (P, path, {"run_id": "<deleted>", **body}, 400, BAD, NOT_ACTIVE)
    for path, body in [
        (LOG_METRIC, without(metric(), "run_id")),
        (LOG_PARAMETER, {"key": "a", "value": "b"}),
        (SET_TAG, {"key": "a", "value": "b"}),
        ("runs/delete-tag", {"key": "a"}),
        (LOG_BATCH, {"metrics": points(1)}),
        (LOG_BATCH, {}),
        ("runs/update", {"status": "FINISHED"}),
    ]
]

PARAMETERS: list[Case] = [
    (P, LOG_PARAMETER, {"run_id": "<run>", "key": "lr", "value": "0.2"}, 400, BAD,
     "Changing param values is not allowed. Param with key='lr' was already logged with"
     " value='0.1' for run ID='<run>'. Attempted logging new value '0.2'."),
    (P, LOG_BATCH, batch(params=[{"key": "lr", "value": "0.3"}, *pairs(1)], metrics=points(1),
                         tags=pairs(1)), 400, BAD,
     "Changing param values is not allowed. Params were already logged='[{'key': 'lr',"
     " 'old_value': '0.1', 'new_value': '0.3'}]' for run ID='<run>'."),
    (P, LOG_BATCH, batch(params=[*pairs(2), *pairs(1)], metrics=points(1)), 400, BAD,
     "Duplicate parameter keys have been submitted: ['k0']. Please ensure the request contains"
     " only one param value per param key."),
]  # fmt: skip

KEYS: list[Case] = [
    (P, LOG_METRIC, metric(key="k" * 251), 400, BAD,
     "'Metric name' exceeds the maximum length of 250 characters"),
    (P, LOG_PARAMETER, {"run_id": "<run>", "key": "k" * 251, "value": "v"}, 400, BAD,
     "'Param key' exceeds the maximum length of 250 characters"),
    (P, SET_TAG, {"run_id": "<run>", "key": "k" * 251, "value": "v"}, 400, BAD,
     "'key' exceeds the maximum length of 250 characters"),
    (P, LOG_BATCH, batch(metrics=[*points(1), {**points(1)[0], "key": "k" * 251}]), 400, BAD,
     "'Metric name' exceeds the maximum length of 250 characters"),
    (P, LOG_BATCH, batch(params=[{"key": "k" * 251, "value": "v"}], metrics=points(1)), 400, BAD,
     "'Param key' exceeds the maximum length of 250 characters"),
    (P, LOG_BATCH, batch(tags=[{"key": "k" * 251, "value": "v"}], metrics=points(1)), 400, BAD,
     "'tags[0].key' exceeds the maximum length of 250 characters"),
    (P, LOG_METRIC, metric(key="a?b"), 400, BAD,
     f"Invalid value \"a?b\" for parameter 'name' supplied: {BAD_NAME}"),
    (P, LOG_PARAMETER, {"run_id": "<run>", "key": "a?b", "value": "v"}, 400, BAD,
     f"Invalid value \"a?b\" for parameter 'key' supplied: {BAD_NAME}"),
    (P, SET_TAG, {"run_id": "<run>", "key": "a\tb", "value": "v"}, 400, BAD,
     f"Invalid value \"a\\tb\" for parameter 'key' supplied: {BAD_NAME}"),
    (P, LOG_BATCH, batch(metrics=[*points(1), {**points(1)[0], "key": "a?b"}]), 400, BAD,
     f"Invalid value \"a?b\" for parameter 'metrics[1].name' supplied: {BAD_NAME}"),
    (P, LOG_METRIC, metric(key="a//b"), 400, BAD,
     f"Invalid value \"a//b\" for parameter 'name' supplied: {BAD_PATH}'a/b'"),
    (P, LOG_METRIC, metric(key="../b"), 400, BAD,
     f"Invalid value \"../b\" for parameter 'name' supplied: {BAD_PATH}'../b'"),
    (P, LOG_METRIC, metric(key="/a"), 400, BAD,
     f"Invalid value \"/a\" for parameter 'name' supplied: {BAD_PATH}'/a'"),
    (P, LOG_PARAMETER, {"run_id": "<run>", "key": "a/", "value": "v"}, 400, BAD,
     f"Invalid value \"a/\" for parameter 'key' supplied: {BAD_PATH}'a'"),
    (P, LOG_METRIC, metric(key="."), 400, BAD,
     f"Invalid value \".\" for parameter 'name' supplied: {BAD_PATH}'.'"),
]  # fmt: skip

FIELDS: list[Case] = [
    *(
        (P, LOG_METRIC, without(metric(), name), 400, BAD, required(name))
        for name in ("run_id", "key", "value", "timestamp")
    ),
    (P, LOG_METRIC, metric(key=""), 400, BAD, required("key")),
    (P, LOG_METRIC, metric(value=None), 400, BAD, required("value")),
    (P, LOG_METRIC, metric(value="abc"), 400, BAD, mistyped('"abc"', "value", "str")),
    (P, LOG_METRIC, metric(timestamp="abc"), 400, BAD, mistyped('"abc"', "timestamp", "str")),
    (P, LOG_METRIC, metric(step="abc"), 400, BAD, mistyped('"abc"', "step", "str")),
    (P, LOG_METRIC, metric(key=5), 400, BAD, mistyped("5", "key", "int")),
    (P, LOG_METRIC, metric(key=["a"]), 400, BAD, mistyped('["a"]', "key", "list")),
    (P, LOG_METRIC, metric(run_id=5), 400, BAD, mistyped("5", "run_id", "int")),
    (P, LOG_METRIC, metric(timestamp=-1), 400, BAD,
     "Invalid value -1 for parameter 'timestamp' supplied: metric 'k' (value=1.0). Timestamp must"
     " be a nonnegative long (64-bit integer) "),
    (P, LOG_PARAMETER, {"run_id": "<run>", "value": "v"}, 400, BAD, required("key")),
    (P, LOG_PARAMETER, {"run_id": "<run>", "key": "n", "value": 5}, 400, BAD,
     mistyped("5", "value", "int")),
    *(
        (P, LOG_BATCH, batch(metrics=[*points(1), without(points(1)[0], name)]), 400, BAD,
         required(f"metrics[1].{name}"))
        for name in ("key", "value", "timestamp")
    ),
    (P, LOG_BATCH, batch(params=[{"value": "1"}], metrics=points(1)), 400, BAD,
     required("params[0].key")),
    (P, LOG_BATCH, batch(tags=[{"value": "1"}], metrics=points(1)), 400, BAD,
     required("tags[0].key")),
    (P, LOG_BATCH, {"metrics": points(1)}, 400, BAD, required("run_id")),
    (P, LOG_BATCH, batch(metrics="abc"), 400, BAD, mistyped('"abc"', "metrics", "str")),
    (P, LOG_BATCH, batch(metrics={"key": "a"}), 400, BAD,
     mistyped('{"key":"a"}', "metrics", "dict")),
    (P, LOG_BATCH, batch(metrics=points(1001)), 400, BAD, too_many(1000, "metrics", 1001)),
    (P, LOG_BATCH, batch(params=pairs(101)), 400, BAD, too_many(100, "params", 101)),
    (P, LOG_BATCH, batch(tags=pairs(101)), 400, BAD, too_many(100, "tags", 101)),
    (P, LOG_BATCH, batch(metrics=points(1000), tags=pairs(1)), 400, BAD,
     too_many(1000, "metrics, params, and tags", 1001)),
    (G, "runs/get", {}, 400, BAD, required("run_id")),
    (G, "runs/get", {"run_id": ""}, 400, BAD, required("run_id")),
    (P, "runs/delete-tag", {"run_id": "<run>", "key": "nope"}, 404, MISSING,
     "No tag with name: nope in run with id <run>"),
    (P, "runs/update", {"run_id": "<run>", "end_time": "abc"}, 400, BAD,
     mistyped('"abc"', "end_time", "str")),
]  # fmt: skip

PAGING: list[Case] = [
    (P, SEARCH_RUNS, {"max_results": 0}, 400, BAD,
     "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"),
    (P, SEARCH_RUNS, {"max_results": -1}, 400, BAD,
     "Invalid value -1 for parameter 'max_results' supplied. It must be a positive integer"),
    (P, SEARCH_RUNS, {"max_results": "abc"}, 400, BAD, mistyped('"abc"', "max_results", "str")),
    (P, SEARCH_RUNS, {"max_results": 50001}, 400, BAD, mistyped("50001", "max_results", "int")),
    (P, SEARCH_RUNS, {"experiment_ids": ["<experiment>"], "page_token": "abc"}, 400, BAD,
     "Invalid page token, could not base64-decode"),
    (P, SEARCH_RUNS, {"experiment_ids": ["<experiment>"], "page_token": "!!!"}, 400, BAD,
     "Invalid page token, *"),
    (P, SEARCH_RUNS, {"experiment_ids": "abc"}, 400, BAD,
     mistyped('"abc"', "experiment_ids", "str")),
    (P, "experiments/search", {"max_results": 0}, 400, BAD,
     "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"),
    (P, "experiments/search", {"max_results": 50001}, 400, BAD,
     "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000"),
    (P, "experiments/search", {"max_results": 1, "page_token": "abc"}, 400, BAD,
     "Invalid page token, could not base64-decode"),
    (G, "metrics/get-history", {"run_id": "<run>", "metric_key": "k", "max_results": 0}, 400, BAD,
     "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer."),
    (G, "metrics/get-history",
     {"run_id": "<run>", "metric_key": "k", "max_results": 2, "page_token": "abc"}, 400, BAD,
     "Invalid page token, could not base64-decode"),
    (G, "metrics/get-history", {"run_id": "<run>"}, 400, BAD, required("metric_key")),
    (G, "metrics/get-history", {"metric_key": "k"}, 400, BAD, required("run_id")),
    (G, "registered-models/search", {"max_results": 1001}, 400, BAD,
     mistyped('"1001"', "max_results", "str")),
    (G, "registered-models/search", {"page_token": "abc"}, 400, BAD,
     "Invalid page token, could not base64-decode"),
    (G, "model-versions/search", {"max_results": 200001}, 400, BAD,
     mistyped('"200001"', "max_results", "str")),
]  # fmt: skip

QUERIES: list[tuple[dict[str, Any], str]] = [
    ({"filter": "metrics.x >"}, "Invalid clause(s) in filter string: 'metrics.x', '>'"),
    ({"filter": "metrics.x"}, "Invalid clause(s) in filter string: 'metrics.x'"),
    ({"filter": "metrics.x = 'a'"}, "Expected numeric value type for metric. Found 'a'"),
    ({"filter": "params.y > 'a'"}, "Invalid comparator '>' not one of '{*"),
    ({"filter": "foo.x = 1"},
     "Invalid entity type 'foo'. Valid values are"
     " ['metric', 'parameter', 'tag', 'attribute', 'dataset']"),
    ({"filter": "params.y = 1"},
     "Expected a quoted string value for parameter (e.g. 'my-value'). Got value 1"),
    ({"filter": "metrics.x > 1 OR metrics.y > 2"},
     "Invalid clause(s) in filter string: 'OR'"),
    ({"filter": "attributes.foo = 'a'"},
     "Invalid attribute key 'foo' specified. Valid keys are '{*"),
    ({"filter": "status = RUNNING"},
     "Parameter value is either not quoted or unidentified quote types used for string value"
     " RUNNING. Use either single or double quotes."),
    ({"filter": 5}, mistyped("5", "filter", "int")),
    ({"order_by": ["metrics.x FOO"]},
     "Invalid ordering key in order_by clause 'metrics.x FOO'."),
    ({"order_by": ["foo.x"]},
     "Invalid entity type 'foo'. Valid values are"
     " ['metric', 'parameter', 'tag', 'attribute', 'dataset']"),
    ({"order_by": ["attributes.foo"]},
     "Invalid attribute key 'foo' specified. Valid keys are '{*"),
    ({"order_by": "abc"}, mistyped('"abc"', "order_by", "str")),
]  # fmt: skip

FILTERS: list[Case] = [
    (P, SEARCH_RUNS, {"experiment_ids": ["<experiment>"], **body}, 400, BAD, message)
    for body, message in QUERIES
]

EXPERIMENTS: list[Case] = [
    (P, "experiments/create", {}, 400, BAD, required("name")),
    (P, "experiments/create", {"name": ""}, 400, BAD, required("name")),
    (P, "experiments/create", {"name": 5}, 400, BAD, mistyped("5", "name", "int")),
    (P, "experiments/create", {"name": "n" * 501}, 400, BAD,
     "'name' exceeds the maximum length of 500 characters"),
    (P, "experiments/create", {"name": "<experiment_name>"}, 400, EXISTS,
     "Experiment(name=<experiment_name>) already exists.*"),
    (P, "experiments/create", {"name": "<dead_name>"}, 400, EXISTS,
     "Experiment(name=<dead_name>) already exists.*"),
    (G, "experiments/get", {"experiment_id": "987654321"}, 404, MISSING,
     "No Experiment with id=987654321 exists"),
    (G, "experiments/get", {"experiment_id": "abc"}, 400, BAD,
     "Invalid experiment ID 'abc'. Experiment ID must be a valid integer."),
    (G, "experiments/get", {}, 400, BAD, required("experiment_id")),
    (G, "experiments/get-by-name", {"experiment_name": "<nobody>"}, 404, MISSING,
     "Could not find experiment with name '<nobody>'"),
    (P, "experiments/update", {"experiment_id": "<experiment>"}, 400, BAD, required("new_name")),
    (P, "experiments/update", {"experiment_id": "987654321", "new_name": "a"}, 404, MISSING,
     "No Experiment with id=987654321 exists"),
    (P, "experiments/delete", {"experiment_id": "<dead>"}, 404, MISSING,
     "No Experiment with id=<dead> exists"),
    (P, "experiments/restore", {"experiment_id": "<experiment>"}, 404, MISSING,
     "No Experiment with id=<experiment> exists"),
    (P, "experiments/set-experiment-tag",
     {"experiment_id": "<experiment>", "key": "k" * 251, "value": "v"}, 400, BAD,
     "'key' exceeds the maximum length of 250 characters"),
    (P, "experiments/set-experiment-tag",
     {"experiment_id": "<dead>", "key": "k", "value": "v"}, 400, BAD,
     "The experiment <dead> must be in the 'active' state. Current state is deleted."),
    (P, "experiments/delete-experiment-tag", {"experiment_id": "<experiment>", "key": "nope"},
     404, MISSING, "No tag with name: nope in experiment with id <experiment>"),
    (P, CREATE_RUN, {"experiment_id": "987654321"}, 404, MISSING,
     "No Experiment with id=987654321 exists"),
    (P, CREATE_RUN, {"experiment_id": "abc"}, 400, BAD,
     "Invalid experiment ID 'abc'. Experiment ID must be a valid integer."),
    (P, CREATE_RUN, {"experiment_id": "<dead>"}, 400, BAD,
     "The experiment <dead> must be in the 'active' state. Current state is deleted."),
    (P, CREATE_RUN, {"experiment_id": "<experiment>", "start_time": "abc"}, 400, BAD,
     mistyped('"abc"', "start_time", "str")),
    (P, CREATE_RUN, {"experiment_id": "<experiment>", "run_name": "a",
                     "tags": [{"key": "mlflow.runName", "value": "b"}]}, 400, BAD,
     "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values"
     " (run_name='a', mlflow.runName='b')."),
    (P, LOG_METRIC, metric(run_id="<dead_run>"), 400, BAD,
     "The run <dead_run> must be in the 'active' state. Current state is deleted."),
]  # fmt: skip

REGISTRY: list[Case] = [
    (P, "registered-models/create", {}, 400, BAD, required("name")),
    (P, "registered-models/create", {"name": "a/b"}, 400, BAD,
     "Invalid model name 'a/b'. Names cannot contain '/' or ':'."),
    (P, "registered-models/create", {"name": "<model>"}, 400, EXISTS,
     "Registered Model (name=<model>) already exists."),
    (G, "registered-models/get", {"name": "<nobody>"}, 404, MISSING,
     "Registered Model with name=<nobody> not found"),
    ("PATCH", "registered-models/update", {"name": "<nobody>", "description": "d"}, 404, MISSING,
     "Registered Model with name=<nobody> not found"),
    ("DELETE", "registered-models/delete", {"name": "<nobody>"}, 404, MISSING,
     "Registered Model with name=<nobody> not found"),
    (P, "registered-models/set-tag", {"name": "<model>", "key": "a?", "value": "v"}, 400, BAD,
     f"Invalid value \"a?\" for parameter 'key' supplied: {BAD_NAME}"),
    (P, "registered-models/set-tag", {"name": "<model>", "key": "a", "value": "v" * 100_001},
     400, BAD, "'value' exceeds the maximum length of 100000 characters"),
    (P, "registered-models/rename", {"name": "<model>"}, 400, BAD, required("new_name")),
    (P, VERSION, {"name": "<model>"}, 400, BAD, required("source")),
    (P, VERSION, {"name": "<model>", "source": "runs:/<run>/model"}, 400, BAD,
     f"Invalid model version source: 'runs:/<run>/model'. {SOURCE_OWNER}"),
    (P, VERSION, {"name": "<model>", "source": "runs:/<run>/model", "run_id": "<deleted>"},
     400, BAD, f"Invalid model version source: 'runs:/<run>/model'. {SOURCE_OWNER}"),
    (P, VERSION, {"name": "<nobody>", "source": "runs:/<run>/model", "run_id": "<run>"},
     404, MISSING, "Registered Model with name=<nobody> not found"),
    (P, VERSION, {"name": "<model>", "source": "/etc/passwd"}, 400, BAD,
     "Invalid model version source: '/etc/passwd'. To use a local path as a model version source,"
     " the run_id request parameter has to be specified and the local path has to be contained"
     " within the artifact directory of the run specified by the run_id."),
    (P, VERSION, {"name": "<model>", "source": "mlflow-artifacts:/1/../x"}, 400, BAD,
     "Invalid model version source: 'mlflow-artifacts:/1/../x'. If supplying a source as an http,"
     " https, local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must be"
     " provided without relative path references present. Please provide an absolute path."),
    (G, "model-versions/get", {"name": "<model>", "version": "9"}, 404, MISSING,
     "Model Version (name=<model>, version=9) not found"),
    (G, "model-versions/get", {"name": "<model>", "version": "abc"}, 400, BAD,
     "Parameter 'version' must be an integer, got 'abc'."),
    (G, "model-versions/get-download-uri", {"name": "<model>", "version": "9"}, 404, MISSING,
     "Model Version (name=<model>, version=9) not found"),
    (P, TRANSITION, {"name": "<model>", "version": "1", "stage": "foo"}, 400, BAD,
     "Invalid Model Version stage: foo. Value must be one of None, Staging, Production, Archived."),
    (P, TRANSITION, {"name": "<model>", "version": "1"}, 400, BAD, required("stage")),
    (P, TRANSITION, {"name": "<model>", "version": "9", "stage": "Staging"}, 404, MISSING,
     "Model Version (name=<model>, version=9) not found"),
    (P, TRANSITION, {"name": "<model>", "version": 1, "stage": "Staging"}, 400, BAD,
     mistyped("1", "version", "int")),
    (P, ALIAS, {"name": "<model>", "alias": "Latest", "version": "1"}, 400, BAD,
     "'latest' alias name (case insensitive) is reserved."),
    (P, ALIAS, {"name": "<model>", "alias": "v1", "version": "1"}, 400, BAD,
     "Version alias name 'v1' is reserved."),
    (P, ALIAS, {"name": "<model>", "alias": "a b", "version": "1"}, 400, BAD,
     "Invalid alias name: 'a b'. Names may only contain alphanumerics, underscores (_), and"
     " dashes (-)."),
    (P, ALIAS, {"name": "<model>", "alias": "a" * 256, "version": "1"}, 400, BAD,
     "'Registered model alias name' exceeds the maximum length of 255 characters"),
    (P, ALIAS, {"name": "<model>", "alias": "a", "version": "9"}, 404, MISSING,
     "Model Version (name=<model>, version=9) not found"),
    (G, ALIAS, {"name": "<model>", "alias": "nope"}, 400, BAD,
     "Registered model alias nope not found."),
    (G, ALIAS, {"name": "<nobody>", "alias": "nope"}, 404, MISSING,
     "Registered Model with name=<nobody> not found"),
]  # fmt: skip

EVERY = [
    *UNKNOWN_RUN, *DELETED_RUN, *PARAMETERS, *KEYS, *FIELDS, *PAGING, *FILTERS, *EXPERIMENTS,
    *REGISTRY,
]  # fmt: skip


@covers(
    "error-body",
    "error-words",
    "error-missing-field",
    "error-wrong-type",
    "error-no-trace",
    "limit-batch-size",
    "limit-keys",
    "limit-names",
    "limit-experiment",
    "limit-registry",
    "limit-timestamps",
    "limit-max-results",
    "param-immutability",
    "param-duplicate-keys",
    "tag-last-write",
    "run-name-tag",
    "run-deleted",
    "experiment-lifecycle",
    "search-grammar",
    "search-paging",
    "stages",
    "aliases",
    "version-source",
)
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "message"),
    [pytest.param(*case, id=f"{case[1]}: {case[5][:60]}") for case in EVERY],
)
def test_refused_as_mlflow_refuses(
    world: World,
    method: str,
    path: str,
    body: dict[str, Any],
    status: int,
    code: str,
    message: str,
) -> None:
    before = world.snapshot()
    answer = world.api.call(method, path, world.fill(body))
    check(world, answer, before, status, code, message)


@covers("json-content-type")
@pytest.mark.parametrize("path", [LOG_METRIC, LOG_BATCH, CREATE_RUN, "experiments/create"])
@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("text/plain", "Bad Request. Content-Type must be one of ['application/json']."),
        (
            "application/x-www-form-urlencoded",
            "Bad Request. Content-Type must be one of ['application/json'].",
        ),
        (None, "Bad Request. Content-Type header is missing."),
    ],
)
def test_wrong_content_type(
    world: World, path: str, content_type: str | None, message: str
) -> None:
    before = world.snapshot()
    body = json.dumps(world.fill(metric(experiment_id="<experiment>", name="<nobody>"))).encode()
    answer = world.api.call(P, path, raw=body, content_type=content_type)
    check(world, answer, before, 400, BAD, message)


def test_content_type_may_name_its_charset(world: World) -> None:
    body = json.dumps(world.fill(batch())).encode()
    answer = world.api.call(P, LOG_BATCH, raw=body, content_type="application/json; charset=utf-8")
    assert answer.status_code == 200, answer.text


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"]


@covers("json-encodings")
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("charset", ["", "; charset=utf-16", "; charset"])
def test_body_in_every_encoding(world: World, encoding: str, charset: str) -> None:
    run, value = world.names["run"], unique(f"é\U0001f680{encoding}")
    text = json.dumps({"run_id": run, "key": "t", "value": value}, ensure_ascii=False)
    kind = f"application/json{charset}"
    answer = world.api.call(P, SET_TAG, raw=text.encode(encoding), content_type=kind)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert {"key": "t", "value": value} in world.api.run_data(run)["data"]["tags"]


EMPTY = [b"", b" ", b"null", b"\xef\xbb\xbf", "null".encode("utf-16")]
BROKEN = [b"{not json", b'{"run_id": "\xff"}', b"\xff\xfe{", b"\x1f\x8b\x08\x00"]


@covers("json-broken-body")
@pytest.mark.parametrize("raw", EMPTY)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        (LOG_METRIC, "run_id"),
        (LOG_PARAMETER, "run_id"),
        ("experiments/create", "name"),
        ("registered-models/create", "name"),
        pytest.param(LOG_BATCH, "run_id", marks=ours),
    ],
)
def test_no_body_is_an_empty_request(world: World, path: str, field: str, raw: bytes) -> None:
    before = world.snapshot()
    check(world, world.api.call(P, path, raw=raw), before, 400, BAD, required(field))


@covers("json-broken-body", "error-no-5xx")
@ours
@pytest.mark.parametrize("raw", [*BROKEN, b"[1]", b'"abc"', b"5", b"true", b"[" * 100_000])
@pytest.mark.parametrize(
    "path", [LOG_METRIC, LOG_BATCH, CREATE_RUN, "experiments/create", "registered-models/create"]
)
def test_body_that_is_no_request(world: World, path: str, raw: bytes) -> None:
    before = world.snapshot()
    check(world, world.api.call(P, path, raw=raw), before, 400, BAD, "The request body *")


@covers("error-no-5xx", "json-numeric-strings", "stages")
@ours
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (LOG_METRIC, metric(value=[1]), "value"),
        (LOG_METRIC, metric(value={}), "value"),
        (LOG_METRIC, metric(timestamp=1.5), "timestamp"),
        (LOG_METRIC, metric(timestamp=2**63), "timestamp"),
        (LOG_METRIC, metric(step=1.5), "step"),
        (LOG_METRIC, metric(step=2**63), "step"),
        (LOG_BATCH, batch(metrics=[{**points(1)[0], "value": "abc"}]), "metrics[0].value"),
        (LOG_BATCH, batch(metrics=[{**points(1)[0], "value": [1]}]), "metrics[0].value"),
        (LOG_BATCH, batch(metrics=[*points(1), {**points(1)[0], "step": "x"}]), "metrics[1].step"),
        (LOG_BATCH, batch(metrics=["a"]), "metrics[0]"),
        (LOG_BATCH, batch(params=[5]), "params[0]"),
        (LOG_BATCH, batch(params=[{"key": "a", "value": 5}]), "params[0].value"),
        (LOG_BATCH, batch(tags=[{"key": 5, "value": "a"}]), "tags[0].key"),
        (CREATE_RUN, {}, "experiment_id"),
        (SEARCH_RUNS, {"order_by": ["metrics.x", "metrics.x"]}, "order_by"),
        (TRANSITION, {"name": "<model>", "version": "1", "stage": "None",
                      "archive_existing_versions": True}, "archive"),
    ],
)  # fmt: skip
def test_where_mlflow_fails_the_field_is_named(
    world: World, path: str, body: dict[str, Any], field: str
) -> None:
    before = world.snapshot()
    answer = world.api.call(P, path, world.fill(body))
    check(world, answer, before, 400, BAD, "*")
    assert field in answer.json()["message"]


@covers("limit-batch-size")
@ours
def test_batch_over_the_size_limit(world: World) -> None:
    before = world.snapshot()
    tags = [{"key": f"t{i}", "value": "x" * 20_000} for i in range(60)]
    answer = world.api.call(P, LOG_BATCH, world.fill(batch(tags=tags)))
    message = "Batched logging API requests must be at most 1000000 bytes, got a request of size *"
    check(world, answer, before, 400, BAD, message)


@ours
def test_enormous_body_is_refused(world: World) -> None:
    before = world.snapshot()
    body = world.fill({"run_id": "<run>", "key": "t", "value": "x" * 80_000_000})
    answer = world.api.call(P, SET_TAG, body)
    assert answer.status_code in (400, 413), answer.text
    assert world.snapshot() == before


@covers("experiment-lifecycle")
@ours
def test_renaming_a_deleted_experiment(world: World) -> None:
    before = world.snapshot()
    body = world.fill({"experiment_id": "<dead>", "new_name": "<nobody>"})
    answer = world.api.call(P, "experiments/update", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["message"] == "Cannot rename a non-active experiment."
    assert world.snapshot() == before


@covers("error-workspaces")
@ours
def test_workspaces_are_not_enabled(api: Api) -> None:
    """MLflow answers 500, which its clients repeat."""
    headers = {"X-MLFLOW-WORKSPACE": "team"}
    url = f"{api.uri}/api/2.0/mlflow/experiments/search"
    answer = requests.post(url, json={"max_results": 1}, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert answer.json() == {
        "error_code": "FEATURE_DISABLED",
        "message": ("Workspace APIs are not available: workspaces are not enabled on this server"),
    }


@covers("both-prefixes")
def test_more_slashes_than_one(api: Api) -> None:
    """A tracking URI that ends with a slash, and what some proxies make of a prefix."""
    answer = requests.get(
        f"{api.uri}//api/2.0/mlflow/experiments/get", {"experiment_id": "0"}, timeout=10
    )
    assert answer.json()["experiment"]["name"] == "Default"


@covers("error-endpoint-not-found")
@ours
@pytest.mark.parametrize("path", ["mlflow/nope", "nope"])
def test_unknown_endpoint(api: Api, path: str) -> None:
    answer = requests.get(f"{api.uri}/api/2.0/{path}", timeout=10)
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "ENDPOINT_NOT_FOUND"
