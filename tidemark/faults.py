"""Collects every fault of a configuration, so that all of them are reported at once; pure.

Both programs read with it: a TOML file, an environment, a pod's annotations, a target's URL. Applications have no use
for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Faults:
    """One sentence for each fault, in the order in which the faults were found."""

    prefix: str = ""
    """Stands before the key in every sentence that names a key, such as ``TIDEMARK_`` or ``agents[1].``."""

    _sentences: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        """Record a fault that belongs to no single key."""
        self._sentences.append(sentence)

    def add_to(self, key: str, complaint: str) -> None:
        """Record a fault of ``key``."""
        self.add(f"{self.prefix}{key}: {complaint}")

    def expected(self, key: str, expected: str, found: str) -> None:
        """Record that ``key`` is not what was expected."""
        self.add_to(key, f"expected {expected}, found {found}")

    def below(self, part: str) -> "Faults":
        """The same collection, for keys of an inner part: ``part`` is appended to the prefix."""
        return Faults(f"{self.prefix}{part}", self._sentences)

    def __len__(self) -> int:
        return len(self._sentences)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)
