"""What a decision about files and batches rests on, and what is learned of them from the upstream's answers.

    upload    every line is authorised for itself, all of them together as a batch; it costs one request
    create    the file has to be the team's; what its lines ask for at most is reserved as a whole, at the price of a batch
    the rest  (look at, cancel, delete, fetch) what it names has to be the team's; it costs one request

Which file or batch is whose is learned when the upstream's answer names it. Until then it is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct, structs

from authz.errors import Refused
from authz.inference import estimate
from authz.inference.batch import CREATE, UPLOAD, at_line
from authz.inference.pricebook import BATCH, ModelSpec
from authz.model import Ask, Estimate, Named, Price, Principal, Work
from authz.quota.belongings import Belonging
from authz.quota.ledger import Reservation, Terms
from authz.reasons import Reason

MARGIN_S: Final = 3600
"""How long after its window a batch is given until its estimate is posted."""

_ENDPOINTS: Final = {"/v1/chat/completions": "chat.completions", "/v1/responses": "responses", "/v1/embeddings": "embeddings"}


class Question(Struct, frozen=True):
    """What policies are asked. `line` is the number of the line that it is about, 0 for the whole."""

    ask: Ask
    estimate: Estimate
    line: int = 0


class Weighed(Struct, frozen=True):
    """What a request about batches costs, and what has to be allowed for it, the whole last.

    bound, price  what is reserved, and at which price by token it will settle
    """

    bound: Estimate
    price: Price | None
    work: Work | None
    questions: tuple[Question, ...]


def resolved(ask: Ask, principal: Principal, find: Callable[[str], Belonging | None]) -> tuple[Ask, Work | None]:
    """The ask with the model of what it names, and the work of the file that a batch is to be made from.

    Raises `Refused` where it is not the caller's team's, or not fit for this.
    """
    if not ask.named:
        return ask, None
    found = find(ask.named)
    if found is None or (found.organisation, found.team) != (principal.organisation.id, principal.team.id):
        # One answer for what is another team's, what is not there, and what the access log has not told us of yet.
        raise Refused(
            Reason.NOT_KNOWN_HERE,
            f"`{ask.named}` is not known to be your team's. What was made just now is known in a moment: try again.",
            retry_after_s=1,
            private=ask.named,
        )
    ask = structs.replace(ask, models=(found.model,))
    if ask.endpoint != CREATE:
        return ask, None
    if found.work is None or found.reservation:
        raise Refused(Reason.INVALID_REQUEST, "`input_file_id`: is not a file of requests.", param="input_file_id")
    if found.work.url != ask.url:
        raise Refused(Reason.INVALID_REQUEST, f"`endpoint`: the file's lines ask `{found.work.url}`.", param="endpoint")
    return ask, found.work


def weighed(ask: Ask, work: Work | None, model: ModelSpec, known: Estimate | None) -> Weighed:
    """known  the estimate where it is known already, as of a recorded decision. Raises `Refused` where there is no price."""
    if ask.lines:
        price, questions = estimate.batch_price(model), tuple(_lines(ask, model))
        work = estimate.work_of(ask.lines, [each.estimate for each in questions])
        return Weighed(estimate.FREE, None, work, (*questions, Question(ask, estimate.of_work(work, price))))
    if work is not None:
        price = estimate.batch_price(model)
        bound = estimate.of_work(work, price)
        line = Ask(_ENDPOINTS[work.url], work.action, ask.models, service_tier=BATCH, tools=work.tools)
        return Weighed(bound, price, work, (Question(line, estimate.largest_of(work, price)), Question(ask, bound)))
    bound = known or estimate.FREE
    looks = ask.endpoint.startswith(("files.", "batches.")) and ask.endpoint not in (UPLOAD, CREATE)
    return Weighed(bound, None if looks else estimate.batch_price(model), None, (Question(ask, bound),))


def _lines(ask: Ask, model: ModelSpec) -> Iterator[Question]:
    for number, line in enumerate(ask.lines, 1):
        try:
            yield Question(structs.replace(line, service_tier=BATCH), estimate.of_line(line, model), number)
        except Refused as refused:
            raise at_line(number, refused) from None


def runs(terms: Terms) -> bool:
    """Whether the reservation is that of a batch, which goes on when the call that made it has been answered."""
    return terms.work is not None and terms.price is not None


def learned(named: Named, reservation: Reservation, now_ns: int) -> Iterator[Belonging]:
    """What the answer to this reservation's request says is its team's."""
    terms = reservation.terms
    if terms.action != BATCH:
        return

    def own(identity: str, model: str, work: Work | None = None, by: str = "") -> Belonging:
        return Belonging(identity, terms.organisation, terms.team, model, work, by, now_ns)

    for output in named.outputs:
        yield own(output, terms.model)
    if terms.work is not None and named.kind == ("batch" if runs(terms) else "file"):
        yield own(named.id, terms.work.model, terms.work, reservation.id if runs(terms) else "")
