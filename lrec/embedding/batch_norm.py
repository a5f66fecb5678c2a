"""Batch norm folded into the convolutions before it: the same function with fewer operations.

In evaluation a batch norm is a fixed scale and shift per channel, so it can be part of the weights and
the bias of the convolution that feeds it.
"""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(model: nn.Module) -> nn.Module:
    """Fold every pair of a convolution and its batch norm, in place, and put the model in evaluation mode.

    The model gives the same outputs as before, up to float rounding, and can no longer be trained, since its
    batch norms are gone. The weights are not copied. Folding twice changes nothing.

    Args:
        model: only pairs in Sequentials and torchvision's ResNet blocks are folded.

    Returns:
        The model.
    """
    from torchvision.models.resnet import BasicBlock, Bottleneck

    model.eval()
    for module in model.modules():
        # In these, a convolution registered right before a batch norm feeds only that batch norm.
        if isinstance(module, nn.Sequential | BasicBlock | Bottleneck):
            _fold_pairs(module)
    return model.requires_grad_(False)


def _fold_pairs(module: nn.Module) -> None:
    """Fold the pairs among the direct children of a module."""
    children = list(module.named_children())
    for (name, convolution), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())
