"""Scenarios: requests in the order in which they are sent, one a line.

A file in scenarios/ has JSON lines. A string names the scenario that begins there; a list is a
request: method and path, then, where it has them, the body, what to remember of the answer, and how
the request is sent.

    "a run's life"
    ["POST runs/create", {"experiment_id": "0"}, {"run": "run.info.run_id"}]
    ["GET runs/get", {"run_id": "<run>"}]
    ["POST runs/create", "{broken", {}, {"content_type": "text/plain"}]

A path without a leading slash is below /api/2.0/mlflow/. The body is the query string of a GET, and
otherwise JSON; a string is sent as it is. `<run>` stands for what was remembered as `run`,
`<a*300>` for 300 letters a, and {"repeat": 3, "item": {"key": "k<i>"}} for a list of three items.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

API = "/api/2.0/mlflow/"
TIMEOUT_SECONDS = 60
DIRECTORY = Path(__file__).parent / "scenarios"


@dataclass(frozen=True)
class Request:
    """A line of a scenario."""

    method: str
    path: str
    body: Any = None
    remember: dict[str, str] = field(default_factory=dict)
    content_type: str | None = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    query: bool = False  # the body is the query string, whatever the method is

    @staticmethod
    def parse(line: list[Any]) -> "Request":
        (target, *rest) = line
        method, path = target.split(" ", 1)
        body, remember, options = [*rest, None, None, None][:3]
        return Request(method, path, body, remember or {}, **(options or {}))

    def __str__(self) -> str:
        """What explanations match: the request as it is written, without what it remembers."""
        body = "" if self.body is None else f" {json.dumps(self.body)}"
        kind = "" if self.content_type == "application/json" else f" ({self.content_type})"
        headers = f" {self.headers}" if self.headers else ""
        return f"{self.method} {self.path}{body}{kind}{headers}"

    def send(self, session: requests.Session, uri: str, known: dict[str, str]) -> requests.Response:
        """Sends it to the server at `uri`; `known` has the values of names in angle brackets."""
        path = fill(self.path, known)
        url = uri + (path if path.startswith("/") else API + path)
        body = fill(self.body, known)
        headers = fill(self.headers, known)
        if self.method in ("GET", "HEAD") or self.query:
            query: Any = body if isinstance(body, str) else flat(body or {})
            return session.request(
                self.method, url, params=query, headers=headers, timeout=TIMEOUT_SECONDS
            )
        if self.content_type is not None:
            headers = {"Content-Type": self.content_type, **headers}
        if body is None:
            data = b""
        elif isinstance(body, str):
            data = body.encode()
        else:
            data = json.dumps(body).encode()
        return session.request(
            self.method, url, data=data, headers=headers, timeout=TIMEOUT_SECONDS
        )


@dataclass(frozen=True)
class Scenario:
    name: str
    requests: list[Request]


def scenarios() -> Iterator[Scenario]:
    """All scenarios of all files."""
    for path in sorted(DIRECTORY.glob("*.jsonl")):
        found: list[Scenario] = []
        for number, text in enumerate(path.read_text().splitlines(), 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                if isinstance(line, str):
                    found.append(Scenario(f"{path.stem}: {line}", []))
                else:
                    found[-1].requests.append(Request.parse(line))
            except (ValueError, TypeError, IndexError) as e:
                raise ValueError(f"{path.name}:{number}: {e}: {text}") from e
        yield from found


def fill(template: Any, known: dict[str, str]) -> Any:
    """Replaces what stands in angle brackets in every string, and repeats items."""
    if isinstance(template, str):

        def value(match: re.Match[str]) -> str:
            if times := re.fullmatch(r"(.)\*(\d+)", match[1]):
                return times[1] * int(times[2])
            return known.get(match[1], match[0])

        return re.sub(r"<([^<>]+)>", value, template)
    if isinstance(template, dict):
        if template.keys() == {"repeat", "item"}:
            return [
                fill(template["item"], {**known, "i": str(i)}) for i in range(template["repeat"])
            ]
        return {fill(key, known): fill(item, known) for key, item in template.items()}
    if isinstance(template, list):
        return [fill(item, known) for item in template]
    return template


def flat(query: dict[str, Any]) -> list[tuple[str, str]]:
    """A query string's pairs; a list repeats its key."""
    pairs = []
    for key, value in query.items():
        for item in value if isinstance(value, list) else [value]:
            text = item if isinstance(item, str) else json.dumps(item)
            pairs.append((key, text))
    return pairs
