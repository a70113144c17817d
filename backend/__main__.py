"""`python -m backend`: serve with the settings of the environment, one worker, until SIGTERM."""

from __future__ import annotations

import sys

import uvicorn

from backend.errors import DoctisError
from backend.main import create_app
from backend.settings import load_settings


def main() -> int:
    """Serve; 2 when the settings or the knowledge base do not allow it."""
    try:
        settings = load_settings()
        app = create_app(settings)
    except DoctisError as error:
        print(f"doctis: {error}", file=sys.stderr)
        return 2
    uvicorn.run(
        app, host=settings.host, port=settings.port, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=20, workers=1,  # one copy of the model, whatever WEB_CONCURRENCY says
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
