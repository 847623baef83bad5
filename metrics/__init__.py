"""Image quality. ``METRICS`` holds what the key ``type`` of a metric in an option file accepts."""

from __future__ import annotations

from collections.abc import Mapping

from metrics.metric import Metric, UndefinedScoreError
from metrics.niqe import NIQE, calculate_niqe
from metrics.perceptual import DISTS, LPIPS
from metrics.psnr_ssim import PSNR, SSIM, calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt

METRICS: Mapping[str, type[Metric]] = {
    "calculate_psnr": PSNR,
    "calculate_ssim": SSIM,
    "calculate_niqe": NIQE,
    "calculate_lpips": LPIPS,
    "calculate_dists": DISTS,
}

__all__ = [
    "DISTS",
    "LPIPS",
    "METRICS",
    "NIQE",
    "PSNR",
    "SSIM",
    "Metric",
    "UndefinedScoreError",
    "calculate_niqe",
    "calculate_psnr",
    "calculate_psnr_pt",
    "calculate_ssim",
    "calculate_ssim_pt",
]
