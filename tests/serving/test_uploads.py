"""Bodies are read within their limits of bytes and time, whatever the client declares and however it sends them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from mrcnn_jax.serving.uploads import Limits, PixelBudget, RequestError, Slots, discard_body, read_upload

LIMITS = Limits(max_bytes=100, body_seconds=0.1)


class Body:
    """The receiving side of a request whose chunks come one by one, `delay` seconds apart; then the client waits."""

    def __init__(self, chunks: Sequence[bytes], *, delay: float = 0.0, leaves: bool = False, **headers: str) -> None:
        self.num_read = 0
        self._chunks, self._delay, self._leaves = chunks, delay, leaves
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.request = Request({"type": "http", "method": "POST", "headers": named}, self.receive)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self._delay)
        if self.num_read == len(self._chunks):
            assert self._leaves, "the server reads beyond the end"
            return {"type": "http.disconnect"}
        self.num_read += 1
        more = self._leaves or self.num_read < len(self._chunks)
        return {"type": "http.request", "body": self._chunks[self.num_read - 1], "more_body": more}


def read(body: Body) -> bytes:
    return asyncio.run(read_upload(body.request, LIMITS))


def test_chunks_are_joined_up_to_the_limit() -> None:
    assert read(Body([b"a" * 40, b"b" * 60])) == b"a" * 40 + b"b" * 60


def test_too_many_bytes_are_refused_as_soon_as_they_are_known() -> None:
    declared = Body([b"a"] * 1000, content_length="101")
    undeclared = Body([b"a" * 30] * 1000)
    understated = Body([b"a" * 30] * 1000, content_length="7")
    for body, num_read in ((declared, 0), (undeclared, 4), (understated, 4)):
        with pytest.raises(RequestError) as caught:
            read(body)
        assert caught.value.status == 413 and body.num_read == num_read


@pytest.mark.parametrize("chunks", [[b"a"] * 1000, [b"a" * 30] * 1000])
def test_a_slow_body_is_given_up(chunks: list[bytes]) -> None:
    with pytest.raises(RequestError) as caught:
        read(Body(chunks, delay=0.06))
    assert caught.value.status == 408


def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        read(Body([b"a"], leaves=True))


def test_refused_bodies_are_read_up_to_a_limit_and_any_number_of_times() -> None:
    short, endless = Body([b"a" * 30] * 3), Body([b"a" * 30] * 1000)
    slow, left = Body([b"a"] * 1000, delay=0.06), Body([b"a"], leaves=True)
    for body in (short, endless, slow, left):
        asyncio.run(discard_body(body.request, LIMITS))
    assert short.num_read == 3 and endless.num_read == 14 and slow.num_read <= 2
    asyncio.run(discard_body(short.request, LIMITS))


def test_slots_are_freed_by_errors() -> None:
    slots = Slots(1)
    with pytest.raises(ZeroDivisionError), slots.take(1):
        assert slots.taken == 1
        with pytest.raises(RequestError) as caught, slots.take(7):
            pass
        assert (caught.value.status, caught.value.retry_after) == (503, 7)
        raise ZeroDivisionError
    assert slots.taken == 0


def test_pixels_are_given_in_turn_so_that_large_images_are_not_overtaken_for_ever() -> None:
    order = []

    async def take(budget: PixelBudget, pixels: int) -> None:
        async with budget.take(pixels):
            order.append(pixels)
            await asyncio.sleep(0.01)

    async def run() -> None:
        budget = PixelBudget(100, max_seconds=10)
        await asyncio.gather(*(take(budget, pixels) for pixels in (60, 100, 30, 31, 40)))

    asyncio.run(asyncio.wait_for(run(), 10))
    assert order == [60, 100, 30, 31, 40]


def test_an_image_that_waits_too_long_for_memory_is_refused_and_occupies_none() -> None:
    async def run() -> None:
        budget = PixelBudget(100, max_seconds=0.05)
        async with budget.take(60):
            with pytest.raises(RequestError) as caught:
                async with budget.take(50):
                    pytest.fail("60 + 50 pixels are in memory")
            assert (caught.value.status, caught.value.retry_after) == (503, 1)
            async with budget.take(40):
                pass
        async with budget.take(100):
            pass

    asyncio.run(asyncio.wait_for(run(), 10))
