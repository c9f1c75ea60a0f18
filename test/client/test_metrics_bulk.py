import math
from typing import Any

import pytest
import requests
from conformance import covers
from mlflow import MlflowClient
from mlflow.entities import Metric

from support import SEE_DOCS, Api

INTERVAL = "metrics/get-history-bulk-interval"


def log(client: MlflowClient, run: str, *points: tuple[int, int, float]) -> None:
    for start in range(0, len(points), 1000):
        chunk = points[start : start + 1000]
        client.log_batch(run, metrics=[Metric("m", v, ts, step) for ts, step, v in chunk])


def bulk(api: Api, **query: Any) -> requests.Response:
    url = f"{api.uri}/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    return requests.get(url, params=query, timeout=60)


def steps(answer: Any, run: str) -> list[int]:
    return [m["step"] for m in answer.get("metrics", []) if m["run_id"] == run]


def runs_of(client: MlflowClient, experiment: str, n: int) -> list[str]:
    return [str(client.create_run(experiment).info.run_id) for _ in range(n)]


@covers("history-bulk-interval")
@pytest.mark.parametrize(
    ("points", "limit", "expected"),
    [
        (0, 5, []),
        (1, 1, [0]),
        (2, 1, [1]),
        (5, 5, [0, 1, 2, 3, 4]),
        (5, 9, [0, 1, 2, 3, 4]),
        (10, 3, [0, 4, 9]),
        (10, 4, [0, 3, 6, 9]),
        (11, 2, [0, 10]),
        (7, 5, [0, 2, 4, 5, 6]),
    ],
)
def test_sample_is_of_equal_parts_and_the_last(
    client: MlflowClient, api: Api, run: str, points: int, limit: int, expected: list[int]
) -> None:
    log(client, run, *[(100 - i, i, i / 2) for i in range(points)])
    answer = api.get(INTERVAL, run_ids=[run], metric_key="m", max_results=limit)
    assert steps(answer, run) == expected


def test_sample_counts_points_not_steps(client: MlflowClient, api: Api, run: str) -> None:
    log(client, run, *[(i, 0, float(i)) for i in range(100)])
    answer = api.get(INTERVAL, run_ids=[run], metric_key="m", max_results=5)
    assert [m["value"] for m in answer["metrics"]] == [0, 20, 40, 60, 99]


@covers("history-bulk-interval")
def test_interval_of_steps(client: MlflowClient, api: Api, run: str) -> None:
    log(client, run, *[(i, i, float(i)) for i in range(-50, 50) if i >= 0] + [(1, -7, 1.0)])
    answer = api.get(
        INTERVAL, run_ids=[run], metric_key="m", start_step=-7, end_step=20, max_results=3
    )
    assert steps(answer, run) == [-7, 7, 20]


def test_runs_come_as_they_are_asked_for(client: MlflowClient, api: Api, experiment: str) -> None:
    first, second, empty = runs_of(client, experiment, 3)
    for run in (first, second):
        log(client, run, (1, 1, math.nan), (2, 2, 2.0))
    answer = api.get(INTERVAL, run_ids=[second, empty, first], metric_key="m")
    assert [(m["run_id"], m["step"], m["value"]) for m in answer["metrics"]] == [
        (second, 1, "NaN"),
        (second, 2, 2.0),
        (first, 1, "NaN"),
        (first, 2, 2.0),
    ]
    assert set(answer["metrics"][0]) == {"key", "value", "timestamp", "step", "run_id"}


@covers("history-bulk-interval")
def test_interval_defaults_to_2500_points(client: MlflowClient, api: Api, run: str) -> None:
    log(client, run, *[(i, i, float(i)) for i in range(3000)])
    found = steps(api.get(INTERVAL, run_ids=[run], metric_key="m"), run)
    assert len(found) == 2500
    assert (found[0], found[-1]) == (0, 2999)


