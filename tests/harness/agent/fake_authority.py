"""The part of an authority's API that an agent uses: it receives receipts."""

import ssl
import tempfile
import time

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness.pki.certificates import Lifetime, SigningCa, ca_certificate, common_name, key_pem, leaf_certificate
from tests.harness.ports import free_port
from tests.harness.servers import end
from tidemark.certificates import to_pem
from tidemark.receipt import Receipt

TOKEN = "token-of-nats-0"


class FakeAuthority:
    """Receives receipts over HTTPS, checks the bearer token, answers with the newest sequence; has its own CA."""

    def __init__(self) -> None:
        self.port = free_port()
        self.receipts: list[Receipt] = []
        self.newest = 0
        self.code = 200
        self.moved_to = ""
        """Path to which it redirects receipts; an agent must not follow the redirect."""
        self.redirects = 0
        self._control = SigningCa(common_name("control"), ec.generate_private_key(ec.SECP256R1()))
        now = int(time.time())
        self._lifetime = Lifetime(now - 60, now + 3600)
        self.ca = ca_certificate(self._control, self._lifetime)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def start(self) -> None:
        async def receive(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return web.Response(status=401, text="who are you?")
            if self.moved_to and request.path != self.moved_to:
                self.redirects += 1
                raise web.HTTPTemporaryRedirect(self.moved_to)
            if self.code == 200:
                self.receipts.append(Receipt.from_json(await request.read()))
            return web.json_response({"newest_sequence": self.newest}, status=self.code)

        app = web.Application()
        app.router.add_post("/{path:.*}", receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._tls()).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await end(self._runner)
            self._runner = None

    def serving_certificate(self) -> tuple[bytes, bytes]:
        """A new certificate of the API and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        return to_pem([leaf_certificate("api", key, self._lifetime, self._control)]), key_pem(key)

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(self.serving_certificate()))
            file.flush()
            context.load_cert_chain(file.name)
        return context
