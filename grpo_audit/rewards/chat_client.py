"""One question to an OpenAI-compatible chat endpoint, with time limits, retries and back-off. Standard library only."""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any, Final

MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer that are read."""
_LONGEST_WAIT_S: Final = 20.0
_BUSY: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class ChatError(Exception):
    """No usable answer; one line that never holds the key."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Refuse: the answer with its 3xx code is then an error."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask."""

    base_url: str
    """Up to and without ``/chat/completions``."""
    model: str
    key: str | None
    timeout_s: float
    retries: int

    def ask(self, prompt: str, settings: Mapping[str, Any]) -> str:
        """The text of the answer to one user message. Raises ChatError."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **settings}
        data = json.dumps(body).encode()
        problem = "was not asked"
        for attempt in range(self.retries + 1):
            wait = 0.0
            try:
                return _content(self._post(data))
            except urllib.error.HTTPError as error:
                error.close()
                problem = f"answered with HTTP status {error.code}"
                if error.code not in _BUSY:
                    break
                wait = _seconds(error.headers.get("Retry-After"))
            except (urllib.error.URLError, TimeoutError, ConnectionError, OSError) as error:
                problem = f"could not be reached ({getattr(error, 'reason', None) or type(error).__name__})"
            except ValueError as error:
                problem = f"gave an answer that is not of the chat format ({error})"
                break
            if attempt < self.retries:
                time.sleep(min(_LONGEST_WAIT_S, max(wait, 0.25 * 2**attempt * random.uniform(0.8, 1.2))))
        raise ChatError(f"the judge {problem}")

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "grpo-audit"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base_url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, data=data, headers=headers, method="POST")
        deadline = time.monotonic() + self.timeout_s
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_s) as answer:
            received = bytearray()
            while part := answer.read1(1 << 16):  # a drip of bytes must not go on for ever
                received += part
                if len(received) > MAX_ANSWER:
                    raise ValueError("too long")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return bytes(received)


def _content(answer: bytes) -> str:
    """Raises ValueError."""
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from error
    if not isinstance(content, str):
        raise ValueError("no text")
    return content


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:  # a date
        return 0.0