def test_interval_under_the_ajax_prefix(client: MlflowClient, api: Api, run: str) -> None:
    log(client, run, (1, 1, 1.0))
    url = f"{api.uri}/ajax-api/2.0/mlflow/{INTERVAL}"
    answer = requests.get(url, params={"run_ids": run, "metric_key": "m"}, timeout=60)
    assert steps(answer.json(), run) == [1]


@covers("history-bulk-interval")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"metric_key": "m"}, "Missing value for required parameter 'run_ids'." + SEE_DOCS),
        ({"run_ids": "x"}, "Missing value for required parameter 'metric_key'." + SEE_DOCS),
        (
            {"run_ids": ["x"] * 101, "metric_key": "m"},
            "GetMetricHistoryBulkInterval request must specify at most 100 run_ids. "
            "Received 101 run_ids." + SEE_DOCS,
        ),
        *(
            (
                {"run_ids": "x", "metric_key": "m", "max_results": n},
                "max_results must be between 1 and 2500." + SEE_DOCS,
            )
            for n in (0, -1, 2501)
        ),
        *(
            (
                {"run_ids": "x", "metric_key": "m", end: 1},
                "If either start step or end step are specified, both must be specified.",
            )
            for end in ("start_step", "end_step")
        ),
        (
            {"run_ids": "x", "metric_key": "m", "start_step": 2, "end_step": 1},
            "end_step must be greater than start_step. Found start_step=2 and end_step=1.",
        ),
    ],
)
def test_interval_refuses(api: Api, query: dict[str, Any], message: str) -> None:
    answer = api.call("GET", INTERVAL, query)
    error = answer.json()
    assert (answer.status_code, error["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert error["message"] == message


@covers("history-bulk")
def test_bulk_history(client: MlflowClient, api: Api, experiment: str) -> None:
    runs = sorted(runs_of(client, experiment, 2))
    log(client, runs[0], (3, 1, 0.5), (1, 2, 1.0))
    log(client, runs[1], (1, 1, math.nan))
    answer = bulk(api, run_id=[runs[1], runs[0]], metric_key="m")
    assert answer.status_code == 200
    # Python reads and writes NaN bare; so does this endpoint.
    assert "NaN" in answer.text
    assert '"NaN"' not in answer.text
    (one, two, nan) = answer.json()["metrics"]
    assert one == {"key": "m", "run_id": runs[0], "step": 2, "timestamp": 1, "value": 1.0}
    assert (two["timestamp"], two["value"]) == (3, 0.5)
    assert nan["run_id"] == runs[1]
    assert math.isnan(nan["value"])


def test_bulk_history_of_nothing(api: Api, run: str) -> None:
    assert bulk(api, run_id=[run, "x"], metric_key="nothing").json() == {"metrics": []}


@covers("history-bulk")
@pytest.mark.parametrize(("asked", "got"), [(0, 0), (3, 3), (4, 4), (25001, 4)])
def test_bulk_history_is_cut_off(
    client: MlflowClient, api: Api, experiment: str, asked: int, got: int
) -> None:
    runs = runs_of(client, experiment, 2)
    for run in runs:
        log(client, run, (1, 1, 1.0), (2, 2, 2.0))
    answer = bulk(api, run_id=runs, metric_key="m", max_results=asked).json()
    assert len(answer["metrics"]) == got


@covers("history-bulk")
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "GetMetricHistoryBulk request must specify at least one run_id."),
        ({"run_id": "x"}, "GetMetricHistoryBulk request must specify a metric_key."),
        (
            {"run_id": ["x"] * 101, "metric_key": "m"},
            "GetMetricHistoryBulk request cannot specify more than 100 run_ids. "
            "Received 101 run_ids.",
        ),
    ],
)
def test_bulk_history_refuses(api: Api, query: dict[str, Any], message: str) -> None:
    answer = bulk(api, **query)
    error = answer.json()
    assert (answer.status_code, error["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert error["message"] == message
