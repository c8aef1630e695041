"""The plan of a rerun, and the random states and threads with which it starts.

Only `lightning_dtool.rerun.seeds` imports torch; everything here uses the standard library alone.
"""

from lightning_dtool.rerun.plan import (
    PLAN_VARIABLE,
    REPLICATE,
    REPRODUCE,
    Plan,
    Target,
    TargetReachedError,
    current_plan,
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
    "REPLICATE",
    "REPRODUCE",
    "Plan",
    "Target",
    "TargetReachedError",
    "current_plan",
    "order_seed_offset",
    "path_in_scratch",
    "redirect_base_uri",
    "redirect_data",
    "redirect_path",
    "redirect_uri",
    "report",
]
