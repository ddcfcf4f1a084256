"""The client: encrypts images where they are and asks a provider for their classes."""

from __future__ import annotations

import random
import re
import socket
import ssl
import time
import urllib.request
from ipaddress import ip_address
from typing import Any

import httpx
import torch
from torch import Tensor
from tqdm import tqdm

from mixerkey.cipher import check_dense, encrypt_images
from mixerkey.files import one_line, parse_json
from mixerkey.keys import BlockKey, integer
from mixerkey.parties.trainer import ModelCard, moving, read_card

LARGEST_ANSWER = 64 * 2**20  # bytes
ROUNDING = 1e-3  # of the sum of a row of probabilities
LONGEST = 2**31  # seconds that sockets can wait
LONGEST_WAIT = 60  # seconds that a busy provider may ask for


class ProviderError(RuntimeError):
    """The provider refused, did not answer, or answered something else; the message says why and what to do."""


class Client:
    """Asks one provider with one key. Images leave it encrypted only. Use it as a context manager, or close it.

    The provider is not trusted: what it answers is checked, and can neither hold the client up without end nor fill
    its memory. A proxy in the environment is used, but not for this computer.

    Args:
        url: the provider's, such as "http://127.0.0.1:8000".
        key: the secret, of any kind that moves pixels; it never leaves this process.
        key_id: the key's id; needed while the provider serves several models.
        token: the provider's, if it wants one.
        seconds: to wait for an answer, and again for its body.
        tries: of a request that gets no connection, no answer or a 503; the same images may safely be sent again.
        transport: how httpx sends, for tests.

    Raises:
        TypeError: a key that is none, or no numbers for `seconds` and `tries`.
        ValueError: no address, a token that no header can hold, a proxy that can't be used, a key that mixes pixels,
            or no time or tries.

    >>> from mixerkey import Key
    >>> card = {"key_id": "00d1f2e3a4b5c6d7", "patch_size": 2, "channels": 1, "height": 8, "width": 8, "classes": ["a"]}
    >>> provider = httpx.MockTransport(lambda request: httpx.Response(200, json={
    ...     "/v1/models": [card],
    ...     "/v1/classify": {"key_id": card["key_id"], "labels": ["a"], "probabilities": [[1.0]]},
    ... }[request.url.path]))
    >>> with Client("http://provider", Key.generate(2, 1), transport=provider) as client:
    ...     client.classify(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    tensor([[1.]])
    """

    def __init__(
        self,
        url: str,
        key: BlockKey,
        *,
        key_id: str | None = None,
        token: str | None = None,
        seconds: float = 60.0,
        tries: int = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not isinstance(seconds, int | float):
            raise TypeError(f"seconds must be a number, got {type(seconds).__name__}")
        if not 0 < seconds < LONGEST or integer(tries, "tries") < 1:
            raise ValueError(f"need a time above 0 and at least one try; got seconds = {seconds}, tries = {tries}")
        self.key, self.key_id, self.seconds, self.tries = moving(key), key_id, seconds, tries
        self._card: ModelCard | None = None
        address = _address(url)
        self.provider = f"{address.host}:{address.port}" if address.port else address.host  # without a password
        headers = {"Accept-Encoding": "identity"}
        if token is not None:
            if address.userinfo:
                raise ValueError("the address has a password, which would replace the token; leave one of them out")
            headers["Authorization"] = f"Bearer {check_token(token)}"
        transport = transport or _transport(address)
        self._http = httpx.Client(
            base_url=address, headers=headers, timeout=seconds, transport=transport, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def card(self) -> ModelCard:
        """The card of the model that answers this client's key.

        Raises:
            ValueError: the key is for other blocks than the model.
            ProviderError: the provider does not answer, or serves no or several such models.
        """
        try:
            cards = [read_card(fields) for fields in parse_json(self._send("GET", "/v1/models"), list)]
        except ValueError as error:
            raise ProviderError(f"{self.provider} does not answer by model cards: {one_line(error)}") from error
        chosen = [card for card in cards if self.key_id in (None, card.key_id)]
        if len(chosen) != 1:
            served = ", ".join(card.key_id for card in cards)
            raise ProviderError(
                f"the provider serves the key ids {served}; "
                + ("say which is yours" if self.key_id is None else f"{self.key_id} is none of them: get the new key")
                if served
                else "the provider serves no model"
            )
        (card,) = chosen
        if (self.key.patch_size, self.key.channels) != (card.patch_size, card.channels):
            raise ValueError(
                f"the key is for blocks of {self.key.patch_size} pixels and {self.key.channels} channels, the model "
                f"for {card.patch_size} and {card.channels}: it is another model's key"
            )
        self._card = card
        return card

    def classify(self, images: Tensor, *, batch: int = 64, progress: bool = False) -> Tensor:
        """Class probabilities of plain images, which are encrypted here.

        Args:
            images: uint8 (N, C, H, W), of the shape that the model's card says.
            batch: images a request; the provider has a limit, 256 unless it says otherwise.
            progress: show a progress bar.

        Returns:
            float32 (N, classes).

        Raises:
            TypeError: the images are no tensor, or `batch` is no integer.
            ValueError: the images are not uint8, or do not fit the model; or the key does not.
            ProviderError: the provider refuses, does not answer, or answers something else.
        """
        check_dense(images)
        card = self._card or self.card()
        if images.dtype != torch.uint8 or images.shape[1:] != card.shape:
            raise ValueError(f"images must be uint8 (N, {card.shape}), got {images.dtype} {tuple(images.shape)}")
        if integer(batch, "batch") < 1:
            raise ValueError(f"a request has at least one image, got batch = {batch}")
        headers = {"Content-Type": "application/octet-stream"} | ({"Key-Id": self.key_id} if self.key_id else {})
        rows = [torch.zeros(0, len(card.classes))]
        with tqdm(total=len(images), unit="image", disable=not progress) as bar:
            for part in images.split(batch) if len(images) else ():
                body = encrypt_images(part, self.key).cpu().numpy().tobytes()
                answer = self._send("POST", "/v1/classify", params={"count": len(part)}, content=body, headers=headers)
                rows.append(_rows(answer, card, len(part)))
                bar.update(len(part))
        return torch.cat(rows)

    def _send(self, method: str, path: str, **request: object) -> bytes:
        """The body of a good answer."""
        for attempt in range(self.tries):
            wait = min(0.2 * 2**attempt, 5.0) * random.uniform(0.5, 1.5)  # so that not all come back at once
            try:
                with self._http.stream(method, path, **request) as response:  # type: ignore[arg-type]
                    body = _body(response, time.monotonic() + self.seconds)
            except httpx.TransportError as error:
                problem = f"no answer from {self.provider}: {one_line(error) or type(error).__name__}"
                if _permanent(error):
                    raise ProviderError(problem) from error
            except httpx.DecodingError as error:
                raise ProviderError(f"{self.provider} answers in an encoding that was not asked for") from error
            else:
                if response.is_success:
                    return body
                if response.status_code != 503:
                    raise ProviderError(f"the provider refused ({response.status_code}): {_detail(body)}")
                problem = f"the provider is busy: {_detail(body)}"
                after = response.headers.get("Retry-After", "")
                if re.fullmatch("[0-9]{1,9}", after):
                    if int(after) > LONGEST_WAIT:
                        raise ProviderError(f"{problem}; it says to come back in {int(after)} seconds")
                    wait += int(after)
            if attempt < self.tries - 1:
                time.sleep(wait)
        raise ProviderError(f"{problem}; gave up after {self.tries} tries")


def check_token(token: str) -> str:
    """A bearer token without the white space around it.

    Raises:
        ValueError: nothing is left, or what no header can hold; the message does not show it.

    >>> check_token("secret\\n")
    'secret'
    """
    token = token.strip()
    if not token:
        raise ValueError("the token is empty")
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("a token is one line of visible ASCII characters without spaces")
    return token


def _address(url: str) -> httpx.URL:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{one_line(url)} is no address: {error}; expected such as http://127.0.0.1:8000") from error
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        raise ValueError(f"{one_line(url)} is no address of a provider; expected such as http://127.0.0.1:8000")
    return address


def _transport(address: httpx.URL) -> httpx.BaseTransport:
    """Through the environment's proxy, if there is one for this address; never to reach this computer."""
    host = address.host
    try:
        here = ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
    proxies = {} if here or urllib.request.proxy_bypass(host) else urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    try:
        return httpx.HTTPTransport(proxy=proxy or None)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise ValueError(
            f"the proxy in the environment can't be used ({one_line(error)}); unset it, or set NO_PROXY={host}"
        ) from error


def _body(response: httpx.Response, end: float) -> bytes:
    """What arrives until then; httpx itself waits anew for every byte."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > end:
            raise ProviderError("the answer does not come to its end in time")
        if len(body) > LARGEST_ANSWER:
            raise ProviderError(f"the answer is larger than {LARGEST_ANSWER >> 20} MiB")
    return bytes(body)


def _permanent(error: BaseException | None) -> bool:
    """Whether asking again is no use: no such host, no such protocol, a certificate that does not hold."""
    while error is not None:
        if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.ProxyError):
            return True
        if isinstance(error, socket.gaierror):
            return error.errno != socket.EAI_AGAIN
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _rows(body: bytes, card: ModelCard, count: int) -> Tensor:
    """The probabilities in an answer, float32 (count, classes), once it is what was asked for."""
    try:
        answer = parse_json(body)
        if answer.get("key_id") != card.key_id:
            raise ValueError(f"it is for another key than {card.key_id}")
        numbers: Any = answer.get("probabilities")
        rows = torch.tensor(numbers, dtype=torch.float32)
        if rows.shape != (count, len(card.classes)):
            raise ValueError(f"its shape is {tuple(rows.shape)}, not {(count, len(card.classes))}")
        sums = (rows.sum(1) - 1).abs() <= ROUNDING
        if not ((rows >= 0).all() and sums.all()) or any(type(p) is bool for row in numbers for p in row):  # also NaN
            raise ValueError("it holds what is no probability")
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ProviderError(f"the provider's answer can't be used: {one_line(error)}") from error
    return rows


def _detail(body: bytes) -> str:
    try:
        return one_line(parse_json(body)["detail"])
    except (ValueError, KeyError):
        return one_line(body[:1000].decode("utf-8", "replace"), 200)
