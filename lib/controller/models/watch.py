"""What the workers of one model know of it: its row, as the model-worker-manager here saw it last."""

from __future__ import annotations

import asyncio
from typing import Any

from controller.models.model import ALIVE, Model


class ModelWatch:
    """One model's row. It may be a second old; what has to be certain is asked of the database."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._changed = asyncio.Event()

    def update(self, model: Model) -> None:
        """Take note of the row as it is now."""
        if model != self.model:
            self.model = model
            self._changed.set()

    async def until_not_alive(self) -> Model:
        """Return the model once it is being destroyed."""
        while self.model.life == ALIVE:
            self._changed.clear()
            await self._changed.wait()
        return self.model

    def report(self) -> dict[str, Any]:
        return {"name": self.model.name, "life": self.model.life}
