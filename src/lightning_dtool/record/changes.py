"""What changed after training began."""

from pydantic import Field

from lightning_dtool.record.section import Integer, Json, Section


class Change(Section):
    """A fact of the record that changed after training began."""

    epoch: Integer = Field(description="Epoch in which the change was seen, from 0.")
    global_step: Integer = Field(description="Number of optimizer steps before the change was seen.")
    fact: str = Field(
        description="What changed, as a path into the record, for example `optimizers[0].param_groups[0].options.lr`."
    )
    before: Json = Field(
        default=None, description="The value before. null if there was none. A long value is cut short."
    )
    after: Json = Field(
        default=None, description="The value after. null if there is none any more. A long value is cut short."
    )
