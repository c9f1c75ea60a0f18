"""Where a model version comes from, and what came from a run, a data set or a commit."""

import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import from_pandas
from sklearn.linear_model import LogisticRegression

from support import client_3, unique

pytestmark = pytest.mark.runledger
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
FRAME = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 0, 1, 1]})


def ask(server: str, path: str, **query: str | int) -> Any:
    answer = requests.get(f"{server}/api/v1/{path}", params=query, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@client_3("logged models")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lineage_both_ways(client: MlflowClient, server: str, model: str, tmp_path: Path) -> None:
    experiment = mlflow.set_experiment(unique("lineage")).experiment_id
    data = from_pandas(FRAME, source="https://example.com/digits.csv", name=unique("digits"))
    with mlflow.start_run(tags={"mlflow.source.git.commit": COMMIT}) as started:
        mlflow.log_input(data, context="training")
        mlflow.log_params({"depth": 2})
        fitted = LogisticRegression().fit(FRAME[["x"]], FRAME["y"])
        logged = mlflow.sklearn.log_model(fitted, name="line", registered_model_name=model)
    run, model_id = started.info.run_id, logged.model_id
    client.transition_model_version_stage(model, "1", "Production")
    client.set_registered_model_alias(model, "champion", "1")
    moment = datetime.now(timezone.utc).isoformat()

    # Since then another version is in Production, and the run has another tag.
    client.create_model_version(model, "s3://elsewhere/model")
    client.transition_model_version_stage(model, "2", "Production", archive_existing_versions=True)
    client.set_tag(run, "note", "since")

    then = ask(server, f"models/{model}/lineage", stage="Production", as_of=moment)
    assert then["model_version"]["version"] == "1"
    assert then["put_by"]["action"] == "model_version_stage_set"
    assert then["run"]["run_id"] == run
    assert then["run"]["status"] == "FINISHED"
    assert then["run"]["changed_since"] is True
    assert {p["key"]: p["value"] for p in then["run"]["parameters"]} == {"depth": "2"}
    assert "note" not in [t["key"] for t in then["run"]["tags"]]
    [read] = then["run"]["datasets"]
    assert (read["name"], read["digest"], read["context"]) == (data.name, data.digest, "training")
    assert [m["model_id"] for m in then["run"]["models_out"]] == [model_id]
    assert then["code"]["git_commit"] == COMMIT
    assert then["logged_model"]["model_id"] == model_id
    assert then["logged_model"]["status"] == "READY"
    files = {f["path"]: f for f in then["environment"]["files"]}
    assert {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"} <= set(files)
    uri = f"{client.get_logged_model(model_id).artifact_location}/MLmodel"
    here = mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))
    assert files["MLmodel"]["sha256"] == hashlib.sha256(Path(here).read_bytes()).hexdigest()
    assert then["truncated"] == []

    now = ask(server, f"models/{model}/lineage", stage="Production")
    assert (now["model_version"]["version"], now["replaced"], now["run"]) == ("2", ["1"], None)

    # And back.
    for question in (
        {"run_id": run},
        {"dataset_digest": data.digest, "dataset_name": data.name},
        {"commit": COMMIT, "max_results": 1},
        {"model_id": model_id},
    ):
        came = ask(server, "lineage", **question)
        assert [m["model_id"] for m in came["logged_models"]] == [model_id]
        assert [r["run_id"] for r in came["runs"]] == ([] if "model_id" in question else [run])
        [version] = came["model_versions"]
        assert (version["name"], version["version"], version["current_stage"]) == (
            model,
            "1",
            "Archived",
        )
        assert version["aliases"] == ["champion"]
    assert client.get_run(run).info.experiment_id == experiment
