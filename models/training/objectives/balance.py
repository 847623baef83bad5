"""Whether the discriminator wins: it tells real from generated images with ease, and the generator learns nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from losses import AdversarialLoss

_WON = 0.1  # of the way from faultless to guessing: at that, labels are right with a probability of 93 % (vanilla)
_IN_A_ROW = 5  # log points: one batch may be easy
_LOGITS = 20.0  # what discriminators say lies within, as far as losses care


class Balance:
    """Looks at the losses of the discriminator at log points, and speaks once.

    How good it is follows from ``l_d_real + l_d_fake``, between what the loss is where all is guessed (the same logit
    for every image) and where each image has the logit that is best for it. ``gan_type: wgan`` has no such bounds, and
    there is no advice.

    Args:
        loss: of the logits.
        relativistic: of differences of logits, halved.
        after: iterations in which the discriminator is trained alone, and may win.
    """

    def __init__(self, loss: AdversarialLoss, *, relativistic: bool, after: int) -> None:
        self.after = after
        self.best, self.guessing = _bounds(loss, relativistic)
        self.bounded = loss.options.gan_type != "wgan"
        self.won = 0

    def advice(self, step: int, losses: Mapping[str, float]) -> str | None:
        """A sentence where the discriminator has won, the first time that this is seen.

        Args:
            step: the iteration.
            losses: l_d_real and l_d_fake among them.
        """
        if not self.bounded or step <= self.after or self.won == _IN_A_ROW:
            return None
        total = losses["l_d_real"] + losses["l_d_fake"]
        self.won = self.won + 1 if total - self.best < _WON * (self.guessing - self.best) else 0
        if self.won < _IN_A_ROW:
            return None
        return (
            f"the discriminator tells real from generated images nearly without fault: at {_IN_A_ROW} log points in a "
            f"row, l_d_real + l_d_fake was near {self.best:.2f} (now {total:.3f}; {self.guessing:.2f}: guessing), and "
            "the generator learns little from it. What helps: a lower lr in train.optim_d, a generator that begins "
            "after a longer training without network_d (path.pretrain_network_g), a larger train.gan_opt.loss_weight, "
            "a smaller network_d.num_feat. net_d_iters above 1 makes it worse: it trains network_g less often"
        )


def _bounds(loss: AdversarialLoss, relativistic: bool) -> tuple[float, float]:
    """The least that l_d_real + l_d_fake can be, and the least where all images look alike."""
    logits = torch.linspace(-_LOGITS, _LOGITS, 401, dtype=torch.float64)
    real, fake = (_of_each(loss, logits, is_real) for is_real in (True, False))
    best, guessing = real.min() + fake.min(), (real + fake).min()
    if relativistic:  # images that look alike differ by 0
        best, guessing = best / 2, (real + fake)[len(logits) // 2] / 2
    return float(best), float(guessing)


def _of_each(loss: AdversarialLoss, logits: Tensor, is_real: bool) -> Tensor:
    return torch.stack([loss(logit, is_real, is_disc=True) for logit in logits])
