"""The command `evaluate`."""

import warnings
from pathlib import Path
from typing import Any

import click

from lightning_dtool.cli.console import Command, json_option, message, online_option, print_json, print_rich, status


@click.command(cls=Command)
@click.argument("uri")
@click.option("--data", "data_uri", metavar="DATA_URI", required=True, help="The dataset to evaluate on.")
@click.option(
    "--metrics",
    metavar="NAMES",
    help="Names of metrics, separated by commas: accuracy,f1. Default: the usual ones for the task.",
)
@click.option("--into", metavar="BASE_URI", help="The base URI where the result is stored as a dataset.")
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test", "whole"]),
    help="The part of the dataset, if the model was trained with it. Default: the part that training held out; other "
    "datasets are used whole.",
)
@click.option("--target", help="The overlay with the true values. Default: as in training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples per batch. Default: as in training.")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="The number of processes that load data. Default: none."
)
@click.option("--device", default="cpu", help="The device that runs the model: cpu, cuda, mps. Default: cpu.")
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Evaluate even if the checkpoint does not hold all weights of the model. Default: an error.",
)
@click.option(
    "--class",
    "class_path",
    metavar="MODULE:CLASS",
    help="The model's class, from a module in Python's path or in the working directory. Default: the recorded one.",
)
@click.option("--trust-source", is_flag=True, help="Allow running code that the checkpoint contains or names.")
@online_option
@json_option
def evaluate(uri: str, data_uri: str, workers: int, class_path: str | None, as_json: bool, **options: Any) -> None:
    """Evaluate the model of the checkpoint URI on a dataset.

    The model's class is imported from Python's path or from the working directory, unless its module lies in a dataset.
    Samples are decoded and transformed as in training, and classes have the same numbers. With --into the predictions,
    the metrics and the confusion matrix are stored as a dataset. Without it nothing is stored.

    \b
    Classification: accuracy, balanced_accuracy, precision, recall, f1, auroc, cohen_kappa, matthews,
                    calibration_error
    Regression:     mse, rmse, mae, r2, pearson, spearman
    """  # noqa: D301 - click's own marker
    with status("Loading torch"):
        from lightning_dtool.evaluation.evaluate import evaluate as run
        from lightning_dtool.loading.caller import command_line
        from lightning_dtool.loading.named_class import named_class

    with warnings.catch_warnings(record=True) as caught, command_line(Path.cwd()):
        warnings.simplefilter("always", UserWarning)
        cls = None if class_path is None else named_class(class_path)
        found = run(uri, data_uri, num_workers=workers, cls=cls, progress=True, **options)
    for warning in caught:
        message(f"Warning: {warning.message}")
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text.evaluation import evaluation

        print_rich(lambda _: evaluation(found))
    if found.dataset_uri is None:
        message("Nothing was stored. To store the result, use --into BASE_URI.")
