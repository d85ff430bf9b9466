"""What keeps the agent small: imported before everything else, and for nothing but its effects on memory.

- aiohttp loads the system's CAs when it is imported (2 MiB); the agent trusts none of them.
- It reads the system's table of media types as well (0.4 MiB, where there is one); the agent serves no files.
- frozenlist's extension brings the C++ runtime along (1 MiB), for lists that are read a few times a minute.
- glibc gives each thread an arena of its own; the agent's one thread beside the loop shares the loop's (0.3 MiB).
- Connections end as garbage that Python would collect hours later, with their buffers, and glibc keeps what was freed;
  an agent that idles gives both back (0.6 MiB).
"""

import asyncio
import ctypes
import gc
import mimetypes
import os

_SECONDS = 60.0
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


_libc = ctypes.CDLL(None)
if hasattr(_libc, "mallopt"):  # glibc's; other C libraries have no such thing to tell
    _libc.mallopt(_M_ARENA_MAX, 1)


async def give_back() -> None:
    """Have freed memory go back to the system once a minute."""
    trim = getattr(_libc, "malloc_trim", None)
    while True:
        await asyncio.sleep(_SECONDS)
        gc.collect()
        if trim is not None:
            trim(0)
