import math

import pytest
from conformance import covers
from mlflow import MlflowClient
from mlflow.entities import Metric

from support import Api

Point = tuple[int, int, float]


def history(client: MlflowClient, run: str, key: str) -> list[Point]:
    return [(m.timestamp, m.step, m.value) for m in client.get_metric_history(run, key)]


def log(client: MlflowClient, run: str, key: str, *points: Point) -> None:
    client.log_batch(run, metrics=[Metric(key, v, ts, step) for ts, step, v in points])


@covers("history-order")
def test_history_is_ordered_by_time_step_value(client: MlflowClient, run: str) -> None:
    points = [(30, 0, 1.0), (10, 5, 2.0), (20, -7, 3.0), (10, 5, 1.0), (10, 4, 9.0), (10, 5, -4.5)]
    log(client, run, "m", *points)
    assert history(client, run, "m") == sorted(points)


def test_one_step_may_have_many_values(client: MlflowClient, run: str) -> None:
    points = [(1, 0, float(i)) for i in range(5)] + [(2, 0, float(i)) for i in range(5)]
    log(client, run, "m", *points)
    assert history(client, run, "m") == points


@covers("limit-timestamps")
def test_negative_and_large_steps(client: MlflowClient, run: str) -> None:
    points = [(1, -(2**40), 1.0), (2, -1, 2.0), (3, 2**40, 3.0)]
    log(client, run, "m", *points)
    assert history(client, run, "m") == points
    assert client.get_run(run).data.metrics == {"m": 3.0}


@covers("metric-set")
def test_repeated_point_is_one_point(client: MlflowClient, run: str) -> None:
    points = [(1, 0, 0.5), (2, 1, 0.25)]
    for _ in range(3):
        log(client, run, "m", *points)
        for timestamp, step, value in points:
            client.log_metric(run, "m", value, timestamp=timestamp, step=step)
    assert history(client, run, "m") == points


def test_values_come_back_bit_for_bit(client: MlflowClient, run: str) -> None:
    values = [0.1, -0.1, 1 / 3, 1e-300, 5e-324, 1.7976931348623157e308, 2.0**53 + 2, -12345.678]
    log(client, run, "m", *[(1000 + i, i, v) for i, v in enumerate(values)])
    assert [p[2] for p in history(client, run, "m")] == values


@covers("metric-nan")
def test_nan_is_a_value(client: MlflowClient, run: str) -> None:
    client.log_metric(run, "m", math.nan, timestamp=1, step=0)
    client.log_metric(run, "m", 1.5, timestamp=2, step=1)
    first, second = history(client, run, "m")
    assert first[:2] == (1, 0)
    assert math.isnan(first[2])
    assert second == (2, 1, 1.5)
    client.log_metric(run, "m", math.nan, timestamp=3, step=2)
    assert math.isnan(client.get_run(run).data.metrics["m"])


@covers("metric-nan", "metric-set")
def test_repeated_nan_is_one_point(client: MlflowClient, run: str) -> None:
    for _ in range(3):
        client.log_metric(run, "m", math.nan, timestamp=1, step=0)
        log(client, run, "m", (1, 0, math.nan), (1, 0, math.nan))
    (point,) = history(client, run, "m")
    assert math.isnan(point[2])


@covers("metric-infinity")
@pytest.mark.runledger
def test_infinities_are_values(client: MlflowClient, run: str) -> None:
    client.log_metric(run, "m", math.inf, timestamp=1, step=0)
    log(client, run, "m", (2, 1, -math.inf))
    client.log_metric(run, "up", math.inf, timestamp=1, step=0)
    assert history(client, run, "m") == [(1, 0, math.inf), (2, 1, -math.inf)]
    assert client.get_run(run).data.metrics == {"m": -math.inf, "up": math.inf}


@covers("metric-latest")
def test_latest_is_the_greatest_step_time_value(client: MlflowClient, run: str) -> None:
    def latest_after(timestamp: int, step: int, value: float) -> float:
        client.log_metric(run, "m", value, timestamp=timestamp, step=step)
        return float(client.get_run(run).data.metrics["m"])

    assert latest_after(1, 5, 1.0) == 1.0
    assert latest_after(99, 1, 50.0) == 1.0
    assert latest_after(2, 5, 0.5) == 0.5
    assert latest_after(2, 5, 0.7) == 0.7
    assert latest_after(2, 5, 0.1) == 0.7
    assert latest_after(0, 6, -3.0) == -3.0
    assert latest_after(1, 6, -4.0) == -4.0


@covers("read-your-writes")
def test_read_your_writes(client: MlflowClient, run: str, experiment: str) -> None:
    for step in range(200):
        client.log_metric(run, "m", step / 7, timestamp=step, step=step)
        assert client.get_run(run).data.metrics == {"m": step / 7}
        assert len(client.get_metric_history(run, "m")) == step + 1
    for i in range(50):
        client.set_tag(run, "i", str(i))
        found = client.search_runs([experiment], filter_string=f"tags.i = '{i}'")
        assert [r.info.run_id for r in found] == [run]


@covers("history-paging")
def test_history_pages(client: MlflowClient, api: Api, run: str) -> None:
    points = [(i, i, math.sin(i)) for i in range(2500)]
    for start in range(0, len(points), 1000):
        log(client, run, "m", *points[start : start + 1000])
    assert history(client, run, "m") == points

    seen: list[Point] = []
    sizes, token = [], ""
    while True:
        query = {"run_id": run, "metric_key": "m", "max_results": 1000}
        page = api.get("metrics/get-history", **query, **({"page_token": token} if token else {}))
        sizes.append(len(page["metrics"]))
        seen += [(m["timestamp"], m["step"], m["value"]) for m in page["metrics"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert sizes == [1000, 1000, 500]
    assert seen == points


@covers("json-absent-fields")
def test_history_of_nothing_is_empty(api: Api, run: str) -> None:
    assert api.get("metrics/get-history", run_id=run, metric_key="nothing") == {}


@covers("limit-names")
def test_keys_with_slashes_spaces_and_letters(client: MlflowClient, run: str) -> None:
    keys = ["val/loss", "top-1 accuracy", "a.b:c_d", "précision", "精度", "cpu/0"]
    log_all = [Metric(key, float(i), 1, 0) for i, key in enumerate(keys)]
    client.log_batch(run, metrics=log_all)
    assert client.get_run(run).data.metrics == {key: float(i) for i, key in enumerate(keys)}
    for i, key in enumerate(keys):
        assert history(client, run, key) == [(1, 0, float(i))]


@covers("json-numeric-strings")
@pytest.mark.parametrize(
    ("given", "expected"),
    [("1.5", 1.5), (True, 1.0), (3, 3.0), ("NaN", math.nan)],
)
def test_accepted_spellings_of_a_value(
    client: MlflowClient, api: Api, run: str, given: object, expected: float
) -> None:
    api.post("runs/log-metric", run_id=run, key="m", value=given, timestamp="7", step=3.0)
    ((timestamp, step, value),) = history(client, run, "m")
    assert (timestamp, step) == (7, 3)
    assert value == expected or (math.isnan(value) and math.isnan(expected))


@covers("json-unknown-fields")
def test_step_may_be_left_out_and_unknown_fields_are_ignored(
    client: MlflowClient, api: Api, run: str
) -> None:
    api.post("runs/log-metric", run_id=run, key="m", value=1, timestamp=1, later={"x": [1]})
    api.post("runs/log-batch", run_id=run, metrics=[{"key": "m", "value": 2, "timestamp": 2}])
    assert history(client, run, "m") == [(1, 0, 1.0), (2, 0, 2.0)]
