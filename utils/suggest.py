"""What a misspelt name probably meant: a suggestion is near, or there is none."""

from __future__ import annotations

from collections.abc import Iterable

_SWAP = 1.0  # two neighbouring letters exchanged, a letter too many or too few
_OTHER = 1.5  # another letter: DAT is no slip of the pen for HAT
_LONG_PART = 5  # letters of a name that stands for a longer one: "scale" for "upscale"


def near_miss(name: object, candidates: Iterable[str]) -> str:
    """' (did you mean "x"?)' when one of the candidates is near to ``name``, else ''."""
    found = nearest(name, candidates)
    return "" if found is None else f' (did you mean "{found}"?)'


def nearest(name: object, candidates: Iterable[str]) -> str | None:
    """The candidate that is nearest to ``name``; None where none is near.

    What all candidates begin or end with, as ``Loss`` does, does not make two of them alike. A part of several names
    (``PlainUSR``) means none of them more than the others.
    """
    known = {candidate.lower(): candidate for candidate in candidates}
    text = str(name).lower()
    if text in known:
        return known[text]
    start, end = _shared(list(known))
    whole = text.startswith(start) and text.endswith(end) and len(text) >= len(start) + len(end)
    ranked, longer = list[tuple[float, str]](), list[str]()
    for low, candidate in known.items():
        stem = low[len(start) : len(low) - len(end)]
        pairs = [(text[len(start) : len(text) - len(end)], stem)] if whole else [(text, stem), (text, low)]
        distances = [_distance(*pair) for pair in pairs if _is_near(*pair)]
        if distances:
            ranked.append((min(distances), candidate))
        elif any(_is_part(*pair) or _is_part(*reversed(pair)) for pair in pairs):
            longer.append(candidate)
    if ranked:
        return min(ranked, key=lambda item: item[0])[1]  # the first of equally near ones
    return longer[0] if len(longer) == 1 else None


def _is_near(a: str, b: str) -> bool:
    limit = _limit(max(len(a), len(b)))
    # A letter too many costs at least _SWAP: long texts, whose distance takes long, are told apart by their lengths.
    return abs(len(a) - len(b)) * _SWAP <= limit and _distance(a, b) <= limit


def _shared(names: list[str]) -> tuple[str, str]:
    """The beginning and the end that several names have in common."""
    if len(names) < 2:
        return "", ""
    start = _common_start(names)
    return start, _common_start([name[len(start) :][::-1] for name in names])[::-1]


def _common_start(names: list[str]) -> str:
    least, most = min(names), max(names)
    return least[: next((i for i, letter in enumerate(least) if letter != most[i]), len(least))]


def _limit(length: int) -> float:
    """How far apart two names of at most this many letters may be."""
    return 0.0 if length < 2 else 1.0 if length < 4 else 1.5 if length < 6 else 2.0 if length < 9 else 3.0


def _is_part(part: str, whole: str) -> bool:
    """Whether a name begins or ends with another one that makes up half of it."""
    if len(part) < _LONG_PART or 2 * len(part) < len(whole):
        return False
    return whole.startswith(part) or whole.endswith(part)


def _distance(a: str, b: str) -> float:
    """The edits between two texts (optimal string alignment), each with its weight."""
    rows = [[j * _SWAP for j in range(len(b) + 1)]]
    for i, letter in enumerate(a, 1):
        row = [i * _SWAP]
        for j, other in enumerate(b, 1):
            cost = min(rows[-1][j] + _SWAP, row[-1] + _SWAP, rows[-1][j - 1] + (0.0 if letter == other else _OTHER))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, rows[-2][j - 2] + _SWAP)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
