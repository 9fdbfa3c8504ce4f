"""What the judge is asked: context, question, both answers, the rule. The layout is LLaVA's (eval_gpt_review*.py)."""

from __future__ import annotations

from typing import Literal

from qllava.evaluate.judge.bench import Bench, BenchItem

Order = Literal["reference first", "candidate first"]
ORDERS: tuple[Order, ...] = ("reference first", "candidate first")
OWN_RULES = "qllava 1"
"""Names our wording of the rule in results; a new wording gets a new name."""

_SYSTEM = "You check the quality of answers. You are helpful and precise."
_SEEN = {
    "coco": "For you, what is in the picture is written down above: sentences that describe it, then each object with "
    "its box, as x1, y1, x2, y2 from the top left corner to the bottom right one, in shares of width and height.",
    "wild": "For you, what is in the picture is written down above.",
}
_RULE = (
    "Two AI assistants answered the question above, which is about a picture. {seen}\n"
    "Rate how helpful, relevant, accurate and detailed each answer is. Each assistant gets one overall score from 1 to "
    "10; higher is better.\n"
    "Write on the first line nothing but the two scores, that of Assistant 1 and that of Assistant 2, with a space "
    "between them. From the next line on, explain your scores. Do not prefer an answer for its length or for the "
    "place in which it stands."
)


def judge_messages(bench: Bench, item: BenchItem, answer: str, order: Order) -> tuple[dict[str, str], ...]:
    """The two messages of one request; `reference first` is the order in which LLaVA was judged."""
    first, second = (item.reference, answer) if order == "reference first" else (answer, item.reference)
    rule = bench.rules.get(item.category) or _RULE.format(seen=_SEEN[bench.layout])
    content = (
        f"[Context]\n{item.context}\n\n[Question]\n{item.question}\n\n"
        f"[Assistant 1]\n{first}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{second}\n\n[End of Assistant 2]\n\n[System]\n{rule}\n\n"
    )
    return {"role": "system", "content": _SYSTEM}, {"role": "user", "content": content}


def rules_name(bench: Bench) -> str:
    """Whose wording the judge was given."""
    covered = [category for category in bench.categories if category in bench.rules]
    if not covered:
        return OWN_RULES
    return "rule.json" if len(covered) == len(bench.categories) else f"rule.json for {', '.join(covered)}, {OWN_RULES}"
