"""An S3 on this machine, empty at each start, for the tests that publish to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Storage:
    """Where it listens."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes a command use it."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "NO_PROXY": "*",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def client(self) -> Any:  # noqa: ANN401 - boto3 has no types
        """A boto3 client of it."""
        import boto3  # noqa: PLC0415 - of the training environment

        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )


@contextmanager
def serve_s3() -> Iterator[Storage]:
    """Serve for the block. moto keeps its buckets for the life of the process, so they are dropped first."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - of the training environment

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    storage = Storage(f"http://{host}:{port}")
    try:
        httpx.post(f"{storage.url}/moto-api/reset", trust_env=False).raise_for_status()
        yield storage
    finally:
        server.stop()
