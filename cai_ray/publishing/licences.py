"""Whether rows of a licence may be passed on, changed, in a data set of one's own.  Pure.

Known are the licences that permit it, by the hub's names. What forbids derivatives, has terms of its own that a person
must read (llama3.1, gemma, other) or is not known is refused, and a person may tell otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

BOTH = " + "  # between licences that hold at once
PERMITS = re.compile(
    r"(apache-2\.0|mit|isc|zlib|unlicense|wtfpl|0bsd|bsd(-[23]-clause)?|cc0-1\.0|pddl|odc-by|odbl"
    r"|cc-by(-nc)?(-sa)?(-[234]\.[05])?|cdla-(permissive|sharing)-[12]\.0|[al]?gpl(-[23]\.[01])?|mpl-2\.0"
    r"|artistic-2\.0|ecl-2\.0|afl-3\.0|ms-pl|eupl-1\.[12])"
)


def spelt(licence: str) -> str:
    """As the hub spells it: "Apache 2.0" and "Apache-2.0 License" are "apache-2.0"."""
    words = licence.strip().lower().removesuffix(" license").removesuffix(" licence")
    return re.sub(r"[\s_]+", "-", words)


def permits(licence: str) -> bool:
    """Whether all of it permits to pass on what was made of the rows."""
    return all(PERMITS.fullmatch(spelt(one)) is not None for one in licence.split(BOTH))


def refusal(
    num_rows: Mapping[str, int], licences: Mapping[str, str | None], allowed: Collection[str] = ()
) -> str | None:
    """Why the rows of these sources, by name, cannot be published, with what to do; None where they can.

    `licences`: None where nobody knows it; `allowed`: licences that a person has read and accepts.
    """
    accepted = {spelt(one) for one in allowed}
    lines = []
    for name, count in sorted(num_rows.items()):
        licence = licences.get(name)
        if licence is None:
            why = f"whose licence is not known; say it with --license {name}=LICENCE"
        elif not permits(licence) and spelt(licence) not in accepted:
            why = f"under {licence}, not known to permit it; read it, then --allow-license '{spelt(licence)}'"
        else:
            continue
        lines.append(f"  - {count:,} rows of {name!r}, {why}, or leave them out with --leave-out {name}")
    return "\n".join(["not every row may be published:", *lines]) if lines else None
