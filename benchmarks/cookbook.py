"""Run the script of OpenAI's cookbook, which is not part of this, on a server of ours.

    python cookbook.py SCRIPT REQUESTS RESULTS

Invariant: what runs is the script as it was fetched, with limits that do not bind, but for two things. It takes its
end point from links with https only: here it is told. And it counts tokens with tiktoken, which fetches a vocabulary
at first: here words are counted, which is faster. It is asked to log errors only, the least it can.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

NEVER_BINDS = 1e12


def _script(path: str) -> Any:
    tokens = ModuleType("tiktoken")
    tokens.get_encoding = lambda _: SimpleNamespace(encode=str.split)  # type: ignore[attr-defined]  # its stand-in
    sys.modules["tiktoken"] = tokens
    spec = importlib.util.spec_from_file_location("script", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    script = sys.modules["script"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.api_endpoint_from_url = lambda _: "embeddings"  # type: ignore[attr-defined]  # see above
    return script


if __name__ == "__main__":
    _, place, requests, results = sys.argv
    asyncio.run(
        _script(place).process_api_requests_from_file(
            requests_filepath=requests,
            save_filepath=results,
            request_url=os.environ["ASKED"],
            api_key="none",
            max_requests_per_minute=NEVER_BINDS,
            max_tokens_per_minute=NEVER_BINDS,
            token_encoding_name="words",  # noqa: S106  # no secret
            max_attempts=5,
            logging_level=logging.ERROR,
        )
    )
