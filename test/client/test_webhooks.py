"""Webhooks: the real client registers them, and a receiver checks what it is sent."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from support import Api, Runledger, client_3, unique

pytestmark = [client_3("webhooks"), pytest.mark.timeout(300)]

SECRET = "a secret, größer"
PATIENCE = 90.0


def verify_mlflow_signature(
    payload: str, signature: str, secret: str, delivery_id: str, timestamp: str
) -> bool:
    """MLflow's documentation tells receivers to do this."""
    if not signature.startswith("v1,"):
        return False
    signature_b64 = signature.removeprefix("v1,")
    signed_content = f"{delivery_id}.{timestamp}.{payload}"
    expected = hmac.new(
        secret.encode("utf-8"), signed_content.encode("utf-8"), hashlib.sha256
    ).digest()
    return hmac.compare_digest(signature_b64, base64.b64encode(expected).decode("utf-8"))


@dataclass
class Delivery:
    path: str
    headers: dict[str, str]
    body: str

    @property
    def event(self) -> str:
        content = json.loads(self.body)
        return f"{content['entity']}.{content['action']}"

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["data"])

    def verify(self, secret: str) -> None:
        timestamp = self.headers["X-MLflow-Timestamp"]
        assert abs(time.time() - int(timestamp)) < 300
        assert self.headers["Content-Type"] == "application/json"
        delivery = self.headers["X-MLflow-Delivery-Id"]
        signature = self.headers["X-MLflow-Signature"]
        assert verify_mlflow_signature(self.body, signature, secret, delivery, timestamp)
        assert not verify_mlflow_signature(self.body, signature, "other", delivery, timestamp)


@dataclass
class Receiver:
    """An HTTP server that keeps what it is sent, and fails `failures` requests of each path."""

    failures: dict[str, int] = field(default_factory=dict)
    received: list[Delivery] = field(default_factory=list)  # all of them
    taken: list[Delivery] = field(default_factory=list)  # those answered with 200
    changed: threading.Condition = field(default_factory=threading.Condition)
    uri: str = ""

    def take(self, delivery: Delivery) -> int:
        with self.changed:
            self.received.append(delivery)
            left = self.failures.get(delivery.path, 0)
            if left > 0:
                self.failures[delivery.path] = left - 1
            else:
                self.taken.append(delivery)
            self.changed.notify_all()
            return 503 if left > 0 else 200

    def wait(self, count: int, path: str, *, failed: bool = False) -> list[Delivery]:
        """Waits until that many were taken, or with `failed` received, on the path."""
        source = self.received if failed else self.taken

        def found() -> list[Delivery]:
            return [d for d in source if d.path == path]

        with self.changed:
            assert self.changed.wait_for(lambda: len(found()) >= count, PATIENCE), found()
            return found()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode("utf-8")
            status = kept.take(Delivery(self.path, dict(self.headers.items()), body))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.uri = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runledger]:
    """A server that may send to this machine."""
    server = Runledger(
        tmp_path_factory.mktemp("webhooks") / "data",
        ("--webhook-schemes", "http,https", "--webhook-allow-private"),
    )
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    """A client of a server that sends to public addresses alone, as by default."""
    server = Runledger(tmp_path_factory.mktemp("strict") / "data")
    server.start()
    yield MlflowClient(server.uri, server.uri)
    assert server.stop() == 0


@pytest.fixture
def hooks(own: Runledger) -> MlflowClient:
    return MlflowClient(own.uri, own.uri)


