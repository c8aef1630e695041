"""`evaluate`: how good is the model on a dataset?"""

import warnings
from typing import Any

import click

from lightning_dtool.cli.console import Command, json_option, message, print_json, print_rich, status


@click.command(cls=Command)
@click.argument("uri")
@click.option("--data", "data_uri", metavar="DATA_URI", required=True, help="The dataset to evaluate on.")
@click.option("--metrics", metavar="NAMES", help="Names with commas: accuracy,f1. Default: the usual ones.")
@click.option("--into", metavar="BASE_URI", help="Where the result is stored, as a dataset derived from both.")
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test", "whole"]),
    help="Which part of the data that the model was trained with. Default: what was held out of it; other data whole.",
)
@click.option("--target", help="The overlay to compare with. Default: as in training.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples per batch. Default: as in training.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Processes that load data. Default: none.")
@click.option("--device", default="cpu", help="Where the model runs: cpu, cuda, mps. Default: cpu.")
@click.option("--trust-source", is_flag=True, help="Run code that comes with the checkpoint, or that it names.")
@json_option
def evaluate(uri: str, data_uri: str, workers: int, as_json: bool, **options: Any) -> None:
    """Run the model of checkpoint URI over a dataset, and measure how good it is.

    Samples are read, transformed and numbered as in training. With --into the result becomes a dataset: every
    prediction, the metrics, the confusion matrix. Without it nothing is stored.

    \b
    Classification: accuracy, balanced_accuracy, precision, recall, f1, auroc, cohen_kappa, matthews,
                    calibration_error
    Regression:     mse, rmse, mae, r2, pearson, spearman
    """  # noqa: D301 - click's own marker
    with status("Loading torch"):
        from lightning_dtool.evaluation.evaluate import evaluate as run

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = run(uri, data_uri, num_workers=workers, progress=True, **options)
    for warning in caught:
        message(f"Warning: {warning.message}")
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text import evaluation

        print_rich(lambda _: evaluation(found))
    if found.dataset_uri is None:
        message("Nothing was stored: that needs --into BASE_URI.")
