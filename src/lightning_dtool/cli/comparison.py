"""`diff` and `compare`: what differs between two checkpoints."""

from dataclasses import asdict

import click

from lightning_dtool.cli.console import Command, json_option, print_json, print_rich, status


@click.command(cls=Command)
@click.argument("uri_a")
@click.argument("uri_b")
@click.option("--all", "everything", is_flag=True, help="Show what differs between any two runs, too.")
@json_option
def diff(uri_a: str, uri_b: str, everything: bool, as_json: bool) -> None:
    """Show what differs between the checkpoints URI_A and URI_B, by meaning.

    Their records, the code as a patch, the packages by version, the metrics side by side. Data is told apart by UUID
    and by content: the same content at another address is said, and counts as the same. Left out, unless --all, is
    what differs between any two runs: their UUIDs, times and durations, folders and who ran them.

    Exits with 0 if nothing that matters differs, with 1 if something does.
    """
    from lightning_dtool.loading.opening import open_checkpoint
    from lightning_dtool.reproduction.content import read_content
    from lightning_dtool.results.differences import checkpoint_differences

    datasets = [open_checkpoint(uri) for uri in (uri_a, uri_b)]
    a, b = (read_content(dataset) for dataset in datasets)
    found = checkpoint_differences(a, b)
    shown = [difference for difference in found if everything or difference.weight != "incidental"]
    same = all(difference.weight != "matters" for difference in found)
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
                "differences": [asdict(difference) for difference in shown],
                "metrics": {name: {"a": metrics[0].get(name), "b": metrics[1].get(name)} for name in names},
            }
        )
    else:
        from lightning_dtool.export.text import record_differences

        one, two = datasets
        print_rich(lambda _: record_differences(shown, (one.name, two.name), (one.uri, two.uri), metrics))
    raise click.exceptions.Exit(0 if same else 1)


@click.command(cls=Command)
@click.argument("uri_a")
@click.argument("uri_b")
@json_option
def compare(uri_a: str, uri_b: str, as_json: bool) -> None:
    """Compare the models of the checkpoints URI_A and URI_B, bit by bit.

    Their weights, the states of optimizers and schedulers, the metrics and the order of samples epoch by epoch; where
    they parted first; and which recorded factors differ, so that they could explain it. What is read is verified.
    `diff` shows all that differs between two records, and reads no weights.

    Exits with 0 if the two are identical, as far as both hold these, and with 1 if not.
    """
    import lightning_dtool  # its names are resolved when they are used: this one loads torch

    with status("Comparing"):
        found = lightning_dtool.compare(uri_a, uri_b)
    if as_json:
        print_json(found.to_dict())
    else:
        from lightning_dtool.export.text import model_comparison

        print_rich(lambda _: model_comparison(found))
    raise click.exceptions.Exit(0 if found.identical else 1)
