"""Stationary wavelet bands against PyWavelets' ``swt2``, and the loss against its formula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import WaveletLoss
from losses.filters import SCALING_FILTERS, Wavelet
from losses.wavelet import stationary_bands
from utils.errors import InputError

CPU = torch.device("cpu")

# pywt.swt2(IMAGE, wavelet, 3, norm=False) of PyWavelets 1.8.0: sums of PROBE * band, for each level from the first one
# on, of cA, cH, cV, cD.
RECORDED: Mapping[Wavelet, tuple[tuple[float, ...], ...]] = {
    "haar": (
        (3.1885075655067494, -4.116407432188319, -4.397860697208843, 3.436940183699032),
        (8.679059681737442, -17.00532579419923, 16.650731270802005, -1.9474500273267008),
        (6.2644523220044395, 22.774732864367706, 12.013278792097982, -23.694344614995245),
    ),
    "db2": (
        (-5.78524299692252, -10.31226126427064, 3.8509653084631195, 2.1560470453615186),
        (0.449592578526389, -0.7548555258128207, -7.6211837335962365, -8.295552013595877),
        (-1.5872362048899018, 13.453451288030337, -4.862224465530176, 47.96790737034988),
    ),
    "db8": (
        (4.256456132577757, -0.43319220561263533, -2.0910602395621396, -0.8161824104887784),
        (-22.179347415378043, -1.9324080031234725, 4.559796348933441, 24.9325929425327),
        (-0.08173218033768592, 1.403734911993776, 29.629244025035234, -38.789070607551835),
    ),
    "db20": (
        (-6.832728479568487, -1.4374920843252972, 10.314868775468508, 0.9731359277684803),
        (-22.448606278647787, 12.228051598658631, -15.236655956155985, 11.711147285857463),
        (0.21804218283773397, -4.812776943253668, -16.135402612124828, 33.140466500202244),
    ),
    "sym3": (
        (16.030242651242627, -0.3451591882110999, 6.662486703409712, -4.184919915093051),
        (11.623130616845675, 2.0561792802353747, 23.631300434764317, 13.576628299953391),
        (-0.888480223368267, 2.484939321624748, 5.9746936157889134, -24.99673540034528),
    ),
    "sym4": (
        (9.790587522445755, 0.33784282168061264, -26.006378477458227, -1.1331448508682636),
        (31.69888803110485, -12.363094095448528, -11.70974842547973, 20.528703570878413),
        (0.2196958220733185, 1.5239224497692838, 13.924977439664554, 46.32380776857924),
    ),
    "sym8": (
        (6.9310527631372345, 0.6321240529062484, -23.381918256521146, -0.818815188189461),
        (34.3175037042468, -1.745151694628742, -9.298222794463722, 14.715910331392328),
        (-2.127510252266262, -6.120939443930653, 18.471148420797178, 52.19837751966944),
    ),
    "sym19": (
        (12.002561525867904, 2.7027250772770604, -0.9026388724898862, -0.5502587961628947),
        (6.6357489819734665, -1.2794523845659453, 21.168182216830566, 25.376565611851866),
        (0.2334010330084645, -0.21494220893362925, 32.34813683868525, -21.351725653658946),
    ),
}
ROWS, COLUMNS = np.mgrid[0:16, 0:24].astype(float)
IMAGE = torch.from_numpy(np.sin(0.7 * ROWS + 0.05 * COLUMNS**2) + 0.1 * ROWS * np.cos(COLUMNS))[None, None]
PROBE = torch.from_numpy(np.cos(0.3 * ROWS * COLUMNS + 0.9 * COLUMNS))


@pytest.mark.parametrize("wavelet", RECORDED)
def test_bands_are_those_of_pywavelets(wavelet: Wavelet) -> None:
    levels = list(stationary_bands(IMAGE, wavelet, 3))
    normed = list(stationary_bands(IMAGE, wavelet, 3, norm=True))
    for level, expected in enumerate(RECORDED[wavelet]):
        assert levels[level].shape == (1, 1, 4, 16, 24)
        sums = (levels[level][0, 0] * PROBE).sum(dim=(-1, -2))
        torch.testing.assert_close(sums, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(normed[level], levels[level] / 2 ** (level + 1), rtol=1e-12, atol=1e-14)


def test_every_filter_has_a_name_and_is_orthogonal_to_its_even_shifts() -> None:
    assert tuple(SCALING_FILTERS) == get_args(Wavelet)
    for name, values in SCALING_FILTERS.items():
        taps = np.array(values)
        assert len(taps) == (2 if name == "haar" else 2 * int(name.strip("dbsym")))
        products = [taps[2 * shift :] @ taps[: len(taps) - 2 * shift] for shift in range(len(taps) // 2)]
        exact = 1e-15 if name.startswith(("haar", "db")) else 2e-11
        np.testing.assert_allclose(products, [1.0] + [0.0] * (len(products) - 1), atol=exact)
        assert taps.sum() == pytest.approx(2**0.5, abs=exact)


@pytest.mark.parametrize("size", [(5, 7), (1, 3), (9, 16)])
@pytest.mark.parametrize("wavelet", ["haar", "sym4"])
def test_images_of_any_size_go_on_periodically(size: tuple[int, int], wavelet: Wavelet) -> None:
    image = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    repeated = image.repeat(1, 1, 16, 16)  # of a size that PyWavelets takes too
    for bands, expected in zip(
        stationary_bands(image, wavelet, 2), stationary_bands(repeated, wavelet, 2), strict=True
    ):
        torch.testing.assert_close(bands, expected[..., : size[0], : size[1]], rtol=1e-12, atol=1e-12)


def loss_of(difference: Tensor, **options: Any) -> float:
    zero = torch.zeros_like(difference)
    return WaveletLoss(**options).build(CPU)(difference, zero).item()


def test_the_loss_adds_details_of_all_levels_and_the_last_low_pass() -> None:
    weights = (0.1, 0.2, 0.3, 0.4)
    first, second = (bands.abs().mean(dim=(0, 1, 3, 4)) for bands in stationary_bands(IMAGE, "db2", 2))
    factors = torch.tensor(weights, dtype=torch.float64)
    expected = 2.0 * float(factors[1:] @ first[1:] + factors @ second)
    assert loss_of(IMAGE, wavelet="db2", levels=2, band_weights=weights, loss_weight=2.0) == pytest.approx(expected)


def test_each_band_answers_to_its_own_direction() -> None:
    ramp = torch.arange(16.0, dtype=torch.float64) % 2
    rows, columns = ramp[:, None].expand(1, 1, 16, 16), ramp.expand(1, 1, 16, 16)
    for image, place in ((torch.ones(1, 1, 16, 16), 0), (rows - 0.5, 1), (columns - 0.5, 2)):
        found = [loss_of(image, band_weights=[float(k == band) for k in range(4)]) for band in range(4)]
        assert found[place] > 0.5
        assert sum(found) == pytest.approx(found[place])


def test_equal_images_have_no_loss_and_shapes_must_agree() -> None:
    loss = WaveletLoss(levels=2).build(CPU)
    assert loss(IMAGE, IMAGE).item() == 0
    with pytest.raises(ValueError, match="differ in shape"):
        loss(IMAGE, IMAGE[..., 1:])


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="band_weights: none is above 0"):
        WaveletLoss(band_weights=(0, 0, 0, 0))
    with pytest.raises(InputError, match="expected a list of 4 values, each a number"):
        WaveletLoss(band_weights=(1, 1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r'wavelet: expected one of haar, .* got "sym44"'):
        WaveletLoss(wavelet="sym44")  # type: ignore[arg-type]
