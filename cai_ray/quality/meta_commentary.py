"""The patterns of an answer that talks about its own revision, at its start and at its end.

Kept in one file, apart from the other cleaning rules, because they grow with every model that is tried.
Each is anchored to the start of the text or of a sentence and bounded in length, so that matching stays
linear. To be meta-commentary a sentence must name a response (or "version") *and* say that it was
revised; announcements of content ("Here is how to ...", "Sure. First, ...") match nothing.

Tested in tests/quality/test_cleaning.py and, what the gate sees, in tests/quality/test_gates.py.
"""

from __future__ import annotations

import re

# Every pattern below names one of these, so a text without them is done. Substring tests take a quarter
# of the time of one search for all.
_NAMES = ("response", "answer", "reply", "revis", "version", "rewrit", "rewording", "draft", "changes")


def mentions_revision(text: str) -> bool:
    """Whether `text` can hold meta-commentary at all; False spares the costly patterns."""
    lowered = text.lower()
    return any(name in lowered for name in _NAMES)


_REVISED = (
    r"(?:revised|rewritten|re-written|reworded|rephrased|reworked|refined|updated|improved|edited|corrected"
    r"|modified|amended|adjusted)"
)
_BETTER = r"(?:safer|better|alternative|new|(?:more|less) [\w-]+|harmless|helpful|final|proposed|possible)"
_ANSWER = r"(?:response|answer|reply)(?! (?:times?|rates?|keys?|sheets?)\b)"
_ADJECTIVES = rf"(?:(?:{_REVISED}|{_BETTER})(?:,? and |, | )){{1,4}}"
_WHOSE = (
    r"(?:the|my|this|that|our)(?: (?:previous|original|last|earlier|initial|above|first|assistant['\u2019]?s?"
    rf"|AI['\u2019]?s?|model['\u2019]?s?|{_REVISED}))*"
)
_REVISE = r"(?:revise|rewrite|re-write|rephrase|reword|update|edit|modify|correct|amend|adjust|change|improve)"
_DID_REVISE = (
    r"(?:revised|rewritten|re-written|rewrote|rephrased|reworded|updated|edited|modified|corrected|amended"
    r"|adjusted|changed|improved)"
)
_REST = r"[^.:!\n]{0,200}"  # the rest of the announcing sentence
_END = r"(?::|[.!](?=\s|\Z)|\n|\Z)"

# What may come before the announcement: assent, apology, thanks, "based on the critique,".
_ASSENT = (
    r"(?:Sure(?: thing)?|Certainly|Of course|Okay|OK|Absolutely|Yes|Understood|Got it|Al+ ?right|No problem)[,.!:;]?\s+"
)
_APOLOGY = (
    r"(?:I (?:sincerely |deeply |do )?apologi[sz]e|I(?:['\u2019]m| am) (?:very |so |truly )?sorry|My apologies"
    r"|Apologies|Sorry|Thank you|Thanks|You(?:['\u2019]re| are) (?:absolutely |completely |quite )?right"
    r"|I (?:understand|see|agree))"
    r"[^.!\n]{0,200}[.!]\s+"
)
_GROUND = (
    r"(?:Based on|Given|In light of|Considering|Taking|To address|After|Following|In response to|With|As)"
    r" [^,.\n:]{1,120},\s+"
)
_BEFORE = rf"\s*[\"\u201c*_(\[]{{0,3}}(?:{_ASSENT}|{_APOLOGY}){{0,3}}(?:(?:So|And|But|Instead|Now),?\s+)?(?:{_GROUND})?"

