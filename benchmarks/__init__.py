"""Measurements of the running service. Each module prints its figures; none of them is part of the service."""
