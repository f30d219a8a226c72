"""`python -m training doctor`: is everything there that a run needs, and does a step work?

Each check gives findings: ok, warn or error, what was found and what to do about it. A check that
fails in a way it did not expect is an error finding, too: nothing here ends in a traceback.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from .checks import Finding, Findings, data, files
from .checks import machine as device
from .config import TrainConfig
from .describe import describe
from .outlook import Machine, plan

__all__ = ["Finding", "describe", "doctor", "plan"]

log = logging.getLogger(__name__)


def doctor(
    config: TrainConfig, *, machine: Machine | None = None, dry_step: bool = True
) -> list[Finding]:
    """Every finding about a run, and at the end one real step in a temporary folder.

    The step is left out after an error, or with dry_step=False. machine: another than this one.
    """
    machine = machine or Machine.here()
    found: list[Finding] = []
    for name, check in (
        ("packages", partial(device.packages, config)),
        ("device", partial(device.device, config, machine)),
        ("compiler", partial(device.compiler, config)),
        ("vae", partial(files.vae, config)),
        ("text encoder", partial(files.text_encoder, config)),
        ("init", partial(files.init, config)),
        ("data sets", partial(data.sets, config)),
        ("latent cache", partial(data.latents, config)),
        ("text cache", partial(data.texts, config)),
        ("batches", partial(device.batches, config, machine)),
        ("memory", partial(device.memory, config, machine)),
        ("host memory", partial(device.host_memory, config, machine)),
        ("disk", partial(device.disk, config, machine)),
    ):
        found += _guarded(name, check)
    if not dry_step:
        return found
    if any(finding.level == "error" for finding in found):
        return [*found, Finding("warn", "dry step", "left out: correct the errors first")]
    return [*found, *_guarded("dry step", partial(device.step, config, machine))]


def _guarded(name: str, check: Callable[[], Findings]) -> list[Finding]:
    """The findings of a check; whatever it raises is the last of them."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except Exception as error:
        log.debug("doctor: %s", name, exc_info=True)
        text = str(error) or type(error).__name__
        found.append(Finding("error", name, text.splitlines()[0][:500]))
    return found
