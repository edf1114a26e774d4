"""Checks of the arguments that several ops share; each message says what was received, expected, and what to do.

Legend: N rows, V vocabulary, D hidden, K support.

Two layers: shapes and dtypes are checked by the public functions (safe under torch.compile), values of ids and labels
inside the registered ops (they need the data). Numbers are compared, not passed to `math.isfinite`, which torch.compile
cannot trace with dynamic shapes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

IGNORED_LABEL = -100
PADDING_ID = -1
EXTRAS = ("mean", "entropy", "top1")


def _shape(x: Tensor) -> str:
    return "[" + ", ".join(str(s) for s in x.shape) + "]"


def check_number(op: str, name: str, value: object) -> None:
    """A Python number. A tensor is refused: it would be read once and get no gradient."""
    if torch.compiler.is_compiling():
        return
    if isinstance(value, Tensor):
        raise TypeError(
            f"{op}: {name} must be a Python number; got a tensor, which would get no gradient here: pass "
            f"{name}.item(), or multiply hidden states by what is learned"
        )
    if not isinstance(value, numbers.Real | torch.SymInt | torch.SymFloat):
        raise TypeError(f"{op}: {name} must be a Python number; got {value!r}")


def check_whole(op: str, name: str, value: object) -> None:
    """A Python integer."""
    if torch.compiler.is_compiling() or isinstance(value, numbers.Integral | torch.SymInt):
        return
    shown = f"a tensor; pass {name}.item()" if isinstance(value, Tensor) else repr(value)
    raise TypeError(f"{op}: {name} must be an integer; got {shown}")


def check_tensor(op: str, name: str, x: object) -> None:
    """A tensor with strides."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor; got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor; got layout {x.layout}; pass {name}.to_dense()")


def check_matrix(op: str, name: str, x: Tensor) -> None:
    """A floating-point matrix."""
    check_tensor(op, name, x)
    if x.dim() != 2:
        raise ValueError(f"{op}: {name} must have 2 dimensions; got shape {_shape(x)}; flatten batch and time first")
    if not x.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating point; got {x.dtype}")


def check_head(
    op: str,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    logit_scale: float,
) -> None:
    """Hidden states, head weight and what the head does to its logits."""
    check_matrix(op, "hidden_ND", hidden_ND)
    check_matrix(op, "weight_VD", weight_VD)
    if hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(
            f"{op}: hidden_ND is {_shape(hidden_ND)} and weight_VD is {_shape(weight_VD)}: the last dimensions must be "
            f"equal; weight_VD is the head's weight as torch.nn.Linear keeps it, [vocabulary, hidden]"
        )
    if weight_VD.shape[0] == 0:
        raise ValueError(f"{op}: weight_VD is {_shape(weight_VD)}: a head needs at least one vocabulary entry")
    check_device(op, "weight_VD", weight_VD, hidden_ND)
    if bias_V is not None:
        check_tensor(op, "bias", bias_V)
        if bias_V.shape != weight_VD.shape[:1]:
            raise ValueError(
                f"{op}: bias must be [{weight_VD.shape[0]}], one entry per row of weight_VD; got {_shape(bias_V)}"
            )
        if not bias_V.is_floating_point():
            raise TypeError(f"{op}: bias must be floating point; got {bias_V.dtype}")
        check_device(op, "bias", bias_V, hidden_ND)
    if softcap is not None:
        check_number(op, "softcap", softcap)
    check_number(op, "logit_scale", logit_scale)
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"{op}: softcap must be a positive number or None (no cap); got {softcap!r}")
    if not -math.inf < logit_scale < math.inf:
        raise ValueError(f"{op}: logit_scale must be finite; got {logit_scale!r}")


def check_logits(op: str, logits_NV: Tensor) -> None:
    """Logits over a vocabulary of at least one entry."""
    check_matrix(op, "logits_NV", logits_NV)
    if logits_NV.shape[1] == 0:
        raise ValueError(f"{op}: logits_NV is {_shape(logits_NV)}: the vocabulary is empty")


def check_device(op: str, name: str, x: Tensor, like: Tensor) -> None:
    """`x` lies where `like` lies."""
    if x.device != like.device:
        raise ValueError(f"{op}: {name} is on {x.device}, the first argument on {like.device}; move one of them")


def check_ids(op: str, ids_NK: Tensor, first_NX: Tensor) -> None:
    """Shape and dtype of a support."""
    check_tensor(op, "ids_NK", ids_NK)
    if ids_NK.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: ids_NK must be int32 or int64; got {ids_NK.dtype}")
    if ids_NK.dim() != 2 or ids_NK.shape[0] != first_NX.shape[0]:
        raise ValueError(
            f"{op}: ids_NK must be [N, K] with N = {first_NX.shape[0]} as in the first argument; got {_shape(ids_NK)}"
        )
    check_device(op, "ids_NK", ids_NK, first_NX)


