"""Loading registered models, and prompts, which are registered models of their own kind."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel

from support import Api, client_3, program, unique


class Adder(PythonModel):
    """A model that adds what it was made with."""

    def __init__(self, summand: int) -> None:
        self.summand = summand

    def predict(self, context: Any, model_input: list[int], params: Any = None) -> list[int]:
        del context, params
        return [x + self.summand for x in model_input]


@pytest.fixture(scope="module")
def adders(server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a model whose version n adds n."""
    mlflow.set_tracking_uri(server)
    mlflow.set_experiment(unique("adders"))
    name = unique("adder")
    MlflowClient(server).create_registered_model(name)
    for summand in (1, 2, 3):
        path = tmp_path_factory.mktemp("adder") / "model"
        mlflow.pyfunc.save_model(path, python_model=Adder(summand), pip_requirements=[])
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(path), "model")
        MlflowClient(server).create_model_version(
            name, f"{run.info.artifact_uri}/model", run.info.run_id
        )
    return name


def add(uri: str) -> int:
    return int(mlflow.pyfunc.load_model(uri).predict([0])[0])


def test_models_load_by_version_stage_alias_and_latest(client: MlflowClient, adders: str) -> None:
    client.set_registered_model_alias(adders, "champion", "1")
    client.transition_model_version_stage(adders, "2", "Production")
    assert add(f"models:/{adders}/1") == 1
    assert add(f"models:/{adders}/latest") == 3
    assert add(f"models:/{adders}/Production") == 2
    assert add(f"models:/{adders}/production") == 2
    assert add(f"models:/{adders}@champion") == 1
    client.set_registered_model_alias(adders, "champion", "3")
    client.transition_model_version_stage(adders, "1", "Production", archive_existing_versions=True)
    assert add(f"models:/{adders}@champion") == 3
    assert add(f"models:/{adders}/Production") == 1
    assert client.get_model_version(adders, "2").current_stage == "Archived"
    with pytest.raises(MlflowException, match="not found"):
        add(f"models:/{adders}@nobody")
    with pytest.raises(MlflowException, match="Staging"):
        add(f"models:/{adders}/Staging")
    with pytest.raises(MlflowException, match="not found"):
        add(f"models:/{adders}/99")


def test_a_copy_of_a_version_loads(client: MlflowClient, adders: str) -> None:
    target = unique("copy")
    client.set_registered_model_alias(adders, "source", "2")
    copy = client.copy_model_version(f"models:/{adders}@source", target)
    assert (copy.name, str(copy.version)) == (target, "1")
    assert copy.source == f"models:/{adders}/2"
    assert copy.run_id == client.get_model_version(adders, "2").run_id
    assert str(client.copy_model_version(f"models:/{adders}/3", target).version) == "2"
    assert str(client.copy_model_version(f"models:/{target}/1", target).version) == "3"
    assert [add(f"models:/{target}/{n}") for n in (1, 2, 3)] == [2, 3, 2]
    # A copy stays when what it was made from goes.
    client.delete_model_version(target, "1")
    assert add(f"models:/{target}/3") == 2
    with pytest.raises(MlflowException, match="not found"):
        client.copy_model_version(f"models:/{adders}/99", target)


