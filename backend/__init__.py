"""Doctis AI: a self-hosted French symptom-assessment service."""

__version__ = "0.1.0"
