"""A generator and a discriminator that judges it, trained in turn, in the published order of passes.

The order matters to the last digit: each pass of the discriminator in train mode moves its buffers (the vectors of
spectral norms, batch statistics), the pass that serves the generator too.

Shapes: B images, C channels, H W pixels; logits are [B, ...] as the discriminator has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from archs.layers.spectral import held
from config.schema import TrainOptions
from data.loader import Batch
from losses import factor_at
from models.distributed import World
from models.training.finite import FiniteGuard
from models.training.objectives.balance import Balance
from models.training.objectives.terms import GeneratorTerms, schedule_text, total_of, with_sharpened
from models.training.players import PlayerOptions, discriminator_options, generator_options
from models.training.state import Player, TrainState
from models.training.step import (
    StepResult,
    Sums,
    autocast,
    backward,
    check_output,
    ema_output,
    finish_step,
    iteration,
    output_of,
    without_exchange,
)

LossOfLogits = Callable[[Tensor], Tensor]


class AdversarialObjective:
    """Losses of the generator's output (``l_g_pix`` and so on, ``l_g_gan``), and those of the discriminator.

    An iteration: the generator's pass and the discriminator's judgement of it, whose gradients are the generator's;
    then the discriminator on real images (``l_d_real``, ``out_d_real``) and on the same outputs (``l_d_fake``,
    ``out_d_fake``). All optimisers move at the end, which changes nothing: no pass sees what another one's gradients
    will do. ``model_type: ESRGANModel`` compares real with fake images (relativistic average GAN; Jolicoeur-Martineau,
    ICLR 2019).

    In micro-batches (``train.accumulate``), each of these passes goes over all of them before the next one begins.
    Batch norms of the discriminator then see the micro-batches one by one.

    Args:
        options: losses, schedule, clipping, precision, EMA decay.
        state: whose players "g" and "d" are trained.
        models: the networks as they are called, by player: compiled, inside their wrappers for distributed training;
            default: as they are in the state.
        world: the processes that train together; the losses reported and checked are their means. Relativistic
            losses compare the images of one process.
        guard: watches over losses that are not finite; by default one that looks at every iteration.

    Raises:
        InputError: the weights of a loss cannot be read.
    """

    def __init__(
        self,
        options: TrainOptions,
        state: TrainState,
        *,
        models: Mapping[str, nn.Module] | None = None,
        world: World | None = None,
        guard: FiniteGuard | None = None,
    ) -> None:
        gan = options.train.gan_opt
        # The reader has looked. A relativistic loss compares with the mean of the batch, which its parts do not know.
        assert gan is not None
        assert not (options.relativistic and options.train.accumulate > 1)
        self.options = options.train
        called = models or {name: player.network for name, player in state.players.items()}
        self.generator, self.discriminator = called["g"], called["d"]
        self.judge = state.players["d"].network
        """The discriminator without a wrapper: what it does in a pass for the generator concerns no other process."""
        self.world = world or World()
        self.guard = guard or FiniteGuard(deferred=False, skip=options.train.nonfinite == "skip")
        self.terms = GeneratorTerms(options, state.device, ranks=self.world.size)
        self.gan_options, self.gan = gan, gan.build(state.device)
        self.real = options.target_of("gan")
        self.relativistic = options.relativistic
        self.balance = Balance(self.gan, relativistic=self.relativistic, after=self.options.net_d_init_iters)
        self.cycle = self.options.net_d_iters
        moves = (self.options.net_d_init_iters // self.cycle + 1) * self.cycle
        self.full_step = max(moves, -(-self.terms.full_step // self.cycle) * self.cycle)

    def summary(self) -> list[str]:
        """The losses of both players."""
        options = self.gan_options
        kind = f"GANLoss {options.gan_type}{', relativistic' if self.relativistic else ''}"
        of_generator = [
            *self.terms.described("l_g_"),
            f"l_g_gan ({kind}, weight {options.loss_weight:g}{schedule_text(options)})",
        ]
        every, first = self.options.net_d_iters, self.options.net_d_init_iters
        turns = "every iteration" if every == 1 else f"one of {every:,} iterations"
        late = f", from iteration {first + 1:,} on" if first else ""
        return [
            f"losses of the generator: {', '.join(of_generator)}",
            f"losses of the discriminator: l_d_real, l_d_fake ({kind}; real images: {self.real})",
            f"the discriminator is trained in every iteration, the generator in {turns}{late}",
        ]

    @staticmethod
    def players(options: TrainOptions) -> dict[str, PlayerOptions]:
        """Generator and discriminator."""
        return {"g": generator_options(options), "d": discriminator_options(options)}

    def step(self, state: TrainState, batch: Batch) -> StepResult:
        """One iteration of both players: ``state`` is one iteration further.

        Args:
            state: mutated: weights, buffers, EMA, optimisers and scalers of the players, and the position.
            batch: lq [B, C, h, w] and its target "gt" [B, C, s*h, s*w] on the state's device.

        Raises:
            InputError: output and ground truth differ in size.
            NonFiniteLossError: see :func:`models.training.step.finish_step`.
        """
        with iteration(state, self.options):
            if "gt_usm" in {self.real, *self.terms.targets}:
                batch = with_sharpened(batch)
            parts = list(batch.micro_batches(self.options.accumulate))
            shares = [len(part) / len(batch) for part in parts]
            reals = [part.targets[self.real] for part in parts]
            generator, fakes = self._generate(state, parts, shares)
            found = {"d": self._discriminate(state.players["d"], reals, fakes, shares)}
            if generator:
                found = {"g": generator, **found}
            means = self.world.means({name: value for own in found.values() for name, value in own.items()})
            terms = {player: {name: means[name] for name in own} for player, own in found.items()}
            return finish_step(state, terms, batch, self.options, self.guard)

    def advice(self, step: int, losses: Mapping[str, float]) -> str | None:
        """A sentence where the discriminator has won, once."""
        return self.balance.advice(step, losses)

    def generator_moves(self, step: int) -> bool:
        """Whether the generator is trained in an iteration."""
        return step % self.options.net_d_iters == 0 and step > self.options.net_d_init_iters

    def _generate(
        self, state: TrainState, parts: Sequence[Batch], shares: Sequence[float]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The generator's pass: its losses, whose gradients are added up, and its outputs, detached.

        No losses where it is not trained in this iteration.
        """
        step, sums, fakes = state.step + 1, Sums(), []
        moves = self.generator_moves(step)
        with frozen(self.judge), torch.set_grad_enabled(moves):
            for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
                last = number == len(parts) - 1
                with without_exchange(self.generator, when=not last):
                    with autocast(self.options.amp, state.device):
                        output = output_of(self.generator, part)
                    check_output(output, part)
                    # A copy: what a compiled network returns may be written to when it is called again.
                    fakes.append(output.detach().clone())
                    if moves:
                        with self._advancing(number == 0):
                            sums.add(self._teach(state, output, part, share))
        return sums.values, fakes

    def _teach(self, state: TrainState, output: Tensor, part: Batch, share: float) -> dict[str, Tensor]:
        """The generator's losses of a micro-batch, after its gradients have been added to the generator's."""
        step, player = state.step + 1, state.generator
        average = ema_output(state, part, self.options) if self.terms.needs_ema(step) else None
        # Gradients are collected at the output: what a loss keeps for them is gone before the next one begins.
        image = output.detach().to(torch.promote_types(output.dtype, torch.float32)).requires_grad_()
        found = self.terms(image, part.targets, average, step, share=share)
        if found:
            backward(total_of(found, image), player)
        judgement = self._judgement(image, part.targets[self.real])
        found["gan"] = judgement * (share * factor_at(self.gan_options, step))
        backward(found["gan"], player)
        assert image.grad is not None
        output.backward(image.grad.to(output.dtype))
        return {f"l_g_{name}": value for name, value in found.items()}

    def _judgement(self, image: Tensor, real: Tensor) -> Tensor:
        """The loss of the generator for what the discriminator says of its output [B, C, H, W]."""
        if not self.relativistic:
            return self.gan(self._logits(self.judge, image), True)
        with torch.no_grad():
            of_real = self._logits(self.judge, real)
        of_fake = self._logits(self.judge, image)
        return (self.gan(of_real - of_fake.mean(), False) + self.gan(of_fake - of_real.mean(), True)) / 2

    def _discriminate(
        self, player: Player, reals: Sequence[Tensor], fakes: Sequence[Tensor], shares: Sequence[float]
    ) -> dict[str, Tensor]:
        """The discriminator's losses, after their gradients have been added up: real images, then the outputs."""
        if not self.relativistic:
            real = self._judged(player, reals, shares, lambda z: self.gan(z, True, is_disc=True))
            fake = self._judged(player, fakes, shares, lambda z: self.gan(z, False, is_disc=True), last=True)
        else:
            with torch.no_grad():
                of_fake = self._logits(self.judge, fakes[0]).mean()
            real = self._judged(player, reals, shares, lambda z: 0.5 * self.gan(z - of_fake, True, is_disc=True))
            of_real = real[1]  # the batch is whole
            fake = self._judged(
                player, fakes, shares, lambda z: 0.5 * self.gan(z - of_real, False, is_disc=True), last=True
            )
        names = ("l_d_real", "out_d_real", "l_d_fake", "out_d_fake")
        return dict(zip(names, (*real, *fake), strict=True))

    def _judged(
        self,
        player: Player,
        images: Sequence[Tensor],
        shares: Sequence[float],
        loss: LossOfLogits,
        *,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """A pass of the discriminator over a batch: its loss, whose gradient is added up, and the mean of its logits.

        Args:
            player: the discriminator.
            images: the micro-batches.
            shares: of the batch, of each.
            loss: of logits.
            last: no pass of this iteration follows: processes exchange the gradients.
        """
        sums = Sums()
        for number, (image, share) in enumerate(zip(images, shares, strict=True)):
            exchange = last and number == len(images) - 1
            with without_exchange(self.discriminator, when=not exchange), self._advancing(number == 0):
                logits = self._logits(self.discriminator, image)
                value = loss(logits) * share
                backward(value, player)
            sums.add({"loss": value, "out": logits.mean() * share})
        return sums.values["loss"], sums.values["out"]

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        """What the discriminator says of images [B, C, H, W], in float32 at least."""
        with autocast(self.options.amp, image.device):
            logits: Tensor = network(image)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _advancing(self, first: bool) -> AbstractContextManager[None]:
        """Buffers of the discriminator move once in each pass over the batch: with its first micro-batch."""
        return contextlib.nullcontext() if first else held(self.judge)


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within this context the parameters of a network get no gradients; its mode stays."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
