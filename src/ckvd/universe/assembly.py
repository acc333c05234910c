"""The lives of a market, put together from all that tells of them. Pure.

Evidence of a ticker: the archives under its name, archives under names with SETTLED, the exchange's list of
symbols, the lives of an earlier snapshot, and known facts. First the beginnings are found, then the end of each
life:

- The first life begins with the first archive. A listing date counts where it lies in the day of that archive, or
  where there are no archives: of many contracts it is a placeholder or the day of a change (XMRUSDT, WAVESUSDT).
- Another life begins at a known date, or at a listing date that is later than in an earlier snapshot, or later than
  the first archive if a folder with SETTLED shows that the ticker was used again. Where only that folder shows it,
  it begins after the gap in the archives, or when the folder begins. A contract that is announced begins when it
  trades.
- A folder with SETTLED that begins before that of the ticker holds the old life itself. One that begins later holds
  flat bars of a contract that is settled, which is no life.
- A life ends at a known date, or at the delivery date, or, as an upper bound, when the next one begins, or with the
  last archive.

No life of an earlier snapshot is lost, whatever the sources list now.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from ckvd.model.life import EndReason, EndSource, FirstSource, Life
from ckvd.model.market import DAY_MS, ContractType
from ckvd.universe.facts import KnownLife, known_lives, successor_of
from ckvd.universe.ticker import is_leveraged, multiplier_of, parse_ticker
from ckvd.utils.config import ARCHIVES_LATE_MS, SAME_LISTING_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckvd.model.market import Market
    from ckvd.universe.exchange_info import ExchangeInfo, ListedContract
    from ckvd.universe.listing import ListedSymbol

# With these statuses, of futures and of spot, a symbol is announced, interrupted, or over: archives tell.
_NOT_TRADING: Final = frozenset(("PENDING_TRADING", "BREAK"))
# Statuses of futures after the end.
_ENDED: Final = frozenset(("SETTLING", "DELIVERING", "DELIVERED", "CLOSE"))
_LEVERAGED: Final = "LEVERAGED"
_EXACT: Final = frozenset((EndSource.FACT, EndSource.DELIVERY_DATE, EndSource.LAST_TRADED))


@dataclass(slots=True)
class Evidence:
    """All that tells of one ticker.

    Attributes
    ----------
    market : Market
    ticker : str
    made_ms : int
        The present.
    newest_ms : int
        The end of the newest archive of the market.
    has_info : bool
        Whether the exchange's list is there, so that not to be in it means something.
    listed : ListedSymbol or None
        The archives under the ticker's own name.
    settled : list of ListedSymbol
        Those under names with SETTLED.
    contract : ListedContract or None
        The entry in the exchange's list.
    earlier : list of Life
        The lives in the earlier snapshot.
    """

    market: Market
    ticker: str
    made_ms: int
    newest_ms: int
    has_info: bool
    listed: ListedSymbol | None = None
    settled: list[ListedSymbol] = field(default_factory=list)
    contract: ListedContract | None = None
    earlier: list[Life] = field(default_factory=list)


@dataclass(slots=True)
class _Start:
    """The beginning of a life, and what else is known of the life."""

    ms: int
    source: FirstSource
    symbol: str
    fact: KnownLife | None = None
    earlier: Life | None = None
    archives: ListedSymbol | None = None


def assemble(
    market: Market,
    listing: Iterable[ListedSymbol],
    info: ExchangeInfo | None,
    earlier: Iterable[Life],
    made_ms: int,
) -> tuple[Life, ...]:
    """The lives of a market, in order of ticker and time.

    Parameters
    ----------
    market : Market
    listing : iterable of ListedSymbol
    info : ExchangeInfo or None
        None if it is unavailable.
    earlier : iterable of Life
        The lives of the newest earlier snapshot.
    made_ms : int
        The present, milliseconds.
    """
    archives = list(listing)
    newest_ms = max((one.last_ms for one in archives), default=made_ms)
    by_ticker: dict[str, Evidence] = {}

    def of(ticker: str) -> Evidence:
        found = by_ticker.get(ticker)
        if found is None:
            found = by_ticker[ticker] = Evidence(market, ticker, made_ms, newest_ms, info is not None)
        return found

    for one in archives:
        name = parse_ticker(one.symbol, market)
        if name.settled_count:
            of(name.name).settled.append(one)
        else:
            of(name.name).listed = one
    for symbol, contract in () if info is None else info.contracts.items():
        name = parse_ticker(symbol, market)
        if not name.settled_count:
            of(name.name).contract = contract
    for life in earlier:
        of(life.ticker).earlier.append(life)
    return tuple(life for ticker in sorted(by_ticker) for life in lives_of_ticker(by_ticker[ticker]))


def lives_of_ticker(evidence: Evidence) -> list[Life]:
    """The lives of one ticker, in order, none of which overlap. A contract that was only announced has none."""
    starts = _starts_of(evidence)
    lives: list[Life] = []
    for position, start in enumerate(starts):
        following = starts[position + 1] if position + 1 < len(starts) else None
        life = _life_of(evidence, start, following)
        if lives and lives[-1].symbol == life.symbol:
            life = replace(life, previous_end_ms=lives[-1].end_ms)
        lives.append(life)
    return lives


# --- Beginnings --------------------------------------------------------------------------------------------


def _starts_of(evidence: Evidence) -> list[_Start]:
    listed, earlier = evidence.listed, sorted(evidence.earlier)
    starts: list[_Start] = []
    for settled in sorted(evidence.settled, key=lambda one: one.first_ms):
        if listed is not None and settled.first_ms > listed.first_ms - SAME_LISTING_MS:
            continue
        same = [
            life for life in earlier if _is_same(life.first_ms, settled.first_ms) or life.symbol == settled.symbol
        ]
        if same:
            earlier.remove(same[0])
        ms, source = settled.first_ms, FirstSource.FIRST_ARCHIVE
        if same:
            ms, source = same[0].first_ms, same[0].first_source
        _add(starts, _Start(ms, source, settled.symbol, earlier=same[0] if same else None, archives=settled))
    known = known_lives(evidence.market, evidence.ticker)
    first_earlier = earlier[0] if earlier else None
    # A contract that is only announced is no life.
    if listed is not None or first_earlier is not None or _trades(evidence.contract) or (known and not starts):
        _add(starts, _base_of(evidence, first_earlier))
    if known:
        starts = _with_facts(starts, known, evidence)
    for life in earlier[1:]:
        _add(starts, _Start(life.first_ms, life.first_source, life.symbol, earlier=life))
    _add_new_contract(starts, evidence, first_earlier, earlier)
    if not known:
        _add_settled(starts, evidence)
    return sorted(starts, key=lambda start: start.ms)


def _is_same(one_ms: int, other_ms: int) -> bool:
    return abs(one_ms - other_ms) <= SAME_LISTING_MS


def _trades(contract: ListedContract | None) -> bool:
    return contract is not None and contract.status not in _NOT_TRADING


def _base_of(evidence: Evidence, earlier: Life | None) -> _Start:
    """The beginning of the first life whose archives have the name of the ticker."""
    listed, contract = evidence.listed, evidence.contract
    firsts_ms = [] if listed is None else [listed.first_ms]
    firsts_ms += [earlier.first_archive_ms] if earlier is not None and earlier.first_archive_ms is not None else []
    listed_ms = contract.listed_ms if contract is not None else None
    if earlier is not None and earlier.listed_ms is not None:
        listed_ms = earlier.listed_ms  # of a contract that followed, the exchange's is another
    source: FirstSource
    if earlier is not None and earlier.first_source is FirstSource.FACT:
        ms, source = earlier.first_ms, earlier.first_source
    elif firsts_ms:
        day_ms = min(firsts_ms)
        is_within = listed_ms is not None and day_ms <= listed_ms < day_ms + DAY_MS
        ms = listed_ms if is_within and listed_ms is not None else day_ms
        source = FirstSource.LISTING_DATE if is_within else FirstSource.FIRST_ARCHIVE
    elif listed_ms is not None:
        ms, source = listed_ms, FirstSource.LISTING_DATE
    elif earlier is not None:
        ms, source = earlier.first_ms, earlier.first_source
    else:
        ms, source = evidence.made_ms, FirstSource.FIRST_SEEN
    return _Start(ms, source, evidence.ticker, earlier=earlier, archives=listed)


def _with_facts(starts: list[_Start], known: Sequence[KnownLife], evidence: Evidence) -> list[_Start]:
    """Known lives in place of those that begin with archives. These say where the bars are, and no more."""
    contract = evidence.contract
    facts = []
    for fact in known:
        ms = fact.first_ms
        if contract is not None and contract.listed_ms is not None and ms % DAY_MS == 0:
            # Of some only the day was announced.
            ms = contract.listed_ms if ms <= contract.listed_ms < ms + DAY_MS else ms
        facts.append(_Start(ms, FirstSource.FACT, evidence.ticker, fact=fact, archives=evidence.listed))
    for start in starts:
        home = next((fact for fact in reversed(facts) if fact.ms <= start.ms + SAME_LISTING_MS), facts[0])
        home.earlier = home.earlier or start.earlier
        home.ms = min(home.ms, start.ms) if home is facts[0] else home.ms
        ended_ms = home.fact.end_ms if home.fact is not None else None
        if start.symbol != evidence.ticker and (ended_ms is None or start.ms < ended_ms):
            home.symbol, home.archives = start.symbol, start.archives
    return facts


def _add(starts: list[_Start], new: _Start) -> None:
    """Add a beginning, unless it is that of a life which is there."""
    for start in starts:
        # Two lives of an earlier snapshot stay two.
        if _is_same(start.ms, new.ms) and not (start.earlier and new.earlier):
            start.earlier = start.earlier or new.earlier
            return
    new.archives = new.archives or next((start.archives for start in starts if start.symbol == new.symbol), None)
    starts.append(new)


def _add_new_contract(
    starts: list[_Start], evidence: Evidence, first_earlier: Life | None, earlier: Sequence[Life]
) -> None:
    """The contract that the exchange lists, if it is another one than those before."""
    contract, listed = evidence.contract, evidence.listed
    if contract is None or contract.listed_ms is None or not _trades(contract):
        return
    known_ms = [
        life.listed_ms for life in (first_earlier, *earlier) if life is not None and life.listed_ms is not None
    ]
    is_changed = bool(known_ms) and contract.listed_ms > max(known_ms) + SAME_LISTING_MS
    is_used_again = (
        bool(evidence.settled)
        and listed is not None
        and contract.listed_ms > listed.first_ms + SAME_LISTING_MS
        and contract.listed_ms > max((start.ms for start in starts), default=0)
    )
    if is_changed or is_used_again:
        _add(starts, _Start(contract.listed_ms, FirstSource.LISTING_DATE, evidence.ticker))


def _add_settled(starts: list[_Start], evidence: Evidence) -> None:
    """The lives that only folders with SETTLED show: the archives of the ticker go on after these begin."""
    listed = evidence.listed
    if listed is None:
        return
    later = sorted(one.first_ms for one in evidence.settled if one.first_ms > listed.first_ms + SAME_LISTING_MS)
    for number, settled_ms in enumerate(later):
        own_count = sum(start.symbol == evidence.ticker for start in starts)
        if number < own_count - 1 or listed.last_ms <= settled_ms + SAME_LISTING_MS:
            continue
        gap = next((gap for gap in listed.gaps if gap.end_ms >= settled_ms - SAME_LISTING_MS), None)
        ms, source = settled_ms, FirstSource.SETTLED_ARCHIVE
        if gap is not None:
            ms, source = gap.end_ms, FirstSource.GAP
        _add(starts, _Start(ms, source, evidence.ticker))


# --- Ends --------------------------------------------------------------------------------------------------


def _life_of(evidence: Evidence, start: _Start, following: _Start | None) -> Life:
    market, earlier = evidence.market, start.earlier
    name = parse_ticker(evidence.ticker, market)
    contract = evidence.contract if following is None and _owns(evidence, start) else None
    known = contract or evidence.contract
    base = (known.base if known else "") or (earlier.base if earlier else "") or name.base
    quote = (known.quote if known else "") or (earlier.quote if earlier else "") or name.quote
    kind = name.contract
    for given in (earlier.contract if earlier else None, contract.contract if contract else None):
        kind = kind if given in (None, ContractType.UNKNOWN) else given
    listed_ms = (contract.listed_ms if contract else None) or (earlier.listed_ms if earlier else None)
    delivery_ms = contract.delivery_ms if contract else earlier.delivery_ms if earlier else None
    permissions = (contract.permissions if contract else ()) or (earlier.permissions if earlier else ())
    archives = start.archives
    first_archive_ms = earlier.first_archive_ms if earlier else None
    last_archive_ms = earlier.last_archive_ms if earlier else None
    day_ms = start.ms // DAY_MS * DAY_MS
    if archives is not None and archives.last_ms > day_ms:
        first_archive_ms = max(archives.first_ms, day_ms) if first_archive_ms is None else first_archive_ms
        first_archive_ms, last_archive_ms = min(first_archive_ms, max(archives.first_ms, day_ms)), archives.last_ms
    life = Life(
        market,
        evidence.ticker,
        start.ms,
        start.symbol,
        base,
        quote,
        kind,
        multiplier_of(base),
        is_leveraged(base, market) or _LEVERAGED in permissions,
        start.source,
        listed_ms=listed_ms,
        delivery_ms=delivery_ms,
        status=contract.status if contract else earlier.status if earlier else "",
        contract_size=(contract.contract_size if contract else None)
        or (earlier.contract_size if earlier else None),
        permissions=permissions,
        first_archive_ms=first_archive_ms,
        last_archive_ms=last_archive_ms,
    )
    end_ms, reason, source = _end_of(evidence, start, following, life, contract)
    return _with_end(life, end_ms, reason, source, evidence.made_ms)


def _owns(evidence: Evidence, start: _Start) -> bool:
    """Whether the exchange's entry is that of the last life, and not of a contract that is only announced."""
    contract = evidence.contract
    if contract is None or _trades(contract) or contract.listed_ms is None:
        return contract is not None
    return contract.listed_ms <= start.ms + SAME_LISTING_MS


