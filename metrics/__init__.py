"""Image quality. ``METRICS`` holds what the key ``type`` of a metric in an option file accepts."""

from __future__ import annotations

from collections.abc import Mapping

from metrics.any_scale import AnyScalePSNR, calculate_psnr_any_scale
from metrics.metric import LevelMetric, Metric, Output, UndefinedScoreError
from metrics.niqe import NIQE, calculate_niqe
from metrics.perceptual import DISTS, LPIPS
from metrics.psnr_ssim import PSNR, SSIM, calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt

METRICS: Mapping[str, type[Metric]] = {
    "calculate_psnr": PSNR,
    "calculate_ssim": SSIM,
    "calculate_niqe": NIQE,
    "calculate_lpips": LPIPS,
    "calculate_dists": DISTS,
    "calculate_psnr_any_scale": AnyScalePSNR,
}

__all__ = [
    "DISTS",
    "LPIPS",
    "METRICS",
    "NIQE",
    "PSNR",
    "SSIM",
    "AnyScalePSNR",
    "LevelMetric",
    "Metric",
    "Output",
    "UndefinedScoreError",
    "calculate_niqe",
    "calculate_psnr",
    "calculate_psnr_any_scale",
    "calculate_psnr_pt",
    "calculate_ssim",
    "calculate_ssim_pt",
]