_HERE = r"(?:Here(?:['\u2019]s| is| are)|Below is|The following is)(?: (?:the|my|a|an|one|another))? "
_ANNOUNCEMENTS = (
    # Here is the revised response[ without the insult]:
    rf"{_HERE}{_ADJECTIVES}{_ANSWER}\b{_REST}{_END}",
    # Here's a revised version[ of my answer]: but not "a revised version of your letter:"
    rf"{_HERE}(?:{_ADJECTIVES})?(?:revision|rewrite)(?! (?:of|for) (?!{_WHOSE} {_ANSWER})){_REST}{_END}",
    rf"{_HERE}{_ADJECTIVES}(?:version|draft)(?! (?:of|for) (?!{_WHOSE} {_ANSWER})){_REST}{_END}",
    rf"{_HERE}(?:version|rewording) of {_WHOSE} {_ANSWER}\b{_REST}{_END}",
    # Here is a response that is less harmful:
    (
        rf"{_HERE}{_ANSWER} (?:that|which) (?:is (?:more|less|not|no longer)|avoids|removes|does not"
        rf"|doesn['\u2019]t|no longer|addresses)\b{_REST}:"
    ),
    # Sure, I have rewritten the answer.
    rf"I(?:['\u2019]ve| have)?(?: now| just| also)? {_DID_REVISE} {_WHOSE} {_ANSWER}\b{_REST}{_END}",
    # I would revise the response as follows:
    (
        r"I(?:['\u2019]ll|['\u2019]d| will| would| can| could| should)(?: like to| now)? "
        rf"{_REVISE} {_WHOSE} {_ANSWER}\b{_REST}:"
    ),
    # To revise the response, I would say:
    rf"To {_REVISE} {_WHOSE} {_ANSWER}\b{_REST}:",
    # Revised answer:   **Rewritten Response:**
    rf"[\[(*_#]{{0,4}} ?(?:(?:my|the|a)\s+)?{_REVISED} (?:{_ANSWER}|version)[\])*_]*\s*:[*_]*",
    rf"[\[(*_#]{{0,4}} ?(?:revision|rewrite) of {_WHOSE} {_ANSWER}[\])*_]*\s*:[*_]*",
    rf"[\[(](?:(?:my|the|a)\s+)?{_REVISED} (?:{_ANSWER}|version)[\])]",
    # The revised response would be as follows:
    (
        rf"(?:The|My|A|An) {_ADJECTIVES}(?:{_ANSWER}|version) (?:is|would be|could be|might be|may be|should be|reads"
        rf"|would read|could read)(?: as follows| like this)?\s*:"
    ),
)
_OPENER = re.compile(
    rf"{_BEFORE}(?:{'|'.join(f'(?:{pattern})' for pattern in _ANNOUNCEMENTS)})"
    r"[\"*_)\]]{0,2}(?:\s+|\Z|(?<=[:\n*_)\]]))(?:-{3,}\s*)?",
    re.IGNORECASE,
)


# A remark about the revision: the first sentence of a closing explanation.
_DOES = (
    r"(?:avoids?|removes?|does not|doesn['\u2019]t|no longer|now|acknowledges|address(?:es)?|focus(?:es)?|emphasi[sz]es"
    r"|provides|offers|maintains|encourages|promotes|takes|aims|ensures|eliminates|omits|refrains|declines|steers"
    r"|discourages|respects|keeps|includes|highlights|explains|makes|reflects|aligns|uses|corrects|presents|clarifies"
    r"|recogni[sz]es|shows|gives|should|will|has been|was|meets|follows|considers|treats|supports|points"
    r"|is (?:more|less|now|not|no longer|respectful|free|designed|intended|meant|safer|better|written"
    r"|harmless|helpful))"
)
_REMARKS = (
    (
        r"(?:I hope|I trust|I believe|I think|Hopefully,?)(?: that)? (?:this|the|my|these) "
        rf"(?:{_REVISED} (?:{_ANSWER}|version)|revisions?|rewrite|changes)\b"
    ),
    rf"(?:I hope|I trust|Hopefully,?)(?: that)? (?:this|the|my) (?:new|better|safer) {_ANSWER}\b",
    rf"(?:This|The|My) {_REVISED} {_ANSWER},? (?:also )?{_DOES}\b",
    rf"This (?:{_REVISED} version|revision|rewrite),? (?:also )?{_DOES}\b",
    rf"This (?:new|safer|better|improved) {_ANSWER},? (?:also )?{_DOES}\b",
    rf"In (?:this|the|my) (?:revision|{_REVISED} (?:{_ANSWER}|version)),? (?:I|the (?:assistant|AI|response|answer))\b",
    rf"I(?:['\u2019]ve| have)(?: now| just| also)? (?:{_DID_REVISE}|removed [^.\n]{{1,80}} from) {_WHOSE} {_ANSWER}\b",
    rf"This (?:{_ANSWER}|version) (?:has been|was) {_DID_REVISE}\b",
    (
        r"(?:Please )?let me know if (?:you (?:would|['\u2019]d) like|you want|you need|there are) "
        r"(?:me to make )?(?:any )?(?:further|other|more|additional) "
        r"(?:revisions|changes to (?:the|this|my) (?:response|answer|reply))"
    ),
)
_SENTENCE_REST = r"(?:[^.!?\n]|[.!?](?=[^\s\"\u201d)\]*]))*[.!?]*[\"\u201d)\]*_]*"
_GOES_ON = (
    r"(?:\s+(?:It|This|These|Also|Additionally|Instead|Furthermore|Moreover|By|I"
    rf"|The (?:response|answer|revision|revised|changes)|Let me know|Please|Thank)\b{_SENTENCE_REST})*"
)
_REMARK = (
    rf"[(\[*_\"]{{0,3}}(?:Note:?\s+(?:that )?)?(?:{'|'.join(f'(?:{pattern})' for pattern in _REMARKS)}){_SENTENCE_REST}"
)
_CLOSER = re.compile(
    rf"(?:(?<=[.!?:;\"\u201d')\]*])[ \t]+|\n[ \t]*)(?:-{{3,}}\s*)?{_REMARK}{_GOES_ON}\s*\Z"
    rf"|\n[ \t]*\n[*_#(\[]{{0,3}}(?:Explanation of (?:the )?(?:changes|revisions)|Changes made|Revision notes?)\b"
    r"[^\n]{0,80}:[^\n]*(?:\n[^\n]+)*\s*\Z",
    re.IGNORECASE,
)
# A remark before the answer, or one that is the whole text. Only its own sentence goes.
_OPENING_REMARK = re.compile(rf"\s*{_REMARK}(?:\s+|\Z)", re.IGNORECASE)


