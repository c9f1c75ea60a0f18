"""Tracing is not served. A script that traces must not notice more than a warning."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from support import client_3

SCRIPT = """
import mlflow

@mlflow.trace
def double(x):
    with mlflow.start_span("inside") as span:
        span.set_inputs({"x": x})
        span.set_outputs(2 * x)
    return 2 * x

with mlflow.start_run() as run:
    for step in range(3):
        mlflow.log_metric("doubled", double(step), step=step)
    mlflow.update_current_trace(tags={"t": "1"})
mlflow.flush_trace_async_logging()
print(run.info.run_id)
"""


@pytest.mark.runledger
@client_3("tracing")
@pytest.mark.timeout(90)
@pytest.mark.parametrize("background", ["true", "false"])
def test_traced_function_in_a_run(
    server: str, client: MlflowClient, experiment: str, tmp_path: Path, background: str
) -> None:
    # A client with its usual number of retries, which take minutes.
    environment = {
        **{k: v for k, v in os.environ.items() if k != "MLFLOW_HTTP_REQUEST_MAX_RETRIES"},
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_EXPERIMENT_ID": experiment,
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": background,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ENDPOINT_NOT_FOUND" in done.stderr
    assert "Traceback" not in done.stderr
    run = client.get_run(done.stdout.split()[-1])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "doubled")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 2.0), (2, 4.0)]
