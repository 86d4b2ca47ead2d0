"""Waiting in the event loop, but not for ever."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from blspkd.serve.api_error import ApiError


async def first_of(*works: Awaitable[Any], seconds: float, late: ApiError) -> Any:
    """What the first of `works` to end returns or raises, `late` where none ends within `seconds`. Ends the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                return task.result()
        raise late
    finally:
        for task in tasks:
            if not task.cancel() and not task.cancelled():
                task.exception()  # asyncio complains of exceptions that nobody has asked for
