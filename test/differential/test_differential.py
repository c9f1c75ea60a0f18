"""The same requests to MLflow's own server and to Runledger: every difference between the answers
is explained in explained.json, or a failure. So is an explanation of what does not differ any more.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from answer import Difference, Names, differences, shorten
from scenario import Scenario, scenarios
from servers import Mlflow

from support import Runledger, unique

SCENARIOS = list(scenarios())


@dataclass
class Explanation:
    """Why answers differ. `requests` are regular expressions, each of which must find a request
    whose answers differ like that, and `differences` have those of the place and both values.
    With `statuses` it is about answers with these only, and with `message` about those with which
    Runledger says so."""

    why: str
    requests: list[str]
    differences: list[list[str]]
    statuses: list[str] = field(default_factory=lambda: ["\\d+", "\\d+"])
    message: str = ""
    used: set[tuple[str, int]] = field(default_factory=set)

    def explains(self, request: str, answers: list[dict[str, Any]], difference: Difference) -> bool:
        parts = (difference.at, difference.mlflow, difference.runledger)
        found = False
        statuses = [str(a["status"]) for a in answers]
        body = answers[1]["body"]
        said = body.get("message", "") if isinstance(body, dict) else ""
        if not all(map(re.fullmatch, self.statuses, statuses)) or not re.match(self.message, said):
            return False
        for pattern in self.requests:
            if re.search(pattern, request, re.DOTALL):
                for i, patterns in enumerate(self.differences):
                    if all(
                        re.fullmatch(p, text, re.DOTALL)
                        for p, text in zip(patterns, parts, strict=True)
                    ):
                        self.used.add((pattern, i))
                        found = True
        return found

    def stale(self) -> list[str]:
        """What it says of requests or differences that nothing shows."""
        patterns, indexes = {p for p, _ in self.used}, {i for _, i in self.used}
        unused = [p for p in self.requests if p not in patterns]
        unused += [str(d) for i, d in enumerate(self.differences) if i not in indexes]
        return [f"{self.why}: {u}" for u in unused]


@dataclass
class Sides:
    """Both servers, and what is known of how they differ."""

    uris: tuple[str, str]
    explanations: list[Explanation]
    played: set[str] = field(default_factory=set)


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    directory = tmp_path_factory.mktemp("servers")
    mlflow, runledger = Mlflow(directory / "mlflow"), Runledger(directory / "runledger")
    explained = json.loads((Path(__file__).parent / "explained.json").read_text())
    mlflow.start()
    try:
        runledger.start()
        try:
            yield Sides((mlflow.uri, runledger.uri), [Explanation(**e) for e in explained])
        finally:
            status = runledger.stop()
            assert status == 0, f"exit status {status}:\n{runledger.output.read_text()}"
    finally:
        mlflow.stop()


def at(body: Any, path: str) -> str:
    """The value in an answer's body, as `run.info.run_id` or `runs.0.info` names it."""
    for part in path.split("."):
        body = body[int(part)] if isinstance(body, list) else body[part]
    return str(body)


def align(uris: tuple[str, str]) -> None:
    """Makes the next experiment have the same id on both servers: they count."""

    def create(uri: str) -> int:
        body = {"name": unique("align")}
        answer = requests.post(f"{uri}/api/2.0/mlflow/experiments/create", json=body, timeout=60)
        return int(answer.json()["experiment_id"])

    ids = [create(uri) for uri in uris]
    for uri, last in zip(uris, ids, strict=True):
        for _ in range(max(ids) - last):
            create(uri)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_answers_as_mlflow_does(sides: Sides, scenario: Scenario) -> None:
    align(sides.uris)
    names = [Names(uri) for uri in sides.uris]
    known: list[dict[str, str]] = [{}, {}]
    unexplained: list[str] = []
    with requests.Session() as session:
        for request in scenario.requests:
            answers = []
            for uri, name, values in zip(sides.uris, names, known, strict=True):
                response = request.send(session, uri, values)
                for what, path in request.remember.items():
                    # The comparison shows what is missing.
                    with contextlib.suppress(KeyError, ValueError):
                        values[what] = at(response.json(), path)
                answers.append(name.answer(response))
            names[0].skip(names[1])
            names[1].skip(names[0])
            where = f"{scenario.name} | {request}"
            found = [
                difference
                for difference in differences(answers[0], answers[1])
                if not [e for e in sides.explanations if e.explains(where, answers, difference)]
            ]
            if found:
                unexplained += [shorten(where), *map(str, found)]
    sides.played.add(scenario.name)
    if unexplained:
        pytest.fail("\n".join(["unexplained differences:", *unexplained]), pytrace=False)


def test_explanations_explain_something(sides: Sides) -> None:
    if sides.played != {s.name for s in SCENARIOS}:
        pytest.skip("not all scenarios were played")
    stale = [s for e in sides.explanations for s in e.stale()]
    assert not stale, "\n".join(["explanations of what does not differ:", *stale])


def test_there_are_enough_requests() -> None:
    assert sum(len(s.requests) for s in SCENARIOS) >= 1400
