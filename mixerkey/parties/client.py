"""The client: encrypts images where they are and asks a provider for their classes."""

from __future__ import annotations

import time

import httpx
import torch
from torch import Tensor
from tqdm import tqdm

from mixerkey.cipher import encrypt_images
from mixerkey.keys import BlockKey
from mixerkey.parties.trainer import ModelCard, moving


class ProviderError(RuntimeError):
    """The provider refused, or did not answer; the message says why and what to do."""


class Client:
    """Asks one provider with one key. Images leave it encrypted only. Use it as a context manager, or close it.

    Args:
        url: the provider's, such as "http://127.0.0.1:8000".
        key: the secret, of any kind that moves pixels; it never leaves this process.
        key_id: the key's id; needed while the provider serves several models.
        token: the provider's, if it wants one.
        seconds: to wait for an answer.
        tries: of a request that gets no connection, no answer or a 503; the same images may safely be sent again.
        transport: how httpx sends, for tests.

    >>> from mixerkey import Key
    >>> provider = httpx.MockTransport(lambda request: httpx.Response(200, json={"probabilities": [[0.25, 0.75]]}))
    >>> with Client("http://provider", Key.generate(2, 1), transport=provider) as client:
    ...     client.classify(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    tensor([[0.2500, 0.7500]])
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
        self.key, self.key_id, self.tries = moving(key), key_id, tries
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=seconds, transport=transport)

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
            ProviderError: the provider does not answer, or serves no or several such models.
        """
        cards = [ModelCard(**c | {"classes": tuple(c["classes"])}) for c in self._send("GET", "/v1/models").json()]
        chosen = [card for card in cards if self.key_id in (None, card.key_id)]
        if len(chosen) != 1:
            served = ", ".join(card.key_id for card in cards)
            raise ProviderError(
                f"the provider serves the key ids {served}; "
                + ("say which is yours" if self.key_id is None else f"{self.key_id} is none of them: get the new key")
            )
        return chosen[0]

    def classify(self, images: Tensor, *, batch: int = 64, progress: bool = False) -> Tensor:
        """Class probabilities of plain images, which are encrypted here.

        Args:
            images: uint8 (N, C, H, W), of the shape that the model's card says.
            batch: images a request; the provider has a limit, 256 unless it says otherwise.
            progress: show a progress bar.

        Returns:
            float32 (N, classes).

        Raises:
            ValueError: the images are not uint8, or do not fit the key.
            ProviderError: the provider refuses, or does not answer.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        headers = {"Content-Type": "application/octet-stream"} | ({"Key-Id": self.key_id} if self.key_id else {})
        rows: list[list[float]] = []
        with tqdm(total=len(images), unit="image", disable=not progress) as bar:
            for part in images.split(batch):
                body = encrypt_images(part, self.key).numpy().tobytes()
                answer = self._send(
                    "POST", "/v1/classify", params={"count": len(part)}, content=body, headers=headers
                ).json()
                rows += answer["probabilities"]
                bar.update(len(part))
        return torch.tensor(rows)

    def _send(self, method: str, path: str, **request: object) -> httpx.Response:
        for attempt in range(self.tries):
            wait = min(0.2 * 2**attempt, 5.0)
            try:
                response = self._http.request(method, path, **request)  # type: ignore[arg-type]
            except httpx.TransportError as error:
                problem = f"no answer from {self._http.base_url}: {error or type(error).__name__}"
            else:
                if response.is_success:
                    return response
                if response.status_code != 503:
                    raise ProviderError(f"the provider refused ({response.status_code}): {_detail(response)}")
                problem = f"the provider is busy: {_detail(response)}"
                after = response.headers.get("Retry-After", "")
                wait = max(wait, float(after)) if after.isdigit() else wait
            if attempt < self.tries - 1:
                time.sleep(wait)
        raise ProviderError(f"{problem}; gave up after {self.tries} tries")


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
