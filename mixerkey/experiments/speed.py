"""How fast the package is, as ratios: ``python -m mixerkey.experiments.speed`` times ours and named references in turn.

It prints one table, and writes it with the processor and the versions to ``mixerkey/receipts/speed.json``, which
the chapter on the fast ConvMixer quotes. Give it a quiet machine: other work on the same cores widens the range.
"""

from __future__ import annotations

import io
import multiprocessing
import shutil
import tempfile
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from threading import Thread

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mixerkey import Key, encrypt_images, encrypt_model, load_pretrained, normalize
from mixerkey.data import CIFAR10_CLASSES
from mixerkey.evaluation import predict, sweep
from mixerkey.fast import _depthwise, fast_forward
from mixerkey.files import write_json
from mixerkey.parties.client import Client
from mixerkey.parties.provider import Models, create_app, listen, make_server
from mixerkey.parties.trainer import ModelCard, save_encrypted
from mixerkey.receipts import RECEIPTS, processor, versions

RECEIPT = RECEIPTS / "speed.json"
PLAIN, PLAIN_BF16 = "convolutions, float32", "convolutions, bfloat16, channels last"
POINTWISE = "pointwise convolution, float32"
FAST, FAST_FP32 = "matrix products, bfloat16", "matrix products, float32"
ENCRYPTED = "matrix products, bfloat16, encrypted"


@dataclass
class Benchmark:
    """One piece of work, done in several ways.

    Attributes:
        what: the work.
        ways: name -> does the work once; ours is the first, the others are references.
        amount: how much that is.
        unit: of what.
        targets: reference -> how many times as fast ours should be.
    """

    what: str
    ways: Mapping[str, Callable[[], object]]
    amount: int
    unit: str
    targets: dict[str, float] = field(default_factory=dict)


def networks(x: Tensor) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """The paper's network in four ways: name -> (network, its forward pass on `x`)."""

    def autocast(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    fast, fast32, plain, plain16 = (load_pretrained("cifar10") for _ in range(4))
    plain16.to(memory_format=torch.channels_last)
    half, last = x.bfloat16(), x.to(memory_format=torch.channels_last)
    return {
        FAST: (fast, lambda: fast_forward(fast, half)),
        PLAIN: (plain, lambda: plain(x)),
        PLAIN_BF16: (plain16, lambda: autocast(plain16, last)),
        FAST_FP32: (fast32, lambda: fast_forward(fast32, x)),
    }


def training(batch: int, generator: torch.Generator) -> Benchmark:
    """A step of training: forward, backward, AdamW."""
    x = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    labels = torch.randint(10, (batch,), generator=generator)

    def step(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], object]:
        optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)

        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(forward(), labels).backward()
            optimizer.step()

        return run

    ways = {name: step(*network) for name, network in networks(x).items()}
    return Benchmark("training step", ways, batch, "images", {PLAIN: 5})


