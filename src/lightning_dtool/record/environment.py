"""The machine, the operating system and the libraries."""

from pydantic import Field

from lightning_dtool.record.section import Integer, Section


class Environment(Section):
    """The machine, the operating system and the libraries."""

    python: str = Field(description="Version of Python.")
    platform: str = Field(description="Operating system and processor architecture.")
    versions: dict[str, str] = Field(
        description=(
            "Versions of the most important libraries and of those that define the model's classes. requirements.txt "
            "has all of them."
        )
    )
    cpu: str | None = Field(default=None, description="Name of the processor.")
    cpu_count: Integer | None = Field(default=None, description="Number of processors that the process may use.")
    memory_bytes: Integer | None = Field(default=None, description="Memory of the machine, in bytes.")
    accelerators: list[str] = Field(default=[], description="Names of the available GPUs and other accelerators.")
    drivers: dict[str, str] = Field(
        default={},
        description="Versions of CUDA, ROCm or XPU in torch's build, the NVIDIA driver, and cuDNN if CUDA is in use.",
    )
    torch_build: str | None = Field(default=None, description="torch's description of its build.")
    container: str | None = Field(default=None, description="The container or its image, if known.")
    scheduler: dict[str, str] = Field(
        default={}, description="The job of the batch system (SLURM, PBS): ids, nodes and names."
    )
    variables: dict[str, str] = Field(
        default={}, description="Environment variables that may affect the result, from an allow-list."
    )
    variables_read: dict[str, str | None] = Field(
        default={},
        description=(
            "Environment variables that the code of the project reads, itself or through libraries such as click and "
            "OmegaConf, as seen until the record was written or as named in the stored code. Values are those when "
            "first read; null if the variable was not set."
        ),
    )
