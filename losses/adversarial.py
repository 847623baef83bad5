"""The loss of a discriminator's logits, for the discriminator and for the generator that it judges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import Reduction, ScheduledOptions
from utils.errors import InputError
from utils.typed import option

GANKind = Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANLoss(ScheduledOptions):
    """How a discriminator's logits are judged; the mean over all of them.

    vanilla: binary cross entropy (Goodfellow et al., NeurIPS 2014). lsgan: mean square distance from the label (Mao et
    al., ICCV 2017). wgan: the logits themselves (Arjovsky et al., ICML 2017). wgan_softplus: their softplus, the
    non-saturating loss of StyleGAN. hinge: up to a margin of 1 (Lim and Ye, arXiv 1705.02894).
    """

    IGNORED: ClassVar[Mapping[str, str]] = {"gp_lambda": "it is the factor of use_gp, which is not offered"}

    gan_type: GANKind = option("how logits are judged")
    real_label_val: float = option("label of real images (vanilla, lsgan)", 1.0)
    fake_label_val: float = option("label of outputs of the generator (vanilla, lsgan)", 0.0)
    loss_weight: float = option(
        "factor of this loss in the generator's total; the discriminator's loss has none", 1.0, above=0, maximum=1e6
    )
    use_gp: bool = option("WGAN-GP's gradient penalty, which is not offered: only false is accepted", False)

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        super().__post_init__()
        if self.use_gp:
            raise InputError(
                "use_gp: the gradient penalty is not offered (the published code cannot run it either); leave the key "
                "out and bound the discriminator by spectral norm: network_d of type UNetDiscriminatorSN"
            )

    def build(self, device: torch.device) -> AdversarialLoss:
        """The loss; it holds no weights, so it works on every device."""
        return AdversarialLoss(self)


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """What :class:`GANLoss` describes."""

    options: GANLoss
    reduction: ClassVar[Reduction] = "mean"

    def __call__(self, logits: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """The loss, a scalar, in float32 at least.

        Args:
            logits: of any shape, before any sigmoid.
            target_is_real: whether they should be those of real images.
            is_disc: the discriminator's own loss, which ``loss_weight`` leaves as it is. hinge's generator wants
                larger logits whatever ``target_is_real`` says.
        """
        options = self.options
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if options.gan_type in ("vanilla", "lsgan"):
            label = torch.full_like(logits, options.real_label_val if target_is_real else options.fake_label_val)
            compare = F.binary_cross_entropy_with_logits if options.gan_type == "vanilla" else F.mse_loss
            loss = compare(logits, label)
        elif options.gan_type == "hinge" and not is_disc:
            loss = -logits.mean()
        else:
            wrong = -logits if target_is_real else logits
            if options.gan_type == "wgan_softplus":
                wrong = F.softplus(wrong)
            elif options.gan_type == "hinge":
                wrong = F.relu(1 + wrong)
            loss = wrong.mean()
        return loss if is_disc else options.loss_weight * loss
