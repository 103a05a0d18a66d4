"""Processes that train together, with threads in their place."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from emorec.processes import World


class _Thread(World):
    """A process of `together`."""

    def __init__(self, rank, size, places, barrier, posts):
        super().__init__(rank, size)
        self._places, self._barrier, self._posts = places, barrier, posts

    def gather(self, x):
        self._places[self.rank] = x.clone()
        self._barrier.wait(20)
        found = [each.clone() for each in self._places]
        self._barrier.wait(20)
        return found

    def _reduced(self, x, by):
        every = torch.stack(self.gather(x))
        return x.copy_(every.sum(0) if by == "SUM" else every.amax(0))

    def copy_first(self, tensors):
        for tensor in tensors:
            tensor.copy_(self.gather(tensor)[0])

    def send(self, x, rank):
        self._posts[rank].put(x.clone())

    def receive(self):
        return self._posts[self.rank].get(timeout=20)


def together(size, function):
    """What a function of a world returns in each of several threads."""
    places, barrier = [None] * size, threading.Barrier(size)
    posts = [queue.Queue() for _ in range(size)]
    with ThreadPoolExecutor(size) as pool:
        worlds = [_Thread(rank, size, places, barrier, posts) for rank in range(size)]
        return list(pool.map(function, worlds))
