"""The machine, the operating system and the packages of a run."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from lightning_dtool.record import Environment, Gaps, as_text
from lightning_dtool.redaction.record import add_redaction
from lightning_dtool.redaction.text import redact_text, redact_variable

_LIBRARIES = (
    "lightning-dtool", "lightning", "pytorch-lightning", "torch", "torchvision", "torchaudio", "torchmetrics",
    "dtoolcore", "numpy", "pillow", "pydantic",
)  # fmt: skip

MAX_TEXT = 4000
"""Maximum length of the description of torch's build, and of an environment variable, in characters."""

_VARIABLES = re.compile(
    r"CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|CACHE_PATH|HOME|MODULE_LOADING)|"
    r"(HIP|ROCR|ZE)_(VISIBLE_DEVICES|AFFINITY_MASK)|NVIDIA_(TF32_OVERRIDE|VISIBLE_DEVICES)|CUBLAS\w*|CUBLASLT\w*|CUDNN\w*|"
    r"(OMP|MKL|KMP|GOMP|OPENBLAS|BLIS|VECLIB|NUMEXPR|NCCL|GLOO|UCX|XLA|PJRT|ONEDNN|DNNL|TORCH|TORCHINDUCTOR|TORCHELASTIC|"
    r"PYTORCH|PL|LIGHTNING|LIGHTNING_DTOOL|TRITON|ATEN|PYTHON|DTOOL_CACHE)_?\w*|"
    r"(WORLD_SIZE|RANK|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|NODE_RANK|MASTER_ADDR|MASTER_PORT)|"
    r"CONDA_(DEFAULT_ENV|PREFIX)|VIRTUAL_ENV|LD_PRELOAD|LD_LIBRARY_PATH|MALLOC_\w+|TZ|LANG|LC_ALL|TF32\w*"
)
"""Environment variables that may affect the result or show how the program was started."""

_SCHEDULER = re.compile(
    r"SLURM_(JOB_?(ID|NAME|NODELIST|NUM_NODES|PARTITION|CPUS_PER_NODE|GPUS)|ARRAY_(JOB_ID|TASK_ID|TASK_COUNT)|CLUSTER_NAME|"
    r"NODEID|NODELIST|NNODES|NTASKS|NTASKS_PER_NODE|PROCID|LOCALID|RESTART_COUNT|CPUS_PER_TASK|GPUS(_ON_NODE)?|MEM_PER_\w+)|"
    r"PBS_(JOBID|JOBNAME|QUEUE|ARRAY_?(INDEX|ID)|NUM_PPN|NODENUM)|LSB_(JOBID|JOBNAME|JOBINDEX|QUEUE|HOSTS)|"
    r"JOB_ID|SGE_(TASK_ID|CELL_NAME)|COBALT_JOBID|FLUX_JOB_ID|OAR_JOB_ID|KUBERNETES_SERVICE_HOST|POD_NAME"
)
"""Variables of batch systems that identify a job. Variables with private values, such as accounts, are excluded."""


def capture_environment(gaps: Gaps) -> Environment:
    """Return the machine, the operating system and the versions of the most important libraries.

    This initialises no accelerator. A device that is not in use is recorded without its name, for example as `cuda:0`,
    with a gap.

    Args:
        gaps: Receives a gap for everything that is not known.
    """
    gaps = gaps.at("environment")
    accelerators = gaps.at("accelerators")
    names: list[str] = []
    versions: dict[str, str] = {}
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        versions=_versions(_LIBRARIES),
        cpu=gaps.at("cpu").observe(_cpu, None),
        cpu_count=gaps.at("cpu_count").observe(_cpu_count, None),
        memory_bytes=gaps.at("memory_bytes").observe(_memory, None),
        accelerators=accelerators.observe(lambda: _accelerators(accelerators), names),
        drivers=gaps.at("drivers").observe(_drivers, versions),
        torch_build=gaps.at("torch_build").observe(lambda: torch.__config__.show()[:MAX_TEXT].strip(), None),
        container=gaps.at("container").observe(_container, None),
        scheduler=_selected(_SCHEDULER, gaps.at("scheduler")),
        variables=_selected(_VARIABLES, gaps.at("variables")),
    )


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of the distributions that are installed."""
    found: dict[str, str] = {}
    for entry in sys.path:
        for name, version, _ in installed_in(entry or "."):
            found.setdefault(_normalized(name), version)
    versions = {name: found.get(_normalized(name)) or _version(name) for name in distributions}
    return {name: version for name, version in versions.items() if version}


def _version(distribution: str) -> str | None:
    """Return the version of a package whose metadata folder has an unusual name."""
    try:
        return metadata.version(distribution)
    except Exception:  # PackageNotFoundError, or any error for a half-removed package
        return None


def _cpu() -> str | None:
    """Return the processor's name."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        found = re.search(r"^(?:model name|Model|cpu model|Processor)\s*:\s*(.+)$", text, re.MULTILINE)
        if found:
            return as_text(found[1].strip())
    except OSError:  # not Linux
        pass
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
        if done.returncode == 0:
            return as_text(done.stdout.strip())
    return as_text(platform.processor() or platform.machine()) or None


