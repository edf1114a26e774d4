"""Filters in the order of a run file, with a funnel. No torch import.

Used by the data stage and by synthesizers that filter what they make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from distill_core.errors import DataError
from distill_core.funnel import Funnel, FunnelStep

if TYPE_CHECKING:
    from distill_core.interfaces import Filter, FilterContext

Record = Mapping[str, Any]


def build_filter(reference: Any, context: FilterContext) -> Filter:
    """A filter, ready to judge.

    Args:
        reference: ``{"use": name, ...options}`` or what a run file's section was parsed into.
        context: for its ``build``, if it has one.
    """
    judge: Filter = context.build("filter", reference)
    build = getattr(judge, "build", None)
    if callable(build):
        build(context)
    return judge


class FilterChain:
    """Filters one after the other; records leave in the order in which they came.

    A filter that has ``verdicts(records)`` is given ``batch_records`` of them at a time.

    Args:
        filters: (name, filter) pairs in order.
        funnel: gets a step per filter.

    >>> class Short:
    ...     def verdict(self, record):
    ...         return None if len(record["text"]) < 4 else f"too long: {len(record['text'])} characters"
    >>> funnel = Funnel()
    >>> [one["text"] for one in FilterChain([("short", Short())], funnel).keep([{"text": "abc"}, {"text": "abcdef"}])]
    ['abc']
    >>> funnel.plain(examples=False)
    [{'step': 'short', 'in': 2, 'out': 1, 'reasons': {'too long': 1}}]
    """

    def __init__(self, filters: Iterable[tuple[str, Any]], funnel: Funnel) -> None:
        self.filters = [(judge, funnel.step(name)) for name, judge in filters]

    def keep(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records that every filter keeps. Read to the end, the funnel adds up; before it, ``Funnel.settle`` does.

        Raises:
            DataError: a filter that gives another number of verdicts than it was given records.
        """
        for judge, step in self.filters:
            records = _judged(iter(records), judge, step)
        return iter(records)


def _judged(records: Iterator[Record], judge: Any, step: FunnelStep) -> Iterator[Record]:
    size = int(getattr(judge, "batch_records", 1)) if hasattr(judge, "verdicts") else 1
    private = bool(getattr(judge, "private", False))
    while batch := list(islice(records, size)):
        kept = []
        for record, reason in zip(batch, _verdicts(judge, batch, step.name), strict=True):
            if reason is None:
                step.keep()
                kept.append(record)
            else:
                step.drop(reason, record, private=private)
        yield from kept


def _verdicts(judge: Any, batch: Sequence[Record], name: str) -> Sequence[str | None]:
    if not hasattr(judge, "verdicts"):
        return [judge.verdict(record) for record in batch]
    verdicts = list(judge.verdicts(batch))
    if len(verdicts) != len(batch):
        raise DataError(
            f"the filter {name} gave {len(verdicts)} verdicts on {len(batch)} records: one each is expected"
        )
    return verdicts
