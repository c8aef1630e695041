"""The comparison of two models as text."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_dtool.export.text.differences import folded_lines, relation_line, unknown_lines
from lightning_dtool.export.text.layout import address
from lightning_dtool.export.text.values import shortened
from lightning_dtool.results.checklist.findings import counted
from lightning_dtool.results.comparison import Comparison, MetricsComparison, Numbers, OrderComparison, State, Weights

_AGREEMENT_STYLES = {"identical": "green", "different": "bold red", "not recorded": "yellow"}


def model_comparison(found: Comparison, everything: bool = False) -> RenderableType:
    """Return the comparison of two models, part by part, and the recorded factors that could explain a difference.

    Args:
        found: The comparison.
        everything: Whether to list factors without an effect, too. Default: their number.
    """
    rows = [
        ("weights", found.weights.agreement, _weights(found.weights)),
        ("other tensors", found.other_tensors.agreement, _others(found.other_tensors)),
        ("other numbers", found.numbers.agreement, _numbers(found.numbers)),
        ("optimizers", found.optimizers.agreement, _state(found.optimizers)),
        ("schedulers", found.schedulers.agreement, _state(found.schedulers)),
        ("metrics", found.metrics.agreement, _metrics(found.metrics)),
        ("order of samples", found.order.agreement, _order(found.order)),
    ]
    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3):
        grid.add_column(no_wrap=column < 2, overflow="fold")
    for label, agreement, detail in rows:
        grid.add_row(Text(f"  {label}"), Text(agreement, _AGREEMENT_STYLES[agreement]), Text(shortened(detail)))
    parts: list[RenderableType] = [
        address(f"- {found.uri_a}"),
        address(f"+ {found.uri_b}"),
        *relation_line(found.relation),
    ]
    parts += [Text(""), grid]
    # What differs between two checkpoints of one run comes from the training between them.
    of_two_runs = found.relation is None
    if found.first_difference is not None and of_two_runs:
        parts.append(Text(f"\nThey first differ in {shortened(found.first_difference)}."))
    elif not found.identical and of_two_runs:
        parts.append(Text("\nNo epoch that is in both records shows where they first differ."))
    if found.factors and found.identical and not everything:
        differ = f"{counted(len(found.factors), 'recorded factor')} that differ had no effect"
        parts.append(Text(f"\n{differ} (--all lists them)."))
    elif found.factors:
        parts.append(Text(f"\nRECORDED FACTORS THAT DIFFER ({len(found.factors)})", "bold"))
        parts += folded_lines(found.factors, everything)
    elif not found.identical and of_two_runs:
        parts.append(
            Text(
                "\nNo recorded factor differs, so the cause was not recorded. It may be a file that the script reads, "
                "the clock, the network, or an operation that adds in another order each time."
            )
        )
    if not found.identical:
        parts += unknown_lines(found.unknown)
    if not found.weights_compared:
        identical = "Neither checkpoint holds a tensor, so the models cannot be compared."
    else:
        identical = "The two are identical." if found.identical else "The two are not identical."
    return Group(*parts, Text(f"\n{identical}", "bold"))


def _state(state: State) -> str:
    only_one = state.agreement == "not recorded" and (state.digest_a is None) != (state.digest_b is None)
    return "one of the checkpoints was saved with weights only" if only_one else ""


def _weights(weights: Weights) -> str:
    if weights.agreement != "different":
        return counted(weights.tensor_count, "tensor")
    if weights.greatest_absolute is None or weights.greatest_relative is None:
        size = ""
    else:
        size = f"; by at most {weights.greatest_absolute:.3g}, {100 * weights.greatest_relative:.3g} % of the larger"
    return f"{weights.differing_count} of {counted(weights.tensor_count, 'tensor')}{size}"


def _others(tensors: Weights) -> str:
    """Return the places of tensors that differ. They are in callbacks' states and under keys of the user's."""
    return ": ".join(filter(None, [_weights(tensors), _places(tensors.differing)])) if tensors.tensor_count else ""


def _numbers(numbers: Numbers) -> str:
    if not numbers.count:
        return ""
    if numbers.agreement == "identical":
        return str(numbers.count)
    return f"{numbers.differing_count} of {numbers.count}: {_places(numbers.differing)}"


def _places(differing: Sequence[str]) -> str:
    return ", ".join(differing[:3]) + (", …" if differing[3:] else "")


def _metrics(metrics: MetricsComparison) -> str:
    places = (
        f"{entry.name} {'at the checkpoint' if entry.epoch is None else f'in epoch {entry.epoch}'}"
        for entry in metrics.differing[:3]
    )
    more = len(metrics.differing) - 3
    text = ", ".join([counted(len(metrics.epochs), "epoch"), *places])
    return f"{text}, and {more} more (--json shows all)" if more > 0 else text


def _order(order: OrderComparison) -> str:
    differs = (
        f", different in {len(order.differing)} of them, first in epoch {order.differing[0]}" if order.differing else ""
    )
    return f"{counted(len(order.epochs), 'epoch')}{differs}" if order.epochs else ""
