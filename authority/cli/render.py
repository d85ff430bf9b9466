"""Renders answers of the API as text and tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidemark.strict_json import format_instant
from tidemark.verify import VerifiedBundle

_COLOURS = {
    "proven": "green",
    "open": "green",
    "written": "green",
    "done": "green",
    "trusting": "yellow",
    "reissuing": "yellow",
    "leaving_out": "yellow",
    "distrusting": "yellow",
    "unchanged": "green",
    "reloaded": "yellow",
    "waiting": "yellow",
    "lagging": "yellow",
    "held": "red",
    "failed": "red",
    "missing": "red",
}
_EVENTS = 12
_NAMED = 10
_INSTANTS = frozenset({"not_after", "since", "until"})

Answer = Mapping[str, Any]


def status(answer: Answer) -> RenderableType:
    """``status``: the answer of ``GET /api/v1/status`` as tables."""
    now = answer["now"]
    return Group(
        _summary(answer),
        *_withdrawals(answer["withdrawals"], now),
        _table(
            "Leaves",
            ("workload", "signed by", "ends", "target", "error"),
            (
                (
                    each["name"],
                    _epoch(each["issuer_epoch"]),
                    _until(each["not_after"], now),
                    each["target"],
                    each["error"],
                )
                for each in answer["leaves"]
            ),
        ),
        _table(
            "Publishers",
            ("publisher", "last outcome", "when", "ahead of us", "error"),
            (
                (
                    each["name"],
                    each["outcome"] or "-",
                    _until(each["at"], now),
                    _names(each["newer"]) or "-",
                    each["error"],
                )
                for each in answer["publishers"]
            ),
        ),
        _table(
            "Last events",
            ("when", "event", "what"),
            ((format_instant(event["at"]), event["event"], _details(event)) for event in answer["events"][-_EVENTS:]),
        ),
    )


def preview(answer: Answer) -> str:
    """``rollback`` and ``revoke`` with ``--now``: what the command will do, and what will break."""
    replacement = answer["replacement"]
    instead = f"that of epoch {replacement['epoch']}, {replacement['sha256'][:16]}…" if replacement else "a new one"
    lines = [
        f"{answer['cause']} of the CA of epoch {answer['epoch']}, {answer['ca'][:16]}…: the next statement leaves it "
        f"out, and {instead} signs, proven or not",
        *(f"breaks: {sentence}" for sentence in answer["breaks"] or ["nothing that the authority knows of"]),
        *(f"warning: {sentence}" for sentence in answer["warnings"]),
    ]
    return "\n".join(lines)


def verified(name: str, bundle: VerifiedBundle) -> str:
    """``verify``: the content of a good bundle."""
    statement = bundle.statement
    lines = [
        f"{name}: good",
        f"  statement {statement.sequence} of {statement.trust_domain}, epoch {statement.epoch}, {statement.cause}",
        f"  issued {format_instant(statement.issued_at)}, expires {format_instant(statement.expires_at)}",
        f"  a newer one is due by {format_instant(statement.next_update)}",
        f"  signed by {', '.join(bundle.signed_by)}",
        f"  digest {bundle.digest}",
    ]
    for anchor in statement.anchors:
        which = f"CA of epoch {anchor.epoch}" if anchor.epoch is not None else "root"
        lines.append(f"  {which}: {anchor.sha256}, until {format_instant(anchor.not_after)}")
    lines += [f"  withdrawn: {sha256}" for sha256 in statement.withdrawn]
    return "\n".join(lines)


def _summary(answer: Answer) -> RenderableType:
    now, epoch, signing, newest = answer["now"], answer["epoch"], answer["signing"], answer["newest"]
    grid = Table.grid(padding=(0, 2))
    grid.add_row("trust domain", answer["trust_domain"])
    grid.add_row("leader", _leader(answer["replica"]))
    grid.add_row("time", format_instant(now))
    grid.add_row(
        "epoch", f"{epoch['number']}, ends {_until(epoch['ends'], now)}; next CA {_until(epoch['prepare_at'], now)}"
    )
    if signing:
        ends = _until(signing["not_after"], now)
        grid.add_row("signs", f"CA of epoch {signing['epoch']}, {signing['sha256'][:16]}…, ends {ends}")
    else:
        grid.add_row("signs", Text("no CA yet", "red"))
    if newest:
        what = f"statement {newest['sequence']}, epoch {newest['epoch']}, {newest['cause']}"
        grid.add_row("newest", f"{what}, issued {_until(newest['issued_at'], now)}")
    grid.add_row("gate", _gate(answer["gate"], now))
    grid.add_row("fleet", _fleet(answer["fleet"]))
    return grid


def _leader(replica: Answer) -> Text:
    if replica["leads"]:
        return Text(f"{replica['name']}, which answers")
    if replica["leader"] is None:
        return Text(f"no leader is known; {replica['name']} answers, without what agents report", "red")
    return Text(f"{replica['leader']['name']}; {replica['name']} answers, without what agents report", "red")


def _withdrawals(withdrawals: Sequence[Answer], now: int) -> list[RenderableType]:
    """Three tables: the withdrawals, each agent's time to distrust the CA, and clients that are still connected."""
    return [_progress(withdrawals, now), _distrust_times(withdrawals), _connected(withdrawals)] if withdrawals else []


