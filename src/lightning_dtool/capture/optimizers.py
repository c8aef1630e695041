"""How are the weights changed?"""

from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch.optim import Optimizer as TorchOptimizer

from lightning_dtool.capture.values import class_path, encode_all
from lightning_dtool.record import Gap, Optimizer, ParameterGroup, Scheduler


def capture_optimizers(trainer: LightningTrainer, module: LightningModule, gaps: list[Gap]) -> list[Optimizer]:
    """Describe every optimizer with its parameter groups. Meant for the start of training."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [_describe(optimizer, f"optimizers[{i}]", names, gaps) for i, optimizer in enumerate(trainer.optimizers)]


def _describe(optimizer: TorchOptimizer, where: str, names: dict[int, str], gaps: list[Gap]) -> Optimizer:
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(
            ParameterGroup(
                options=encode_all(options, f"{where}.param_groups[{index}]", gaps),
                parameters=[names.get(id(parameter), "<not in the LightningModule>") for parameter in group["params"]],
            )
        )
    return Optimizer(
        class_path=class_path(type(optimizer)),
        defaults=encode_all(optimizer.defaults, f"{where}.defaults", gaps),
        param_groups=groups,
    )


def capture_schedulers(trainer: LightningTrainer, gaps: list[Gap]) -> list[Scheduler]:
    """Describe every learning rate scheduler with its interval and constants."""
    schedulers = []
    for index, config in enumerate(trainer.lr_scheduler_configs):
        where = f"schedulers[{index}]"
        settings = {key: value for key, value in config.scheduler.state_dict().items() if not key.startswith("_")}
        schedulers.append(
            Scheduler(
                class_path=class_path(type(config.scheduler)),
                interval=config.interval,
                frequency=config.frequency,
                monitor=config.monitor,
                settings=encode_all(settings, f"{where}.settings", gaps),
            )
        )
    return schedulers
