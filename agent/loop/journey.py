"""What the steps of one journey find out and measure on the way."""

from dataclasses import dataclass, field

from agent.selection.select import Refusal
from tidemark.verify import Mark


@dataclass(slots=True)
class JourneyProgress:
    """The journey under way, for its report at the end."""

    swapped_at: float = 0.0
    """When the sources switched to the set, in Unix seconds."""
    stages: dict[str, float] = field(default_factory=dict)
    """Duration of each stage so far, in seconds."""
    mark: Mark | None = None
    """The highest statement that passed verification; None where none did."""
    rejection: Refusal | None = None
    """The first refusal that an operator should know of, while the set itself is well."""
    next_may_overlap: bool = False
    """A bundle was refused for want of overlap with the installed set and may overlap with the set of this journey."""
