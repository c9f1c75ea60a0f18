"""The same requests to MLflow's own server and to Runledger: every difference between the answers
is explained in explained.json, or a failure. So is an explanation of what does not differ any more.

`pytest --write` brings explained.json up to date, for review: it takes out what does not differ any
more, and puts in what is not explained, without a reason, which somebody has to write.
"""

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from answer import Difference, Names, compare
from scenario import Scenario, scenarios
from servers import Mlflow

from support import Runledger, unique

SCENARIOS = list(scenarios())


EXPLAINED = Path(__file__).parent / "explained.json"


@dataclass
class Explanations:
    """Why answers differ, as explained.json says it of each pair of a request and a difference.

    A request is named by its scenario and its text, and by its number where a scenario has the
    same one again. Below it are the places where the answers differ, each with what MLflow has
    there and what Runledger has. Nothing there is a pattern: another difference at the same place
    is not explained."""

    entries: list[dict[str, Any]]
    seen: set[tuple[str, str]] = field(default_factory=set)
    new: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def explain(self, request: str, difference: Difference) -> bool:
        """Whether it is explained, and if not, it is remembered as new."""
        values = [difference.mlflow, difference.runledger]
        for entry in self.entries:
            known = entry["answers"].get(request, {}).get(difference.at)
            if json.dumps(known) == json.dumps(values):
                self.seen.add((request, difference.at))
                return True
        self.new.setdefault(request, {})[difference.at] = values
        return False

    def stale(self) -> list[str]:
        """What is explained and does not differ like that any more."""
        return [
            f"{entry['why']}: {request}: {at}"
            for entry in self.entries
            for request, places in entry["answers"].items()
            for at in places
            if (request, at) not in self.seen
        ]

    def write(self) -> None:
        """Writes explained.json without what is stale, and with what is new for somebody to
        explain, or to mend."""
        for entry in self.entries:
            for request, places in entry["answers"].items():
                for at in [at for at in places if (request, at) not in self.seen]:
                    del places[at]
            entry["answers"] = {r: places for r, places in entry["answers"].items() if places}
        entries = [e for e in self.entries if e["answers"]]
        if self.new:
            entries.append({"why": "", "answers": self.new})
        EXPLAINED.write_text("[\n" + ",\n".join(map(lines, entries)) + "\n]\n")


def lines(entry: dict[str, Any]) -> str:
    """An entry of explained.json, a line for each request."""
    answers = ",\n".join(
        f"  {json.dumps(request, ensure_ascii=False)}:\n   {json.dumps(places, ensure_ascii=False)}"
        for request, places in entry["answers"].items()
    )
    return f' {{"why": {json.dumps(entry["why"])}, "answers": {{\n{answers}\n }}}}'


@dataclass
class Sides:
    """Both servers, and what is known of how they differ."""

    uris: tuple[str, str]
    directories: tuple[str, str]
    explanations: Explanations
    played: set[str] = field(default_factory=set)


@pytest.fixture(scope="session")
def sides(servers: tuple[Mlflow, Runledger]) -> Sides:
    mlflow, runledger = servers
    directories = (str(mlflow.directory), str(runledger.data))
    explanations = Explanations(json.loads(EXPLAINED.read_text()))
    return Sides((mlflow.uri, runledger.uri), directories, explanations)


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
    names = [Names(uri, d) for uri, d in zip(sides.uris, sides.directories, strict=True)]
    known: list[dict[str, str]] = [{}, {}]
    sent: Counter[str] = Counter()
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
            sent[str(request)] += 1
            again = f" ({sent[str(request)]})" if sent[str(request)] > 1 else ""
            where = f"{scenario.name} | {request}{again}"
            found = [d for d in compare(*answers) if not sides.explanations.explain(where, d)]
            if found:
                unexplained += [where, *(f"    {d}" for d in found)]
    sides.played.add(scenario.name)
    if unexplained:
        pytest.fail("\n".join(["unexplained differences:", *unexplained]), pytrace=False)


def test_explanations_are_of_what_differs(sides: Sides, pytestconfig: pytest.Config) -> None:
    if sides.played != {s.name for s in SCENARIOS}:
        pytest.skip("not all scenarios were played")
    stale = sides.explanations.stale()
    if pytestconfig.getoption("--write"):
        sides.explanations.write()
    assert not stale, "\n".join(["explanations of what does not differ like that:", *stale])


def test_every_difference_has_one_explanation() -> None:
    entries = json.loads(EXPLAINED.read_text())
    assert all(e["why"] for e in entries), "explained.json has differences that nobody explained"
    pairs = [(r, at) for e in entries for r, places in e["answers"].items() for at in places]
    assert len(pairs) == len(set(pairs))


def test_only_the_difference_that_was_seen_is_explained() -> None:
    def explained(request: str, difference: Difference) -> bool:
        answers = {"runs: get | GET runs/get": {"body.a": [1, "x"]}}
        return Explanations([{"why": "a reason", "answers": answers}]).explain(request, difference)

    assert explained("runs: get | GET runs/get", Difference("body.a", 1, "x"))
    assert not explained("runs: get | GET runs/get (2)", Difference("body.a", 1, "x"))
    assert not explained("runs: get | GET runs/get", Difference("body.b", 1, "x"))
    assert not explained("runs: get | GET runs/get", Difference("body.a", 1.0, "x"))
    assert not explained("runs: get | GET runs/get", Difference("body.a", 1, "y"))


def test_there_are_enough_requests() -> None:
    assert sum(len(s.requests) for s in SCENARIOS) >= 1400