def _with_end(life: Life, end_ms: int | None, reason: EndReason, source: EndSource | None, made_ms: int) -> Life:
    renamed_to = ""
    if end_ms is not None:
        end_ms = max(end_ms, life.first_ms + 1)
        if end_ms > made_ms and source is EndSource.DELIVERY_DATE:
            reason = EndReason.ALIVE
        elif reason in (EndReason.DELISTED, EndReason.RENAMED):
            renamed_to = successor_of(life.market, life.ticker, life.base, life.quote, end_ms)
            reason = EndReason.RENAMED if renamed_to else reason
    return replace(life, end_ms=end_ms, end_reason=reason, end_source=source, renamed_to=renamed_to)


_End: TypeAlias = "tuple[int | None, EndReason, EndSource | None]"


def _end_of(
    evidence: Evidence, start: _Start, following: _Start | None, life: Life, contract: ListedContract | None
) -> _End:
    fact, earlier = start.fact, start.earlier
    if fact is not None and fact.end_ms is not None:
        end_ms = fact.end_ms if following is None else min(fact.end_ms, following.ms)
        return end_ms, fact.end_reason, EndSource.FACT
    if life.delivery_ms is not None and life.delivery_ms > life.first_ms:
        end_ms = life.delivery_ms if following is None else min(life.delivery_ms, following.ms)
        return end_ms, _reason_of(evidence, life), EndSource.DELIVERY_DATE
    if earlier is not None and earlier.end_ms is not None and earlier.end_source in _EXACT:
        end_ms = earlier.end_ms if following is None else min(earlier.end_ms, following.ms)
        return end_ms, earlier.end_reason, earlier.end_source
    if following is not None:
        end_ms, source = _bound_before(evidence, start, following)
        return end_ms, _reason_of(evidence, life), source
    return _last_end_of(evidence, start, life, contract)


