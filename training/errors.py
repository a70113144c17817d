"""What can go wrong in the training chain. Messages name the file and the command that makes it."""

from __future__ import annotations

from backend.core.errors import DoctisError


class TrainingError(DoctisError, RuntimeError):
    """A stage cannot run or its result is not good enough."""


class ConfigError(TrainingError, ValueError):
    """The configuration file is malformed; every problem is listed."""


class StaleArtefactError(TrainingError):
    """An input is missing, or was not made from what its manifest says."""
