"""The average of an ensemble's branches as one network: a model soup.

Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models, ICML 2022.
"""

from typing import Any

import torch
from torch import Tensor

from lrec.model.ensemble import Ensemble


def weights(model: Ensemble, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the stem and the average of the branches as torchvision's state dict, without the classifier.

    Args:
        model: an ensemble whose branches all started from the same weights.
        config: its saved config.

    Raises:
        ValueError: the branches started from different weights, or their batch norms have different statistics, which
            do not fit averaged weights.
    """
    if config.get("weights", "none") == "none" and model.ensemble_size > 1:
        raise ValueError("its branches each started at random, so their average is no network that was trained")
    found: dict[str, Tensor] = {}
    for name, modules in model.parts().items():
        buffers = [dict(module.named_buffers()) for module in modules]
        if any(not torch.equal(other[key], value) for other in buffers for key, value in buffers[0].items()):
            raise ValueError("its batch norms were trained apart; train it with train.freeze_batch_norm=true")
        states = [module.state_dict() for module in modules]
        for key, value in states[0].items():
            mean = value if key in buffers[0] else torch.stack([state[key].double() for state in states]).mean(0)
            found[f"{name}.{key}"] = mean.to(value.dtype).contiguous()
    return found
