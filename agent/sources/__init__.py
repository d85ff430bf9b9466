"""The sources of bundles: mounts and JetStream. May import ``selection``, ``clients``, ``backoff`` and ``log``."""
