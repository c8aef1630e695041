"""The commands `diff` and `compare`."""

from dataclasses import asdict

import click

from lightning_dtool.cli.console import Command, json_option, print_json, print_rich, status


class ComparingCommand(Command):
    """A command whose exit code 1 says that two checkpoints differ, and nothing else."""

    damaged = 3


@click.command(cls=ComparingCommand)
@click.argument("uri_a")
@click.argument("uri_b")
@click.option("--all", "everything", is_flag=True, help="Also show differences that any two runs have.")
@json_option
def diff(uri_a: str, uri_b: str, everything: bool, as_json: bool) -> None:
    """Show the differences between the records of the checkpoints URI_A and URI_B.

    Code is shown as a patch, packages by version and metrics side by side. Datasets are compared by UUID and by
    content; the same content under another URI is mentioned, and counts as equal. Differences that any two runs have
    (UUIDs, times, durations, folders, user names) are shown with --all only. Facts that determine a result and that
    neither record holds are shown as not known to be the same.

    The exit code is 0 if no relevant difference was found and no such fact is unknown, else 1.
    """
    from lightning_dtool.loading.opening import open_checkpoint
    from lightning_dtool.reproduction.content import read_content
    from lightning_dtool.results.differences import checkpoint_differences
    from lightning_dtool.results.relation import relation

    datasets = [open_checkpoint(uri) for uri in (uri_a, uri_b)]
    a, b = (read_content(dataset) for dataset in datasets)
    found, related = checkpoint_differences(a, b), relation(a.record, b.record)
    shown = [difference for difference in found if everything or difference.weight != "incidental"]
    weights = {difference.weight for difference in found}
    same = False if "matters" in weights else None if "unknown" in weights else True
    metrics = (a.record.metrics.at_checkpoint, b.record.metrics.at_checkpoint)
    if as_json:
        names = dict.fromkeys([*metrics[0], *metrics[1]])
        print_json(
            {
                **{
                    key: {"uri": dataset.uri, "uuid": dataset.uuid, "name": dataset.name}
                    for key, dataset in zip("ab", datasets, strict=True)
                },
                "same": same,
                "relation": related,
                "differences": [asdict(difference) for difference in shown],
                "metrics": {name: {"a": metrics[0].get(name), "b": metrics[1].get(name)} for name in names},
            }
        )
    else:
        from lightning_dtool.export.text.differences import record_differences

        one, two = datasets
        print_rich(
            lambda _: record_differences(shown, (one.name, two.name), (one.uri, two.uri), metrics, related, everything)
        )
    raise click.exceptions.Exit(0 if same else 1)


@click.command(cls=ComparingCommand)
@click.argument("uri_a")
@click.argument("uri_b")
@click.option("--all", "everything", is_flag=True, help="Also list recorded factors that had no effect.")
@json_option
def compare(uri_a: str, uri_b: str, everything: bool, as_json: bool) -> None:
    """Compare the models of the checkpoints URI_A and URI_B bit by bit.

    Compares the weights, all other tensors and numbers that callbacks and the script put into the checkpoints, the
    states of optimizers and schedulers, and for each epoch the metrics and the order of the samples. Shows the first
    epoch that differs, and the recorded factors that could explain a difference. All content is verified against its
    hashes. `diff` compares the whole records, without the weights.

    The exit code is 0 if the weights are identical and nothing else that both hold differs, else 1.
    """
    import lightning_dtool  # resolves its names on first use; `compare` imports torch

    with status("Comparing"):
        found = lightning_dtool.compare(uri_a, uri_b)
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text.comparison import model_comparison

        print_rich(lambda _: model_comparison(found, everything))
    raise click.exceptions.Exit(0 if found.identical else 1)