def _progress(withdrawals: Sequence[Answer], now: int) -> Table:
    return _table(
        "Withdrawals",
        ("CA", "what", "asked by", "stage", "waits for", "stage ends", "replacement", "left out by"),
        (
            (
                _ca(each),
                " ".join(filter(None, (each["cause"] or "withdrawn", "at once" if each["now"] else ""))),
                "itself" if each["automatic"] else f"{each['who'] or '-'}: {each['reason'] or '-'}",
                each["stage"],
                _names(each["waiting"]) or "-",
                _until(each["until"], now),
                _epoch(each["replacement"] and each["replacement"]["epoch"]),
                f"statement {each['statement']}" if each["statement"] else "-",
            )
            for each in withdrawals
        ),
    )


def _distrust_times(withdrawals: Sequence[Answer]) -> Table:
    return _table(
        "Time to distrust",
        ("CA", "agent", "after the request", "after the statement"),
        (
            (_ca(each), name, *(_seconds(took[key]) for key in _SINCE))
            for each in withdrawals
            for name, took in each["distrusted"].items()
        ),
    )


def _connected(withdrawals: Sequence[Answer]) -> Table:
    return _table(
        "Still connected with its certificates",
        ("CA", "server", "connection", "name", "address", "certificate", "since"),
        (
            (_ca(each), *(str(one[key]) for key in ("server", "cid", "name", "address", "subject", "since")))
            for each in withdrawals
            for one in each["connected"] or []
        ),
    )


def _ca(withdrawal: Answer) -> str:
    return f"epoch {withdrawal['epoch']}, {withdrawal['ca'][:12]}…"


_SINCE = ("since_asked", "since_statement")


def _seconds(took: float | None) -> str:
    return "-" if took is None else f"{took:.2f} s"


def _gate(gate: Answer, now: int) -> Text:
    if gate["state"] == "idle":
        return Text("no CA waits to be activated")
    text = Text(gate["state"], _COLOURS.get(gate["state"], ""))
    text.append(f": CA of epoch {gate['epoch']}", "default")
    if gate["opening"]:
        text.append(f" ({gate['opening']})", "default")
    if gate["closed"]:
        why = "" if gate["closed"] == gate["state"] else f" ({gate['closed']})"
        text.append(f"{why}; waits for {_names(gate['waiting']) or 'a proof'}", "default")
    if gate["last_resort_at"]:
        text.append(f"; last resort {_until(gate['last_resort_at'], now)}", "default")
    return text


def _fleet(fleet: Answer) -> Text:
    if not fleet["readable"]:
        return Text("unreadable: the list of expected agents is not known", "red")
    counts = {state: count for state, count in fleet.items() if state != "readable" and count}
    text = Text()
    for state, count in counts.items():
        text.append(f"{count} {state}  ", _COLOURS.get(state, ""))
    return text if counts else Text("no agent is expected", "red")


def _names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _table(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", expand=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, _COLOURS.get(cell, "")) for cell in row))
    return table


def _details(event: Answer) -> str:
    details = {name: value for name, value in event.items() if name not in {"number", "at", "event"}}
    instants = {name: format_instant(details[name]) for name in _INSTANTS if isinstance(details.get(name), int)}
    return " ".join(f"{name}={_word(value)}" for name, value in (details | instants).items())


def _word(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_word, value)) or "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def _epoch(number: int | None) -> str:
    return "-" if number is None else f"epoch {number}"


def _until(instant: int | None, now: int) -> str:
    if instant is None:
        return "-"
    return f"in {_span(instant - now)}" if instant >= now else f"{_span(now - instant)} ago"


def _span(seconds: int) -> str:
    """The two largest units: ``2 d 3 h``, ``4 min 5 s``."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
