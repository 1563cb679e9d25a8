"""Leases in memory, asked by asyncio alone: answers come late, or not, or to a request that was carried out.

For tests of the election in virtual time; what the API server does with a resourceVersion is done here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from edge.errors import ApiError

Object = dict[str, Any]


class LeaseCalls:
    """``fate``: of each request: seconds until it arrives, until its answer does, which of both is lost."""

    def __init__(self, fate: Callable[[], tuple[float, float, bool, bool]] | None = None) -> None:
        self.fate = fate or (lambda: (0.0, 0.0, False, False))
        self.objects: dict[str, Object] = {}
        self.version = 0
        self.asked: list[tuple[str, str]] = []
        self.down = False

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout: float = 2.5,
        allowed: Callable[[], bool] | None = None,
    ) -> bytes:
        there, back, lost, unheard = self.fate()
        await asyncio.sleep(min(there, timeout))
        if lost or self.down or there > timeout:
            await asyncio.sleep(timeout)
            raise ApiError(0, "Unreachable", "no answer")
        answer = self._carry_out(method, path, json.loads(body) if body else {})
        await asyncio.sleep(min(back, timeout))
        if unheard or back > timeout:
            raise ApiError(0, "Unreachable", "the answer was lost")
        if isinstance(answer, ApiError):
            raise answer
        return json.dumps(answer).encode()

    async def quiet(self, patience_s: float = 5.0) -> bool:
        """Nothing goes on by itself here."""
        return True

    def _carry_out(self, method: str, path: str, body: Object) -> Object | ApiError:
        self.asked.append((method, path))
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return ApiError(409, "AlreadyExists", "it is there")
            return self._store(path, body)
        known = self.objects.get(path)
        if known is None:
            return ApiError(404, "NotFound", "it is not there")
        if method == "GET":
            return known
        version = body["metadata"].pop("resourceVersion", None)
        if version not in (None, known["metadata"]["resourceVersion"]):
            return ApiError(409, "Conflict", "the object has been modified")
        notes = {**known["metadata"].get("annotations", {}), **body["metadata"].get("annotations", {})}
        spec = {**known["spec"], **body["spec"]}
        metadata = {**known["metadata"], **body["metadata"], "annotations": notes}
        return self._store(path, {**known, "metadata": metadata, "spec": spec})

    def _store(self, path: str, body: Object) -> Object:
        self.version += 1
        stored = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.objects[path] = stored
        return stored
