"""``verify``: verifies bundles as an agent would, or a chain of statements as an auditor would."""

import sys
import time
from collections.abc import Mapping

from authority.app.trust import trust_of
from authority.cli import bundle_sources, render
from authority.cli.api_client import ApiClient
from authority.cli.chain import follow
from authority.cli.inputs import api_access, configuration, read_file
from authority.cli.parser import DONE, REFUSED, Arguments, WrongInput
from tidemark.trust import Trust
from tidemark.verify import BundleRejected, Known, verify


async def verify_bundles(arguments: Arguments, environment: Mapping[str, str]) -> int:
    """Print the verdict on each bundle; return ``REFUSED`` where a bundle is refused or the chain is broken."""
    if arguments.trust:
        trust = Trust.parse(read_file(arguments.trust))
    else:
        trust = await trust_of(configuration(arguments, environment))
    if arguments.chain:
        return await _verify_chain(arguments, environment, trust)
    if arguments.url or not arguments.paths:
        raise WrongInput("verify: expected PATHs to judge (or --chain, which also takes --url), found none")
    result = DONE
    for name, bundle in bundle_sources.read(arguments.paths).items():
        try:
            verified = verify(bundle, trust, Known(), int(time.time()))
        except BundleRejected as error:
            sys.stdout.write(f"{name}: {error}\n")
            result = REFUSED
        else:
            sys.stdout.write(render.verified(name, verified) + "\n")
    return result


async def _verify_chain(arguments: Arguments, environment: Mapping[str, str], trust: Trust) -> int:
    bundles = bundle_sources.read_all(arguments.paths)
    if arguments.url or not arguments.paths:
        async with ApiClient(api_access(arguments, environment)) as client:
            bundles |= await bundle_sources.fetch(client)
    chain = follow(bundles, trust)
    sys.stdout.writelines(f"{fault}\n" for fault in chain.faults)
    what = f"{chain.statements} statements, {chain.first} to {chain.last}" if chain.statements else "no statement"
    sys.stdout.write(f"chain: {'broken' if chain.faults else 'good'}: {what}\n")
    return REFUSED if chain.faults else DONE
