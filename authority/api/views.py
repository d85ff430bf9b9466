"""The API's answers as JSON objects; pure. Instants are Unix seconds; fingerprints and digests SHA-256 in hex."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from authority.controllers.connection_monitor import ConnectionScan
from authority.controllers.leaf_requests import ManualLeaf
from authority.controllers.leaves import LeafState
from authority.controllers.publishing import TargetState
from authority.election.interface import Election
from authority.fleet.distrust_times import CaDistrustTimes, DistrustTimes
from authority.fleet.proof_times import ProofTimes
from authority.fleet.view import AgentView
from authority.journal.history import EpochCa, History, StatementSummary
from authority.journal.record_types import Opening
from authority.rotation.actions import Hold, Step
from authority.rotation.events import StepFailed
from authority.rotation.gate import Gate, gate_of
from authority.rotation.operator_requests import WithdrawalPreview, WithdrawalRequest
from authority.rotation.snapshot import Snapshot
from authority.rotation.withdrawal import WithdrawalProgress
from tidemark.certificates import not_after
from tidemark.strict_json import dump_object

Answer = dict[str, Any]

_PIECE = 32  # agents: about a millisecond of work


def status(snapshot: Snapshot, trust_domain: str, hold: Hold | None) -> Answer:
    """``GET /api/v1/status``, but for leaves, publishers, failures and events.

    ``hold`` is set while a CA should sign and its gate is closed.
    """
    now, clock, history, fleet = snapshot.now, snapshot.clock, snapshot.history, snapshot.fleet
    epoch = clock.epoch_at(now)
    summaries = history.summaries()
    return {
        "now": now,
        "trust_domain": trust_domain,
        "epoch": {
            "number": epoch,
            "started": clock.start(epoch),
            "ends": clock.start(epoch + 1),
            "prepare_at": clock.prepare_at(epoch + 1),
        },
        "signing": _ca(history.signing) if history.signing else None,
        "newest": asdict(summaries[0]) if summaries else None,
        "gate": _gate(snapshot, hold),
        "fleet": {"readable": fleet.readable} | {state.value: count for state, count in fleet.counts().items()},
    }


def fleet(snapshot: Snapshot) -> Iterator[bytes]:
    """``GET /api/v1/fleet`` as JSON, a few agents at a time: ten thousand in one piece would hold up other requests."""
    head = dump_object({"now": snapshot.now, "readable": snapshot.fleet.readable})
    yield f'{head[:-1]},"agents":['.encode()
    agents = snapshot.fleet.agents
    for first in range(0, len(agents), _PIECE):
        yield (b"," if first else b"") + b",".join(map(_agent, agents[first : first + _PIECE]))
    yield b"]}"


def bundles(history: History, proof_times: ProofTimes) -> Answer:
    """``GET /api/v1/bundles``: every statement that the journal holds, newest first."""
    openings = {record.ca: record.opening for record in reversed(history.activations)}
    return {"bundles": [_bundle(summary, openings, proof_times) for summary in history.summaries()]}


def withdrawals(
    progress: Sequence[WithdrawalProgress], distrust_times: DistrustTimes, scan: ConnectionScan | None
) -> list[Answer]:
    """In ``GET /api/v1/withdrawals``: every withdrawal of a CA that has not expired yet, by order of issue.

    ``connected`` are clients that logged in with a certificate of the CA and are still connected; null where no server
    was asked.
    """
    return [
        _withdrawal(each, distrust_times.of(each.ca.sha256))
        | {"connected": [asdict(one) for one in scan.connected if one.ca == each.ca.sha256] if scan else None}
        for each in progress
    ]


def withdrawal_summary(answer: Answer) -> Answer:
    """One withdrawal in ``GET /api/v1/status``: counts in place of the names of agents and clients."""
    return answer | {
        "distrusted": len(answer["distrusted"]),
        "connected": None if answer["connected"] is None else len(answer["connected"]),
    }


def _withdrawal(each: WithdrawalProgress, times: CaDistrustTimes) -> Answer:
    ca, asked, replacement = each.ca, each.ca.withdrawal, each.replacement
    requested_at = times.requested_at or (asked.at if asked else None)
    removed_at = times.removed_at or (ca.removal.at if ca.removal else None)
    return {
        "ca": ca.sha256,
        "epoch": ca.epoch,
        "not_after": ca.not_after,
        "cause": asked and asked.cause.value,
        "now": bool(asked and asked.urgent),  # the name on the wire; inside, "now" is always the time
        "automatic": bool(asked and asked.automatic),
        "who": asked and asked.who,
        "reason": asked and asked.reason,
        "asked_at": requested_at,
        "stage": each.stage.value,
        "waiting": list(each.waiting),
        "until": each.until,
        "replacement": replacement and {"epoch": replacement.epoch, "sha256": replacement.sha256},
        "statement": ca.removal and ca.removal.sequence,
        "left_out_at": removed_at,
        "distrusted": {
            name: {"since_asked": _since(requested_at, at), "since_statement": _since(removed_at, at)}
            for name, at in times.proven.items()
        },
        "slowest": _since(requested_at, max(times.proven.values())) if times.proven else None,
    }


def _since(begin: float | None, at: float) -> float | None:
    return None if begin is None else round(max(0.0, at - begin), 3)


def preview(found: WithdrawalPreview, wanted: WithdrawalRequest) -> Answer:
    """What a withdrawal does or would do; ``replacement`` is null where a new CA replaces it."""
    replacement = found.replacement
    return {
        "ca": found.ca.sha256,
        "epoch": found.ca.epoch,
        "cause": wanted.cause.value,
        "now": wanted.urgent,
        "replacement": replacement and {"epoch": replacement.epoch, "sha256": replacement.sha256},
        "breaks": list(found.breaks),
        "warnings": list(found.warnings),
    }


def _ca(ca: EpochCa) -> Answer:
    return {"epoch": ca.epoch, "sha256": ca.sha256, "not_after": ca.not_after, "activated_at": ca.activated_at}


def _gate(snapshot: Snapshot, hold: Hold | None) -> Answer:
    """The gate of the CA that is held, or else of the newest CA that waits for its activation."""
    waiting = [ca for ca in snapshot.history.candidates if not ca.is_expired(snapshot.now)]
    ca = hold.ca if hold else (waiting[-1] if waiting else None)
    if ca is None:
        return {"state": "idle", "waiting": []}
    gate = gate_of(ca, snapshot)
    return {
        "state": "held" if hold else _state(gate),
        "ca": ca.sha256,
        "epoch": ca.epoch,
        "opening": gate.opening and gate.opening.value,
        "closed": gate.closed and gate.closed.value,
        "waiting": list(gate.waiting),
        "unproven": list(gate.unproven),
        "deadline": gate.deadline,
        "last_resort_at": hold.until if hold else None,
    }


def _state(gate: Gate) -> str:
    return "open" if gate.opening else "waiting"


def _agent(agent: AgentView) -> bytes:
    received = agent.received
    fields = {
        "name": agent.name,
        "class": agent.pod_class.value,
        "state": agent.state.value,
        "fresh": agent.fresh,
        "received_at": received.exact if received else None,
    }
    receipt = received.receipt.to_json() if received else b"null"  # already JSON, so it is not parsed again
    return dump_object(fields)[:-1].encode() + b',"receipt":' + receipt + b"}"


def _bundle(summary: StatementSummary, openings: dict[str, Opening], proof_times: ProofTimes) -> Answer:
    proofs = proof_times.proofs(summary.digest)
    opening = openings.get(summary.ca)
    return asdict(summary) | {
        "cause": summary.cause.value,
        "opening": opening and opening.value,
        "published_at": proofs.published_at,
        "proven": dict(proofs.proven),
        "leaf_proven": dict(proofs.leaf_proven),
    }


def replica(election: Election) -> Answer:
    """The replica that answers, and the replica that leads."""
    leader = election.leader
    return {"name": election.me.name, "leads": election.leads, "leader": asdict(leader) if leader else None}


def leaves(states: Mapping[str, LeafState], history: History) -> list[Answer]:
    """Every workload's leaf, by the epoch of the CA that signed it."""
    answers = []
    for name, state in states.items():
        ca = history.find(state.ca)
        answers.append({"name": name} | asdict(state) | {"issuer_epoch": ca.epoch if ca else None})
    return answers


def manual_leaf(made: ManualLeaf) -> Answer:
    """A leaf for an operator: ``certificate`` (leaf, then its CA) and ``key`` in PEM.

    This is the only answer with a private key.
    """
    return {
        "ca": made.signing.sha256,
        "epoch": made.signing.epoch,
        "serial": made.serial,
        "not_after": not_after(made.leaf),
        "certificate": made.issued.certificate_pem.decode(),
        "key": made.issued.key_pem.decode(),
    }


def publishers(states: Mapping[str, TargetState]) -> list[Answer]:
    """Every publisher with the result of its last run."""
    return [{"name": name} | asdict(state) for name, state in states.items()]


def failures(failed: Mapping[Step, StepFailed]) -> list[Answer]:
    """Steps that failed when they were last tried."""
    return [asdict(failure) for failure in failed.values()]
