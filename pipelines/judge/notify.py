"""Send the summary of a re-evaluation to a webhook. A webhook's URL is often its secret, so it is never printed."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pipelines.judge.summary import Summary, markdown
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

SENT = "notified.json"
TIMEOUT = 10  # s


def notify(url: str, summary: Summary, folder: str) -> None:
    """POST a summary as JSON, at least once: `text` for people (chat services show it), `status` and `summary`.

    A failure is logged and raises nothing; the next re-evaluation sends the message again. Raises ZseError for a URL
    that is not http(s).
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ZseError("--webhook is not an http or https URL. Give one, or leave the option out")
    sent = storage.join(folder, SENT)
    if storage.exists(sent):
        return
    where = urlsplit(url).hostname
    body: dict[str, Any] = {"status": summary.status, "text": markdown(summary), "summary": summary.as_json()}
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=TIMEOUT) as answer:
            storage.write_json(sent, {"host": where, "status": answer.status})
    except (URLError, HTTPException, OSError) as error:
        reason = f"{type(error).__name__} {getattr(error, 'code', '')}".strip()  # the error's text may contain the URL
        say(f"The webhook at {where} did not accept the message ({reason}); the next re-evaluation sends it again")
