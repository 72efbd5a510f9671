"""The base of all models, and the small nouns that several others hold."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_STRING = 16 << 20
"""Longest string in a model, more than any body that is read whole. To check it, pydantic has to see that a string is
well-formed Unicode; without, half a surrogate pair would get through to where it cannot be stored or sent."""


class Model(BaseModel):
    """Immutable; unknown fields are refused, so that a misspelt one is an error and not a silence. What an error's text
    says goes to logs: it does not repeat what was given, in which values of secrets may stand."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_max_length=MAX_STRING, hide_input_in_errors=True)


class Resources(Model):
    """What a sandbox may use at most."""

    cpus: float = Field(gt=0, le=64, description="CPU cores, for example 0.5.")
    memory_mib: int = Field(ge=64, le=262144, description="Memory in MiB.")
    disk_mib: int = Field(ge=64, le=1048576, description="Written files in MiB, over the template's own.")
    pids: int = Field(ge=16, le=32768, description="Processes and threads.")


class ResourcesOverride(Model):
    """The resources a call wants other than the template's."""

    cpus: float | None = Field(None, gt=0, le=64)
    memory_mib: int | None = Field(None, ge=64, le=262144)
    disk_mib: int | None = Field(None, ge=64, le=1048576)
    pids: int | None = Field(None, ge=16, le=32768)

    def over(self, base: Resources) -> Resources:
        """`base` with what is set here in its place."""
        return base.model_copy(update=self.model_dump(exclude_none=True))


Start = Literal["warm", "thaw", "boot"]
"""How a sandbox came to run: claimed from the warm pool, thawed from a snapshot, or booted."""


class LimitBreach(Model):
    """A limit that was hit, told so that a person understands it."""

    limit: Literal["memory", "pids", "disk", "cpu"]
    amount: int = Field(description="The limit: bytes for memory and disk, a count for pids.")
    used: int = Field(description="What was in use when it was hit, same unit.")
    pid: int | None = None
    process: str | None = Field(None, description="Name of the process that hit it.")
    action: Literal["process_killed", "sandbox_killed", "refused"] = Field(
        description="refused: the call in the sandbox failed (ENOSPC, EAGAIN) and the process lives on."
    )
    message: str = Field(description='For example "memory limit 512 MiB reached; process python3 killed".')


FALLBACK = (
    "`disk`: its pauses keep the disk apart beside memory, and where memory does not fit the node any more (another "
    "version of the runtime, another CPU) it is booted from that, without its processes. Stays so."
)
