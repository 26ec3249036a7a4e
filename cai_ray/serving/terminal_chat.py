"""Talk to a model in the terminal, or to two side by side. Works on a terminal and through a pipe.

Reading happens between the answers, on the main thread, so that Ctrl-C while an answer is written ends that answer
and Ctrl-C (or the end of input) at the prompt ends the chat.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.serving.refusals import ApiError

# Messages -> the pieces of the next answer, as they are written.
Speak = Callable[[Sequence[Message]], AsyncGenerator[str, None]]
COMMANDS = "/reset forgets the conversation, /quit ends"
SHARED_GPU = 0.45  # of its memory for each of two engines


@dataclass
class Side:
    """One model and its view of the conversation."""

    name: str
    speak: Speak
    messages: list[Message] = field(default_factory=list)

    async def answer(self, show: Callable[[str], None]) -> str:
        """The next answer, put at the end of the conversation; `show` gets each piece, safe for a terminal."""
        pieces: list[str] = []
        async for piece in self.speak(self.messages):
            pieces.append(piece)
            show(printable(piece))
        answer = "".join(pieces).strip()
        self.messages.append({"role": "assistant", "content": answer})
        return answer


def printable(text: str) -> str:
    """The text without characters that would steer a terminal; what stands in their place is visible."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def chat(
    models: Sequence[tuple[str, ModelConfig]], sampling: Mapping[str, Any], system: str | None, console: Console
) -> None:
    """Talk until /quit, Ctrl-C at the prompt, or the end of input. `sampling`: fields of a chat completion request.

    Raises ConfigError for a model that cannot chat.
    """
    from cai_ray.serving.live_model import LiveModel, ready_to_serve
    from cai_ray.serving.vllm_app import speaking

    lives = [LiveModel(ready_to_serve(_sharing(model) if len(models) > 1 else model)) for _, model in models]
    names = [name for name, _ in models]
    for name, live in zip(names, lives, strict=True):
        if live.kind != "chat":
            raise ConfigError(f"{name} scores answers and writes none; chat with a policy, and serve this one")
    with asyncio.Runner() as runner:
        try:
            with console.status("starting " + " and ".join(names)):
                for live in lives:
                    runner.run(live.start())
                sides = [
                    Side(name, runner.run(speaking(live, sampling))) for name, live in zip(names, lives, strict=True)
                ]
            console.print(f"{' | '.join(names)}: {COMMANDS}", style="dim", markup=False)
            _turns(sides, system, console, runner)
        finally:
            for live in lives:
                live.close()


def _sharing(model: ModelConfig) -> ModelConfig:
    share = min(SHARED_GPU, model.engine.gpu_memory_utilization)
    return model.model_copy(update={"engine": model.engine.model_copy(update={"gpu_memory_utilization": share})})


def _turns(sides: list[Side], system: str | None, console: Console, runner: asyncio.Runner) -> None:
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    _reset(sides, opening)
    while (line := _read(console)) is not None:
        if line == "/quit":
            return
        if line == "/reset":
            _reset(sides, opening)
            console.print("forgotten", style="dim")
        elif line.startswith("/"):
            console.print(f"no command {line.split()[0]}; {COMMANDS}", style="dim", markup=False)
        elif line:
            _turn(sides, line, console, runner)


def _reset(sides: list[Side], opening: list[Message]) -> None:
    for side in sides:
        side.messages = list(opening)


def _read(console: Console) -> str | None:
    """The next line, stripped; None at the end of input or on Ctrl-C."""
    try:
        line = console.input("[bold]> [/]") if sys.stdin.isatty() else sys.stdin.readline()
    except (EOFError, KeyboardInterrupt):
        return None
    if not line and not sys.stdin.isatty():
        return None
    return line.strip()


def _turn(sides: list[Side], line: str, console: Console, runner: asyncio.Runner) -> None:
    """One question and its answers. A question without an answer is taken back."""
    lengths = [len(side.messages) for side in sides]
    for side in sides:
        side.messages.append({"role": "user", "content": line})
    try:
        if len(sides) == 1:
            runner.run(_one(sides[0], console))
        else:
            runner.run(_side_by_side(sides, console))
    except ApiError as error:
        console.print(f"\n{error}", style="red", markup=False, highlight=False)
    except KeyboardInterrupt:
        console.print("\nstopped", style="dim")
    else:
        return
    for side, length in zip(sides, lengths, strict=True):
        del side.messages[length:]


async def _one(side: Side, console: Console) -> None:
    def show(text: str) -> None:
        console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    await side.answer(show)
    console.print()


async def _side_by_side(sides: list[Side], console: Console) -> None:
    texts = [""] * len(sides)

    async def write(index: int, live: Live | None) -> None:
        def show(text: str) -> None:
            texts[index] += text
            if live is not None:
                live.update(_columns(sides, texts))

        await sides[index].answer(show)

    async def write_all(live: Live | None) -> None:
        ended = await asyncio.gather(*(write(i, live) for i in range(len(sides))), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    if console.is_terminal:
        with Live(_columns(sides, texts), console=console, refresh_per_second=12) as live:
            await write_all(live)
    else:
        await write_all(None)
        console.print(_columns(sides, texts))


def _columns(sides: list[Side], texts: list[str]) -> Any:
    table = Table(expand=True)
    for side in sides:
        table.add_column(Text(side.name), ratio=1)
    table.add_row(*(Text(text.strip()) for text in texts))
    return table
