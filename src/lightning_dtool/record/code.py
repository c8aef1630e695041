"""The code that ran."""

from pydantic import Field

from lightning_dtool.record.section import Section


class Git(Section):
    """The state of a git work tree."""

    remote: str | None = Field(default=None, description="URL of the remote, without credentials.")
    commit: str = Field(description="Hash of the commit that was checked out.")
    branch: str | None = Field(default=None, description="Branch, if one was checked out.")
    dirty: bool | None = Field(
        description="True if tracked files differed from the commit. null if git did not answer (see `gaps`)."
    )


class Code(Section):
    """The code that ran."""

    argv: list[str] = Field(description="`sys.argv`, with credentials redacted.")
    working_directory: str = Field(description="Working directory. Empty if it was deleted.")
    entry_point: str | None = Field(
        default=None, description="The script, as a path in source.zip if it is stored there."
    )
    run_as_module: str | None = Field(default=None, description="Name of the module, if it was run with `python -m`.")
    git: Git | None = Field(default=None, description="The git work tree of the code, if any.")
    patch: str | None = Field(
        default=None, description="Path in source.zip of a patch with the changes since the commit."
    )
    untracked: list[str] = Field(default=[], description="Imported files that git does not track.")
    files: dict[str, str] = Field(
        default={},
        description="SHA-256 of each file in source.zip, by path. Modules from outside the project are in `outside/`.",
    )
    modules: dict[str, str] = Field(default={}, description="Path in source.zip of each stored module, by module name.")
