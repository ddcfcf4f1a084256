"""The provider's page in a real browser: Chromium, headless, its requests recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from parties import ID, KEY, OTHER, PATIENCE, WRONG, Provider, lock
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect
from torch import Tensor

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained
from mixerkey.data import load_digits
from mixerkey.evaluation import predict
from mixerkey.key_files import encode
from mixerkey.parties.provider import PAGE

HEADERS = {"accept", "accept-language", "content-type", "key-id", "referer", "user-agent"}
SAMPLES = [torch.tensor(s["pixels"], dtype=torch.uint8) for s in json.loads((PAGE / "samples.json").read_text())]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    folder = tmp_path_factory.mktemp("page")
    lock(KEY, ID, folder / "a.safetensors")
    with Provider(folder, folder, "--port", "0") as provider:
        yield provider


@pytest.fixture
def page(browser: Browser, provider: Provider) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(provider.url)
    expect(page.locator("#wrong button")).to_be_enabled()
    yield page
    page.close()
    assert problems == []


def record(page: Page) -> list[Request]:
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    return requests


def sent(requests: list[Request]) -> list[bytes]:
    return [request.post_data_buffer or b"" for request in requests if request.method == "POST"]


def click(page: Page, way: str) -> str:
    """Send in one of the three ways; the class that comes back."""
    page.locator(f"#{way} > button").click()
    return page.locator(f"#{way} .answer strong").inner_text()


def choose_key(page: Page, key: Key, tmp_path: Path) -> None:
    key.save(tmp_path / "key.json")
    page.locator("#key").set_input_files(tmp_path / "key.json")


def label(image: Tensor, key: Key) -> str:
    locked = encrypt_model(load_pretrained("digits"), KEY)
    return str(int(predict(locked, image.view(1, 1, 8, 8), key).argmax()))


def test_with_a_key_the_provider_gets_ciphertext_only_and_the_answers_are_right(page: Page, tmp_path: Path) -> None:
    requests = record(page)
    choose_key(page, KEY, tmp_path)
    for digit, pixels in enumerate(SAMPLES):
        page.locator("#sample-list button").nth(digit).click()
        assert click(page, "right") == label(pixels, KEY) == str(digit)
        click(page, "wrong")
    bodies = sent(requests)
    assert bodies[::2] == [encrypt_images(pixels.view(1, 8, 8), KEY).numpy().tobytes() for pixels in SAMPLES]
    everything = b"\n".join([repr((r.method, r.url, r.headers)).encode() for r in requests] + bodies)
    plain = [pixels.numpy().tobytes() for pixels in SAMPLES]
    assert [image for image in plain if image in everything] == []
    for request in requests:  # nor has it room for anything else
        assert request.url == page.url + "v1/classify"
        unknown = {name for name in request.headers if not name.startswith("sec-")} - HEADERS
        assert (unknown, request.headers["key-id"]) == (set(), ID)

    click(page, "none")  # the reader asks for it, and the page says what it means: now the provider does see it
    assert sent(requests)[-1] == plain[-1]
    expect(page.locator("#none .note")).to_contain_text("the provider sees it")


def test_the_browsers_cipher_is_the_papers_for_every_shape(page: Page) -> None:
    generator = torch.Generator().manual_seed(0)
    for M, C, H, W in ((2, 1, 8, 8), (4, 3, 8, 12), (1, 2, 2, 3), (3, 1, 6, 9)):
        key = Key.from_seed(M, M, C)
        image = torch.randint(256, (C, H, W), dtype=torch.uint8, generator=generator)
        encrypted = page.evaluate(
            """async ({pixels, shape, key}) => {
                const { encrypt, readKey } = await import("/page/cipher.js");
                const read = readKey(JSON.stringify(key), key.patch_size, key.channels);
                return Array.from(encrypt(Uint8Array.from(pixels), shape, read));
            }""",
            {"pixels": image.flatten().tolist(), "shape": [C, H, W], "key": json.loads(encode(key))},
        )
        assert encrypted == encrypt_images(image, key).flatten().tolist()


def test_the_browsers_random_keys_are_keys_and_all_of_them_occur(page: Page) -> None:
    drawn = page.evaluate(
        """async () => {
            const { randomKey } = await import("/page/cipher.js");
            return Array.from({ length: 2000 }, () => randomKey(2, 1));
        }"""
    )
    # 144 keys; the chance that 2,000 draws miss one is about one in 8,000.
    assert len({Key(key["v"], key["r"], 2, 1) for key in drawn}) >= 143


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a complete JSON file"),
        ("{}", "not a mixerkey key"),
        (encode(Key.from_seed(0, 4, 3)).decode(), "the model needs 2 and 1"),
        (json.dumps(json.loads(encode(KEY)) | {"permutation": [0, 0, 1, 2]}), "permutation is damaged"),
        (json.dumps(json.loads(encode(KEY)) | {"flips": [1, 1, 1, 0]}), "flips are damaged"),
        (json.dumps(json.loads(encode(KEY)) | {"permutation": [3, 2, 1, 0]}), "does not match its checksum"),
        (json.dumps(json.loads(encode(KEY)) | {"id": ID}), "does not match its checksum"),
    ],
)
def test_a_key_file_that_is_none_is_explained(page: Page, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "key.json").write_text(text)
    page.locator("#key").set_input_files(tmp_path / "key.json")
    expect(page.locator("#message")).to_contain_text(message)
    expect(page.locator("#right button")).to_be_disabled()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_key_with_an_id_is_read_and_that_of_another_model_said_to_be(
    page: Page, tmp_path: Path, encoding: str
) -> None:
    for key_id in (ID, OTHER):
        path = tmp_path / f"{key_id}.json"
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        path.write_text(mark + encode(KEY, key_id).decode(), encoding=encoding)
        page.locator("#key").set_input_files(path)
        expect(page.locator("#right .note")).to_contain_text(f"From {path.name}.")
        assert ("a wrong key" in page.locator("#right .note").inner_text()) == (key_id == OTHER)


def test_a_picture_of_ones_own_stays_in_the_browser(page: Page, tmp_path: Path) -> None:
    image = load_digits("test")[0][5]
    Image.fromarray(image[0].numpy()).save(tmp_path / "mine.png")
    choose_key(page, KEY, tmp_path)
    requests = record(page)
    page.locator("#picture").set_input_files(tmp_path / "mine.png")
    expect(page.locator("#none .bytes")).to_contain_text(image.numpy().tobytes()[:12].hex(" "))
    assert click(page, "right") == label(image, KEY)
    assert sent(requests) == [encrypt_images(image, KEY).numpy().tobytes()]


def test_during_a_rotation_the_key_id_chooses_and_a_token_is_asked_for(
    browser: Browser, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("two")
    lock(WRONG, OTHER, folder / "a.safetensors")
    lock(KEY, ID, folder / "b.safetensors")
    with Provider(folder, folder, "--port", "0", environment={"MIXERKEY_TOKEN": "secret"}) as provider:
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(provider.url)
        page.locator("#token").fill("secret")
        page.locator("#token").press("Enter")
        page.locator("#model").select_option(ID)
        choose_key(page, KEY, tmp_path)
        assert click(page, "right") == "3"
        page.close()


def test_the_reference_lists_the_operations(page: Page) -> None:
    page.goto(page.url + "docs")
    expect(page.get_by_role("heading", name="POST /v1/classify")).to_be_visible()
    expect(page.locator("#here")).to_contain_text("http://127.0.0.1")


def test_the_samples_are_the_public_digits() -> None:
    images, labels = load_digits("test")
    for digit, pixels in enumerate(SAMPLES):
        assert any(torch.equal(image.flatten(), pixels) for image in images[labels == digit])
