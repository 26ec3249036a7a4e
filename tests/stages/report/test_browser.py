"""The report in a real browser: nothing is fetched, nothing complains, filters filter, hostile text never runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cai_ray.artifacts.storage import Storage
from cai_ray.stages.report import write_report as report
from tests.chromium import MISSING, Page, chromium, installed
from tests.stages.report.real_text_runs import ODD, write_real_run
from tests.stages.report.real_text_runs import STAGES as REAL_STAGES
from tests.stages.report.report_runs import STAGES, write_run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(installed() is None, reason=MISSING)]
CARDS = "[...document.querySelectorAll('.dialogue')]"
SLOW = 5  # what a busy machine may take longer than the two seconds that a page has to open
COUNT = "document.getElementById('count').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def write_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """hostile -> the file of a report; each made once."""
    made: dict[bool, Path] = {}

    def write(hostile: bool) -> Path:
        if hostile not in made:
            folder = tmp_path_factory.mktemp("report")
            with pytest.MonkeyPatch.context() as monkeypatch:
                run: Storage = write_run(folder / "run", monkeypatch, hostile=hostile)
            made[hostile] = folder / "report.html"
            report.write(run, STAGES, report.Config(), str(made[hostile]))
        return made[hostile]

    return write


def opened(page: Page, file: Path, width: int = 1280) -> None:
    """The report with its dialogues shown."""
    page.requests.clear()
    page.complaints.clear()
    page.resize(width)
    page.open(file)
    show(page)


def show(page: Page) -> None:
    page.value("document.getElementById('open').click()")
    deadline = time.monotonic() + 20
    while page.value("document.getElementById('browser').hidden"):
        assert time.monotonic() < deadline, "the dialogues are not shown"
        time.sleep(0.02)


def unfold(page: Page) -> None:
    """Everything on the page that can be opened."""
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    time.sleep(0.2)  # `toggle` comes after


def choose(page: Page, selector: str, value: str) -> None:
    """What a person's hand does to an input, and the event that follows."""
    page.value(
        f"(() => {{ const at = document.querySelector({selector!r}); at.value = {value!r};"
        " at.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def test_nothing_is_fetched_and_nothing_complains(page: Page, write_page: Callable[[bool], Path]) -> None:
    file = write_page(False)
    for width in (1280, 390):
        opened(page, file, width)
        for place in ("'#result'", "'#training'", "'#dialogues'"):
            page.value(f"document.querySelector({place}).scrollIntoView()")
        time.sleep(0.2)  # a late request or complaint would come now
        assert page.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        assert set(page.requests) <= {file.resolve().as_uri()}
        assert page.complaints == []


def test_every_chart_is_drawn_within_its_frame(page: Page, write_page: Callable[[bool], Path]) -> None:
    opened(page, write_page(False), 390)
    assert page.value("document.querySelectorAll('.chart svg').length") >= 15
    outside = page.value(
        "[...document.querySelectorAll('.chart svg')].flatMap((svg) => { const frame = svg.getBoundingClientRect();"
        " return [...svg.querySelectorAll('text, circle, rect, path')].filter((part) => { const box ="
        " part.getBoundingClientRect(); return box.left < frame.left - 2 || box.right > frame.right + 2 ||"
        " box.top < frame.top - 2 || box.bottom > frame.bottom + 2; }).map((part) => svg.getAttribute('aria-label')"
        " + ': ' + (part.textContent || part.outerHTML)); })"
    )
    assert outside == []
    smallest = page.value(
        "Math.min(...[...document.querySelectorAll('.chart svg text')].map((t) => t.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "letters of a chart are too small to read on a phone"


def test_dialogues_are_shown_on_request_filtered_and_paged(page: Page, write_page: Callable[[bool], Path]) -> None:
    opened(page, write_page(False))
    assert page.value("document.getElementById('notice').hidden")
    assert page.value(f"{CARDS}.length") == 10
    assert page.value(COUNT) == "1–10 of 60 dialogues"  # noqa: RUF001
    page.value("document.getElementById('next').click()")
    assert page.value(COUNT).startswith("11")
    choose(page, "select[data-key=category]", "theft")
    num_theft = int(page.value(COUNT).split(" of ")[1].split()[0])
    assert 0 < num_theft < 60 and page.value(COUNT).startswith("1")
    assert page.value(f"{CARDS}.every((card) => card.querySelector('.chips').textContent.includes('theft'))")
    choose(page, "#search", "no-such-word-anywhere")
    assert page.value(COUNT) == "No dialogue matches."
    choose(page, "#search", "STEAL")
    assert page.value(f"{CARDS}.length") > 0
    assert page.value(f"{CARDS}.every((card) => card.textContent.toLowerCase().includes('steal'))")
    choose(page, "#search", "")
    choose(page, "select[data-key=category]", "")
    choose(page, "select[data-key=outcome]", "dropped")
    assert "too_long" in page.value(f"{CARDS}.map((card) => card.textContent).join()")


def test_harmful_text_is_folded_until_it_is_asked_for(page: Page, write_page: Callable[[bool], Path]) -> None:
    opened(page, write_page(False))
    choose(page, "select[data-key=outcome]", "made safer")
    num_folded = page.value("document.querySelectorAll('button.folded').length")
    assert num_folded > 0
    assert page.value("[...document.querySelectorAll('.box.harmful')].every((box) => !box.querySelector('.text'))")
    page.value("document.querySelector('button.folded').click()")
    assert page.value("document.querySelectorAll('button.folded').length") == num_folded - 1
    page.value("document.getElementById('unfold').click()")
    assert page.value("document.querySelectorAll('button.folded').length") == 0
    assert page.complaints == []


def test_the_rounds_of_a_dialogue_open(page: Page, write_page: Callable[[bool], Path]) -> None:
    opened(page, write_page(False))
    page.value("document.querySelector('.dialogue details summary').click()")
    time.sleep(0.2)  # `toggle` comes after the click
    assert page.value("document.querySelectorAll('.dialogue .round').length") == 2
    assert "theft" in page.value("document.querySelector('.dialogue .round').textContent")


def test_hostile_text_is_shown_and_never_runs(page: Page, write_page: Callable[[bool], Path]) -> None:
    file = write_page(True)
    opened(page, file)
    page.value("document.getElementById('unfold').click()")
    seen = ""
    for _ in range(20):
        page.value("document.querySelectorAll('.dialogue details').forEach((one) => { one.open = true; })")
        time.sleep(0.05)
        seen += page.value("document.getElementById('list').textContent")
        if page.value("document.getElementById('next').disabled"):
            break
        page.value("document.getElementById('next').click()")
    for text in ("</script><script>window.pwned = 1</script>", "{{ 7 * 7 }}", "⟦U+202E⟧", "onerror="):
        assert text in seen
    assert page.value("typeof window.pwned") == "undefined"
    assert page.value("document.querySelectorAll('script').length") == 2
    assert (
        page.value("document.querySelectorAll('img, iframe, object, embed, link, base, #list a, #list svg').length")
        == 0
    )
    assert page.value("getComputedStyle(document.querySelector('main')).display") != "none"
    assert page.value("document.documentElement.scrollWidth") <= 1280
    assert set(page.requests) <= {file.resolve().as_uri()}
    assert page.complaints == []


@pytest.fixture(scope="module")
def real_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real text, no oracle, few dialogues."""
    folder = tmp_path_factory.mktemp("real")
    report.write(write_real_run(folder / "run"), REAL_STAGES, report.Config(), str(folder / "report.html"))
    return folder / "report.html"


# Elements that are broader than their place: cut, or to be scrolled sideways. The bar of links may be.
TOO_BROAD = (
    "[...document.querySelectorAll('main *')].filter((part) => part instanceof HTMLElement &&"
    " getComputedStyle(part).display !== 'inline' &&"
    " part.clientWidth > 0 && part.scrollWidth > part.clientWidth + 1)"
    ".map((part) => `${part.tagName} ${part.className} ${part.scrollWidth} > ${part.clientWidth}`)"
)


@pytest.mark.parametrize("width", [360, 400])
def test_nothing_is_broader_than_a_phone(
    page: Page, real_page: Path, write_page: Callable[[bool], Path], width: int
) -> None:
    for file in (real_page, write_page(True)):
        opened(page, file, width)
        page.value("document.getElementById('unfold').click()")
        unfold(page)
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value(TOO_BROAD) == []
        assert page.complaints == []


def test_a_row_of_a_table_is_a_block_on_a_phone(page: Page, real_page: Path) -> None:
    opened(page, real_page, 360)
    row = "document.querySelector('#rounds tbody tr:nth-child(2)')"
    assert page.value(f"{row}.cells[1].dataset.column") == "its critique, nats per token"
    assert page.value(f"getComputedStyle({row}).display") == "block"
    page.resize(1280)
    assert page.value(f"getComputedStyle({row}).display") == "table-row"


def test_cards_keep_their_size_however_few_they_are(page: Page, real_page: Path) -> None:
    opened(page, real_page)
    width = "document.querySelector('.tile').getBoundingClientRect().width"
    with_three = page.value(width)
    page.value("[...document.querySelectorAll('.tile')].slice(1).forEach((tile) => tile.remove())")
    assert page.value(width) == with_three < 450


def test_long_texts_are_folded(page: Page, real_page: Path) -> None:
    opened(page, real_page, 390)
    page.value("document.getElementById('unfold').click()")
    choose(page, "#search", "the same again")
    heights = "[...document.querySelectorAll('.text')].map((text) => text.getBoundingClientRect().height)"
    assert page.value("document.querySelectorAll('.text.long').length") > 0
    assert page.value(f"Math.max(...{heights})") < 320
    page.value("document.querySelector('.text.long + button').click()")
    assert page.value(f"Math.max(...{heights})") > 400


def test_five_thousand_dialogues_open_at_once_and_can_be_searched(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    report.write(write_real_run(tmp_path / "run", 5_000), REAL_STAGES, report.Config(max_examples=5_000), str(file))
    assert file.stat().st_size < 10_000_000
    page.resize(390)
    page.open(file)
    started = time.monotonic()
    page.open(file)
    show(page)
    assert time.monotonic() - started < 2 * SLOW
    assert page.value(COUNT) == "1–10 of 5000 dialogues"  # noqa: RUF001
    choose(page, "#search", "nr. 4321:")
    assert page.value(COUNT) == "1–1 of 1 dialogues"  # noqa: RUF001
    assert page.value(f"{CARDS}[0].textContent").startswith(("changed", "unchanged"))
    choose(page, "#search", ODD[2][:4])
    assert page.value(f"{CARDS}.length") == 10
    assert page.complaints == []


def test_the_policy_stops_what_escaping_would_have_missed(page: Page, write_page: Callable[[bool], Path]) -> None:
    opened(page, write_page(False))
    page.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://127.0.0.1:9/x onerror=\"window.pwned = 1\">"
        '<a id=trap href="javascript:window.pwned = 1">x</a>\')'
    )
    page.value(
        "(() => { const made = document.createElement('script'); made.textContent = 'window.pwned = 1';"
        " document.body.append(made); })()"
    )
    page.value("document.getElementById('trap').click()")
    time.sleep(0.3)
    assert page.value("typeof window.pwned") == "undefined"
    assert any("Content Security Policy" in complaint for complaint in page.complaints)
