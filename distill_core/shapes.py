"""Shape aliases of the public ops: `IdsNK` reads "integer tensor of N rows and K columns".

Legend: N rows (token positions), V vocabulary, D hidden size, K support size, M size of a sub-support, T temperatures.

With jaxtyping installed the aliases carry shape and dtype, and a test can enforce them with beartype. Without it every
alias is `torch.Tensor`, so that `distill_core.ops` runs where torch alone is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from torch import Tensor as BiasV
    from torch import Tensor as BoolNK
    from torch import Tensor as HiddenND
    from torch import Tensor as IdsNK
    from torch import Tensor as IdsNM
    from torch import Tensor as KeysN
    from torch import Tensor as LabelsN
    from torch import Tensor as LogProbsNK
    from torch import Tensor as LogProbsNK1
    from torch import Tensor as LogitsNK
    from torch import Tensor as LogitsNV
    from torch import Tensor as LossScalarOrN
    from torch import Tensor as RowN
    from torch import Tensor as RowNT
    from torch import Tensor as Scalar
    from torch import Tensor as WeightVD
    from torch import Tensor as WeightsNK

# name -> (kind of number, shape)
_SHAPES = {
    "BiasV": ("Float", "V"),
    "BoolNK": ("Bool", "N K"),
    "HiddenND": ("Float", "N D"),
    "IdsNK": ("Int", "N K"),
    "IdsNM": ("Int", "N M"),
    "KeysN": ("Int", "N"),
    "LabelsN": ("Int", "N"),
    "LogitsNK": ("Float", "N K"),
    "LogitsNV": ("Float", "N V"),
    "LogProbsNK": ("Float", "N K"),
    "LogProbsNK1": ("Float", "N K+1"),
    "LossScalarOrN": ("Float", "*reduced"),
    "RowN": ("Float", "N"),
    "RowNT": ("Float", "N T"),
    "Scalar": ("Float", ""),
    "WeightVD": ("Float", "V D"),
    "WeightsNK": ("Float", "N K"),
}

try:
    import jaxtyping
except ImportError:
    globals().update(dict.fromkeys(_SHAPES, Tensor))
else:
    globals().update({name: getattr(jaxtyping, kind)[Tensor, shape] for name, (kind, shape) in _SHAPES.items()})

__all__ = [
    "BiasV",
    "BoolNK",
    "HiddenND",
    "IdsNK",
    "IdsNM",
    "KeysN",
    "LabelsN",
    "LogitsNK",
    "LogitsNV",
    "LogProbsNK",
    "LogProbsNK1",
    "LossScalarOrN",
    "RowN",
    "RowNT",
    "Scalar",
    "WeightVD",
    "WeightsNK",
]
