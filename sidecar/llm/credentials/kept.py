"""Credentials that outlive a compilation: a new configuration must not fetch every token anew.

One is known by all that it is made of. A fetch under way for one that was let go ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, final

import orjson

from sidecar.llm.credentials.base import Credential

_Key = tuple[bytes, Hashable, str]


@final
class KeptCredentials:
    """Made once a worker."""

    __slots__ = ("_asked", "_known")

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[Credential, ...]] = {}
        self._asked: set[_Key] = set()

    def get(
        self,
        payload: Any,
        auth: Hashable,
        host: str,
        make: Callable[[], tuple[Credential, ...]],
    ) -> tuple[Credential, ...]:
        """Those of a `backendAuth` payload (None: the provider's default), made when they are new.

        `auth` and `host`: what else they depend on. Raises what `make` does.
        """
        key = (orjson.dumps(payload, option=orjson.OPT_SORT_KEYS), auth, host)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = make()
        self._asked.add(key)
        return found

    def begin_round(self) -> None:
        """A full compilation begins: what it does not ask for is dropped by `end_round`."""
        self._asked = set()

    def end_round(self) -> None:
        """Let go of credentials that nobody asked for since `begin_round`."""
        for key in self._known.keys() - self._asked:
            del self._known[key]
