"""How a call to a family ended, in our own terms: Serve's and Ray's exceptions, and what the family itself refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from deployments.failures import HEALTH, MEMORY
from deployments.ingress.courier import ModelFailed
from deployments.messages import Progress, Refusal, unpack
from tollama.errors import QueueFull, RunnerFailed, RunnerUnavailable, TollamaError, from_record
from tollama.seam import SEAM_VERSION
from tollama.version import __version__


class Gone(Exception):
    """The client went away; there is nobody to answer."""


class Died(Exception):
    """The process that had the call is gone."""


class NotTried(Exception):
    """The process did not take the call up, and a later try may go better: ``cause`` is ``HEALTH`` where the process is
    being replaced, ``MEMORY`` where there was no room for the model, as ``error`` says."""

    def __init__(self, error: TollamaError, cause: str) -> None:
        super().__init__(str(error))
        self.error = error
        self.cause = cause


@contextmanager
def faults(family: str) -> Iterator[None]:
    """Serve's and Ray's exceptions as ours, or as :class:`Died`."""
    try:
        yield
    except BackPressureError:
        raise QueueFull(f"The queue of the family {family!r} is full.", retry_after=1) from None
    except DeploymentUnavailableError:
        raise RunnerUnavailable(
            f"The family {family!r} failed to start.", hint=f"tollama runtime repair {family}"
        ) from None
    except (RayActorError, TaskCancelledError):
        raise Died from None
    except (RayError, RayServeException, grpc.RpcError) as error:
        raise RunnerFailed(f"The family {family!r} failed: {type(error).__name__}.") from error


def opened(blob: bytes, family: str, *, alone: bool = False) -> Any:
    """The family's message, if it is no refusal. ``alone`` says whether the requests of the call may be asked one by
    one after one.

    Raises :class:`NotTried`, :class:`ModelFailed`, or what the family says.
    """
    message = unpack(blob)
    if isinstance(message, Progress):
        return message
    if message.identity != (__version__, SEAM_VERSION):
        raise RunnerUnavailable(
            f"The family {family!r} runs tollama {message.identity[0]}, this server is {__version__}.",
            hint="Restart the server.",
        )
    if isinstance(message, Refusal):
        error = from_record(message.record)
        if message.cause in (HEALTH, MEMORY):
            raise NotTried(error, message.cause)
        raise ModelFailed(error) if alone and message.alone and isinstance(error, RunnerFailed) else error
    return message
