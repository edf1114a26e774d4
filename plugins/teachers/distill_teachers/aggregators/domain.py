"""``domain``: every sequence learns from the teacher of its domain."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from distill_core.errors import SignalError
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import DomainOptions
from distill_teachers.aggregators.weighing import weighed, weights_by_name


class Domain:
    """Weights by the ``domain`` of the sequence (a field of the record), the same in all its rows.

    Args:
        options: ``routes``, ``default``.

    Raises:
        SignalError: (in ``combine``) a domain without a route, sequences without a domain, an unknown teacher.

    >>> Domain(DomainOptions(routes={"code": "b"})).options.routes
    {'code': 'b'}
    """

    def __init__(self, options: DomainOptions) -> None:
        self.options = options

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        domains = batch.domains or ("",) * len(batch.keys)
        weights_BM = torch.stack(
            [
                weights_by_name(self._route(domain), targets, owner="aggregator domain", option=f"the route {domain!r}")
                for domain in domains
            ]
        )
        return weighed(targets, weights_BM[batch.rows().sequence_N.cpu()], temperature)

    def _route(self, domain: str) -> Mapping[str, float] | str:
        route = self.options.routes.get(domain, self.options.default)
        if route is None:
            what = f"the domain {domain!r}" if domain else "sequences whose records have no `domain`"
            raise SignalError(
                f"aggregator domain: no route for {what}; routes: {', '.join(self.options.routes)}. Add the route, or "
                "set `default`"
            )
        return route