def drop_opener(text: str) -> str:
    """ "Sure! Here is the revised response: Rest well." -> "Rest well."; "" when nothing follows."""
    end = 0
    while match := _OPENER.match(text, end):  # a model that repeats itself announces it a thousand times
        end = match.end()
    return text[end:]


def drop_closer(text: str) -> str:
    """ "Rest well. This revised response avoids blame." -> "Rest well."; at the start, that sentence alone goes."""
    match = _CLOSER.search(text)
    if match is not None:
        return text[: match.start()].rstrip()
    match = _OPENING_REMARK.match(text)
    return text[match.end() :] if match else text


# --- What cleaning leaves, for the gate -------------------------------------------------------------

_ANSWER_BEFORE = r"(?:the|this|that|your) (?:last|previous|original) (?:response|answer|reply|text)"
_JUDGES = (
    r"(?:(?:does|did|could|should)(?: not|n['\u2019]?t)?|gives|takes|tells|explains|ignores|reveals|suggests|provides"
    r"|addresses|avoids|contains|shows|blames|lectures|helps|supports|encourages|protects)"
)
_JUDGED = (
    r"(?:not |no longer |only )?(?:an? )?(?:designed|intended|meant|written|warm|kind|cold|polite|rude|wrong|helpful"
    r"|harmful|harmless|safe|fit|appropriate|inappropriate|respectful|honest|misleading|way to)"
)
# Broader than the cleaning rules: here a hit is looked at or dropped, not cut out of the text.
_META = re.compile(
    r"\b(?:critique|revision) ?requests?\b"
    r"|\b(?:revised|rewritten|reworded|rephrased) (?:response|answer|reply)\b"
    r"|\bthe (?:assistant|ai|model|person|user|human)['\u2019]?s"
    r" (?:last|previous|original|first|initial) (?:response|answer|reply)\b"
    r"|\bmy (?:last|previous|original|first|initial) (?:response|answer|reply) (?:was|contained|included|did|could)\b"
    # Small models pass judgement, in the words of the request that asked for a critique of "your last answer".
    rf"|^\W{{0,8}}{_ANSWER_BEFORE}\b(?! (?:to|of|in|key)\b)"
    rf"|\A\W{{0,8}}(?:the|this|that|your) (?:response|answer|reply) (?:{_JUDGES}|is {_JUDGED})\b"
    r"|\b(?:this|the) (?:revision|rewrite) (?:avoids|removes|addresses|makes|is|no longer)\b"
    r"|^[ \t*_#>]{0,8}(?:critique|revision|human|assistant):",
    re.IGNORECASE | re.MULTILINE,
)
_META_NAMES = ("critique", "revision", "rewrite", "response", "answer", "reply", "text", "human:", "assistant:")


def has_meta_commentary(text: str) -> bool:
    """Whether the text speaks of critiques and revisions of itself, or shows a dialogue label at a line's start."""
    lowered = text.lower()
    for name in _META_NAMES:  # tests for substrings first: most texts hold none, and the search costs ten times as much
        if name in lowered:
            return _META.search(text) is not None
    return False
