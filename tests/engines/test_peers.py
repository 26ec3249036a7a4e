"""What engines tell each other."""

from __future__ import annotations

import pickle

from cai_ray.engines.peers import Peers
from tests.engines.conversations.test_stragglers import Dictionary


def test_rows_and_their_ends_reach_whom_they_are_for_once() -> None:
    box = Dictionary()
    one, other, elsewhere = Peers("k", box), Peers("k", box), Peers("another pool", box)
    other.say_idle(2.5)
    assert one.idle() == {other.name: 2.5} and other.idle() == {} == elsewhere.idle()
    one.ask(other.name, "row", {"row_id": "row", "messages": [{"role": "user", "content": "\ud800"}]})
    [(asking, row)] = other.asked()
    assert asking == one.name and row["messages"][0]["content"] == "\ud800" and not other.asked()
    other.answer(one.name, "row", {"row": 1})
    other.say_idle(None)
    assert one.answers() == {"row": {"row": 1}} and one.answers() == {} == one.idle()
    one.ask(other.name, "row", {})
    elsewhere.say_idle(1.0)
    one.forget()
    assert len(box.held) == 1, "another pool's"


def test_a_copy_in_another_process_is_another_engine() -> None:
    peers = Peers("k")
    copy = pickle.loads(pickle.dumps(peers))
    assert copy.key == "k" and copy.name != peers.name
