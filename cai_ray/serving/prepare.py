"""A client's JSON body as vLLM's application gets it, so that a served model reads messages as the recipe says.

vLLM renders, samples and parses. This adds what it does not know of: the format's own markup in messages is defused,
a system message goes where the recipe's `system_role` says, a base model's transcript ends at the next speaker, a
reasoning model's thinking has tokens of its own, and one request costs no more than the server's limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from cai_ray.chat import Renderer, stop_strings, with_system_role
from cai_ray.config import Config, ThinkingConfig
from cai_ray.markup import Markup
from cai_ray.serving.refusals import ApiError

# Ways around the messages, or to other requests and the server's set-up.
CLOSED_FIELDS = frozenset(
    {
        "chat_template", "ec_transfer_params", "kv_transfer_params", "media_io_kwargs", "mm_processor_kwargs",
        "prompt_embeds", "request_id", "vllm_xargs",
    }
)  # fmt: skip
OWN_BOOKS = frozenset({"metadata"})  # of the client; vLLM has no field for it, and it changes no answer
SHOWN = ("messages", "tools", "documents", "chat_template_kwargs")  # what a chat template writes into the prompt
TRANSCRIPT_ROLES = frozenset({"system", "user", "assistant"})
CONTINUING = {"add_generation_prompt": False, "continue_final_message": True}
CONSTRAINED = ("response_format", "structured_outputs", "tools")


class Limits(Config):
    """What one client request may cost."""

    body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body; a larger one is answered 413.")
    max_tokens: int = Field(4096, ge=1, description="Most new tokens per answer; asking for more is answered 400.")
    max_answers: int = Field(16, ge=1, description="Most answers to one request: n, times the prompts.")
    queued_requests: int = Field(
        256, ge=0, description="Requests that may wait per replica beyond engine.max_num_seqs; further ones: 429."
    )
    request_time_limit_s: float = Field(600.0, gt=0, description="Past this a request ends with an error (504).")


@dataclass(frozen=True)
class Served:
    """What requests are prepared for."""

    renderer: Renderer
    limits: Limits
    thinking: ThinkingConfig | None = None
    may_constrain: bool = True  # answers to a grammar: not where the recipe's marks alone tell thinking from answer


def prepared_chat(body: dict[str, Any], served: Served, fields: frozenset[str]) -> tuple[dict[str, Any], int]:
    """(body for vLLM's /v1/chat/completions, pieces of markup defused). `fields` are those that vLLM acts on.

    Raises ApiError 400 for a field nothing acts on, parts that are no text, and more than the limits allow.
    """
    body = _checked(body, served.limits, fields)
    if not served.may_constrain and (asked := _constraints(body)):
        raise ApiError(
            400,
            f"{asked}: this model thinks first, and its recipe's marks cannot tell a grammar where the answer starts; "
            "serve it with vLLM's own parser (--set model.engine.extra.reasoning_parser=NAME)",
            param=asked,
        )
    messages = [_plain(message, index) for index, message in enumerate(_messages(body))]
    body["messages"] = with_system_role(messages, served.renderer.system_role)
    if not body["messages"]:
        raise ApiError(400, "messages: none is left, for this model takes no system message", param="messages")
    if variables := served.renderer.template_kwargs:
        own = body.get("chat_template_kwargs")  # a client's own words win; what is no object is for vLLM to refuse
        body["chat_template_kwargs"] = variables | own if isinstance(own, dict) else own or variables
    num_defused = 0
    for name in SHOWN:
        if name in body:
            body[name], count = _defused(body[name], served.renderer.markup)
            num_defused += count
    if served.renderer.format == "transcript":
        _as_transcript(body)
    elif body["messages"][-1]["role"] == "assistant" and not body.keys() & CONTINUING.keys():
        body |= CONTINUING  # begun by the client
    if served.thinking is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int):
                body[name] += served.thinking.max_tokens
    return body, num_defused


def prepared_completion(body: dict[str, Any], served: Served, fields: frozenset[str]) -> tuple[dict[str, Any], int]:
    """The same for /v1/completions, whose prompt is the client's own, control tokens and all: nothing is defused."""
    return _checked(body, served.limits, fields), 0


def _checked(body: dict[str, Any], limits: Limits, fields: frozenset[str]) -> dict[str, Any]:
    """The fields that are given (null is how clients say "not given")."""
    body = {name: value for name, value in body.items() if value is not None and name not in OWN_BOOKS}
    for name in sorted(body):
        if name in CLOSED_FIELDS:
            raise ApiError(400, f"{name}: closed on this server", param=name)
        if name not in fields:
            known = ", ".join(sorted(fields - CLOSED_FIELDS))
            raise ApiError(400, f"{name}: this server does not act on it; it knows {known}", param=name)
    for name in ("max_tokens", "max_completion_tokens"):
        wanted = body.get(name)
        if isinstance(wanted, int) and wanted > limits.max_tokens:
            raise ApiError(
                400, f"{name} = {wanted}: this server gives at most {limits.max_tokens}; ask for less", param=name
            )
    prompts = body.get("prompt")
    num_prompts = len(prompts) if isinstance(prompts, list) and not all(isinstance(i, int) for i in prompts) else 1
    num_answers = num_prompts * body["n"] if isinstance(body.get("n"), int) else num_prompts
    if num_answers > limits.max_answers:
        raise ApiError(400, f"{num_answers} answers: one request gets at most {limits.max_answers}", param="n")
    return body


def _constraints(body: dict[str, Any]) -> str | None:
    for name in CONSTRAINED:
        value = body.get(name)
        if value and not (name == "response_format" and isinstance(value, dict) and value.get("type") == "text"):
            return name
    return None


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: a list with a message at least", param="messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise ApiError(400, "messages: each is an object with a role", param="messages")
    return messages


def _plain(message: dict[str, Any], index: int) -> dict[str, Any]:
    """The message with its text in one piece: a control token must not come together from two parts of it."""
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, f"messages.{index}.content: this server reads parts of type text", param="messages")
        content = "\n".join(map(str, texts))
    elif not isinstance(content, str | None):
        raise ApiError(400, f"messages.{index}.content: a text, or a list of parts", param="messages")
    return message | {"role": "system" if message["role"] == "developer" else message["role"], "content": content}


def _defused(value: Any, markup: Markup) -> tuple[Any, int]:
    """`value` with every text in it defused, keys too, and how much of the format's own markup there was."""
    if isinstance(value, str):
        return markup.defuse(value)
    if isinstance(value, list):
        items = [_defused(item, markup) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    if isinstance(value, dict):
        pairs = [(_defused(key, markup), _defused(item, markup)) for key, item in value.items()]
        return {key[0]: item[0] for key, item in pairs}, sum(key[1] + item[1] for key, item in pairs)
    return value, 0


def _as_transcript(body: dict[str, Any]) -> None:
    if body.get("tools"):
        raise ApiError(400, "tools: a base model's transcript has no place for them", param="tools")
    if unknown := {message["role"] for message in body["messages"]} - TRANSCRIPT_ROLES:
        raise ApiError(400, f"messages: a transcript has no role {min(unknown)!r}", param="messages")
    stop = body.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if isinstance(stops, list) and all(isinstance(text, str) for text in stops):  # else vLLM says what is wrong
        body["stop"] = [*stop_strings(stops, "transcript")]
    body.setdefault("add_special_tokens", True)  # a transcript starts with the tokenizer's own BOS