def rollback(server: str, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [program(), "registry", "rollback", "--server", server, *args],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


@pytest.mark.runledger
def test_a_rollback_brings_back_what_an_alias_loads(
    client: MlflowClient, server: str, adders: str
) -> None:
    name = unique("rolled")
    for n in (1, 2):
        client.copy_model_version(f"models:/{adders}/{n}", name)
    client.set_registered_model_alias(name, "champion", "1")
    client.transition_model_version_stage(name, "1", "Production")
    history = requests.get(f"{server}/api/v1/models/{name}/history", timeout=60).json()
    good, when = str(history["entries"][-1]["seq"]), str(history["entries"][-1]["time"])
    client.set_registered_model_alias(name, "champion", "2")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
    client.delete_model_version(name, "1")
    assert add(f"models:/{name}@champion") == 2

    then = requests.get(
        f"{server}/api/2.0/mlflow/registered-models/alias",
        params={"name": name, "alias": "champion", "as_of": when},
        timeout=60,
    )
    assert then.json()["model_version"]["version"] == "1"
    assert then.headers["Runledger-As-Of"] == good

    refused = rollback(server, name, "--to", good, "--reason", "worse")
    assert refused.returncode == 1
    assert f"version 1 of '{name}'" in refused.stderr
    plan = rollback(server, name, "--to", good, "--restore", "--dry-run")
    assert (plan.returncode, plan.stderr) == (0, "")
    assert add(f"models:/{name}@champion") == 2
    done = rollback(server, name, "--to", when, "--restore", "--reason", "worse")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(plan.stdout)
    assert add(f"models:/{name}@champion") == 1
    assert add(f"models:/{name}/Production") == 1
    assert client.get_model_version(name, "2").current_stage == "None"

    undo = re.search(r"roll back to entry (\d+)", done.stdout)
    assert undo is not None
    again = rollback(server, name, "--to", undo.group(1), "--reason", "it was not worse")
    assert (again.returncode, again.stderr) == (0, "")
    assert add(f"models:/{name}@champion") == 2
    assert add(f"models:/{name}/Production") == 2
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version(name, "1")
    nothing = rollback(server, name, "--to", undo.group(1), "--reason", "again")
    assert nothing.stdout.startswith("Nothing to change")


def test_a_deleted_version_is_nowhere(client: MlflowClient, model: str, run: str) -> None:
    source = f"runs:/{run}/model"
    for _ in range(2):
        client.create_model_version(model, source, run, tags={"kept": "no"})
    client.set_registered_model_alias(model, "gone", "2")
    client.transition_model_version_stage(model, "2", "Staging")
    client.delete_model_version(model, "2")
    assert client.get_registered_model(model).aliases == {}
    assert [str(v.version) for v in client.search_model_versions(f"run_id = '{run}'")] == ["1"]
    assert client.get_latest_versions(model, ["Staging"]) == []
    calls: list[Callable[[], Any]] = [
        lambda: client.get_model_version(model, "2"),
        lambda: client.get_model_version_download_uri(model, "2"),
        lambda: client.update_model_version(model, "2", "d"),
        lambda: client.set_model_version_tag(model, "2", "k", "v"),
        lambda: client.delete_model_version_tag(model, "2", "kept"),
        lambda: client.set_registered_model_alias(model, "again", "2"),
        lambda: client.transition_model_version_stage(model, "2", "Production"),
        lambda: client.delete_model_version(model, "2"),
    ]
    for call in calls:
        with pytest.raises(MlflowException, match="not found") as raised:
            call()
        assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    assert str(client.create_model_version(model, source, run).version) == "3"


def test_a_renamed_model_takes_all_along(client: MlflowClient, model: str, run: str) -> None:
    client.create_model_version(model, f"runs:/{run}/model", run, tags={"k": "v"})
    client.set_registered_model_tag(model, "a", "b")
    client.transition_model_version_stage(model, "1", "Production")
    before = client.get_model_version(model, "1")
    new = unique("renamed")
    client.rename_registered_model(model, new)
    renamed = client.get_registered_model(new)
    assert (renamed.name, renamed.tags) == (new, {"a": "b"})
    after = client.get_model_version(new, "1")
    assert (after.tags, after.current_stage, after.source) == (
        {"k": "v"},
        "Production",
        before.source,
    )
    assert client.search_model_versions(f"name = '{model}'") == []
    assert [v.name for v in client.search_model_versions(f"name = '{new}'")] == [new]


@client_3("prompts")
def test_prompt(client: MlflowClient) -> None:
    name = unique("prompt")
    first = client.register_prompt(name, "Hello {{who}}!", "first", tags={"author": "ada"})
    assert (first.version, first.template, first.commit_message) == (1, "Hello {{who}}!", "first")
    assert first.tags == {"author": "ada"}
    second = client.register_prompt(name, "Goodbye {{who}}!")
    assert second.version == 2
    assert second.variables == {"who"}
    client.set_prompt_alias(name, "production", 1)
    for uri, version in [
        (f"prompts:/{name}/1", 1),
        (f"prompts:/{name}/2", 2),
        (f"prompts:/{name}@production", 1),
        (f"prompts:/{name}@latest", 2),
    ]:
        assert client.load_prompt(uri).version == version
    assert client.load_prompt(name).version == 2
    assert client.load_prompt(f"prompts:/{name}@production").format(who="you") == "Hello you!"
    assert client.load_prompt(f"prompts:/{name}/1").aliases == ["production"]
    assert client.load_prompt(f"prompts:/{name}/3", allow_missing=True) is None
    client.delete_prompt_alias(name, "production")
    assert client.load_prompt(f"prompts:/{name}@production", allow_missing=True) is None

    client.set_prompt_version_tag(name, 1, "seen", "yes")
    assert client.load_prompt(f"prompts:/{name}/1").tags == {"author": "ada", "seen": "yes"}
    client.delete_prompt_version_tag(name, 1, "seen")
    assert client.load_prompt(f"prompts:/{name}/1").tags == {"author": "ada"}
    client.set_prompt_tag(name, "team", "x")
    prompt = client.get_prompt(name)
    assert prompt is not None
    assert prompt.tags["team"] == "x"
    client.delete_prompt_tag(name, "team")

    client.delete_prompt_version(name, "1")
    assert client.load_prompt(f"prompts:/{name}/1", allow_missing=True) is None
    third = client.register_prompt(name, "Again {{who}}!")
    assert third.version == 3


@client_3("prompts")
def test_prompts_are_not_models(client: MlflowClient, api: Api) -> None:
    mark = unique("mark")
    prompt, model = f"{mark}-p", f"{mark}-m"
    client.register_prompt(prompt, "text", tags={"mark": mark})
    client.create_registered_model(model, tags={"mark": mark})
    client.create_model_version(model, "s3://bucket/model")

    def names(filter_string: str) -> list[str]:
        return [str(m.name) for m in client.search_registered_models(filter_string)]

    like = f"name LIKE '{mark}%'"
    is_prompt = "tags.`mlflow.prompt.is_prompt`"
    assert names(like) == [model]
    assert names(f"{like} AND {is_prompt} = 'true'") == [prompt]
    assert names(f"{like} AND {is_prompt} != 'true'") == [model]
    assert names(f"{like} AND {is_prompt} = 'false'") == [model]
    assert [p.name for p in client.search_prompts(like)] == [prompt]
    assert [p.name for p in client.search_prompts(f"name = '{prompt}'")] == [prompt]
    assert [v.name for v in client.search_model_versions(like)] == [model]
    assert [
        v.name for v in client.search_model_versions(f"name = '{prompt}' AND {is_prompt} = 'true'")
    ] == [prompt]
    with pytest.raises(MlflowException, match="same name"):
        client.register_prompt(model, "text")
    with pytest.raises(MlflowException, match="name is already taken by a prompt"):
        client.create_registered_model(prompt)
    answer = api.call(
        "POST", "model-versions/create", {"name": model, "source": f"models:/{prompt}/1"}
    )
    assert "Prompt versions cannot be used as model version sources" in answer.json()["message"]
    answer = api.call(
        "POST",
        "model-versions/create",
        {
            "name": prompt,
            "source": "s3://bucket/model",
            "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}],
        },
    )
    assert "Prompt sources must use an MLflow placeholder" in answer.json()["message"]


@client_3("prompts")
def test_a_prompt_of_messages_keeps_its_form(client: MlflowClient) -> None:
    name = unique("chat")
    messages = [
        {"role": "system", "content": "You answer about {{topic}}, größer & <kleiner>."},
        {"role": "user", "content": "{{question}}"},
    ]
    client.register_prompt(name, messages, response_format={"type": "object"})
    read = client.load_prompt(f"prompts:/{name}/1")
    assert read.template == messages
    assert read.response_format == {"type": "object"}
    assert not read.is_text_prompt


@client_3("prompts")
def test_a_prompt_takes_text_up_to_mlflows_limit(client: MlflowClient) -> None:
    name = unique("long")
    text = "ä" * 100_000
    assert client.register_prompt(name, text).template == text
    assert client.load_prompt(f"prompts:/{name}/1").template == text
    with pytest.raises(MlflowException, match="Prompt text exceeds max length"):
        client.register_prompt(name, text + "x")
    versions = client.search_prompt_versions(name)
    assert [str(v.version) for v in versions] == ["1"]


@client_3("prompts")
def test_prompts_are_searched_in_pages(client: MlflowClient) -> None:
    mark = unique("page")
    for i in range(5):
        client.register_prompt(f"{mark}-{i}", f"text {i}")
    found: list[str] = []
    token = None
    while True:
        page = client.search_prompts(f"name LIKE '{mark}%'", max_results=2, page_token=token)
        found += [str(p.name) for p in page]
        token = page.token
        if not token:
            break
    assert found == [f"{mark}-{i}" for i in range(5)]


@client_3("prompts")
def test_genai_functions_take_the_same_prompts(server: str) -> None:
    from mlflow import genai

    mlflow.set_tracking_uri(server)
    name = unique("genai")
    genai.register_prompt(name=name, template="Sum {{x}} up", commit_message="one")
    genai.register_prompt(name=name, template="Sum {{x}} up, briefly", commit_message="two")
    genai.set_prompt_alias(name, "best", 2)
    assert genai.load_prompt(f"prompts:/{name}@best").format(x="it") == "Sum it up, briefly"
    assert name in [p.name for p in genai.search_prompts(f"name = '{name}'")]
    genai.delete_prompt_alias(name, "best")
    assert genai.load_prompt(f"prompts:/{name}@best", allow_missing=True) is None


@client_3("prompts")
def test_a_prompt_with_versions_is_deleted_version_by_version(client: MlflowClient) -> None:
    name = unique("prompt")
    client.register_prompt(name, "text")
    client.register_prompt(name, "more")
    client.delete_prompt_version(name, "1")
    client.delete_prompt_version(name, "2")
    client.delete_prompt(name)
    assert client.get_prompt(name) is None
    client.register_prompt(name, "anew")
    assert client.load_prompt(f"prompts:/{name}/1").template == "anew"


@client_3("prompts")
def test_a_prompt_is_linked_to_a_run(client: MlflowClient, run: str) -> None:
    name = unique("linked")
    prompt = client.register_prompt(name, "text")
    client.link_prompt_version_to_run(run, prompt)
    assert name in client.get_run(run).data.tags["mlflow.linkedPrompts"]


@pytest.mark.runledger
def test_a_change_is_made_only_on_the_state_it_was_decided_on(
    client: MlflowClient, api: Api, model: str, run: str
) -> None:
    client.create_model_version(model, f"runs:/{run}/model", run)
    seen = api.call("GET", "model-versions/get", {"name": model, "version": "1"})
    seq = seen.headers["Runledger-Seq"]

    def promote(stage: str) -> int:
        answer = requests.post(
            f"{api.uri}/api/2.0/mlflow/model-versions/transition-stage",
            json={"name": model, "version": "1", "stage": stage},
            headers={"Runledger-Expect-Seq": seq},
            timeout=60,
        )
        if answer.status_code != 200:
            assert answer.json()["error_code"] == "RESOURCE_CONFLICT"
        return answer.status_code

    assert promote("Production") == 200
    assert promote("Archived") == 409
    assert client.get_model_version(model, "1").current_stage == "Production"


def test_source_of_a_version_is_checked(client: MlflowClient, model: str, tmp_path: Path) -> None:
    for source in (str(tmp_path), f"file://{tmp_path}", "mlflow-artifacts:/../x", "runs:/x/model"):
        with pytest.raises(MlflowException, match="Invalid model version source") as raised:
            client.create_model_version(model, source)
        assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert client.search_model_versions(f"name = '{model}'") == []
