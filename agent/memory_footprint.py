"""Keeps the agent small: must be the first import of the program, and has no other purpose than its effects on memory.

- aiohttp loads the system's CAs when it is imported (2 MiB); the agent trusts none of them.
- It reads the system's table of media types as well (0.4 MiB, where there is one); the agent serves no files.
- frozenlist's extension brings the C++ runtime along (1 MiB), for lists that are read a few times a minute.
- nats-py imports ``importlib.metadata``, to learn its own version (0.8 MiB); the name of its directory says it as well.
- From Python 3.14 on each function has another function that makes its annotations on request (PEP 649): 4,200 of
  them are loaded (1.4 MiB), and the agent requests none.
- aiohttp and ``shutil`` load zstd where Python has it, from 3.14 on (0.4 MiB); no server that the agent asks sends it.
- aiohttp's server imports ``html``, to escape text; ``html`` loads a table of 2,231 names, to read text (0.35 MiB). The
  agent reads no HTML: ``html.unescape`` leaves names as they are here.
- asyncio keeps 256 KiB for each TLS connection to read into; the agent reads a few KiB at a time (0.2 MiB for each).
- glibc gives each thread an arena of its own; the agent's one thread beside the loop shares the loop's (0.3 MiB).
- Closed connections are garbage that Python would collect hours later, with their buffers, and glibc keeps freed
  memory; an idle agent returns both (0.6 MiB).
"""

import asyncio
import asyncio.sslproto
import ctypes
import gc
import mimetypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType

_RETURN_SECONDS = 60.0
_READ_AT_ONCE = 32 * 1024
_METADATA = "importlib.metadata"
_ZSTD = "compression.zstd"
_ENTITIES = "html.entities"
_M_ARENA_MAX = -8  # malloc.h
_WHILE_IMPORTING = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull, "FROZENLIST_NO_EXTENSIONS": "1"}


@contextmanager
def _left_out(module: str) -> Iterator[None]:
    """Within the block ``import module`` fails, for importers that can do without it; afterwards the import works."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # "there is none"
    try:
        yield
    finally:
        del sys.modules[module]


def _import_html_without_names() -> None:
    """Import ``html`` without its table; ``import html.entities`` has the table afterwards."""
    if "html" in sys.modules:
        return
    empty = ModuleType(_ENTITIES)
    empty.html5 = {}  # type: ignore[attr-defined]  # all that ``html`` takes from it
    sys.modules[_ENTITIES] = empty
    import html  # noqa: F401, PLC0415

    del sys.modules[_ENTITIES]


def forget_annotations() -> None:
    """Delete the annotations of every loaded function (Python 3.14 and later).

    To be called after each group of imports, so that the next group reuses the memory. Classes keep their annotations:
    dataclasses and protocols that are made later read those of their bases.
    """
    if sys.version_info < (3, 14):
        return  # annotations are values that functions share, and nothing would be gained
    for found in gc.get_objects():
        if type(found) is FunctionType and found.__annotate__ is not None:
            found.__annotate__ = None


_before = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
os.environ.update(_WHILE_IMPORTING)
mimetypes.knownfiles = []
_import_html_without_names()
with _left_out(_ZSTD):
    import aiohttp  # noqa: F401 - see above
forget_annotations()

for _name, _value in _before.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value


asyncio.sslproto.SSLProtocol.max_size = _READ_AT_ONCE

_libc = ctypes.CDLL(None)
if hasattr(_libc, "mallopt"):  # glibc alone has it
    _libc.mallopt(_M_ARENA_MAX, 1)


def import_nats() -> None:
    """Import nats-py, later than the rest: an agent without a broker need not load it."""
    if "nats.aio.client" in sys.modules:
        return
    with _left_out(_METADATA):
        import nats.aio.client  # noqa: PLC0415
    forget_annotations()
    for described in Path(nats.__path__[0]).parent.glob("nats_py-*.dist-info"):
        nats.aio.client.__version__ = described.stem.removeprefix("nats_py-")  # brokers list it with the connection


async def return_memory() -> None:
    """Return freed memory to the system once a minute; runs until it is cancelled."""
    trim = getattr(_libc, "malloc_trim", None)
    while True:
        await asyncio.sleep(_RETURN_SECONDS)
        gc.collect()
        if trim is not None:
            trim(0)