def _cpu_count() -> int | None:
    """Return the number of processors that the process may use, which a batch system may limit."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count()


def _memory() -> int | None:
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_PHYS_PAGES"))


def _accelerators(gaps: Gaps) -> list[str]:
    """Return the names of the accelerators, or `kind:index` if reading their names would initialise them."""
    names: list[str] = []
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is None or not (count := module.device_count()):
            continue
        if module.is_initialized():
            names += [as_text(str(module.get_device_name(index))) for index in range(count)]
        else:
            names += [f"{kind}:{index}" for index in range(count)]
            gaps.add(f"{count} {kind} device(s) are not in use, and reading their names would initialise them")
    if torch.backends.mps.is_available():
        names.append("mps")
    return names


def _drivers() -> dict[str, str]:
    # Reading the version of cuDNN loads it, which takes 40 ms. It is used only with a CUDA device.
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    found = {
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "xpu": getattr(torch.version, "xpu", None),
        "cudnn": cudnn,
        "nvidia": _nvidia_driver(),
    }
    return {name: str(version) for name, version in found.items() if version}


def _nvidia_driver() -> str | None:
    try:
        text = Path("/proc/driver/nvidia/version").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", text)
    return found[1] if found else None


def _container() -> str | None:
    """Return the kind of the container and its image, if known."""
    for variable, kind in (("APPTAINER_CONTAINER", "Apptainer"), ("SINGULARITY_CONTAINER", "Singularity"),
                           ("SINGULARITY_NAME", "Singularity")):  # fmt: skip
        if os.environ.get(variable):
            return f"{kind}: {as_text(redact_text(os.environ[variable]))}"
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "Kubernetes"
    podman = Path("/run/.containerenv")
    if podman.exists():
        try:
            image = re.search(r'^image="(.*)"$', podman.read_text(errors="replace"), re.MULTILINE)
        except OSError:
            image = None
        return f"Podman: {as_text(image[1])}" if image else "Podman"
    return "Docker" if Path("/.dockerenv").exists() else None


def _selected(allowed: "re.Pattern[str]", gaps: Gaps) -> dict[str, str]:
    """Return the environment variables of an allow-list, with credentials replaced."""
    selected: dict[str, str] = {}
    for name, value in sorted(os.environ.items()):
        if not allowed.fullmatch(name):
            continue
        text = as_text(value[:MAX_TEXT])
        redacted = redact_variable(name, text)
        if redacted != text:
            add_redaction(gaps.at(name))
        selected[name] = redacted
    return selected


# -- packages -----------------------------------------------------------------------------------

_FOLDER = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.dist-info")


def requirements() -> str:
    """Return every installed package, pinned, as a requirements file.

    A package from version control is recorded with its URL and commit, and a package from a local folder as a pin with
    a comment.
    """
    pins: dict[str, str] = {}
    for entry in sys.path:
        # If a package is on the path twice, Python imports the first.
        for name, line in _installed(entry or "."):
            pins.setdefault(_normalized(name), line)
    return "".join(pins[name] for name in sorted(pins))


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the packages in a folder of the path, each with its line of a requirements file."""
    for entry in _entries(folder):
        if _FOLDER.fullmatch(entry) is None and entry.endswith((".egg-info", ".egg-link", ".dist-info")):
            yield from _by_metadata(os.path.join(folder, entry))
    for name, version, path in installed_in(folder):
        yield name, _pin(name.replace("_", "-"), version, path)


def installed_in(folder: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, version and path of the packages in a folder, taken from the names of their `.dist-info` folders.

    `importlib.metadata` would read and parse the complete metadata of each package.
    """
    for entry in _entries(folder):
        match = _FOLDER.fullmatch(entry)
        if match is None:
            continue
        path = os.path.join(folder, entry)
        if os.path.exists(os.path.join(path, "METADATA")):  # otherwise a remainder of a removed package
            yield as_text(match["name"]), as_text(match["version"]), path


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # the folder does not exist, or is a zip file
        return []


def _by_metadata(path: str) -> Iterator[tuple[str, str]]:
    """Yield a package without a regular `.dist-info` folder."""
    try:
        distribution = metadata.Distribution.at(path)
        name, version = distribution.metadata["Name"], distribution.version
    except Exception:  # a half-removed package without metadata
        return
    if name and version:
        yield as_text(name), _pin(as_text(name), as_text(version), path)


def _pin(name: str, version: str, path: str) -> str:
    plain = f"{name}=={version}\n"
    try:
        with open(os.path.join(path, "direct_url.json"), "rb") as stream:
            origin = json.load(stream)
        url = redact_text(as_text(str(origin["url"])))
        vcs = origin.get("vcs_info")
        if vcs is not None:
            return f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}\n"
        if url.startswith("file:"):
            editable = origin.get("dir_info", {}).get("editable", False)
            return f"{plain}# {name} is installed {'editable ' if editable else ''}from {url}\n"
        return f"{name} @ {url}\n"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # from an index, like most packages
        return plain
