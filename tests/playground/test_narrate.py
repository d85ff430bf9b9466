"""The authority's events as sentences."""

from dataclasses import fields
from string import Formatter
from typing import get_args

from authority.observability.event_log import event_name
from authority.rotation.events import Event
from playground.narrate import _SENTENCES, describe_event


def test_every_sentence_belongs_to_an_event_and_uses_its_fields() -> None:
    known = {event_name(kind): {field.name for field in fields(kind)} for kind in get_args(Event)}
    for name, sentence in _SENTENCES.items():
        named = {field for _, field, _, _ in Formatter().parse(sentence) if field}
        assert named <= known[name], name


def test_event_without_a_sentence_is_named_with_its_fields() -> None:
    assert describe_event({"event": "following", "replica": "a", "leader": ""}) == "following replica=a leader="
