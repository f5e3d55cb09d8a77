"""Approximate memory of values: an empty object is 2 bytes of JSON and 64 of memory."""

from __future__ import annotations

import random
from gc import get_referents
from sys import getsizeof
from types import NoneType
from typing import Any

_NUMBERS = frozenset({int, float, bool, NoneType})
_NUMBER_BYTES = 28
_CONTAINERS = frozenset({list, dict, tuple})
_TEXT = frozenset({str})

# A level with more values than this is sampled, and each sample is capped: walking megabytes must
# not block the event loop.
_SAMPLE = 2_000
_MOST_BYTES_IN_SAMPLE = 1_000


def held_bytes(value: Any) -> int:
    """Return the approximate memory of a value with everything in it, in bytes.

    A value that occurs several times within one level counts once. It is walked level by level,
    not value by value, so that C functions do most of the walk.

    Args:
        value: JSON values, or objects whose attributes are JSON values.
    """
    size, weight = 0.0, 1.0
    level: list[Any] = [value]
    while level:
        if len(level) > _SAMPLE:
            weight *= len(level) / _SAMPLE
            # Not at regular distances, which could select only the keys.
            level = random.sample(level, _SAMPLE)
        different = list({id(one): one for one in level}.values())
        sized = [one for one in different if type(one) not in _NUMBERS]
        sizes = map(getsizeof, sized)
        if weight > 1:
            sizes = (min(one, _MOST_BYTES_IN_SAMPLE) for one in sizes)
        size += weight * (sum(sizes) + _NUMBER_BYTES * (len(different) - len(sized)))
        compound = [one for one in sized if type(one) not in _TEXT]
        level = get_referents(*[one for one in compound if type(one) in _CONTAINERS])
        # A copy: from Python 3.13 on, the dictionary of an object may not refer to its values.
        owners: list[object] = [one for one in compound if hasattr(one, "__dict__")]
        level += [dict(vars(one)) for one in owners]
    return int(size)
