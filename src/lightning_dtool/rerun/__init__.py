"""The plan of a rerun, and the random states and threads with which it starts.

The names exported here need only the standard library. Only `lightning_dtool.rerun.seeds` imports torch.
"""

from lightning_dtool.rerun.plan import (
    PLAN_VARIABLE,
    PROCESS_VARIABLE,
    REPLICATE,
    REPRODUCE,
    Plan,
    Target,
    TargetReachedError,
    current_plan,
    in_worker_process,
    order_seed_offset,
    path_in_scratch,
    redirect_base_uri,
    redirect_data,
    redirect_path,
    redirect_uri,
    report,
)

__all__ = [
    "PLAN_VARIABLE",
    "PROCESS_VARIABLE",
    "REPLICATE",
    "REPRODUCE",
    "Plan",
    "Target",
    "TargetReachedError",
    "current_plan",
    "in_worker_process",
    "order_seed_offset",
    "path_in_scratch",
    "redirect_base_uri",
    "redirect_data",
    "redirect_path",
    "redirect_uri",
    "report",
]
