"""What keeps the agent small: imported before everything else, and for nothing but its effects on memory.

- aiohttp loads the system's CAs when it is imported (2 MiB); the agent trusts none of them.
- It reads the system's table of media types as well (0.4 MiB, where there is one); the agent serves no files.
- frozenlist's extension brings the C++ runtime along (1 MiB), for lists that are read a few times a minute.
- nats-py imports ``importlib.metadata``, to learn its own version (0.8 MiB); the name of its directory says it as well.
- asyncio keeps 256 KiB for each TLS connection to read into; the agent reads a few KiB at a time (0.2 MiB for each).
- glibc gives each thread an arena of its own; the agent's one thread beside the loop shares the loop's (0.3 MiB).
- Connections end as garbage that Python would collect hours later, with their buffers, and glibc keeps what was freed;
  an agent that idles gives both back (0.6 MiB).
"""

import asyncio
import asyncio.sslproto
import ctypes
import gc
import mimetypes
import os
import sys
from pathlib import Path

_SECONDS = 60.0
_READ_AT_ONCE = 32 * 1024
_METADATA = "importlib.metadata"
_M_ARENA_MAX = -8  # malloc.h
_WHILE_IMPORTING = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull, "FROZENLIST_NO_EXTENSIONS": "1"}

_before = {name: os.environ.get(name) for name in _WHILE_IMPORTING}
os.environ.update(_WHILE_IMPORTING)
mimetypes.knownfiles = []
import aiohttp  # noqa: E402, F401 - see above

for _name, _value in _before.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value


asyncio.sslproto.SSLProtocol.max_size = _READ_AT_ONCE

_libc = ctypes.CDLL(None)
if hasattr(_libc, "mallopt"):  # glibc's; other C libraries have no such thing to tell
    _libc.mallopt(_M_ARENA_MAX, 1)


def import_nats() -> None:
    """Import nats-py, which comes later than the rest: an agent without a broker need not have it."""
    if _METADATA in sys.modules:
        return
    sys.modules[_METADATA] = None  # type: ignore[assignment]  # "there is none"; nats-py can do without
    try:
        import nats.aio.client  # noqa: PLC0415
    finally:
        del sys.modules[_METADATA]
    for described in Path(nats.__path__[0]).parent.glob("nats_py-*.dist-info"):
        nats.aio.client.__version__ = described.stem.removeprefix("nats_py-")  # brokers show it


async def give_back() -> None:
    """Have freed memory go back to the system once a minute."""
    trim = getattr(_libc, "malloc_trim", None)
    while True:
        await asyncio.sleep(_SECONDS)
        gc.collect()
        if trim is not None:
            trim(0)
