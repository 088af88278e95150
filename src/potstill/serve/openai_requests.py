"""What clients of OpenAI's API send: every field that counts here, checked; all others are let through.

In:  JSON bodies of `/v1/chat/completions` and `/v1/completions`.
Out: `Order`s.
Does not know: queues, engines, responses.

Fields that would change the meaning of an answer and that cannot be honoured (tools, response formats, several
answers) are refused; fields that only inform (user, metadata, …) are passed over.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from potstill.models.completion import Wishes
from potstill.models.engine import Sampling
from potstill.recipe import AnswersSection
from potstill.serve.errors import ApiError
from potstill.serve.pool import Order

Value = TypeVar("Value")
MOST_STOPS, LONGEST_STOP = 4, 256
MOST_MESSAGES = 1024
_DEFAULTS = AnswersSection.model_validate({})
_UNSUPPORTED = ("tools", "functions", "response_format", "logit_bias", "audio", "suffix")


class TextPart(BaseModel):
    """One part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """As the model's template knows it."""
        role = "system" if self.role == "developer" else self.role
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": role, "content": text}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    include_usage: bool | None = None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]] | None,
    Field(max_length=MOST_STOPS),
    BeforeValidator(_listed, json_schema_input_type=str | list[str] | None),
]


class CommonRequest(BaseModel):
    """What both endpoints take. Where a field is null it counts as not given."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000, description="Not OpenAI's; 0 is off.")
    repeat_penalty: float | None = Field(None, ge=1, le=2, description="Not OpenAI's; 1 is off.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stops = None
    n: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_cannot_be_done(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in _UNSUPPORTED:
                if data.get(name) and data[name] != {"type": "text"}:
                    raise ApiError(400, f"{name} is not supported here.", param=name, code="unsupported_parameter")
        return data

    @field_validator("n")
    @classmethod
    def _one_answer(cls, value: int | None) -> int | None:
        if value not in (None, 1):
            raise ApiError(400, "n must be 1: one answer for every request.", param="n", code="unsupported_value")
        return value

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the count of its tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, longest: int) -> Sampling:
        """How the answer is drawn; what is not said is as in `potstill chat`, and the seed is a fresh one."""
        return Sampling(
            temperature=_or(self.temperature, _DEFAULTS.temperature),
            top_p=_or(self.top_p, _DEFAULTS.top_p),
            top_k=_or(self.top_k, _DEFAULTS.top_k),
            seed=secrets.randbelow(2**31) if self.seed is None else self.seed,
            max_tokens=min(_or(self.max_tokens, longest), longest),
            repeat_penalty=_or(self.repeat_penalty, _DEFAULTS.repeat_penalty),
            stop=tuple(self.stop or ()),
        )

    def wishes(self, logprobs: int | None) -> Wishes:
        """What is asked beyond sampling."""
        return Wishes(
            logprobs=logprobs,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )


class ChatRequest(CommonRequest):
    """Body of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    room: float | None = Field(
        None, ge=0, lt=1, description="Not OpenAI's; refuse what leaves less than this share of the context."
    )
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs", code="invalid_value")
        return self

    def order(self, longest: int) -> Order:
        """As the pool takes it."""
        wishes = self.wishes((self.top_logprobs or 0) if self.logprobs else None)
        conversation = [message.plain() for message in self.messages]
        return Order(self.model, conversation, self.sampling(longest), wishes, self.room or 0.0)


class CompletionRequest(CommonRequest):
    """Body of `/v1/completions`."""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _only_the_plain_case(self) -> Self:
        if self.echo:
            raise ApiError(400, "echo is not supported here.", param="echo", code="unsupported_parameter")
        if self.best_of not in (None, 1):
            raise ApiError(400, "best_of must be 1.", param="best_of", code="unsupported_value")
        if isinstance(self.prompt, list) and len(self.prompt) != 1:
            raise ApiError(400, "One prompt for every request.", param="prompt", code="unsupported_value")
        return self

    def order(self, longest: int) -> Order:
        """As the pool takes it."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[0]
        return Order(self.model, prompt, self.sampling(longest), self.wishes(self.logprobs))


def _or(value: Value | None, otherwise: Value) -> Value:
    return otherwise if value is None else value
