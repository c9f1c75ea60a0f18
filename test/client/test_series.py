"""Series as pyarrow reads them, beside the same answer in JSON."""

import json
import math
from typing import Any

import pyarrow as pa
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Metric

from support import client_3

pytestmark = client_3("pyarrow beside it that these tests use")
ARROW = "application/vnd.apache.arrow.stream"


def plain(values: Any) -> Any:
    """JSON's strings for what it has no number for, as numbers."""
    if isinstance(values, list):
        return [plain(v) for v in values]
    return float(values) if values in ("NaN", "Infinity", "-Infinity") else values


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


@pytest.mark.runledger
def test_pyarrow_reads_what_json_says(server: str, client: MlflowClient, run: str) -> None:
    values = [math.sin(i) / 3 for i in range(500)]
    values[7], values[8], values[9] = math.nan, math.inf, -math.inf
    client.log_batch(run, [Metric("loss", v, 1000 + i, i) for i, v in enumerate(values)])
    client.log_batch(run, [Metric("short", v, 1000 + i, i) for i, v in enumerate(values[:20])])
    body = {
        "run_ids": [run],
        "metric_keys": ["loss", "short"],
        "columns": 50,
        "smoothing": {"method": "ema", "weight": 0.6},
    }
    url = f"{server}/api/v1/series"
    answer = requests.post(url, json=body, timeout=60).json()
    response = requests.post(url, json=body, headers={"Accept": ARROW}, timeout=60)
    assert response.headers["Content-Type"] == ARROW, response.text
    with pa.ipc.open_stream(response.content) as reader:
        table = reader.read_all()

    assert json.loads(table.schema.metadata[b"frame"]) == answer["frame"]
    assert table.schema.field("first_x").metadata == {b"unit": b"steps"}
    by_key = {row["metric_key"]: row for row in table.to_pylist()}
    assert len(by_key) == len(answer["series"]) == 2
    for series in answer["series"]:
        row = {k: v for k, v in by_key[series["metric_key"]].items() if v is not None}
        assert row.keys() == series.keys()
        for name, want in series.items():
            assert same(plain(want), row[name]), name
