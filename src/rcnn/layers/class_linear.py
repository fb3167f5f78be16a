"""The last linear layer of a classifier, with outputs that do not depend on how many others there are.

Legend: R regions, D features, K outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rcnn.layers.operator import is_exporting

# A product of matrices sums in an order that depends on the number of its columns, but not of whole blocks.
BLOCK = 32


class ClassLinear(nn.Linear):
    """A linear layer whose every output is the same, bit for bit, among any other outputs.

    So a model whose classes were added to, left out or reordered has the old logits of the classes it kept.
    Holds for float32 on a CPU; exported graphs have the plain product.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[R, K]`` of features ``[R, D]``."""
        missing = -self.out_features % BLOCK
        if is_exporting() or not missing:
            return super().forward(input)
        weight = functional.pad(self.weight, (0, 0, 0, missing))
        bias = None if self.bias is None else functional.pad(self.bias, (0, missing))
        return functional.linear(input, weight, bias)[:, : self.out_features]