def check_row_vector(op: str, name: str, x: Tensor, first_NX: Tensor, *, integer: bool) -> None:
    """One number per row."""
    check_tensor(op, name, x)
    if x.dim() != 1 or x.shape[0] != first_NX.shape[0]:
        raise ValueError(f"{op}: {name} must be [N] with N = {first_NX.shape[0]}; got {_shape(x)}")
    if integer and x.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{op}: {name} must be int32 or int64; got {x.dtype}")
    if not integer and not x.is_floating_point():
        raise TypeError(f"{op}: {name} must be floating point; got {x.dtype}")
    check_device(op, name, x, first_NX)


def check_temperature(op: str, temperature: float, *, name: str = "temperature") -> float:
    """A positive, finite number."""
    check_number(op, name, temperature)
    if not 0 < temperature < math.inf:
        raise ValueError(f"{op}: {name} must be a positive Python number; got {temperature!r}")
    return float(temperature)


def check_temperatures(op: str, temperatures: Sequence[float]) -> tuple[float, ...]:
    """A non-empty tuple of different temperatures."""
    if not isinstance(temperatures, tuple | list):
        raise TypeError(f"{op}: temperatures must be a tuple such as (1.0,); got {temperatures!r}")
    checked = tuple(check_temperature(op, t, name="every entry of temperatures") for t in temperatures)
    if not checked or len(set(checked)) != len(checked):
        raise ValueError(f"{op}: temperatures must be one or more different numbers; got {tuple(temperatures)!r}")
    return checked


def check_extras(op: str, extras: Sequence[str]) -> tuple[str, ...]:
    """Names of optional statistics."""
    if not isinstance(extras, tuple | list | set | frozenset):
        raise TypeError(f'{op}: extras must be a tuple such as ("entropy",); got {extras!r}')
    unknown = [name for name in extras if name not in EXTRAS]
    if unknown:
        raise ValueError(f"{op}: extras may hold {', '.join(EXTRAS)}; got {', '.join(map(repr, unknown))}")
    return tuple(extras)


def check_choice(op: str, name: str, value: str, allowed: Sequence[str]) -> None:
    """One of a few words."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_vocabulary_limit(op: str, valid_vocab: int | None, vocabulary: int) -> int:
    """The number of columns that count."""
    if valid_vocab is not None:
        check_whole(op, "valid_vocab", valid_vocab)
    limit = vocabulary if valid_vocab is None else valid_vocab
    if not 0 <= limit <= vocabulary:
        raise ValueError(f"{op}: valid_vocab must lie between 0 and V = {vocabulary}; got {valid_vocab}")
    return limit


def check_k(op: str, k: int, most: int | None = None) -> None:
    """A number of entries; at most as many as there are, if that matters."""
    check_whole(op, "k", k)
    if k < 0 or (most is not None and k > most):
        raise ValueError(
            f"{op}: k must be at least 0"
            + ("" if most is None else f" and at most {most}, the valid vocabulary")
            + f"; got {k}"
        )


def check_id_values(op: str, ids_NK: Tensor, vocabulary: int) -> None:
    """Ids lie in the vocabulary or are -1, and none appears twice in a row. Reads the data."""
    if ids_NK.numel() == 0:
        return
    if bool(((ids_NK < PADDING_ID) | (ids_NK >= vocabulary)).any()):
        lowest, highest = int(ids_NK.min()), int(ids_NK.max())
        raise ValueError(
            f"{op}: ids_NK must lie in 0 .. {vocabulary - 1}, or be -1 for padding; got values {lowest} .. {highest}; "
            f"are teacher and student of one vocabulary?"
        )
    sorted_NK = ids_NK.sort(dim=1).values
    repeated_N = ((sorted_NK[:, 1:] == sorted_NK[:, :-1]) & (sorted_NK[:, 1:] >= 0)).any(1)
    if bool(repeated_N.any()):
        row = int(repeated_N.nonzero()[0])
        raise ValueError(
            f"{op}: the ids of a row must be unique; row {row} of ids_NK repeats an id; add up the repeated "
            f"probabilities, or pad with -1"
        )


def check_label_values(op: str, labels_N: Tensor, vocabulary: int) -> None:
    """Labels lie in the vocabulary or are -100. Reads the data."""
    wrong_N = (labels_N != IGNORED_LABEL) & ((labels_N < 0) | (labels_N >= vocabulary))
    if bool(wrong_N.any()):
        row = int(wrong_N.nonzero()[0])
        raise ValueError(
            f"{op}: labels_N must lie in 0 .. {vocabulary - 1}, or be {IGNORED_LABEL} to ignore the row; "
            f"row {row} holds {int(labels_N[row])}"
        )
