"""The trust file that counts: the last one that could be used."""

from dataclasses import dataclass

from agent.sources.mounts import MountContents
from tidemark.trust import Trust, TrustError


@dataclass(slots=True)
class AdoptedTrust:
    """The trust of the last usable trust file."""

    trust: Trust | None = None
    """None until a usable trust file was read."""
    _content: bytes | None = None

    def adopt(self, contents: MountContents) -> bool:
        """Take over the trust file. True: it differs from the one before.

        Raises:
            TrustError: the file is missing, unreadable or not a trust file; the trust from before still counts.
        """
        content = content_of(contents)
        if content == self._content:
            return False
        self.trust = Trust.parse(content)
        self._content = content
        return True


def content_of(contents: MountContents) -> bytes:
    """The bytes of the trust file; raises TrustError where it is missing or unreadable."""
    if contents.files is None:
        raise TrustError(contents.fault.detail if contents.fault else "expected a trust file, found none")
    (content,) = contents.files.values()
    return content
