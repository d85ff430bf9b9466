"""The commands and their errors; ``run`` is passed in, since it needs signals and logging."""

import sys
import time
from collections.abc import Awaitable, Callable, Mapping

from authority.app.provision import initialise, initialise_openbao
from authority.app.trust import trust_of
from authority.cli import api_commands
from authority.cli.api_client import ApiError, AuthorityRefused
from authority.cli.bundle_sources import BundleUnreadable
from authority.cli.inputs import complain, configuration
from authority.cli.parser import DONE, NO_ANSWER, REFUSED, UNUSABLE_STATE, WRONG_INPUT, Arguments, WrongInput
from authority.cli.verify import verify_bundles
from authority.config.load import AuthorityConfig, AuthorityConfigError
from authority.config.warnings import warnings
from authority.errors import StateUnusable
from authority.web.listener import ListenError
from tidemark.trust import TrustError

Command = Callable[[Arguments, Mapping[str, str]], Awaitable[int]]


async def execute(arguments: Arguments, environment: Mapping[str, str], run: Command) -> int:
    """Carry out the command; write errors to stderr; return the exit status. ``run`` is the command of that name."""
    try:
        return await (_COMMANDS | {"run": run})[arguments.command](arguments, environment)
    except AuthorityConfigError as error:
        return complain(WRONG_INPUT, *error.faults)
    except (WrongInput, BundleUnreadable, TrustError, ListenError) as error:
        return complain(WRONG_INPUT, str(error))
    except StateUnusable as error:
        return complain(UNUSABLE_STATE, str(error))
    except AuthorityRefused as error:
        return complain(REFUSED, str(error))
    except ApiError as error:
        return complain(NO_ANSWER, str(error))


async def _init(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config, now = configuration(arguments, environment), int(time.time())
    if arguments.openbao and config.openbao is None:
        raise WrongInput("--openbao: expected 'issuer = \"openbao\"' in the configuration, found another issuer")
    parts = initialise(config, now)
    if arguments.openbao:
        parts += await initialise_openbao(config, now)
    # As comments, all of the output can be piped into 'bao policy write tidemark -'.
    comment = "# " if arguments.openbao else ""
    for part in parts:
        sys.stdout.write(f"{comment}{'made' if part.made else 'kept'}  {part.name:<15} {part.path}\n")
    if arguments.openbao and config.openbao is not None:
        sys.stdout.write(f"\n{config.openbao.layout.policy()}")
    return DONE


async def _check_config(arguments: Arguments, environment: Mapping[str, str]) -> int:
    config = configuration(arguments, environment)
    sys.stdout.write(f"good: {_summary(config)}\n")
    return complain(DONE, *(f"warning: {warning}" for warning in warnings(config)))


def _summary(config: AuthorityConfig) -> str:
    """The configuration in one line."""
    clock = config.timing.clock
    targets = [f"{len(config.directories)} directories", *(["JetStream"] if config.jetstream else [])]
    targets += ["Kubernetes"] if config.kubernetes else []
    fleet = config.kubernetes.fleet if config.kubernetes else ()
    agents = f"agents' pods in {', '.join(fleet)}" if fleet else f"{len(config.agents)} agents"
    return (
        f"trust domain {config.trust_domain}; epochs of {clock.epoch_seconds} s, CAs valid {clock.validity_seconds} s, "
        f"prepared {clock.prepare_seconds} s ahead, leaves valid {config.timing.leaf_seconds} s; "
        f"{agents}, {len(config.leaves)} leaves, published to {' and '.join(targets)}"
    )


async def _trust(arguments: Arguments, environment: Mapping[str, str]) -> int:
    sys.stdout.write((await trust_of(configuration(arguments, environment))).dump())
    return DONE


_COMMANDS: dict[str, Command] = {
    "init": _init,
    "check-config": _check_config,
    "trust": _trust,
    "status": api_commands.status,
    "rotate": api_commands.rotate,
    "override": api_commands.override,
    "rollback": api_commands.withdraw,
    "revoke": api_commands.withdraw,
    "leaf": api_commands.leaf,
    "verify": verify_bundles,
}
