"""What a server is asked to be: every setting, its default and its limits.

In:  values from the command line or from a test.
Out: one frozen object that the other parts of the server read.
Does not know: models, requests, sockets.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from potstill.chat import Marks
from potstill.problem import Problem

SHORTEST_KEY = 12
"""Characters of an API key that may stand on an open network."""


class Settings(BaseModel):
    """Settings of one server; nothing here changes while it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on. Any but loopback needs `api_key`.")
    port: int = Field(8080, ge=0, le=65535, description="0: any free one.")
    api_key: SecretStr | None = Field(None, description="Clients must send it as a bearer token. None: loopback only.")
    slots: int = Field(2, ge=1, le=64, description="Answers written at the same time, all models together.")
    queue: int = Field(32, ge=0, description="Requests that may wait; the next one is refused with 503.")
    context: int = Field(1024, ge=16, description="Tokens of one conversation, prompt and answer, in every model.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, and its length where a client names none.")
    loaded: int = Field(2, ge=1, description="Models in memory at once; the one unused for longest makes room.")
    idle_close_s: float = Field(600.0, gt=0, description="Seconds without a request after which a model is closed.")
    body_kb: int = Field(256, ge=1, description="Largest request body, in 1,024 bytes.")
    body_s: float = Field(10.0, gt=0, description="Seconds a request's body may take to arrive.")
    head_s: float = Field(10.0, gt=0, description="Seconds a request's line and headers may take to arrive.")
    stall_s: float = Field(30.0, gt=0, description="Seconds a client may leave what is sent to it unread.")
    keep_alive_s: int = Field(15, ge=1, description="Seconds a connection may rest between two requests.")
    connections: int = Field(256, ge=1, description="Open connections; beyond them every request is refused.")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names by which the server may be called, beside `localhost`, `host` and plain addresses."
    )
    marks: Marks | None = Field(
        None,
        description="Punctuation of Chinese text in chats: full, half or keep. None: full for a pack, else keep.",
    )
    adapter: str | None = Field(None, description="The model with this adapter switched on is the first.")
    log_text: bool = Field(False, description="Write questions and answers into the log.")
    rating: Path | None = Field(None, description="TOML file with the models and questions of a blind rating.")
    ratings_file: Path | None = Field(None, description="SQLite file that ratings go to; set by `server.serve`.")

    def is_key(self, offered: bytes) -> bool:
        """Whether `offered` is the API key; takes as long for a near miss as for a far one."""
        return self.api_key is not None and hmac.compare_digest(offered, self.api_key.get_secret_value().encode())


def refuse_what_is_unsafe(settings: Settings) -> None:
    """Raises: Problem where the server would be open to a network without a key worth the name."""
    if is_loopback(settings.host):
        return
    remedy = f"Give --api-key with at least {SHORTEST_KEY} characters (try: openssl rand -hex 16), or leave --host out."
    if settings.api_key is None:
        raise Problem(f"{settings.host} can be reached by other machines, and no API key is set", remedy)
    if len(settings.api_key.get_secret_value()) < SHORTEST_KEY:
        raise Problem(f"{settings.host} can be reached by other machines, and the API key is short", remedy)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as open."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
