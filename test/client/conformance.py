"""What of MLflow's API the tests cover: the catalogue, their claims, and the report.

conformance.json lists the routes and the rules. A test claims some of them, a Python test with
`@pytest.mark.covers("metric-set")`, a Go test with `t.Attr("covers", "metric-set")`. As a program,
this module runs the tests that claim anything, checks in a record of their requests that each route
was called, and refused something, and writes the table into docs/mlflow-compatibility.md. It exits
with 1 when a test fails or something has no test.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DOCUMENT = REPOSITORY / "docs" / "mlflow-compatibility.md"
BEGIN = "<!-- written by make conformance: begin -->"
END = "<!-- written by make conformance: end -->"
PREFIXES = ("/api/2.0", "/ajax-api/2.0")
CATALOGUE = json.loads((HERE / "conformance.json").read_text())


@dataclass(frozen=True)
class Route:
    """A method and a path. One that begins with /mlflow is below both prefixes of the API 2.0."""

    name: str
    group: str = field(compare=False)

    @property
    def method(self) -> str:
        return self.name.split()[0]

    @property
    def paths(self) -> list[str]:
        path = self.name.split()[1]
        return [p + path for p in PREFIXES] if path.startswith("/mlflow") else [path]

    @functools.cached_property
    def patterns(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern_of(path)) for path in self.paths]

    @property
    def pending(self) -> bool:
        return self.group in CATALOGUE["pending"]

    @property
    def status(self) -> int:
        """The status of an answer to a good request: a store on disk refuses some."""
        return int(CATALOGUE["refused_on_disk"].get(self.name, 200))


def pattern_of(path: str) -> str:
    parts = re.split(r"(<[^>]*>)", path)
    return "".join(
        (".+" if part.startswith("<path:") else "[^/]+") if part[:1] == "<" else re.escape(part)
        for part in parts
    )


ROUTES = {
    name: Route(name, group) for group, names in CATALOGUE["routes"].items() for name in names
}
RULES: dict[str, str] = {
    name: text for rules in CATALOGUE["rules"].values() for name, text in rules.items()
}


def route_of(method: str, path: str) -> Route | None:
    """The route that a request goes to; a literal path wins over one with parameters."""
    found = [
        r
        for r in ROUTES.values()
        if r.method == method and any(p.fullmatch(path) for p in r.patterns)
    ]
    return min(found, key=lambda r: r.name.count("<"), default=None)


# The tests that claim a route or rule, as the report calls them.
Claims = dict[str, list[str]]


def covers(*names: str) -> pytest.MarkDecorator:
    """Says that a test shows routes or rules of the catalogue."""
    return pytest.mark.covers(*names)


def claims_of(items: Iterable[pytest.Item]) -> Claims:
    """The tests that claim each name. Raises UsageError for a name not in the catalogue."""
    claims: dict[str, dict[str, None]] = defaultdict(dict)
    for item in items:
        for name in claimed(item):
            if name not in ROUTES and name not in RULES:
                raise pytest.UsageError(f"{item.nodeid} covers {name!r}: not in conformance.json")
            claims[name][plain(item.nodeid)] = None
    return {name: list(tests) for name, tests in claims.items()}


def claimed(item: pytest.Item) -> list[str]:
    return [name for mark in item.iter_markers("covers") for name in mark.args]


def plain(nodeid: str) -> str:
    """The name of a test, without its parameters and its folder."""
    return nodeid.split("[")[0].rsplit("/", 1)[-1]


def go_claims() -> dict[str, list[tuple[str, str]]]:
    """The Go tests that claim each name: package folder and test."""
    claims: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for top in ("pkg", "services", "test", "cmd"):
        for file in sorted((REPOSITORY / top).rglob("*_test.go")):
            test = ""
            for line in file.read_text().splitlines():
                if begun := re.match(r"func (Test\w+)\(", line):
                    test = begun.group(1)
                if claim := re.search(r't\.Attr\("covers", "([^"]+)"\)', line):
                    folder = file.parent.relative_to(REPOSITORY).as_posix()
                    claims[claim.group(1)].append((folder, test))
    return claims


def row(name: str, claims: Claims) -> str:
    """A row of the table up to its result."""
    tests = [f"`{t}`" for t in claims.get(name, [])]
    tests += [f"`{folder} {test}`" for folder, test in go_claims().get(name, [])]
    what = f"`{name}`" if name in ROUTES else f"{RULES[name]} `{name}`"
    return f"| {what.replace('|', chr(92) + '|')} | {', '.join(tests) or 'none'} | "


# The plugin: it records the requests of each test that claims something.

Request = tuple[str, str, int]  # method, path, status
CLAIMS = pytest.StashKey[Claims]()
FILES = pytest.StashKey[set[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", metavar="FILE", help="record what the tests request in FILE")


@dataclass
class Recorder:
    """Notes the requests that a test itself makes, not those of its fixtures."""

    file: Path
    test: str = ""
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, nodeid: str) -> dict[str, Any]:
        return self.tests.setdefault(nodeid, {"outcome": "", "covers": [], "requests": []})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            self.of(item.nodeid)["covers"] = claimed(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.test = item.nodeid
        try:
            return (yield)
        finally:
            self.test = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        noted = self.of(report.nodeid)
        if report.when == "call" or report.outcome != "passed":
            noted["outcome"] = report.outcome if noted["outcome"] != "failed" else "failed"

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.tests))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "covers(name, ...): shows these of conformance.json")
    given = config.getoption("--conformance")
    if not given:
        return
    recorder = Recorder(Path(str(given)))
    config.pluginmanager.register(recorder)
    send = requests.Session.send

    def recording(
        session: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        response = send(session, request, **options)
        if recorder.test:
            path = urlsplit(request.url or "").path
            recorder.of(recorder.test)["requests"].append(
                (request.method, path, response.status_code)
            )
        return response

    requests.Session.send = recording  # type: ignore[assignment,method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[CLAIMS] = claims_of(items)
    config.stash[FILES] = {item.path.name for item in items}


# The report.


def run_python(record: Path) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "covers", "--conformance", str(record)]
    subprocess.run(command, cwd=HERE, check=False)
    return dict(json.loads(record.read_text())) if record.exists() else {}


def run_go(tests: set[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, set[str]]]:
    """Runs Go tests. Returns the outcome of each, and what it claimed as it ran."""
    if not tests:
        return {}
    names = "|".join(sorted({test for _, test in tests}))
    folders = sorted({f"./{folder}" for folder, _ in tests})
    command = [os.environ.get("GO", "go"), "test", "-p", "1", "-count=1", "-json"]
    done = subprocess.run(
        [*command, "-run", f"^({names})$", *folders],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    outcomes: dict[tuple[str, str], str] = {}
    attributes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in done.stdout.splitlines():
        event = json.loads(line)
        folder = event.get("Package", "").removeprefix("github.com/runledger/runledger/")
        key = folder, event.get("Test", "")
        if event["Action"] in ("pass", "fail", "skip"):
            outcomes[key] = event["Action"]
        elif event["Action"] == "attr" and event["Key"] == "covers":
            attributes[key].add(event["Value"])
        elif event["Action"] == "output" and event["Output"].startswith(("--- FAIL", "FAIL")):
            print(event["Output"], end="")
    return {key: (outcomes.get(key, "did not run"), attributes[key]) for key in tests}


@dataclass
class Results:
    """Which tests passed, and what they requested."""

    python: dict[str, dict[str, Any]]
    go: dict[tuple[str, str], tuple[str, set[str]]]
    go_claims: dict[str, list[tuple[str, str]]]
    claims: Claims

    def of(self, name: str) -> str:
        """The result of a route or rule: "passes", or what is wrong."""
        if name in ROUTES and ROUTES[name].pending:
            return "**gap**: not served yet"
        ran = {node: t for node, t in self.python.items() if name in t["covers"]}
        go = self.go_claims.get(name, [])
        failed = [f"`{node}`" for node, t in ran.items() if t["outcome"] == "failed"]
        failed += [
            f"`{test}`: {self.go[f, test][0]}" for f, test in go if self.go[f, test][0] != "pass"
        ]
        failed += [f"`{test}` does not say so" for f, test in go if name not in self.go[f, test][1]]
        if failed:
            return "**fails**: " + ", ".join(failed)
        if not go and not any(t["outcome"] == "passed" for t in ran.values()):
            return "**gap**: no test ran"
        return self.requested(ROUTES[name], ran) if name in ROUTES else "passes"

    def requested(self, route: Route, ran: dict[str, dict[str, Any]]) -> str:
        statuses: dict[int, set[int]] = defaultdict(set)
        silent = {plain(node) for node in ran}
        for node, test in ran.items():
            for method, path, status in test["requests"]:
                if route_of(method, path) == route:
                    silent.discard(plain(node))
                    for i, pattern in enumerate(route.patterns):
                        if pattern.fullmatch(path):
                            statuses[i].add(status)
        if silent:
            return "**fails**: never called by " + ", ".join(f"`{t}`" for t in sorted(silent))
        for i, path in enumerate(route.paths):
            if route.status not in statuses[i]:
                return f"**gap**: no {route.status} from {path}"
            refused = any(400 <= s < 500 for s in statuses[i])
            if not refused and route.name not in CATALOGUE["without_input"]:
                return f"**gap**: nothing refused by {path}"
        return "passes"


def tables(results: Results) -> tuple[str, list[str]]:
    """The tables as Markdown, and the names that do not pass."""
    lines: list[str] = []
    bad: list[str] = []
    for section, entries in (("Routes", CATALOGUE["routes"]), ("Rules", CATALOGUE["rules"])):
        lines += [f"### {section}", ""]
        for group, names in entries.items():
            lines += [
                f"#### {group}",
                "",
                f"| {section[:-1].lower()} | tests | result |",
                "|---|---|---|",
            ]
            for name in names:
                result = results.of(name)
                if result != "passes":
                    bad.append(f"{name}: {result}")
                lines.append(f"{row(name, results.claims)}{result} |")
            lines.append("")
    return "\n".join(lines), bad


def main() -> int:
    go = go_claims()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        go_tests = pool.submit(run_go, {test for tests in go.values() for test in tests})
        python = run_python(Path(folder) / "record.json")
    claims: dict[str, dict[str, None]] = defaultdict(dict)
    for node, test in python.items():
        for name in test["covers"]:
            claims[name][plain(node)] = None
    results = Results(
        python, go_tests.result(), go,
        {name: list(tests) for name, tests in claims.items()},
    )  # fmt: skip
    table, bad = tables(results)
    print(table)
    before, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END)[1]}")
    total = len(ROUTES) + len(RULES)
    print(f"{total - len(bad)} of {total} routes and rules pass; see {DOCUMENT.name}")
    for line in bad:
        print("  " + line)
    return 1 if bad or not python or any(t["outcome"] == "failed" for t in python.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
