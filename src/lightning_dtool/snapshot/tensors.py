"""Which tensors are copied, compared and pickled as views on a storage."""

import torch


def is_plain(tensor: torch.Tensor) -> bool:
    """Return True for a tensor that is a view on a storage and nothing else."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and not tensor.__dict__  # attributes that a user has set, which torch saves too
    )
