"""POST /v1/score of a preference model: what a client may ask, read strictly, and the answer.

vLLM's own scores compare two texts; these read a conversation through the model's chat template, as training did.
"""

from __future__ import annotations

import time
from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cai_ray.chat import Message
from cai_ray.serving.live_model import LiveModel
from cai_ray.serving.refusals import ApiError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TextPart(_Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class Turn(_Strict):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> Message:
        text = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ScoreRequest(_Strict):
    """`messages` that end in the answer to score, or `prompt` and `response`."""

    model: str
    messages: list[Turn] | None = Field(None, min_length=2)
    prompt: str | list[Turn] | None = None
    response: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ScoreRequest:
        if (self.messages is None) == (self.prompt is None) or (self.prompt is None) != (self.response is None):
            raise ValueError("give either messages, or prompt and response")
        if self.messages is not None and self.messages[-1].role != "assistant":
            raise ValueError("messages end in the assistant's turn that is to be scored")
        if isinstance(self.prompt, list) and not (self.prompt and self.prompt[-1].role == "user"):
            raise ValueError("prompt is a text, or messages that end in the user's turn")
        return self

    @property
    def conversation(self) -> tuple[list[Message], str]:
        """(messages before the answer, the answer)."""
        if self.messages is not None:
            *before, answer = (message.plain() for message in self.messages)
            return before, answer["content"]
        if isinstance(self.prompt, list):
            return [message.plain() for message in self.prompt], self.response or ""
        return [{"role": "user", "content": self.prompt or ""}], self.response or ""


def read_score_request(body: bytes) -> ScoreRequest:
    """The validated request. Raises ApiError 400 that names every mistake and, as `param`, the first field."""
    try:
        return ScoreRequest.model_validate(from_json(body))
    except ValidationError as error:
        found = error.errors(include_url=False)
        told = "; ".join(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}".lstrip(": ") for mistake in found)
        raise ApiError(400, told[:2000], param=".".join(map(str, found[0]["loc"][:1])) or None) from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


def score_route(model: LiveModel, name: str) -> Route:
    """The route; the raw output of the model is the score, unbounded."""

    async def score(request: Request) -> Response:
        asked = read_score_request(await request.body())
        if asked.model != name:
            raise ApiError(
                404, f"model {asked.model!r} is not served here; this is {name!r}", "model_not_found", "model"
            )
        value, num_tokens = await model.score(*asked.conversation)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        reply = {"id": f"score-{uuid4().hex}", "object": "score", "created": int(time.time())}
        return JSONResponse(reply | {"model": name, "score": value, "usage": usage})

    return Route("/v1/score", score, methods=["POST"])
