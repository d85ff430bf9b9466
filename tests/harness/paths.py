"""Where the files of the checkout are, and the programs beside the interpreter."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
MANIFESTS = CHECKOUT / "manifests"
MONITORING = MANIFESTS / "monitoring"
VECTORS = CHECKOUT / "tests" / "vectors"
"""Golden files: what stays the same between releases."""

NATS_SERVER = Path(sys.executable).parent / "nats-server"
OLDEST_NATS_SERVER = Path(sys.prefix) / "servers" / "2.10" / "bin" / "nats-server"