def _reason_of(evidence: Evidence, life: Life) -> EndReason:
    if life.contract is ContractType.QUARTERLY:
        return EndReason.DELIVERED
    return EndReason.SETTLED if evidence.settled else EndReason.DELISTED


def _bound_before(evidence: Evidence, start: _Start, following: _Start) -> tuple[int, EndSource]:
    """When a life had ended at the latest that another one followed."""
    for settled in sorted(evidence.settled, key=lambda one: one.first_ms):
        if start.symbol == evidence.ticker and start.ms + SAME_LISTING_MS < settled.first_ms <= following.ms:
            return settled.first_ms, EndSource.SETTLED_ARCHIVE
    archives = start.archives
    for gap in () if archives is None else archives.gaps:
        if start.ms < gap.start_ms < following.ms <= gap.end_ms + 31 * DAY_MS:
            return gap.start_ms, EndSource.LAST_ARCHIVE
    if archives is not None and start.ms < archives.last_ms <= following.ms:
        return archives.last_ms, EndSource.LAST_ARCHIVE
    return following.ms, EndSource.NEXT_LISTING


def _last_end_of(evidence: Evidence, start: _Start, life: Life, contract: ListedContract | None) -> _End:
    """The end of the last life of a ticker, where no date of it is known."""
    name = parse_ticker(evidence.ticker, evidence.market)
    if name.delivery_ms is not None and name.delivery_ms > life.first_ms:
        return name.delivery_ms, EndReason.DELIVERED, EndSource.DELIVERY_DATE
    last_ms = life.last_archive_ms
    has_stopped = last_ms is not None and last_ms < evidence.newest_ms - ARCHIVES_LATE_MS
    if contract is not None:
        is_over = contract.status in _ENDED or (contract.status in _NOT_TRADING and has_stopped)
        if not is_over:
            return None, EndReason.ALIVE, None
    elif not (evidence.has_info or has_stopped or evidence.settled or last_ms is None):
        return None, EndReason.UNKNOWN, None
    settled_ms = [one.first_ms for one in evidence.settled if one.first_ms > start.ms + SAME_LISTING_MS]
    bounds = [(ms, EndSource.SETTLED_ARCHIVE) for ms in settled_ms]
    bounds += [(last_ms, EndSource.LAST_ARCHIVE)] if last_ms is not None else []
    earlier = start.earlier
    if earlier is not None and earlier.end_ms is not None and earlier.end_source is not None:
        # Archives may have gone on since: theirs is no bound any more, unless there are none at all now.
        is_kept = last_ms is None or earlier.end_source is not EndSource.LAST_ARCHIVE
        bounds += [(earlier.end_ms, earlier.end_source)] if is_kept else []
    if not bounds:
        # It was seen once, and is not there any more.
        bounds.append((evidence.made_ms, EndSource.LAST_ARCHIVE))
    end_ms, source = min(bounds)
    return end_ms, _reason_of(evidence, life), source