def depthwise(batch: int, generator: torch.Generator) -> Iterator[Benchmark]:
    """One depthwise convolution, and a pointwise one, which has three times its products."""
    z = torch.randn(batch, 256, 8, 8, generator=generator, requires_grad=True)
    columns = z.detach().permute(1, 0, 2, 3).reshape(256, batch, 64).requires_grad_()  # (d, N, hw)
    conv = nn.Conv2d(256, 256, 9, groups=256, padding="same")
    pointwise = nn.Conv2d(256, 256, 1)
    forward: dict[str, Callable[[], Tensor]] = {
        FAST_FP32: lambda: _depthwise(conv, columns, 8, 8),
        PLAIN: lambda: conv(z),
        POINTWISE: lambda: pointwise(z),
    }

    def back(run: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: run().sum().backward()

    yield Benchmark(
        "depthwise, forward", {k: torch.inference_mode()(run) for k, run in forward.items()}, batch, "images"
    )
    yield Benchmark("depthwise, there and back", {k: back(run) for k, run in forward.items()}, batch, "images")


def inference(batch: int, generator: torch.Generator) -> Benchmark:
    """Logits of a batch: ours, plain and encrypted, PyTorch's, and those of the `runtimes` that are installed."""
    x = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    locked, half = encrypt_model(load_pretrained("cifar10"), Key.from_seed(0, 4, 3)), x.bfloat16()
    ways = {name: forward for name, (_, forward) in networks(x).items()} | {
        ENCRYPTED: lambda: fast_forward(locked, half)
    }
    ways |= runtimes(load_pretrained("cifar10"), x)
    ways = {name: torch.inference_mode()(forward) for name, forward in ways.items()}
    return Benchmark(f"inference, batch of {batch}", ways, batch, "images", {PLAIN: 3} if batch == 256 else {})


def runtimes(model: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What else an engineer would run this network with, where it is installed: name -> the logits of `x`.

    torch.compile needs a C++ compiler; ONNX Runtime and OpenVINO are in the dependency group ``bench``.
    """
    ways: dict[str, Callable[[], Tensor]] = {}

    def compiled(dtype: torch.dtype) -> Callable[[], Tensor]:
        network, images = torch.compile(deepcopy(model).to(dtype)), x.to(dtype)
        return lambda: network(images).float()

    if shutil.which("c++"):
        ways["torch.compile, float32"] = compiled(torch.float32)
        ways["torch.compile, bfloat16"] = compiled(torch.bfloat16)
    if not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime", "openvino"))):
        return ways
    import onnxruntime
    import openvino

    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    onnx, images = program.model_proto.SerializeToString(), x.numpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (input_,) = session.get_inputs()
    ways["ONNX Runtime, float32"] = lambda: torch.from_numpy(session.run(None, {input_.name: images})[0])

    def openvinos(precision: str) -> Callable[[], Tensor]:
        core = openvino.Core()
        graph = core.read_model(io.BytesIO(onnx))
        network = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        return lambda: torch.from_numpy(network(images)[0])

    return ways | {"OpenVINO, float32": openvinos("f32"), "OpenVINO, bfloat16": openvinos("bf16")}


def provider(count: int, generator: torch.Generator) -> Iterator[Benchmark]:
    """A client's request to a provider on this computer, against the same images without HTTP."""
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    key, key_id = Key.from_seed(0, 4, 3), "0" * 16
    locked = encrypt_model(load_pretrained("cifar10"), key)
    with tempfile.TemporaryDirectory() as folder:
        card = ModelCard(key_id, 4, 3, 32, 32, CIFAR10_CLASSES)
        save_encrypted(locked, card, path := Path(folder, "locked.safetensors"))
        server = make_server(create_app(Models([path])))
        with listen("127.0.0.1", 0) as sock:
            thread = Thread(target=server.run, kwargs={"sockets": [sock]})
            thread.start()
            with Client(f"http://127.0.0.1:{sock.getsockname()[1]}", key) as client:
                ways = {
                    "request to the provider": lambda: client.classify(images),
                    "without HTTP": lambda: predict(locked, images, key).softmax(1),
                }
                yield Benchmark(f"provider, {count} a request", ways, count, "images")
            server.should_exit = True
            thread.join()


def cipher(count: int, generator: torch.Generator) -> Benchmark:
    """Encrypting uint8 images, against copying them.

    The size matters: a result of more than 32 MB comes in fresh pages, which cost a copy far more than its bytes.
    """
    x = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    key = Key.from_seed(0, 4, 3)
    ways = {"encrypt_images": lambda: encrypt_images(x, key), "plain copy": x.clone}
    return Benchmark(f"cipher, {count:,} images", ways, count, "images", {"plain copy": 1 / 3})


def model_encryption() -> Benchmark:
    """Encrypting a network, which copies it, against copying it."""
    model, key = load_pretrained("cifar10"), Key.from_seed(0, 4, 3)
    ways = {"encrypt_model": lambda: encrypt_model(model, key), "deepcopy": lambda: deepcopy(model)}
    return Benchmark("model encryption", ways, 1, "networks")


def key_sweep(count: int, generator: torch.Generator) -> Benchmark:
    """Two wrong keys, each on all images, against a loop over the readable network."""
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    keys = [Key.from_seed(seed, 4, 3) for seed in (1, 2)]
    locked = encrypt_model(load_pretrained("cifar10"), Key.from_seed(0, 4, 3))

    @torch.inference_mode()
    def loop() -> list[int]:
        batches = list(zip(images.split(250), labels.split(250), strict=True))
        return [
            sum(int((locked(normalize(encrypt_images(x, key))).argmax(1) == y).sum()) for x, y in batches)
            for key in keys
        ]

    ways = {"sweep": lambda: sweep(locked, images, labels, keys, progress=False), "loop, " + PLAIN: loop}
    return Benchmark("key sweep", ways, len(keys) * count, "images")


def measure(benchmark: Benchmark, rounds: int) -> Iterator[dict]:
    """Time all ways in turn, `rounds` times; one row for each reference.

    A ratio compares neighbours in time, so what slows the machine for a while slows both. The row has the median
    over the rounds and the range.
    """
    timers = {name: timeit.Timer(run) for name, run in benchmark.ways.items()}
    numbers = {name: timer.autorange()[0] for name, timer in timers.items()}  # warm up; each then takes 0.2 s or more
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(numbers[name]) / numbers[name])
    ours, *references = seconds
    for reference in references:
        ratios = [slow / fast for slow, fast in zip(seconds[reference], seconds[ours], strict=True)]
        yield {
            "what": benchmark.what,
            "reference": reference,
            "ours": ours,
            "unit": f"{benchmark.unit}/s",
            "reference speed": benchmark.amount / median(seconds[reference]),
            "our speed": benchmark.amount / median(seconds[ours]),
            "ratio": median(ratios),
            "range": [min(ratios), max(ratios)],
            "target": benchmark.targets.get(reference),
        }


def table(rows: list[dict]) -> str:
    """The rows as text, under a heading; a ratio is our speed over the reference's."""
    lines = [f"{'what':26}{'reference':39}{'':>11}  {'ours':27}{'':>11} {'':11}{'ratio':>6}  {'range':15}{'target':>8}"]
    for row in rows:
        low, high = row["range"]
        target = f"≥ {row['target']:.2f}" if row["target"] else ""
        lines.append(
            f"{row['what']:26}{row['reference']:39}{row['reference speed']:11,.0f}  {row['ours']:27}"
            f"{row['our speed']:11,.0f} {row['unit']:11}{row['ratio']:6.2f}  {f'{low:.2f} to {high:.2f}':15}{target:>8}"
        )
    return "\n".join(lines)


PARTS: list[Callable[[torch.Generator], Iterable[Benchmark]]] = [
    lambda generator: [training(256, generator)],
    *(lambda generator, batch=batch: [inference(batch, generator)] for batch in (1, 64, 256)),
    lambda generator: depthwise(256, generator),
    lambda generator: [cipher(10_000, generator)],
    lambda generator: [cipher(50_000, generator)],
    lambda generator: [model_encryption()],
    lambda generator: [key_sweep(500, generator)],
    *(lambda generator, count=count: provider(count, generator) for count in (1, 8, 64)),
]


def part(index: int, rounds: int) -> list[dict]:
    """The rows of one of the `PARTS`."""
    generator = torch.Generator().manual_seed(0)
    return [row for benchmark in PARTS[index](generator) for row in measure(benchmark, rounds)]


def main(rounds: int = 9) -> None:
    """Measure everything, print the table, write the receipt.

    Each part has a process of its own: memory that one has left behind would be warm for the next.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
        parts = pool.map(part, range(len(PARTS)), [rounds] * len(PARTS))
        rows = [row for found in tqdm(parts, "parts", total=len(PARTS), disable=None) for row in found]
    print(table(rows))
    print(f"\n{processor()}; medians of {rounds} rounds, in each of which all ways took turns")
    machine = {"processor": processor(), "versions": versions()}
    write_json(RECEIPT, machine | {"rounds": rounds, "rows": rows})


if __name__ == "__main__":
    main()
