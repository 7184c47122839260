"""The dependency engine: which workers can run now, given which others do. See docs/explanation/engine.md."""

from controller.engine.engine import Engine
from controller.engine.manifold import Bounce, EngineError, Getter, Manifold, Manifolds, Missing, Uninstall, Worker
from controller.engine.offering import Offer, gate, lend, offer

__all__ = [
    "Bounce",
    "Engine",
    "EngineError",
    "Getter",
    "Manifold",
    "Manifolds",
    "Missing",
    "Offer",
    "Uninstall",
    "Worker",
    "gate",
    "lend",
    "offer",
]
