"""vLLM's own OpenAI application for one live model: chat, completions, tools, structured output, metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.models.scored_tokens import TRANSCRIPT_TEMPLATE
from cai_ray.serving.app import Prepare
from cai_ray.serving.live_model import LiveModel
from cai_ray.serving.prepare import Limits, Served, prepared_chat, prepared_completion
from cai_ray.serving.refusals import ApiError, engine_dead
from cai_ray.serving.score import score_route

logger = logging.getLogger(__name__)
# As `chat.transcript_prompt` writes it.
BASE_MODEL_TEMPLATE = (
    f"{TRANSCRIPT_TEMPLATE}{{% if messages[-1]['role'] == 'user' %}}{{{{ '\\n\\nAssistant:' }}}}{{% endif %}}"
)
# OpenAI's defaults, whatever the model's generation_config.json says.
NEUTRAL_SAMPLING = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip


def served_engine(model: ModelConfig, limits: Limits) -> ModelConfig:
    """The config with vLLM's metrics on and its sampling defaults neutral; `engine.extra` has the last word."""
    most_tokens = limits.max_tokens + (model.thinking.max_tokens if model.thinking else 0)
    sampling = NEUTRAL_SAMPLING | {"max_new_tokens": most_tokens}
    extra = {"disable_log_stats": False, "override_generation_config": sampling} | model.engine.extra
    return model.model_copy(update={"engine": model.engine.model_copy(update={"extra": extra})})


async def vllm_app(
    live: LiveModel, name: str, limits: Limits, tool_parser: str | None
) -> tuple[ASGIApp, dict[str, Prepare | None]]:
    """(the application, what prepares the body of each route that clients may POST to); the model is started."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.v1.engine.exceptions import EngineDeadError

    engine = live.engine
    arguments = _arguments(live, name, tool_parser)
    tasks = await engine.get_supported_tasks()
    app = build_app(arguments, tasks, engine.model_config)
    await init_app_state(engine, app.state, arguments, tasks)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM would end its own server when the engine dies
    for kind in (ApiError, EngineDeadError, Exception):
        app.add_exception_handler(kind, _tell)
    app.middleware_stack = None  # built with vLLM's own handlers already; to be built anew with these
    app.router.routes.insert(0, Route("/v1/models/{name:path}", _one_model))
    if live.kind == "score":
        app.router.routes.insert(0, score_route(live, name))  # before vLLM's own, which has another meaning
        return app, {"/v1/score": None}
    return app, {**_prepares(live, limits)}


async def speaking(
    live: LiveModel, sampling: Mapping[str, Any]
) -> Callable[[Sequence[Message]], AsyncGenerator[str, None]]:
    """What answers messages as a served model would, without HTTP; the model is started.

    An answer comes in pieces, without its thinking; closing the iterator early ends the request. It raises ApiError for
    what a client would be told with a status.
    """
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse
    from vllm.exceptions import VLLMError

    state, tasks = State(), await live.engine.get_supported_tasks()
    await init_app_state(live.engine, state, _arguments(live, live.model.path, None), tasks)
    prepare = _prepares(live, Limits(max_tokens=sampling["max_tokens"]))["/v1/chat/completions"]

    async def speak(messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        body, _ = prepare({"messages": messages, **sampling})
        try:
            answer = await state.openai_serving_chat.create_chat_completion(ChatCompletionRequest(**body, stream=True))
        except (VLLMError, ValueError) as error:  # as vLLM's application turns them into a 400
            raise ApiError(400, str(error)) from error
        if isinstance(answer, ErrorResponse):
            raise ApiError(answer.error.code, answer.error.message)
        async with aclosing(answer) as events:
            async for event in events:
                told = event.removeprefix("data: ").strip()
                chunk = {} if told == "[DONE]" else json.loads(told)
                if "error" in chunk:
                    raise ApiError(chunk["error"]["code"], chunk["error"]["message"])
                for choice in chunk.get("choices", ()):
                    yield choice["delta"].get("content") or ""

    return speak


def _prepares(live: LiveModel, limits: Limits) -> dict[str, Prepare]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    thinking = live.model.thinking
    may_constrain = thinking is None or "reasoning_parser" in live.model.engine.extra
    served = Served(live.renderer, limits, thinking, may_constrain)
    chat_fields, completion_fields = (
        frozenset(kind.model_fields) for kind in (ChatCompletionRequest, CompletionRequest)
    )
    return {
        "/v1/chat/completions": partial(prepared_chat, served=served, fields=chat_fields),
        "/v1/completions": partial(prepared_completion, served=served, fields=completion_fields),
    }


def _arguments(live: LiveModel, name: str, tool_parser: str | None) -> Any:
    """vLLM's command-line arguments, as its application reads them."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from cai_ray.serving import thinking_parser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    arguments.model = name  # shown to clients, who need not know the server's folders
    arguments.served_model_name = [name]
    is_transcript = live.renderer.format == "transcript"
    arguments.chat_template = BASE_MODEL_TEMPLATE if is_transcript else live.renderer.chat_template
    arguments.allowed_origins = []  # no web page reads an answer
    arguments.api_key = [""]  # the doorkeeper has the token; VLLM_API_KEY is not asked for besides
    arguments.disable_fastapi_docs = True
    arguments.disable_log_stats = True  # none of vLLM's own lines every ten seconds; /metrics has them
    arguments.enable_prompt_tokens_details = True
    arguments.tool_call_parser, arguments.enable_auto_tool_choice = tool_parser, tool_parser is not None
    parsing = live.engine.vllm_config.structured_outputs_config
    if live.model.thinking is not None and not parsing.reasoning_parser:
        parsing = replace(parsing, reasoning_parser=thinking_parser.register(live.model.thinking))
    arguments.structured_outputs_config = parsing
    return arguments


async def _one_model(request: Request) -> Response:
    name = request.path_params["name"]
    cards = await request.app.state.openai_serving_models.show_available_models()
    for card in cards.data:
        if card.id == name:
            return JSONResponse(card.model_dump())
    raise ApiError(404, f"model {name!r} is not served here", "model_not_found", "model")


async def _tell(request: Request, error: Exception) -> Response:
    """Errors for which vLLM would end its own server, or tell the inside of."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, ApiError):
        return error.response
    if isinstance(error, EngineDeadError):
        return engine_dead().response
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says why").response
