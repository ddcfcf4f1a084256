"""Dynamic micro-batching: requests that wait while the network computes share its next forward pass."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class QueueFull(Exception):
    """There is no room for these images now; ask again later."""


class Job(NamedTuple):
    """Images that wait, the model they are for, and where their answer goes."""

    model: nn.Module
    images: Tensor
    answer: asyncio.Future[Tensor]


class Batcher:
    """Collects images from many requests and answers each with its own rows of a shared forward pass.

    A pass starts as soon as the one before has ended, with whatever is waiting. So a lone client never waits for
    company, and the busier the service is, the larger its batches are.

    Args:
        compute: (model, images (N, C, H, W)) -> one row an image; runs in a thread, one call at a time.
        batch: the most images in a pass.
        queue: the most images that wait.

    >>> async def two_clients():
    ...     batcher = Batcher(lambda model, images: images.flatten(1).sum(1, keepdim=True), batch=8, queue=64)
    ...     worker, model = asyncio.create_task(batcher.run()), nn.Identity()
    ...     requests = [batcher.submit(model, torch.full((n, 1, 1, 1), n)) for n in (1, 2)]
    ...     answers = [answer.flatten().tolist() for answer in await asyncio.gather(*requests)]
    ...     worker.cancel()
    ...     return answers, batcher.passes
    >>> asyncio.run(two_clients())
    ([[1], [2, 2]], 1)
    """

    def __init__(self, compute: Callable[[nn.Module, Tensor], Tensor], *, batch: int, queue: int) -> None:
        if not 1 <= batch <= queue:
            raise ValueError(f"need 1 <= batch <= queue, got batch {batch} and queue {queue}")
        self.compute, self.batch, self.queue = compute, batch, queue
        self.passes = self.images = 0  # done so far
        self._jobs: deque[Job] = deque()
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Images that wait, not counting those in the pass that runs."""
        return sum(len(job.images) for job in self._jobs)

    async def submit(self, model: nn.Module, images: Tensor) -> Tensor:
        """Wait for the answer to images (N, C, H, W), 1 <= N <= batch, all of one shape for a model.

        Raises:
            QueueFull: more images would wait than may.
        """
        if not 1 <= len(images) <= self.batch:
            raise ValueError(f"a request has 1 to {self.batch} images, got {len(images)}")
        if self.waiting + len(images) > self.queue:
            raise QueueFull
        job = Job(model, images, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._arrived.set()
        return await job.answer

    async def run(self) -> None:
        """Answer what is submitted, until cancelled."""
        while True:
            await self._arrived.wait()
            jobs = self._take()
            if not jobs:
                self._arrived.clear()
                continue
            counts = [len(job.images) for job in jobs]
            try:  # of a failure, of memory for one, hear those whose images were in this pass, and it goes on
                images = torch.cat([job.images for job in jobs])
                rows = (await asyncio.to_thread(self.compute, jobs[0].model, images)).split(counts)
            except Exception as error:
                for job in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            self.passes += 1
            self.images += sum(counts)
            for job, answer in zip(jobs, rows, strict=True):
                if not job.answer.done():  # it is when the request gave up
                    job.answer.set_result(answer)

    def _take(self) -> list[Job]:
        """The oldest job and those behind it for the same model, as many as fit; who gave up is dropped."""
        taken: list[Job] = []
        left: deque[Job] = deque()
        room = self.batch
        for job in self._jobs:
            if job.answer.done():
                continue
            if len(job.images) <= room and (not taken or job.model is taken[0].model):
                taken.append(job)
                room -= len(job.images)
            else:
                left.append(job)
        self._jobs = left
        return taken