def deliveries(own: Runledger, webhook: str, **query: Any) -> Any:
    answer = requests.get(
        f"{own.uri}/api/v1/webhooks/{webhook}/deliveries", params=query, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_webhook_is_created_read_changed_and_deleted(
    hooks: MlflowClient, receiver: Receiver
) -> None:
    made = hooks.create_webhook(
        name="first.hook",
        url=f"{receiver.uri}/crud",
        events=["registered_model.created", "model_version_alias.deleted"],
        description="Tells nobody.",
        secret=SECRET,
        status="DISABLED",
    )
    read = hooks.get_webhook(made.webhook_id)
    for hook in made, read:
        assert (hook.name, hook.url, hook.description) == (
            "first.hook",
            f"{receiver.uri}/crud",
            "Tells nobody.",
        )
        assert str(hook.status) == "DISABLED"
        assert [str(e) for e in hook.events] == [
            "registered_model.created",
            "model_version_alias.deleted",
        ]
        assert hook.creation_timestamp == hook.last_updated_timestamp
        assert hook.secret is None
    changed = hooks.update_webhook(
        made.webhook_id, name="second", events=["prompt.created"], description="", secret=""
    )
    assert (changed.name, changed.description) == ("second", None)
    assert [str(e) for e in changed.events] == ["prompt.created"]
    assert changed.url == f"{receiver.uri}/crud"
    hooks.delete_webhook(made.webhook_id)
    for call in hooks.get_webhook, hooks.delete_webhook, hooks.test_webhook:
        with pytest.raises(MlflowException, match="not found") as raised:
            call(made.webhook_id)
        assert raised.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_webhooks_are_listed_latest_first_and_paged(
    hooks: MlflowClient, receiver: Receiver
) -> None:
    made = [
        hooks.create_webhook(f"list{i}", f"{receiver.uri}/list", ["prompt.created"]).webhook_id
        for i in range(5)
    ]
    found: list[str] = []
    token = None
    while True:
        page = hooks.list_webhooks(max_results=2, page_token=token)
        found += [hook.webhook_id for hook in page]
        token = page.token
        if not token:
            break
    assert [hook for hook in found if hook in made] == made[::-1]
    for hook in made:
        hooks.delete_webhook(hook)
    with pytest.raises(MlflowException, match="between 1 and 1000"):
        hooks.list_webhooks(max_results=1001)


def test_every_event_arrives_signed_in_mlflows_form(
    hooks: MlflowClient, receiver: Receiver
) -> None:
    hook = hooks.create_webhook(
        "all",
        f"{receiver.uri}/all",
        [
            "registered_model.created",
            "model_version.created",
            "model_version_tag.set",
            "model_version_tag.deleted",
            "model_version_alias.created",
            "model_version_alias.deleted",
        ],
        secret=SECRET,
    )
    prompts = hooks.create_webhook(
        "prompts",
        f"{receiver.uri}/prompts",
        [
            "prompt.created",
            "prompt_version.created",
            "prompt_tag.set",
            "prompt_tag.deleted",
            "prompt_version_tag.set",
            "prompt_version_tag.deleted",
            "prompt_alias.created",
            "prompt_alias.deleted",
        ],
    )
    name = unique("told")
    hooks.create_registered_model(name, tags={"a": "b"}, description="größer")
    hooks.create_model_version(name, "s3://bucket/model", tags={"c": "d"})
    hooks.set_model_version_tag(name, "1", "k", "v")
    hooks.delete_model_version_tag(name, "1", "k")
    hooks.set_registered_model_tag(name, "nobody", "asked")
    hooks.set_registered_model_alias(name, "champion", "1")
    hooks.delete_registered_model_alias(name, "champion")
    got = receiver.wait(6, "/all")
    assert [(d.event, d.data) for d in got] == [
        ("registered_model.created", {"name": name, "tags": {"a": "b"}, "description": "größer"}),
        (
            "model_version.created",
            {
                "name": name,
                "version": "1",
                "source": "s3://bucket/model",
                "run_id": None,
                "tags": {"c": "d"},
                "description": None,
            },
        ),
        ("model_version_tag.set", {"name": name, "version": "1", "key": "k", "value": "v"}),
        ("model_version_tag.deleted", {"name": name, "version": "1", "key": "k"}),
        ("model_version_alias.created", {"name": name, "version": "1", "alias": "champion"}),
        ("model_version_alias.deleted", {"name": name, "alias": "champion"}),
    ]
    for delivery in got:
        delivery.verify(SECRET)
        when = datetime.fromisoformat(json.loads(delivery.body)["timestamp"])
        assert abs(time.time() - when.timestamp()) < 300
    assert len({d.headers["X-MLflow-Delivery-Id"] for d in got}) == 6

    prompt = unique("prompt")
    hooks.register_prompt(prompt, "Hello {{name}}!", tags={"v": "1"}, commit_message="first")
    hooks.set_prompt_tag(prompt, "t", "1")
    hooks.delete_prompt_tag(prompt, "t")
    hooks.set_prompt_version_tag(prompt, 1, "t", "1")
    hooks.delete_prompt_version_tag(prompt, 1, "t")
    hooks.set_prompt_alias(prompt, "production", 1)
    hooks.delete_prompt_alias(prompt, "production")
    got = receiver.wait(9, "/prompts")
    # The client itself sets a tag when it registers.
    got = [d for d in got if not d.data.get("key", "t").startswith("_mlflow")]
    assert [d.event for d in got] == [
        "prompt.created",
        "prompt_version.created",
        "prompt_tag.set",
        "prompt_tag.deleted",
        "prompt_version_tag.set",
        "prompt_version_tag.deleted",
        "prompt_alias.created",
        "prompt_alias.deleted",
    ]
    assert got[0].data["name"] == prompt
    assert got[1].data["template"] == "Hello {{name}}!"
    assert got[1].data["tags"] == {"v": "1"}
    assert got[1].data["description"] == "first"
    assert "X-MLflow-Signature" not in got[0].headers
    assert len(receiver.wait(6, "/all")) == 6
    for webhook in hook, prompts:
        hooks.delete_webhook(webhook.webhook_id)


def test_a_test_is_sent_at_once(hooks: MlflowClient, receiver: Receiver) -> None:
    hook = hooks.create_webhook(
        "test", f"{receiver.uri}/test", ["prompt.created", "model_version.created"], secret=SECRET
    )
    result = hooks.test_webhook(hook.webhook_id)
    assert (result.success, result.response_status, result.response_body) == (True, 200, "ok")
    receiver.failures["/test"] = 1
    result = hooks.test_webhook(hook.webhook_id, "model_version.created")
    assert (result.success, result.response_status) == (False, 503)
    first, second = receiver.wait(2, "/test", failed=True)
    assert first.event == "prompt.created"
    assert second.event == "model_version.created"
    assert second.data["source"] == "models:/123"
    second.verify(SECRET)
    hooks.update_webhook(hook.webhook_id, url="http://127.0.0.1:1/nobody")
    result = hooks.test_webhook(hook.webhook_id)
    assert not result.success
    assert result.error_message
    hooks.delete_webhook(hook.webhook_id)


def test_a_disabled_webhook_is_told_nothing(hooks: MlflowClient, receiver: Receiver) -> None:
    silent = hooks.create_webhook(
        "silent", f"{receiver.uri}/silent", ["registered_model.created"], status="DISABLED"
    )
    loud = hooks.create_webhook("loud", f"{receiver.uri}/loud", ["registered_model.created"])
    first = unique("told")
    hooks.create_registered_model(first)
    receiver.wait(1, "/loud")
    hooks.update_webhook(silent.webhook_id, status="ACTIVE")
    second = unique("told")
    hooks.create_registered_model(second)
    receiver.wait(2, "/loud")
    assert second in [d.data["name"] for d in receiver.wait(1, "/silent")]
    for webhook in silent, loud:
        hooks.delete_webhook(webhook.webhook_id)


def test_what_fails_is_sent_again_even_by_the_next_process(
    own: Runledger, hooks: MlflowClient, receiver: Receiver
) -> None:
    failing, healthy = (
        hooks.create_webhook(
            name, f"{receiver.uri}/{name}", ["model_version_alias.created"], secret=SECRET
        )
        for name in ("failing", "healthy")
    )
    receiver.failures["/failing"] = 4
    name = unique("told")
    hooks.create_registered_model(name)
    hooks.create_model_version(name, "s3://bucket/model")
    aliases = [f"alias{i}" for i in range(3)]
    for alias in aliases:
        hooks.set_registered_model_alias(name, alias, "1")
    # The one that fails does not hold up the other.
    assert [d.data["alias"] for d in receiver.wait(3, "/healthy")] == aliases
    receiver.wait(2, "/failing", failed=True)
    own.kill()
    own.start()
    taken = receiver.wait(3, "/failing")
    assert {d.data["alias"] for d in taken} == set(aliases)
    assert len(receiver.wait(7, "/failing", failed=True)) >= 7
    for delivery in receiver.wait(3, "/failing", failed=True):
        delivery.verify(SECRET)  # with the secret as the restarted process knows it
    by_alias: dict[str, set[str]] = {}
    for delivery in receiver.wait(7, "/failing", failed=True):
        identity = delivery.headers["X-MLflow-Delivery-Id"]
        by_alias.setdefault(delivery.data["alias"], set()).add(identity)
    assert all(len(ids) == 1 for ids in by_alias.values())

    hooks = MlflowClient(own.uri, own.uri)
    deadline = time.monotonic() + PATIENCE
    while True:
        kept = deliveries(own, failing.webhook_id)["deliveries"]
        if [a["outcome"] for a in kept].count("delivered") >= 3 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert [a["record"] for a in kept] == sorted((a["record"] for a in kept), reverse=True)
    failed = [a for a in kept if a["outcome"] == "retrying"]
    assert failed
    assert all(a["response_status"] == 503 and a["next"] > a["time"] for a in failed)
    assert {a["delivery_id"] for a in kept} == {i for ids in by_alias.values() for i in ids}
    assert {a["event"] for a in kept} == {"model_version_alias.created"}
    page = deliveries(own, failing.webhook_id, max_results=2)
    rest = deliveries(own, failing.webhook_id, page_token=page["next_page_token"])
    assert page["deliveries"] + rest["deliveries"] == kept
    for webhook in failing, healthy:
        hooks.delete_webhook(webhook.webhook_id)


def test_the_secret_is_not_on_disk(own: Runledger) -> None:
    client = MlflowClient(own.uri, own.uri)
    secret = "kept from the log " + unique("secret")
    hook = client.create_webhook(
        "sealed", "http://127.0.0.1:1/", ["prompt.created"], description="in clear", secret=secret
    )
    found = [
        path
        for path in own.data.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]
    assert found == []
    in_clear = [p for p in own.data.rglob("*") if p.is_file() and b"in clear" in p.read_bytes()]
    assert in_clear  # so that the search can find what is there
    assert (own.data / "webhook.key").stat().st_mode & 0o777 == 0o600
    client.delete_webhook(hook.webhook_id)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "-x"}, "Webhook name '-x' is invalid"),
        ({"name": "x" * 64}, "is invalid"),
        ({"url": "ftp://example.com"}, "Invalid webhook URL scheme: 'ftp'. Allowed schemes are"),
        ({"url": "http://"}, "Webhook URL must include a hostname"),
        ({"url": "https://example.com/" + "x" * 500}, "exceeds the maximum length"),
        ({"events": []}, "events"),
        ({"events": [{"entity": "MODEL_VERSION", "action": "UPDATED"}]}, "Invalid action"),
        ({"events": [{"entity": "BUDGET_POLICY", "action": "EXCEEDED"}]}, "entity"),
        ({"events": "all"}, "events"),
        ({"status": "SLEEPING"}, "status"),
        ({"description": "x" * 1001}, "exceeds the maximum length"),
        ({"name": None}, "Missing value for required parameter 'name'"),
        ({"url": None}, "Missing value for required parameter 'url'"),
    ],
)
def test_a_bad_webhook_is_refused(own: Runledger, change: dict[str, Any], words: str) -> None:
    body: dict[str, Any] = {
        "name": "good",
        "url": "http://127.0.0.1:1/",
        "events": [{"entity": "PROMPT", "action": "CREATED"}],
    }
    answer = Api(own.uri).call("POST", "webhooks", body | change)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert words in answer.json()["message"]


@pytest.mark.runledger
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
    ],
)
def test_a_webhook_does_not_reach_inside(strict: MlflowClient, url: str) -> None:
    with pytest.raises(MlflowException, match=r"non-public IP|scheme") as raised:
        strict.create_webhook("inside", url, ["prompt.created"])
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
