"""A finished checkpoint from the scratch folder to where it stays."""

from lightning_dtool.store import DatasetWriter, FrozenDataset


def publish_copy(dataset: FrozenDataset, base_uri: str) -> FrozenDataset:
    """Copy a dataset, under a UUID of its own: nothing has pointed at the first one, and it goes.

    Written anew and not copied file by file, so that it is frozen at its new place only when all of it is there, in
    any store; and because its README says where it is.

    Args:
        dataset: The dataset.
        base_uri: Where it goes.
    """
    creator = dataset.admin_metadata.get("creator_username")
    with DatasetWriter(dataset.name, base_uri, creator_username=creator) as writer:
        for identifier, item in dataset.items.items():
            writer.put_file(dataset.path(identifier), item.relpath)
        for name, value in dataset.annotations().items():
            writer.put_annotation(name, value)
        for tag in dataset.tags():
            writer.put_tag(tag)
        writer.put_readme(dataset.readme().replace(dataset.uri, writer.uri))
        return writer.commit()
