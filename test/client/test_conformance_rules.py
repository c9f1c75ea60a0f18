"""Rules that no other test shows, mostly with requests that MLflow's client never sends."""

import json
import math
import re
from typing import Any

import pytest
import requests
from conformance import covers
from mlflow import MlflowClient

from support import Api, unique

BAD = "INVALID_PARAMETER_VALUE"


def refused(answer: requests.Response, status: int = 400) -> str:
    """The message of an answer that must be a refusal."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["message"])


def log(api: Api, run: str, **metric: Any) -> None:
    api.post("runs/log-metric", run_id=run, **{"key": "m", "timestamp": 1, "step": 0, **metric})


def latest(api: Api, run: str) -> Any:
    """The latest value of metric m as the wire has it."""
    return api.run_data(run)["data"]["metrics"][0]["value"]


@covers("json-int64-as-numbers")
def test_integers_of_64_bits_are_exact(api: Api, run: str) -> None:
    big = 2**62 + 1
    for step in (big, -big, str(big - 2)):
        log(api, run, value=1, step=step)
    answer = api.call("GET", "metrics/get-history", {"run_id": run, "metric_key": "m"})
    assert re.findall(r'"step":\s*(-?\d+)', answer.text) == [str(-big), str(big - 2), str(big)]
    assert re.search(r'"start_time":\s*\d+', api.call("GET", "runs/get", {"run_id": run}).text)


@covers("json-enums-by-name", "run-status")
def test_a_status_is_a_name(api: Api, run: str) -> None:
    for status in ("SCHEDULED", "RUNNING", "FAILED", "KILLED", "FINISHED"):
        assert api.post("runs/update", run_id=run, status=status)["run_info"]["status"] == status


@covers("run-status")
@pytest.mark.runledger
def test_an_unknown_status_is_refused(api: Api, run: str) -> None:
    message = refused(api.call("POST", "runs/update", {"run_id": run, "status": "DONE"}))
    assert "'status'" in message
    assert api.run_data(run)["info"]["status"] == "RUNNING"


@covers("json-non-finite", "metric-infinity")
@pytest.mark.runledger
@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("quote", ['"', ""])
def test_words_for_values_that_are_not_finite(api: Api, run: str, word: str, quote: str) -> None:
    body = f'{{"run_id": "{run}", "key": "m", "value": {quote}{word}{quote}, "timestamp": 1}}'
    assert api.call("POST", "runs/log-metric", raw=body.encode()).status_code == 200
    body = f'{{"run_id": "{run}", "metrics": [{{"key": "m", "value": {word}, "timestamp": 1}}]}}'
    assert api.call("POST", "runs/log-batch", raw=body.encode()).status_code == 200
    (point,) = api.get("metrics/get-history", run_id=run, metric_key="m")["metrics"]
    assert (point["value"], latest(api, run)) == (word, word)


@covers("json-null-is-absent")
def test_null_is_absent(api: Api, run: str) -> None:
    log(api, run, value=1, step=None, model_id=None)
    (point,) = api.get("metrics/get-history", run_id=run, metric_key="m")["metrics"]
    assert point.get("step", 0) == 0
    answer = api.call("POST", "runs/set-tag", {"run_id": None, "key": "k", "value": "v"})
    assert "Missing value for required parameter 'run_id'" in refused(answer)


@covers("json-camel-case")
def test_optional_fields_in_camel_case(api: Api, experiment: str, run: str) -> None:
    page = api.post("runs/search", experimentIds=[experiment], runViewType="ALL", maxResults=5)
    assert [r["info"]["run_id"] for r in page["runs"]] == [run]
    body = {"run_id": run, "run_name": "a", "runName": "a"}
    assert refused(api.call("POST", "runs/update", body)) == (
        "Request specifies both 'run_name' and 'runName'; provide only one of them."
    )


@covers("json-twice-encoded")
def test_a_body_that_is_encoded_twice(api: Api, run: str) -> None:
    body = json.dumps(json.dumps({"run_id": run, "key": "k", "value": "v"}))
    assert api.call("POST", "runs/set-tag", raw=body.encode()).status_code == 200
    assert {"key": "k", "value": "v"} in api.run_data(run)["data"]["tags"]


@covers("json-run-uuid")
def test_run_uuid_is_run_id(api: Api, run: str) -> None:
    api.post("runs/set-tag", run_uuid=run, key="k", value="v")
    api.post("runs/log-metric", run_uuid=run, key="m", value=1, timestamp=1)
    assert api.get("runs/get", run_uuid=run)["run"]["info"]["run_uuid"] == run


@covers("json-query-arguments")
def test_arguments_of_a_query(api: Api, experiment: str) -> None:
    runs = [api.create_run(experiment) for _ in range(2)]
    for run in runs:
        for step in range(3):
            log(api, run, value=step, step=step)
    query = {"run_ids": runs, "metric_key": "m", "start_step": "1", "end_step": "2"}
    points = api.get("metrics/get-history-bulk-interval", **query)["metrics"]
    assert [(p["run_id"], p["step"]) for p in points] == [(r, s) for r in runs for s in (1, 2)]
    many = {"max_results": "many"}
    assert "'max_results'" in refused(api.call("GET", "registered-models/search", many))


@covers("limit-experiment")
def test_long_locations_and_tags_of_experiments(api: Api, experiment: str) -> None:
    name = unique("long")
    body = {"name": name, "artifact_location": "s3://b/" + "x" * 2048}
    assert refused(api.call("POST", "experiments/create", body)).startswith(
        "Invalid artifact path length. The length of the artifact path cannot be greater than 2048"
        " characters."
    )
    answer = api.call("GET", "experiments/get-by-name", {"experiment_name": name})
    assert refused(answer, 404)
    tag = {"experiment_id": experiment, "key": "k", "value": "x" * 20_001}
    assert "value" in refused(api.call("POST", "experiments/set-experiment-tag", tag))
    assert "tags" not in api.get("experiments/get", experiment_id=experiment)["experiment"]


@covers("limit-inputs")
@pytest.mark.parametrize(("key", "value"), [("k" * 256, "v"), ("k", "v" * 501)])
def test_long_tags_of_inputs(api: Api, run: str, key: str, value: str) -> None:
    dataset = {"name": "d", "digest": "1", "source_type": "local", "source": "s"}
    one = {"dataset": dataset, "tags": [{"key": key, "value": value}]}
    assert refused(api.call("POST", "runs/log-inputs", {"run_id": run, "datasets": [one]}))
    assert "dataset_inputs" not in api.run_data(run).get("inputs", {})


@covers("limit-logged-model-name")
@pytest.mark.parametrize("character", list("/:.%\"'"))
def test_characters_of_a_logged_models_name(api: Api, experiment: str, character: str) -> None:
    body = {"experiment_id": experiment, "name": f"a{character}b"}
    assert "Invalid model name" in refused(api.call("POST", "logged-models", body))


@covers("limit-max-results")
def test_sizes_of_pages(api: Api, client: MlflowClient, experiment: str) -> None:
    prefix = unique("page")
    for i in range(101):
        client.create_registered_model(f"{prefix}-{i}")
    page = api.get("registered-models/search", filter=f"name LIKE '{prefix}%'")
    assert len(page["registered_models"]) == 100
    assert page["next_page_token"]
    for i in range(51):
        api.post("logged-models", experiment_id=experiment, name=f"m{i}")
    page = api.post("logged-models/search", experiment_ids=[experiment])
    assert len(page["models"]) == 50
    for path, most in (("runs/search", 50_000), ("experiments/search", 50_000)):
        assert api.call("POST", path, {"max_results": most}).status_code == 200
        assert "'max_results'" in refused(api.call("POST", path, {"max_results": most + 1}))


@covers("metric-latest", "metric-nan")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["NaN", -1.0], "NaN"), ([-1.0, "NaN"], "NaN"),
        (["NaN", 1.0], 1.0), ([1.0, "NaN"], 1.0),
    ],
)  # fmt: skip
def test_nan_counts_as_zero_among_equals(
    api: Api, run: str, values: list[Any], expected: Any
) -> None:
    for value in values:
        log(api, run, value=value)
    assert latest(api, run) == expected


@covers("run-ids", "run-artifact-uri")
def test_ids_and_places_of_runs(api: Api, client: MlflowClient) -> None:
    location = "s3://bucket/some/where"
    experiment = client.create_experiment(unique("place"), artifact_location=location)
    info = api.post("runs/create", experiment_id=experiment)["run"]["info"]
    assert re.fullmatch("[0-9a-f]{32}", info["run_id"])
    assert info["run_uuid"] == info["run_id"]
    assert info["artifact_uri"] == f"{location}/{info['run_id']}/artifacts"


@covers("experiment-name-reserved", "experiment-default")
def test_a_deleted_experiment_is_found_by_name(api: Api, client: MlflowClient) -> None:
    name = unique("gone")
    experiment = client.create_experiment(name)
    client.delete_experiment(experiment)
    found = api.get("experiments/get-by-name", experiment_name=name)["experiment"]
    assert (found["experiment_id"], found["lifecycle_stage"]) == (experiment, "deleted")
    assert api.get("experiments/get", experiment_id="0")["experiment"]["name"] == "Default"


@covers("experiment-cascade")
def test_restoring_an_experiment_restores_runs_deleted_before(
    api: Api, client: MlflowClient, experiment: str
) -> None:
    runs = [api.create_run(experiment) for _ in range(2)]
    client.delete_run(runs[0])
    client.delete_experiment(experiment)
    assert {api.run_data(r)["info"]["lifecycle_stage"] for r in runs} == {"deleted"}
    client.restore_experiment(experiment)
    assert {api.run_data(r)["info"]["lifecycle_stage"] for r in runs} == {"active"}


@covers("search-grammar", "search-missing")
def test_null_like_and_lists(api: Api, experiment: str) -> None:
    runs = [api.create_run(experiment) for _ in range(3)]
    for run, value in zip(runs, ("Alpha", "alpine", "beta"), strict=True):
        api.post("runs/log-parameter", run_id=run, key="p", value=value)
    api.post("runs/set-tag", run_id=runs[0], key="t", value="it's")

    def found(text: str) -> set[int]:
        page = api.post("runs/search", experiment_ids=[experiment], filter=text)
        return {runs.index(r["info"]["run_id"]) for r in page.get("runs", [])}

    assert found("params.p LIKE 'al%'") == {1}
    assert found("params.p ILIKE 'AL%'") == {0, 1}
    assert found("tags.t IS NULL") == {1, 2}
    assert found("tag.t IS NOT NULL AND params.p = 'Alpha'") == {0}
    assert found("tags.t != 'x'") == {0}
    assert found('tags."t" = "it\'s"') == {0}
    assert found(f"run_id IN ('{runs[0]}', '{runs[2]}')") == {0, 2}
    assert found(f"attr.run_id NOT IN ('{runs[0]}')") == {1, 2}
    # The registry has an evaluation of its own.
    prefix = unique("Case")
    api.post("registered-models/create", name=prefix)
    for text, is_found in (
        (f"name LIKE '{prefix}%'", True),
        (f"name LIKE '{prefix.lower()}%'", False),
        (f"name ILIKE '{prefix.upper()}%'", True),
    ):
        assert ("registered_models" in api.get("registered-models/search", filter=text)) is is_found
    for bad in ("params.p = 'a' OR params.p = 'b'", "(params.p = 'a')", "params.p = a"):
        assert refused(api.call("POST", "runs/search", {"filter": bad}))


@covers("search-order")
def test_nan_and_missing_come_last(api: Api, experiment: str) -> None:
    runs = [api.create_run(experiment) for _ in range(4)]
    for run, value in zip(runs, (2.0, "NaN", 1.0), strict=False):
        log(api, run, value=value)
    for direction, expected in (("ASC", [2, 0, 1, 3]), ("DESC", [0, 2, 1, 3])):
        page = api.post(
            "runs/search", experiment_ids=[experiment], order_by=[f"metrics.m {direction}"]
        )
        assert [runs.index(r["info"]["run_id"]) for r in page["runs"]] == expected


@covers("search-experiments")
def test_experiments_by_tag_and_time(api: Api, client: MlflowClient) -> None:
    team = unique("team")
    ids = [client.create_experiment(f"{team}-{i}", tags={"team": team}) for i in range(2)]
    created = api.get("experiments/get", experiment_id=ids[1])["experiment"]["creation_time"]

    def found(text: str) -> set[str]:
        page = api.post("experiments/search", max_results=10, filter=f"tags.team = '{team}'" + text)
        return {e["experiment_id"] for e in page.get("experiments", [])}

    assert found("") == set(ids)
    assert found(" AND name ILIKE '%-1'") == {ids[1]}
    assert ids[1] in found(f" AND creation_time >= {created}")
    assert found(" AND last_update_time < 5") == set()


@covers("model-timestamps", "latest-versions")
def test_a_change_of_a_version_is_one_of_its_model(
    api: Api, client: MlflowClient, model: str, run: str
) -> None:
    def updated() -> int:
        found = api.get("registered-models/get", name=model)["registered_model"]
        return int(found["last_updated_timestamp"])

    times = [updated()]
    for _ in range(2):
        client.create_model_version(model, f"runs:/{run}/model", run)
        times.append(updated())
    client.update_model_version(model, "1", "first")
    times.append(updated())
    client.transition_model_version_stage(model, "1", "Staging")
    times.append(updated())
    client.delete_model_version(model, "1")
    times.append(updated())
    assert times == sorted(times)
    assert times[0] < times[-1]
    version = api.get("model-versions/get", name=model, version="2")["model_version"]
    (newest,) = api.get("registered-models/get", name=model)["registered_model"]["latest_versions"]
    assert newest["version"] == version["version"] == "2"


@covers("registry-search")
def test_several_tags_are_anded(api: Api, client: MlflowClient, model: str, run: str) -> None:
    for tags in ({"a": "1", "b": "1"}, {"a": "1"}, {"b": "1"}):
        client.create_model_version(model, f"runs:/{run}/model", run, tags=tags)
    text = f"name = '{model}' AND tags.a = '1' AND tags.b = '1'"
    found = api.get("model-versions/search", filter=text)["model_versions"]
    assert [v["version"] for v in found] == ["1"]


@covers("registry-prompts")
def test_prompts_are_found_only_when_asked_for(api: Api) -> None:
    prefix = unique("prompt")
    tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    api.post("registered-models/create", name=f"{prefix}-p", tags=tags)
    api.post("registered-models/create", name=f"{prefix}-m")
    mine = f"name LIKE '{prefix}%'"

    def found(text: str) -> list[str]:
        page = api.get("registered-models/search", filter=text)
        return [m["name"].removeprefix(prefix) for m in page.get("registered_models", [])]

    assert found(mine) == ["-m"]
    assert found(f"{mine} AND tags.`mlflow.prompt.is_prompt` = 'true'") == ["-p"]
    assert found(f"{mine} AND tags.`mlflow.prompt.is_prompt` != 'true'") == ["-m"]


@covers("version-source-models")
def test_a_version_of_a_version_has_its_files(
    api: Api, client: MlflowClient, experiment: str, model: str, run: str
) -> None:
    source = f"mlflow-artifacts:/{experiment}/{run}/artifacts/model"
    client.create_model_version(model, source, run)
    copy = unique("copy")
    client.create_registered_model(copy)
    api.post("model-versions/create", name=copy, source=f"models:/{model}/1", run_id=run)
    answer = api.get("model-versions/get-download-uri", name=copy, version="1")
    assert answer["artifact_uri"] == source


@covers("server-version", "server-health")
def test_version_and_health(api: Api) -> None:
    version = requests.get(f"{api.uri}/version", timeout=10)
    assert version.status_code == 200
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.text)
    assert tuple(map(int, version.text.split("."))) >= (3, 4, 0)
    health = requests.get(f"{api.uri}/health", timeout=10)
    assert (health.status_code, health.text) == (200, "OK")


@covers("history-bulk", "json-non-finite")
def test_bulk_history_has_bare_words(api: Api, run: str) -> None:
    log(api, run, value="NaN")
    answer = requests.get(
        f"{api.uri}/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        params={"run_id": run, "metric_key": "m"},
        timeout=10,
    )
    assert re.search(r'"value":\s*NaN', answer.text)
    assert math.isnan(answer.json()["metrics"][0]["value"])
