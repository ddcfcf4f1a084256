"""Providers as processes: what reaches them, load, abuse, kill -9, shutdown, key update under load, OpenAPI."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from parties import ID, KEY, OTHER, PATIENCE, RAW, WRONG, Provider, lock
from schemathesis import GenerationMode
from test_parties import ABUSE
from torch import Tensor

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained
from mixerkey.data import load_digits
from mixerkey.evaluation import predict
from mixerkey.parties.client import Client
from mixerkey.parties.provider import listen

IMAGES, LABELS = load_digits("test")
TOKEN = "a-token-for-the-classroom"
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which Linux has")


def offline(key: Key) -> Tensor:
    """The class probabilities that a client with this key must get for the test images."""
    return predict(encrypt_model(load_pretrained("digits"), key), encrypt_images(IMAGES, key)).softmax(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """One provider for the tests that leave it running; it wants a token."""
    folder = tmp_path_factory.mktemp("shared")
    lock(KEY, ID, folder / "a.safetensors")
    with Provider(folder, folder, "--port", "0", environment={"MIXERKEY_TOKEN": TOKEN}) as provider:
        yield provider


class Recorder(ThreadingHTTPServer):
    """Stands between client and provider, and keeps every request: its line, its headers, its body."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target, self.requests = target, list[tuple[str, dict[str, str], bytes]]()
        super().__init__(("127.0.0.1", 0), Forward)

    def __enter__(self) -> Recorder:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class Forward(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.requestline, dict(self.headers), body))
        answer = httpx.request(
            self.command, self.server.target + self.path, content=body, headers=dict(self.headers), timeout=PATIENCE
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@LINUX
def test_nothing_that_reaches_the_provider_holds_a_key_or_a_plain_image(shared: Provider) -> None:
    """Its arguments, its environment, its files, its requests. The key is in no file at all: `lock` keeps it here."""
    with Recorder(shared.url) as recorder:
        url = f"http://127.0.0.1:{recorder.server_port}"
        with Client(url, KEY, key_id=ID, token=TOKEN) as client:
            client.card()
            answers = client.classify(IMAGES[:40], batch=8)
    assert torch.equal(answers.argmax(1), offline(KEY)[:40].argmax(1))

    process = Path(f"/proc/{shared.process.pid}")
    given = [(process / "cmdline").read_bytes(), (process / "environ").read_bytes()]
    folder = shared.log.parent
    assert {path.name for path in folder.iterdir()} == {"a.safetensors", shared.log.name}
    given += [path.read_bytes() for path in folder.iterdir()]
    posts = [(headers, body) for line, headers, body in recorder.requests if line.startswith("POST")]
    assert [body for _, body in posts] == [encrypt_images(part, KEY).numpy().tobytes() for part in IMAGES[:40].split(8)]
    known = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
    for headers, _ in posts:
        assert {name.lower() for name in headers} == known | {"key-id", "user-agent"}
    given += [repr(line_and_headers).encode() for *line_and_headers, _ in recorder.requests]
    given += [body for *_, body in recorder.requests]

    v, r = KEY.permutation.tolist(), KEY.flips.int().tolist()
    forms = [json.dumps(values, separators=s).encode() for values in (v, r) for s in ((", ", ": "), (",", ":"))]
    forms += [b"permutation", b"flips", KEY.permutation.numpy().tobytes(), KEY.matrix().numpy().tobytes()]
    forms += [image.numpy().tobytes() for image in IMAGES[:40]]
    everything = b"\n".join(given)
    assert [form for form in forms if form in everything] == []
    assert all(encrypt_images(image, KEY).numpy().tobytes() in everything for image in IMAGES[:40])  # it would show


def test_32_clients_at_a_time_get_each_its_own_right_answers(shared: Provider) -> None:
    """Each asks 12 times for 1 to 5 images of its own; each answer is compared with the offline one."""
    expected = offline(KEY)
    before = httpx.get(shared.url + "/health").json()
    start = threading.Barrier(32)

    def ask(number: int) -> int:
        generator = torch.Generator().manual_seed(number)
        with Client(shared.url, KEY, token=TOKEN, seconds=PATIENCE) as client:
            start.wait(PATIENCE)
            for n in range(12):
                chosen = torch.randint(len(IMAGES), (1 + (number + n) % 5,), generator=generator)
                answer = client.classify(IMAGES[chosen])
                torch.testing.assert_close(answer, expected[chosen], atol=1e-5, rtol=0)
        return 12

    begun = time.perf_counter()
    with ThreadPoolExecutor(32) as pool:
        requests = sum(pool.map(ask, range(32)))
    seconds = time.perf_counter() - begun
    after = httpx.get(shared.url + "/health").json()
    images, passes = after["images"] - before["images"], after["passes"] - before["passes"]
    assert requests == 32 * 12
    assert images == sum(1 + (number + n) % 5 for number in range(32) for n in range(12))
    assert passes < requests, "requests shared forward passes"
    print(f"{requests} requests, {images} images in {passes} passes, {seconds:.1f} s")


@LINUX
def test_it_outlives_abuse_with_bounded_memory_and_a_log_without_secrets(shared: Provider) -> None:
    def peak() -> int:
        status = Path(f"/proc/{shared.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    token = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=shared.url, headers=token, timeout=PATIENCE) as http:
        http.post("/v1/classify", content=bytes(64), headers=RAW)
        before = peak()
        for _ in range(3):
            for name, (body, headers, query, status, _words) in ABUSE.items():
                try:
                    assert http.post("/v1/classify" + query, content=body, headers=headers).status_code == status, name
                except httpx.TransportError:
                    assert name == "too large"  # the answer may be lost while we still send
        for given in ({}, {"Authorization": "Bearer no"}):
            refused = httpx.post(shared.url + "/v1/classify", content=bytes(64), headers=RAW | given, timeout=PATIENCE)
            assert refused.status_code == 401
        assert peak() - before < 100 * 2**20
        assert http.post("/v1/classify", content=bytes(64), headers=RAW).status_code == 200
    text = shared.log.read_text(encoding="utf-8")
    assert TOKEN not in text
    assert "Traceback" not in text
    assert all(json.loads(line)["level"] in ("info", "warning") for line in text.splitlines())


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """Without it the body waits for that of the head, which the client's computer puts off: 40 ms a request."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        ("GET /health", GenerationMode.POSITIVE),  # it takes nothing, so nothing can be wrong
        ("GET /v1/models", GenerationMode.POSITIVE),
        ("GET /v1/models", GenerationMode.NEGATIVE),
        ("POST /v1/classify", GenerationMode.POSITIVE),
        ("POST /v1/classify", GenerationMode.NEGATIVE),
    ],
)
def test_the_service_does_what_its_openapi_says(shared: Provider, operation: str, mode: GenerationMode) -> None:
    method, path = operation.split()
    described = schemathesis.openapi.from_url(shared.url + "/openapi.json")[path][method]
    # A random body that fits "binary" need not be an image: 422 is a right answer to data that the schema allows.
    excluded: list[Any] = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]

    @given(case=described.as_strategy(generation_mode=mode))
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    def holds(case: schemathesis.Case) -> None:
        authorised = {"Authorization": f"Bearer {TOKEN}"}
        case.call_and_validate(headers=authorised, excluded_checks=excluded, timeout=PATIENCE)

    holds()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lock(KEY, ID, tmp_path / "a.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("host", "others"),
    [("127.0.0.1", []), ("localhost", []), ("::1", []), ("::", ["127.0.0.1", "::1"]), ("0.0.0.0", ["127.0.0.1"])],
)
def test_it_answers_at_every_kind_of_address(folder: Path, host: str, others: list[str]) -> None:
    try:
        listen(host, 0).close()
    except (OSError, ValueError) as error:
        pytest.skip(f"this computer has no {host}: {error}")
    with Provider(folder, folder, "--port", "0", "--host", host) as provider:
        addresses = [f"[{other}]" if ":" in other else other for other in others]
        for url in (provider.url, *(f"http://{address}:{provider.port}" for address in addresses)):
            with Client(url, KEY) as client:
                torch.testing.assert_close(client.classify(IMAGES[:1]), offline(KEY)[:1], atol=1e-5, rtol=0)


def test_kill_9_in_mid_request_and_a_restart_lose_nothing(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    provider = Provider(folder, folder, "--port", port)
    answers: list[Tensor] = []

    def ask() -> None:
        with Client(provider.url, KEY, tries=60) as client:
            answers.append(client.classify(IMAGES[:60], batch=1))

    client = threading.Thread(target=ask)
    client.start()
    provider.wait_for("request", 5)
    provider.stop(signal.SIGKILL)
    assert not answers, "it was killed in the middle"
    with Provider(folder, folder, "--port", port):
        client.join(PATIENCE)
    torch.testing.assert_close(answers[0], offline(KEY)[:60], atol=1e-5, rtol=0)


def test_sigterm_finishes_what_was_accepted_and_accepts_nothing_more(folder: Path) -> None:
    provider = Provider(folder, folder / "a.safetensors", "--port", "0")
    body = encrypt_images(IMAGES[:1], KEY).numpy().tobytes()
    with socket.create_connection(("127.0.0.1", provider.port), timeout=PATIENCE) as connection:
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(head + b"Content-Length: 64\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100"), "accepted: it waits for the body"
        connection.sendall(body[:32])
        provider.process.send_signal(signal.SIGTERM)
        provider.wait_for("Waiting for connections to close. (CTRL+C to force quit)")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", provider.port), timeout=PATIENCE).close()
        connection.sendall(body[32:])
        received = b""
        while data := connection.recv(65_536):
            received += data
    assert received.startswith(b"HTTP/1.1 200")
    answer = json.loads(received.partition(b"\r\n\r\n")[2])
    assert answer["labels"] == [str(int(offline(KEY)[0].argmax()))]
    assert provider.process.wait(PATIENCE) in (0, -signal.SIGTERM)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP; restart the provider there")
def test_no_request_is_lost_while_the_key_is_rotated_under_load(folder: Path) -> None:
    """Old key only, both, new key only, while clients ask without a pause; each gets the offline answers throughout."""
    stop = {ID: threading.Event(), OTHER: threading.Event()}
    expected = {ID: offline(KEY), OTHER: offline(WRONG)}

    def ask(key: Key, key_id: str) -> int:
        asked = 0
        with Client(provider.url, key, key_id=key_id, seconds=PATIENCE, tries=1) as client:  # one try: none may fail
            while not stop[key_id].is_set():
                chosen = torch.arange(asked % 350, asked % 350 + 3)
                torch.testing.assert_close(client.classify(IMAGES[chosen]), expected[key_id][chosen], atol=1e-5, rtol=0)
                asked += 1
        return asked

    with Provider(folder, folder, "--port", "0") as provider, ThreadPoolExecutor(8) as pool:
        old = [pool.submit(ask, KEY, ID) for _ in range(4)]
        provider.wait_for("request", 20)
        lock(WRONG, OTHER, folder / "b.safetensors")
        os.kill(provider.process.pid, signal.SIGHUP)
        assert provider.wait_for("reloaded")["key_ids"] == [ID, OTHER]
        new = [pool.submit(ask, WRONG, OTHER) for _ in range(4)]
        provider.wait_for("request", len(provider.events("request")) + 40)
        stop[ID].set()  # the old key's clients have the new key now
        assert all(future.result(PATIENCE) > 0 for future in old)
        (folder / "a.safetensors").unlink()
        os.kill(provider.process.pid, signal.SIGHUP)
        assert provider.wait_for("reloaded", 2)["key_ids"] == [OTHER]
        provider.wait_for("request", len(provider.events("request")) + 20)
        stop[OTHER].set()
        assert all(future.result(PATIENCE) > 0 for future in new)

        (folder / "c.safetensors").write_bytes(b"damaged")
        os.kill(provider.process.pid, signal.SIGHUP)
        assert "c.safetensors" in provider.wait_for("reload failed, serving what was there")["reason"]
        late = httpx.post(provider.url + "/v1/classify", content=bytes(64), headers=RAW | {"Key-Id": ID})
        assert late.status_code == 404
        with Client(provider.url, KEY) as stale:  # without an id it is answered, wrongly
            right = (stale.classify(IMAGES).argmax(1) == LABELS).double().mean().item()
        assert right < 0.5
        assert {event["status"] for event in provider.events("request")} == {200, 404}
