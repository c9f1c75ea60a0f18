"""Answers without what each server may choose, and the differences between two of them."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

NOW = "<now>"
ABSENT = "<absent>"
SHOWN = 400
REFUSED = 400
DAY_MILLISECONDS = 24 * 60 * 60 * 1000
ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}(-?)(?:[0-9a-f]{4}\1){3}[0-9a-f]{12}(?![0-9a-f])")
MOMENT = re.compile(r"(?<!\d)\d{13}(?!\d)")
TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)
LOCATION = re.compile(r"(?<=mlflow-artifacts:/)[1-9]\d*(?=/|$)")
# What a page token of another search says of that one, which has the ids of its experiments.
DIGEST = re.compile(r'(?<=parsed value=\{")[\w-]{16}(?=")')
STATEMENT = re.compile(r"\[SQL: .*", re.DOTALL)
SET = re.compile(r"\{('[^{}]*')\}")
# MLflow numbers its names from 0 to 1000, both included.
RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-(?:\d{1,3}|1000)")
UNORDERED = ("tags", "params", "aliases")
# MLflow's classes of errors for its vendor's dashboards, which its clients derive from the code.
CLASSES = ("sqlstate", "error_class")
HEADERS = ("Content-Disposition", "X-Content-Type-Options", "X-Frame-Options", "Content-Range")


@dataclass
class Names:
    """Names for what a server chose in the course of a scenario: its first id, its second, …"""

    uri: str
    directory: str
    ids: dict[str, str] = field(default_factory=dict)
    experiments: dict[str, str] = field(default_factory=dict)

    def skip(self, other: "Names") -> None:
        """Leaves out the names of ids that only the other server chose."""
        for name in list(other.ids.values())[len(self.ids) :]:
            self.ids[f"not {name}"] = name

    def text(self, text: str) -> str:
        # Python prints sets in any order.
        text = SET.sub(lambda m: "{" + ", ".join(sorted(m[1].split(", "))) + "}", text)
        text = ID.sub(lambda m: self.ids.setdefault(m[0], f"<id {len(self.ids) + 1}>"), text)
        text = LOCATION.sub(lambda m: self.experiment(m[0]), text)
        text = DIGEST.sub("<digest>", text)
        text = MOMENT.sub(lambda m: str(now_or(int(m[0]))), text)
        return text.replace(self.uri, "<server>").replace(self.directory, "<directory>")

    def experiment(self, number: str) -> str:
        """The name of an experiment, whose number depends on what other scenarios made."""
        return self.experiments.setdefault(number, f"<experiment {len(self.experiments) + 1}>")

    def json(self, value: Any, key: str = "") -> Any:
        """`value` under `key`, with names for what the server chose."""
        if isinstance(value, dict):
            named = {self.text(k): self.json(v, k) for k, v in value.items()}
            # There are no workspaces, as server-info says.
            if named.get("workspace") == "default":
                del named["workspace"]
            # The metrics of a run, unlike those of a history, come in no order.
            if key == "data" and "metrics" in named:
                named["metrics"].sort(key=json.dumps)
            return named
        if isinstance(value, list):
            items = [self.json(item, key) for item in value]
            return sorted(items, key=json.dumps) if key in UNORDERED else items
        if isinstance(value, str):
            if key in ("run_name", "name", "value") and RANDOM_NAME.fullmatch(value):
                return "<random name>"
            if key == "experiment_id" and value != "0":
                return self.experiment(value)
            if key == "next_page_token":
                return "<token>"
            return self.text(value)
        if isinstance(value, int) and ("time" in key):
            return now_or(value)
        return value

    def answer(self, response: requests.Response) -> dict[str, Any]:
        """All of an answer that is compared. An error is one text."""
        kind = response.headers.get("Content-Type", "").split(";")[0]
        try:
            body = self.json(json.loads(response.text)) if kind == "application/json" else None
        except ValueError:
            body = None
        if body is None:
            body = self.text(response.text)
        answer = {"status": response.status_code, "type": kind, "body": body}
        if response.status_code >= REFUSED:
            answer = {"answer": refusal(response.status_code, kind, body)}
        answer.update({h: response.headers[h] for h in HEADERS if h in response.headers})
        return answer


def now_or(milliseconds: int) -> int | str:
    """The time, or NOW if it is about now."""
    near = abs(milliseconds - time.time() * 1000) < DAY_MILLISECONDS
    return NOW if near else milliseconds


def refusal(status: int, kind: str, body: Any) -> str:
    """An error as a text: status, code and message, or what else there is."""
    if isinstance(body, dict) and {*body} - {*CLASSES} == {"error_code", "message"}:
        # The statement that failed has values that MLflow made up.
        message = STATEMENT.sub("[SQL…]", body["message"])
        return f"{status} {body['error_code']}: {message}"
    if isinstance(body, str) and (title := TITLE.search(body)):
        body = title[0]
    return f"{status} {kind} {body if isinstance(body, str) else json.dumps(body)}"


@dataclass(frozen=True)
class Difference:
    """What two answers have at one place: JSON values, or ABSENT."""

    at: str
    mlflow: Any
    runledger: Any

    def __str__(self) -> str:
        return json.dumps({self.at: [self.mlflow, self.runledger]}, ensure_ascii=False)


def shorten(value: Any) -> Any:
    """The value, or the beginning and the digest of a long one."""
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= SHOWN:
        return value
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{text[:SHOWN]}… ({len(text)} characters, SHA-256 {digest})"


def compare(mlflow: dict[str, Any], runledger: dict[str, Any]) -> Iterator[Difference]:
    """The differences between two answers. If one of them is an error, the other is a text too:
    what was done without an error, later requests show."""
    if ("answer" in mlflow) != ("answer" in runledger):
        mlflow, runledger = (
            {"answer": a.get("answer") or str(a["status"])} for a in (mlflow, runledger)
        )
    yield from differences(mlflow, runledger)


def differences(mlflow: Any, runledger: Any, at: str = "") -> Iterator[Difference]:
    """The smallest parts that differ; 1 and 1.0 do."""
    if isinstance(mlflow, dict) and isinstance(runledger, dict):
        for key in sorted({*mlflow, *runledger}):
            path = f"{at}.{key}" if at else key
            yield from differences(mlflow.get(key, ABSENT), runledger.get(key, ABSENT), path)
    elif isinstance(mlflow, list) and isinstance(runledger, list) and len(mlflow) == len(runledger):
        for i, (a, b) in enumerate(zip(mlflow, runledger, strict=True)):
            yield from differences(a, b, f"{at}[{i}]")
    elif json.dumps(mlflow) != json.dumps(runledger):
        yield Difference(at, shorten(mlflow), shorten(runledger))
